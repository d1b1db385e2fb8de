"""Dead letters on the in-process broker, the commands that change them, and an editor that types what it is told."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import Result

from streamkit.record import HeaderList
from streamkit.transport.memory import MemoryBroker, MemoryRecord, named_broker
from tests.cli.dlq_support import DEAD, STATE, TIER, audits, invoke, statuses

APP = """
from dataclasses import dataclass
from streamkit import App, Retry
app = App("shop")
@dataclass
class Order:
    id: int
    amount: float
orders = app.topic("orders", value=Order)
@app.agent(orders, retry=Retry.exponential("5s", tiers=1))
async def charge(order: Order) -> None: ...
"""

EDITOR = """
import json, os, sys
steps, path = sys.argv[1:]
left = json.load(open(steps))
seen = open(path, encoding="utf-8").read()
with open(steps + ".seen", "a") as file: file.write(json.dumps(seen) + "\\n")
step = left.pop(0)
json.dump(left, open(steps, "w"))
if step is not None:
    for old, new in step:
        assert old in seen, (old, seen)
        seen = seen.replace(old, new)
    with open(path, "w", encoding="utf-8") as file: file.write(seen)
"""


class Desk:
    """Two partitions of `orders` and of its dead letters, one tier; nothing in them yet."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.brokers = f"memory://dlq-{uuid4().hex[:8]}"
        self.broker: MemoryBroker = named_broker(self.brokers)
        self.directory = directory
        self.broker.create_topic("orders", 2)
        self.broker.create_topic(DEAD, 2, message_timestamp_type="LogAppendTime")
        self.broker.create_topic(TIER, 2, message_timestamp_type="LogAppendTime")
        self.target = f"shop_{uuid4().hex[:8]}"
        (directory / f"{self.target}.py").write_text(APP)
        monkeypatch.chdir(directory)
        monkeypatch.syspath_prepend(str(directory))
        (directory / "editor.py").write_text(EDITOR)
        self._steps = directory / "steps.json"
        monkeypatch.delenv("VISUAL", raising=False)
        monkeypatch.setenv("EDITOR", f"{sys.executable} -I {directory / 'editor.py'} {self._steps}")

    def letter(
        self, value: bytes | None, *more: tuple[str, bytes | None], key: bytes | None = b"k", partition: int = 1
    ) -> str:
        """A dead letter of shop.charge; its ID."""
        headers: HeaderList = [
            ("tenant", b"blue"),
            ("traceparent", b"00-1-2-01"),
            ("sk-origin-topic", b"orders"),
            ("sk-origin-partition", b"%d" % partition),
            ("sk-origin-offset", b"7"),
            ("sk-origin-timestamp", b"1700000000000"),
            ("sk-group", b"shop.charge"),
            ("sk-attempt", b"3"),
            ("sk-error-class", b"ValueError"),
            ("sk-error-message", b"bad amount"),
            *more,
        ]
        offset = self.broker.append(DEAD, value, key=key, partition=partition, headers=headers)
        return f"{partition}:{offset}"

    def types(self, *steps: list[tuple[str, str]] | None) -> None:
        """What the editor will do, one time after the other: replace text, or (None) close without saving."""
        self._steps.write_text(json.dumps(steps))

    @property
    def seen(self) -> list[str]:
        """What stood in the editor, each time it was opened."""
        file = Path(f"{self._steps}.seen")
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def unused_steps(self) -> int:
        return len(json.loads(self._steps.read_text()))

    def dlq(self, *arguments: str, given: str | bytes | None = None) -> Result:
        return invoke(self.brokers, *arguments, given=given)

    def sent(self, topic: str = "orders") -> list[MemoryRecord]:
        return self.broker.records(topic)

    def statuses(self) -> dict[str, str]:
        return statuses(self.brokers)

    def audits(self) -> list[dict[str, Any]]:
        return audits(self.brokers)

    def states(self, id: str) -> Mapping[str, Any]:
        """What the state topic says last of the dead letter."""
        values = [record.value for record in self.sent(STATE) if record.key == f"case:{id}".encode()]
        found: Mapping[str, Any] = json.loads(values[-1] or b"{}")
        return found


def users(record: MemoryRecord) -> dict[str, bytes | None]:
    """The headers by name."""
    return dict(record.headers)
