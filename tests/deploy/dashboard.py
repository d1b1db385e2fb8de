"""The dashboard, read for the tests: its panels, and what they ask Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from deploy.grafana.dashboard import FILE

DASHBOARD: dict[str, Any] = json.loads(FILE.read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES: dict[str, dict[str, Any]] = {each["name"]: each for each in DASHBOARD["templating"]["list"]}


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression, by the panel or variable that asks it, as Grafana sends it with everything chosen."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield f"{panel['id']} {panel['title']} {target['refId']}", filled(target["expr"])
    for name, variable in VARIABLES.items():
        if match := re.fullmatch(r"label_values\((.*), (\w+)\)", variable.get("definition", "")):
            yield f"${name}", f"count by ({match[2]}) ({filled(match[1])})"


def filled(expression: str, interval: str = "5s") -> str:
    """With the values of variables. `interval` is for rates; Grafana takes four scrape intervals."""
    for name, variable in VARIABLES.items():
        expression = expression.replace(f"${name}", variable.get("allValue", ""))
    return expression.replace("$__rate_interval", interval)
