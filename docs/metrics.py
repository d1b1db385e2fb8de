"""Writes the tables of docs/metrics.md from the catalogue: `python docs/metrics.py`.

A table stands between `<!-- metrics: AREA -->` and `<!-- end -->`, that of the buckets under the name `buckets`.
"""

import re
from pathlib import Path

from streamkit.buckets import DEFAULT_BUCKETS
from streamkit.observe.catalogue import CATALOGUE, MetricSpec

PAGE = Path(__file__).with_suffix(".md")
TABLE = re.compile(r"(<!-- metrics: ([^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)
BUCKETS = "buckets"
INSTEAD = {"": "nothing", "sum": "their sum", "max": "the greatest", "min": "the least"}


def updated(page: str) -> str:
    """The page with its tables as the catalogue is now. Raises ValueError if it has not all of them, once each."""
    areas = [name for _, name, _ in TABLE.findall(page)]
    wanted = [*dict.fromkeys(spec.area for spec in CATALOGUE), BUCKETS]
    if sorted(areas) != sorted(wanted):
        raise ValueError(f"the page has tables of {areas}, and must have those of {wanted}")
    return TABLE.sub(
        lambda match: f"{match[1]}\n{buckets() if match[2] == BUCKETS else table(match[2])}\n{match[3]}", page
    )


def table(area: str) -> str:
    specs = [spec for spec in CATALOGUE if spec.area == area]
    of_partitions = any("partition" in spec.labels for spec in specs)
    head = "| name | type | labels | what it tells |" + (" of each partition, or by topic |" if of_partitions else "")
    rule = "|---|---|---|---|" + ("---|" if of_partitions else "")
    return "\n".join([head, rule, *(row(spec, of_partitions) for spec in specs)]) + "\n"


def row(spec: MetricSpec, of_partitions: bool) -> str:
    labels = f"`{', '.join(spec.labels)}`" if spec.labels else ""
    cells = [f"`{spec.name}`", spec.kind, labels, spec.help]
    if of_partitions:
        cells.append(f"`{spec.detail}`; {INSTEAD[spec.by_topic]}" if "partition" in spec.labels else "")
    return "| " + " | ".join(cells) + " |"


def buckets() -> str:
    rows = [f"| `{name}` | {', '.join(f'{bound:g}' for bound in bounds)} |" for name, bounds in DEFAULT_BUCKETS.items()]
    return "\n".join(["| histogram | upper bounds in seconds |", "|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text()))
