"""PromQL, read as far as the tests need it: which series an expression names, with which labels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from streamkit.observe.catalogue import CATALOGUE, MetricSpec
from tests.deploy.files import ROOT

RULES = ROOT / "deploy/prometheus/rules"
RULE_FILES = sorted(RULES.glob("*.yml"))

# Metrics of Prometheus itself, of scrapes and of the process.
FOREIGN = {
    *("up", "ALERTS", "scrape_duration_seconds"),
    *("process_start_time_seconds", "process_cpu_seconds_total", "process_resident_memory_bytes"),
}
OF_SCRAPES = {"job", "instance"}
_NAME = re.compile(r"(?<![\w:$\"'])([a-zA-Z_:][\w:]*)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*([\"'].*?[\"'])")


class Selector(NamedTuple):
    """A series as an expression names it: `labels` are those that are matched, with what they are to be."""

    name: str
    labels: Mapping[str, str]


def selectors(expression: str) -> Iterator[Selector]:
    """Those of metrics of ours, recorded ones included, and of what else is known."""
    for name, matchers in _NAME.findall(expression):
        if name.startswith("streamkit") or name in FOREIGN:
            yield Selector(name, {label: value[1:-1] for label, value in _MATCHER.findall(matchers)})


def samples_of(spec: MetricSpec) -> Iterator[tuple[str, set[str]]]:
    """The names that are scraped of a metric, with their labels."""
    labels = set(spec.labels)
    if spec.kind == "histogram":
        yield f"{spec.name}_bucket", {*labels, "le"}
        yield f"{spec.name}_sum", labels
        yield f"{spec.name}_count", labels
    else:
        yield spec.name, labels


SAMPLES = {name: labels for spec in CATALOGUE for name, labels in samples_of(spec)}
"""Labels by the name of the sample, of everything that a worker exports."""

PARTITIONED = {spec.name for spec in CATALOGUE if spec.by_topic}
"""What is told by topic, without the label partition, where metrics_detail says so."""

METRIC = {name: spec.name for spec in CATALOGUE for name, _ in samples_of(spec)}
"""The metric by the name of its sample."""


def rules() -> Iterator[dict[str, Any]]:
    """Every rule, as it is written."""
    for file in RULE_FILES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield from group["rules"]


ALERTS: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in rules() if "alert" in rule}
RECORDED: dict[str, str] = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


def unknown(expression: str) -> list[str]:
    """What it names that is neither exported nor recorded, or matches by a label that it does not have."""
    found: list[str] = []
    for name, matched in selectors(expression):
        if name in RECORDED or name in FOREIGN:
            continue
        if name not in SAMPLES:
            found.append(name)
        else:
            found += [f"{name}{{{label}}}" for label in matched.keys() - SAMPLES[name] - OF_SCRAPES]
    return found


def metrics_in(expression: str) -> set[str]:
    """The metrics of ours that it needs, through recording rules too."""
    needed: set[str] = set()
    for name, _ in selectors(expression):
        if name in RECORDED:
            needed |= metrics_in(RECORDED[name])
        elif name in METRIC:
            needed.add(METRIC[name])
    return needed
