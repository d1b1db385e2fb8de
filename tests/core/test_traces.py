from __future__ import annotations

import pytest

from streamkit.core.traces import Trace, trace_of

ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLED = f"00-{ID}-00f067aa0ba902b7-01".encode()


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        b"",
        b"01",
        ID.encode(),
        SAMPLED.replace(ID.encode(), b"0" * 32),
        SAMPLED.replace(b"00f067aa0ba902b7", b"0" * 16),
        SAMPLED.replace(ID.encode(), ID.upper().encode()),
        SAMPLED.replace(b"4bf9", b"4bfg"),
        SAMPLED + b"-more",  # only a later version may have more
        SAMPLED + b"\n",
        b"ff" + SAMPLED[2:],
        SAMPLED[:-1],
        b"\xff" * 55,
    ],
)
def test_what_is_no_traceparent_gives_no_trace(traceparent: bytes | None) -> None:
    assert trace_of([("traceparent", traceparent)]) is None


def test_without_headers_there_is_no_trace() -> None:
    assert trace_of([]) is None
    assert trace_of([("tracestate", SAMPLED)]) is None


def test_the_flags_say_whether_the_trace_is_recorded() -> None:
    assert trace_of([("x", b""), ("traceparent", SAMPLED)]) == Trace(ID, sampled=True)
    assert trace_of([("traceparent", SAMPLED[:-2] + b"00")]) == Trace(ID, sampled=False)
    assert trace_of([("traceparent", SAMPLED[:-2] + b"fe")]) == Trace(ID, sampled=False)


def test_a_later_version_may_say_more() -> None:
    assert trace_of([("traceparent", b"cc" + SAMPLED[2:-2] + b"ff-what-else")]) == Trace(ID, sampled=True)
