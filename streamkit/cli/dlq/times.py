"""Moments as people write and read them. All are milliseconds since 1970."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from streamkit.durations import parse_duration
from streamkit.record import EPOCH

UNKNOWN = "–"
_STEPS = ((86_400, "d"), (3_600, "h"), (60, "m"))


def parse_time(text: str, now: int) -> int:
    """`2h` is two hours before `now`; else ISO 8601, in UTC if it names no offset. Raises ValueError."""
    try:
        seconds = parse_duration(text)
    except ValueError:
        pass
    else:
        past = now - round(seconds * 1000)
        if iso(past) is None:
            raise ValueError("no calendar reaches as far back")
        return past
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("no time: write 2h (that long ago), 2026-01-31 or 2026-01-31T12:00:00+02:00") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - EPOCH) // timedelta(milliseconds=1)


def iso(moment: int | None) -> str | None:
    """ISO 8601 in UTC; None for what no calendar shows, which anyone may have written in a header."""
    if moment is None:
        return None
    try:
        return (EPOCH + timedelta(milliseconds=moment)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except OverflowError:
        return None


def shown(moment: int | None) -> str:
    """To the second, for people."""
    text = iso(moment)
    return UNKNOWN if text is None else f"{text[:10]} {text[11:19]}Z"


def ago(moment: int | None, now: int) -> str:
    """In the largest unit that fits: `3d ago`."""
    if moment is None:
        return UNKNOWN
    seconds = max(now - moment, 0) // 1000
    for size, unit in _STEPS:
        if seconds >= size:
            return f"{seconds // size}{unit} ago"
    return f"{seconds}s ago"
