"""Panels of Grafana, as far as they are used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

WIDTH: Final = 24  # of the page, in Grafana's columns
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Query:
    expression: str
    legend: str = ""
    table: bool = False  # the present values, one a row
    heatmap: bool = False


@dataclass(frozen=True)
class Panel:
    kind: str
    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    width: int = 8
    height: int = 8
    stacked: bool = False
    steps: Sequence[tuple[float, str]] = ()  # from which value on which colour; below the first: green
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    mappings: Sequence[Mapping[str, Any]] = ()
    maximum: float | None = None
    transformations: Sequence[Mapping[str, Any]] = ()
    overrides: Sequence[Mapping[str, Any]] = ()

    def rendered(self, number: int, x: int, y: int) -> dict[str, Any]:
        defaults: dict[str, Any] = {"unit": self.unit, "min": 0, "mappings": list(self.mappings)}
        if self.maximum is not None:
            defaults["max"] = self.maximum
        if self.steps:
            steps = [{"color": colour, "value": value} for value, colour in self.steps]
            defaults["thresholds"] = {"mode": "absolute", "steps": [{"color": "green", "value": None}, *steps]}
        if self.kind == "timeseries":
            defaults["custom"] = self._lines()
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [_target(query, "ABCDEFGHIJ"[place]) for place, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": defaults, "overrides": list(self.overrides)},
            "options": dict(self.options),
            "transformations": list(self.transformations),
        }

    def _lines(self) -> dict[str, Any]:
        custom: dict[str, Any] = {"fillOpacity": 10, "showPoints": "never", "spanNulls": False}
        if self.stacked:
            custom |= {"fillOpacity": 60, "lineWidth": 0, "stacking": {"mode": "normal", "group": "A"}}
        if self.steps:
            custom["thresholdsStyle"] = {"mode": "dashed"}
        return custom


def _target(query: Query, letter: str) -> dict[str, Any]:
    target: dict[str, Any] = {"refId": letter, "datasource": DATASOURCE, "expr": query.expression}
    if query.table:
        return {**target, "format": "table", "instant": True, "range": False}
    kind = {"format": "heatmap"} if query.heatmap else {}
    return {**target, **kind, "instant": False, "range": True, "legendFormat": query.legend or "__auto"}


def stat(
    title: str,
    description: str,
    expression: str,
    unit: str = "short",
    *,
    steps: Sequence[tuple[float, str]] = (),
) -> Panel:
    options: dict[str, Any] = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "area",
        "textMode": "value",
    }
    return Panel("stat", title, description, (Query(expression),), unit, 4, 4, steps=steps, options=options)


def lines(
    title: str,
    description: str,
    *queries: tuple[str, str],
    unit: str = "short",
    width: int = 8,
    stacked: bool = False,
    steps: Sequence[tuple[float, str]] = (),
    maximum: float | None = None,
) -> Panel:
    """Each query is an expression and a legend."""
    options = {
        "legend": {"showLegend": True, "displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    asked = tuple(Query(expression, legend) for expression, legend in queries)
    return Panel(
        "timeseries",
        title,
        description,
        asked,
        unit,
        width,
        stacked=stacked,
        steps=steps,
        options=options,
        maximum=maximum,
    )


def table(title: str, description: str, names: Mapping[str, str], hidden: Iterable[str], **queries: str) -> Panel:
    """One row for each set of labels. `names` are the headings; the value of query A is `Value #A`."""
    organize = {
        "id": "organize",
        "options": {"excludeByName": {"Time": True, **dict.fromkeys(hidden, True)}, "renameByName": dict(names)},
    }
    return Panel(
        "table",
        title,
        description,
        tuple(Query(expression, table=True) for expression in queries.values()),
        width=WIDTH,
        transformations=[{"id": "merge", "options": {}}, organize],
        options={"showHeader": True, "cellHeight": "sm"},
        overrides=[
            {"matcher": {"id": "byRegexp", "options": ".* age$"}, "properties": [{"id": "unit", "value": "s"}]},
        ],
    )


def states(title: str, description: str, expression: str, legend: str, values: Sequence[tuple[str, str]]) -> Panel:
    """A line of colours for each series; `values` are text and colour of 0, 1, 2 and so on."""
    mapping = {
        "type": "value",
        "options": {
            str(number): {"text": text, "color": colour, "index": number}
            for number, (text, colour) in enumerate(values)
        },
    }
    options = {
        "showValue": "never",
        "mergeValues": True,
        "rowHeight": 0.8,
        "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom"},
    }
    asked = (Query(expression, legend),)
    return Panel("state-timeline", title, description, asked, width=12, mappings=[mapping], options=options)
