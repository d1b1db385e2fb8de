"""docs/metrics.md explains what a worker exports."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition, parser

from streamkit.observe.catalogue import DETAILS
from streamkit.observe.collector import StreamkitCollector
from streamkit.observe.slots import REASONS
from tests.observe.support import worker_with_every_metric

PAGE = (Path(__file__).parents[2] / "docs/metrics.md").read_text()


def exported() -> list[Metric]:
    return list(StreamkitCollector(*worker_with_every_metric()).collect())


def test_the_page_explains_every_result_every_reason_and_every_detail() -> None:
    (processed,) = [family for family in exported() if family.name == "streamkit_records_processed"]
    for value in {sample.labels["result"] for sample in processed.samples} | set(REASONS) | {*DETAILS, "auto"}:
        assert re.search(rf"^- `{value}`(: |, )", PAGE, re.MULTILINE), value


def test_every_metric_is_openmetrics() -> None:
    registry = CollectorRegistry()
    registry.register(StreamkitCollector(*worker_with_every_metric()))
    text = exposition.generate_latest(registry).decode()  # type: ignore[no-untyped-call]
    parsed = parser.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    assert {family.name: len(family.samples) for family in parsed} == {
        family.name: len(family.samples) for family in exported()
    }
