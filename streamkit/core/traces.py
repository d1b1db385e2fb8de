"""The trace that a record belongs to, of W3C Trace Context: https://www.w3.org/TR/trace-context/#traceparent-header"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from streamkit.record import Headers

TRACEPARENT: Final = "traceparent"

_FORM = re.compile(
    rb"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?",
    re.DOTALL,
)


class Trace(NamedTuple):
    id: str  # 32 hex digits
    sampled: bool  # somebody records it


def trace_of(headers: Headers) -> Trace | None:
    """That of the first `traceparent`; None without one, and if it is not valid."""
    for name, value in headers:
        if name == TRACEPARENT:
            return None if value is None else _parsed(value)
    return None


def _parsed(value: bytes) -> Trace | None:
    found = _FORM.fullmatch(value)
    if found is None or found["version"] == b"ff":
        return None
    if found["version"] == b"00" and found["more"] is not None:  # later versions may say more
        return None
    if found["trace"] == b"0" * 32 or found["parent"] == b"0" * 16:
        return None
    return Trace(found["trace"].decode(), bool(int(found["flags"], 16) & 1))
