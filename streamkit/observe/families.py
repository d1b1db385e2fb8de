"""Metrics for one scrape, made as the catalogue has them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.samples import Exemplar as Shown

from streamkit.observe.catalogue import BY_NAME, DETAILS, Detail, MetricSpec
from streamkit.observe.histogram import Exemplar, Histogram
from streamkit.record import TopicPartition


class Family:
    """One metric of the catalogue, as it is filled."""

    def __init__(self, name: str, detail: Detail = "full") -> None:
        """`detail` is how much the scrape is to tell of partitions."""
        self.spec = spec = BY_NAME[name]
        self._by_topic = DETAILS.index(detail) < DETAILS.index(spec.detail)
        labels = [label for label in spec.labels if label != "partition"] if self._by_topic else spec.labels
        self.metric = _metric(spec, labels)

    def add(self, labels: Sequence[str], value: float) -> None:
        """The labels in the order of the catalogue."""
        assert not isinstance(self.metric, HistogramMetricFamily)
        self.metric.add_metric(labels, value)

    def add_histogram(self, labels: Sequence[str], histogram: Histogram) -> None:
        assert isinstance(self.metric, HistogramMetricFamily)
        counts, total = histogram.counts.copy(), histogram.sum
        exemplars = histogram.exemplars
        bounds = (*map(str, histogram.bounds), "+Inf")
        self.metric.add_metric(
            labels,
            [
                (bound, count, _shown(exemplars[place])) if place in exemplars else (bound, count)
                for place, (bound, count) in enumerate(zip(bounds, accumulate(counts), strict=True))
            ],
            sum_value=total,
        )

    def add_partitions(
        self, group: str, values: Mapping[TopicPartition, float], assigned: Collection[TopicPartition]
    ) -> None:
        """A value of each partition of which it is known, or what stands for those of a topic, as the detail has it."""
        if not self._by_topic:
            for partition, value in sorted(values.items()):
                self.add((group, partition.topic, str(partition.partition)), value)
        elif self.spec.by_topic:
            for topic, value in sorted(together(self.spec.by_topic, values, assigned)):
                self.add((group, topic), value)


def _metric(spec: MetricSpec, labels: Sequence[str]) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
    if spec.kind == "counter":
        return CounterMetricFamily(spec.name.removesuffix("_total"), spec.help, labels=labels)
    if spec.kind == "gauge":
        return GaugeMetricFamily(spec.name, spec.help, labels=labels)
    return HistogramMetricFamily(spec.name, spec.help, labels=labels)


def with_samples(families: Iterable[Family]) -> Iterator[Metric]:
    return (family.metric for family in families if family.metric.samples)


def _shown(exemplar: Exemplar) -> Shown:
    return Shown({"trace_id": exemplar.trace_id}, exemplar.value, exemplar.at)


_TOGETHER: Final[Mapping[str, Callable[[Iterable[float]], float]]] = {"sum": sum, "max": max, "min": min}


def together(
    how: Literal["sum", "max", "min"], values: Mapping[TopicPartition, float], assigned: Collection[TopicPartition]
) -> Iterator[tuple[str, float]]:
    """What the values of a topic's partitions are together. No sum where not all that are assigned have one."""
    by_topic: dict[str, list[float]] = {}
    for partition, value in values.items():
        by_topic.setdefault(partition.topic, []).append(value)
    # A part of the sum would look like all of it.
    unknown = {partition.topic for partition in assigned if partition not in values} if how == "sum" else set[str]()
    for topic, found in by_topic.items():
        if topic not in unknown:
            yield topic, _TOGETHER[how](found)
