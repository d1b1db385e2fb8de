"""Durations as people write them: "250ms", "5s", "10m", "2h", "7d", or a timedelta."""

import re
from datetime import timedelta

Duration = str | timedelta

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)", re.ASCII)


def parse_duration(duration: Duration) -> float:
    """The duration in seconds.

    Raises ValueError for text that is not a number with a unit, and for negative timedeltas. A bare number is refused:
    nobody could see whether it means seconds or milliseconds.
    """
    if isinstance(duration, timedelta):
        if duration < timedelta(0):
            raise ValueError(f"a duration cannot be negative: {duration}")
        return duration.total_seconds()
    match = _DURATION.fullmatch(duration) if isinstance(duration, str) else None
    if match is None:
        raise ValueError('not a duration: write "250ms", "5s", "10m", "2h" or "7d", or give a timedelta')
    number, unit = match.groups()
    return float(number) * _UNITS[unit]


def show_duration(seconds: float) -> str:
    """The shortest text that parses back to `seconds`, in the largest unit that needs no fraction."""
    for unit, scale in reversed(_UNITS.items()):
        count = seconds / scale
        if count >= 1 and count == int(count) and int(count) * scale == seconds:
            return f"{int(count)}{unit}"
    return f"{seconds:f}".rstrip("0").rstrip(".") + "s"
