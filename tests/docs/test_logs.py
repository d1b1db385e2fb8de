"""docs/logs.md lists what lines of the log carry."""

from __future__ import annotations

import re
from pathlib import Path

from streamkit.runtime.log_fields import of_record
from streamkit.transport.memory.log import MemoryRecord

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/logs.md").read_text()
NAMED = re.compile(r'"event_name": "(\w+)"|about\([\w.]+, "(\w+)"\)')


def test_the_page_lists_every_event_and_no_other() -> None:
    code = "".join(path.read_text() for path in (ROOT / "streamkit").glob("**/*.py"))
    events = PAGE.partition("## Events")[2]
    listed = {
        name for row in re.findall(r"^\| (`.*?) \|", events, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert listed - {"event_name"} == {first or second for first, second in NAMED.findall(code)}


def test_the_page_lists_every_field_of_a_record() -> None:
    headers = [("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]
    fields = of_record(MemoryRecord("orders", 0, 0, 0, b"", b"", headers), payloads=True)
    table = PAGE.partition("## Which record")[2].partition("## Events")[0]
    listed = {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert listed == {"agent", "group", *fields}
