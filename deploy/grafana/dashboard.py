"""Writes deploy/grafana/dashboards/streamkit.json: `python -m deploy.grafana.dashboard`. A test keeps it current."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from deploy.grafana.panels import DATASOURCE, WIDTH
from deploy.grafana.rows import ROWS

FILE: Final = Path(__file__).parent / "dashboards/streamkit.json"


def variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,  # with the time range
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


VARIABLES: Final = (
    {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "data source"},
    variable("group", "label_values(streamkit_assigned_partitions, group)"),
    variable("agent", 'label_values(streamkit_in_flight_records{group=~"$group"}, agent)'),
    variable("topic", 'label_values(streamkit_assigned_partitions{group=~"$group"}, topic)'),
    variable("instance", "label_values(streamkit_worker_info, instance)"),
)


def panels() -> list[dict[str, Any]]:
    """Every row and panel, from left to right and downwards."""
    laid: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        laid.append(
            {"id": len(laid) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        )
        y += 1
        x = height = 0
        for panel in row:
            if x + panel.width > WIDTH:
                x, y = 0, y + height
            laid.append(panel.rendered(len(laid) + 1, x, y))
            x, height = x + panel.width, panel.height
        y += height
    return laid


def dashboard() -> dict[str, Any]:
    return {
        "uid": "streamkit",
        "title": "streamkit",
        "description": "Workers of streamkit. Needs the recording rules of deploy/prometheus/rules.",
        "tags": ["kafka", "streamkit"],
        "schemaVersion": 41,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "timezone": "browser",
        "annotations": {"list": []},
        "templating": {"list": list(VARIABLES)},
        "panels": panels(),
    }


def rendered() -> str:
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(rendered())
