from __future__ import annotations

from collections.abc import Callable, Iterable

import prometheus_client.exposition
import prometheus_client.openmetrics.exposition
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.samples import Exemplar

from streamkit.observe.collector import StreamkitCollector
from streamkit.observe.exposition import text
from tests.observe.support import worker_with_every_metric

FORMATS = pytest.mark.parametrize("openmetrics", [False, True])


class Fixed:
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> list[Metric]:
        return self._metrics


def by_prometheus(metrics: Iterable[Metric], *, openmetrics: bool) -> str:
    registry = CollectorRegistry()
    registry.register(Fixed(metrics))
    encode: Callable[[CollectorRegistry], bytes] = (
        prometheus_client.openmetrics.exposition.generate_latest
        if openmetrics
        else prometheus_client.exposition.generate_latest
    )
    return encode(registry).decode().removesuffix("# EOF\n")


@FORMATS
def test_every_metric_is_written_as_prometheus_client_does(openmetrics: bool) -> None:
    metrics = list(StreamkitCollector(*worker_with_every_metric()).collect())
    assert len(metrics) > 40
    assert "".join(text(metrics, openmetrics=openmetrics)) == by_prometheus(metrics, openmetrics=openmetrics)


numbers = st.integers(-(10**12), 10**12) | st.floats(allow_nan=False) | st.booleans()
values = st.text(st.characters(codec="utf-8") | st.sampled_from('"\\\n'), max_size=8)


@given(st.lists(st.tuples(values, values, numbers), max_size=5), st.lists(st.tuples(values, numbers), max_size=5))
def test_any_labels_and_numbers_are_written_as_prometheus_client_does(
    gauges: list[tuple[str, str, float]], counters: list[tuple[str, float]]
) -> None:
    gauge = GaugeMetricFamily("orders_open", "What is open.", labels=("topic", "agent"))
    for topic, agent, number in gauges:
        gauge.add_metric((topic, agent), number)
    counter = CounterMetricFamily("orders", "Orders.", labels=("topic",))
    for topic, number in counters:
        counter.add_metric((topic,), number)
    bare = GaugeMetricFamily("bare", "Without labels.", 3)
    for openmetrics in (False, True):
        metrics = [gauge, counter, bare]
        assert "".join(text(metrics, openmetrics=openmetrics)) == by_prometheus(metrics, openmetrics=openmetrics)


@FORMATS
def test_exemplars_are_written_as_prometheus_client_does(openmetrics: bool) -> None:
    histogram = HistogramMetricFamily("took_seconds", "How long it took.", labels=("agent",))
    exemplar = Exemplar({"trace_id": 'a"b'}, 0.05, 1_790_000_000.5)
    histogram.add_metric(("charge",), [("0.1", 3, exemplar), ("+Inf", 4)], sum_value=1.5)
    written = "".join(text([histogram], openmetrics=openmetrics))
    assert written == by_prometheus([histogram], openmetrics=openmetrics)
    assert ("trace_id" in written) is openmetrics
