"""Dead letters for tests."""

from __future__ import annotations

from typing import NamedTuple

from streamkit.core.letters import Letter, letter_of
from streamkit.record import Headers


class Raw(NamedTuple):
    """A ConsumedRecord."""

    partition: int = 0
    offset: int = 0
    timestamp: int = 0
    key: bytes | None = None
    value: bytes | None = None
    headers: Headers = ()
    topic: str = "orders.dlq"


def letter(at: str = "0:0", *, appended: int = 0, key: bytes | None = None, **said: bytes | None) -> Letter:
    """A dead letter whose headers say this; `error_class` is sk-error-class."""
    partition, offset = map(int, at.split(":"))
    headers = [(f"sk-{name.replace('_', '-')}", value) for name, value in said.items()]
    return letter_of(Raw(partition, offset, appended, key, b"v", headers))
