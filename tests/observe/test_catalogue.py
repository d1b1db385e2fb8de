from __future__ import annotations

import re

from docs.metrics import PAGE, updated
from streamkit.buckets import DEFAULT_BUCKETS
from streamkit.observe.catalogue import BY_NAME, CATALOGUE, LABELS

NAME = re.compile(r"streamkit_[a-z]+(_[a-z]+)*")
UNITS = ("_seconds", "_seconds_total", "_bytes", "_bytes_total")


def test_every_name_is_there_once() -> None:
    assert len(BY_NAME) == len(CATALOGUE)
    assert [spec.name for spec in CATALOGUE if not NAME.fullmatch(spec.name)] == []


def test_counters_and_only_they_end_in_total() -> None:
    assert {spec.name for spec in CATALOGUE if spec.kind == "counter"} == {
        spec.name for spec in CATALOGUE if spec.name.endswith("_total")
    }


def test_histograms_measure_seconds_and_each_has_its_buckets() -> None:
    assert {spec.name for spec in CATALOGUE if spec.kind == "histogram"} == set(DEFAULT_BUCKETS)
    assert all(name.endswith("_seconds") for name in DEFAULT_BUCKETS)


def test_times_are_timestamps_and_not_ages() -> None:
    """But for lag, which is 0 and not absent when nothing waits; and the time that something took."""
    gauges = {spec.name for spec in CATALOGUE if spec.kind == "gauge" and spec.name.endswith("_seconds")}
    assert {name for name in gauges if not name.endswith("_timestamp_seconds")} == {
        "streamkit_consumer_lag_seconds",
        "streamkit_collect_duration_seconds",
    }


def test_labels_are_only_those_that_somebody_bounds() -> None:
    assert {label for spec in CATALOGUE for label in spec.labels} <= LABELS
    assert all(len(set(spec.labels)) == len(spec.labels) for spec in CATALOGUE)


def test_only_metrics_of_partitions_depend_on_the_detail() -> None:
    of_partitions = {spec.name for spec in CATALOGUE if "partition" in spec.labels}
    assert {spec.name for spec in CATALOGUE if spec.detail != "topic"} == of_partitions
    assert {spec.name for spec in CATALOGUE if spec.by_topic} <= of_partitions


def test_every_help_is_one_line_of_whole_sentences() -> None:
    for spec in CATALOGUE:
        assert spec.help[0].isupper() or spec.help[0].isdigit(), spec.name
        assert spec.help.endswith("."), spec.name
        assert not set('\n|\\"') & set(spec.help), spec.name


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text()
    assert page == updated(page), "run `python docs/metrics.py`"
