"""Writes docs/settings.md: `python docs/settings.py`."""

from dataclasses import Field
from pathlib import Path
from typing import Any

from streamkit.settings import PREFIX, setting_fields

PAGE = Path(__file__).with_suffix(".md")

INTRODUCTION = """\
# Settings

<!-- Written by `python docs/settings.py`; a test keeps it true. -->

The command line wins over the environment, the environment over `App("name", setting=...)`, that over the defaults.
Durations are written `250ms`, `5s`, `10m`, `2h` or `7d` (in Python also as `timedelta`), sizes `65536`, `64KiB`,
`256MiB` or `1GiB`, flags `true` or `false`. An empty variable counts as unset; an unknown `STREAMKIT_*` variable is an
error, except `STREAMKIT_TEST_*`.
"""

GROUPS = {
    "connection": """\
Which cluster, and how long it may take to answer. A broker that is down is waited for, however long it takes.
""",
    "security": """\
How to get into the cluster; [Security](security.md) shows each way. A secret is given as a variable, to `App(...)`, or
as the path of a file that holds it (one of them, not two in one place); never on the command line. It shows nowhere.
""",
    "reading": """\
How much is read ahead, and when a silent worker loses its partitions. `max_bytes` bounds what the engine holds of an
agent. What the client has fetched and not handed over comes on top: at most `max_partition_fetch_bytes` of each
assigned partition (or one batch, if that is larger), and one batch of each uncompressed; with the defaults and a
hundred partitions 100 MiB and more. A record of any size is delivered: a batch that is larger than
`max_partition_fetch_bytes` or `fetch_max_bytes` comes alone in its answer. If most are, raise both: one at a time is
slow.
""",
    "settling": """\
When offsets are committed, and how long that and running handlers are waited for at the end.
""",
    "sending": """\
How outputs go out. The defaults favour latency: an output leaves at once when nothing is running that could add to its
batch. For throughput over a slow network, set `compression` (`lz4` costs little, `zstd` saves most) and a larger
`linger`. Where a topic's own `max.message.bytes` is lower than `max_request_size`, it counts.
""",
    "breaker": """\
When so much fails that it cannot be the fault of the records, an agent's breaker opens. While it is open, records that
fail wait in their places, neither retried nor dead-lettered, nothing else starts, and single records are tried until
some succeed. Agents with `retry` or `dead_letter` have one, each its own.
""",
    "running": """\
The worker itself.
""",
}

TABLE = """
| Setting | Variable | Default | |
|---|---|---|---|
"""


def render() -> str:
    return INTRODUCTION + "".join(section(group, text) for group, text in GROUPS.items())


def section(group: str, text: str) -> str:
    rows = [row(name, item) for name, item in setting_fields().items() if item.metadata["group"] == group]
    return f"\n## {group.capitalize()}\n\n{text}{TABLE}{''.join(rows)}"


def row(name: str, item: Field[Any]) -> str:
    default = item.metadata["show"](item.default)
    shown = f"`{default}`" if default else "unset"
    return f"| `{name}` | `{PREFIX}{name.upper()}` | {shown} | {item.metadata['doc']} |\n"


if __name__ == "__main__":
    PAGE.write_text(render())
