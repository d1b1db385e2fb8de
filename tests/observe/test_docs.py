"""docs/metrics.md lists what a worker exports."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition, parser

from streamkit.observe.collector import StreamkitCollector
from streamkit.observe.slots import REASONS
from tests.observe.support import worker_with_every_metric

PAGE = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
ROW = re.compile(r"^\| `(?P<name>streamkit_\w+)` \| (?P<type>\w+) \| `(?P<labels>[\w, ]+)` \|", re.MULTILINE)


def exported() -> list[Metric]:
    return list(StreamkitCollector(*worker_with_every_metric()).collect())


def labels_of(family: Metric) -> set[str]:
    return {name for sample in family.samples for name in sample.labels} - {"le"}


def test_the_page_lists_every_metric_with_its_type_and_labels() -> None:
    listed = {row["name"]: (row["type"], set(row["labels"].split(", "))) for row in ROW.finditer(PAGE)}
    assert listed == {
        family.name + "_total" * (family.type == "counter"): (family.type, labels_of(family)) for family in exported()
    }


def test_the_page_explains_every_result_and_every_reason() -> None:
    (processed,) = [family for family in exported() if family.name == "streamkit_records_processed"]
    for value in {sample.labels["result"] for sample in processed.samples} | set(REASONS):
        assert f"\n- `{value}`: " in PAGE


def test_every_metric_is_openmetrics() -> None:
    registry = CollectorRegistry()
    registry.register(StreamkitCollector(*worker_with_every_metric()))
    text = exposition.generate_latest(registry).decode()  # type: ignore[no-untyped-call]
    parsed = parser.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    assert {family.name: len(family.samples) for family in parsed} == {
        family.name: len(family.samples) for family in exported()
    }
