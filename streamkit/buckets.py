"""The buckets of the histograms among the metrics, and how a setting gives others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from itertools import pairwise
from math import isfinite
from typing import Any, Final

from streamkit.durations import parse_duration, show_duration

Bounds = tuple[float, ...]
Buckets = tuple[tuple[str, Bounds], ...]  # by metric

_PROCESSING: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_END_TO_END: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
_REQUEST: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)  # OpenTelemetry's
_LATENESS: Final = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_LOOP: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

DEFAULT_BUCKETS: Final[Mapping[str, Bounds]] = {
    "streamkit_processing_duration_seconds": _PROCESSING,
    "streamkit_queue_wait_seconds": _PROCESSING,
    "streamkit_end_to_end_latency_seconds": _END_TO_END,
    "streamkit_produce_duration_seconds": _REQUEST,
    "streamkit_commit_duration_seconds": _REQUEST,
    "streamkit_rebalance_duration_seconds": _PROCESSING,
    "streamkit_retry_delay_error_seconds": _LATENESS,
    "streamkit_event_loop_lag_seconds": _LOOP,
}
"""Upper bounds in seconds, inclusive, of each histogram; one more bucket holds what is larger."""


def parse_buckets(raw: Any) -> Buckets:
    """From a mapping of metrics to upper bounds, or from text: `METRIC=10ms,0.1,1s`, several with `;` between.

    Raises ValueError for a metric that is no histogram, and for bounds that are negative or do not ascend.
    """
    given = dict(map(_split, raw.split(";"))) if isinstance(raw, str) else raw
    if not isinstance(given, Mapping):
        raise ValueError("write METRIC=10ms,100ms,1s, several with ; between them, or give a dict of such bounds")
    return tuple((_histogram(name), _parse_bounds(name, bounds)) for name, bounds in given.items())


def show_buckets(buckets: Buckets) -> str:
    return ";".join(f"{name}={','.join(map(_show_bound, bounds))}" for name, bounds in buckets)


def _split(text: str) -> tuple[str, list[str]]:
    name, _, bounds = text.partition("=")
    return name.strip(), [bound.strip() for bound in bounds.split(",")]


def _histogram(name: Any) -> str:
    if name not in DEFAULT_BUCKETS:
        raise ValueError(f"{name!r} is no histogram; those are {', '.join(DEFAULT_BUCKETS)}")
    return str(name)


def _parse_bounds(name: str, raw: Any) -> Bounds:
    if isinstance(raw, str) or not isinstance(raw, Iterable):
        raise ValueError(f"{name}: the bounds must be a sequence of seconds or durations")
    bounds = tuple(map(_parse_bound, raw))
    if not bounds or bounds[0] < 0 or any(low >= high for low, high in pairwise(bounds)):
        raise ValueError(f"{name}: the bounds must not be negative, and each must be above the one before")
    return bounds


def _parse_bound(raw: Any) -> float:
    if isinstance(raw, timedelta):
        return parse_duration(raw)
    try:
        seconds = float(raw)
    except ValueError:
        return parse_duration(raw)
    except TypeError:
        raise ValueError(f"{raw!r} is no bound: write seconds, or a duration") from None
    if not isfinite(seconds):
        raise ValueError("a bound must be finite: the bucket above the last one is always there")
    return seconds


def _show_bound(seconds: float) -> str:
    return show_duration(seconds) if seconds else "0s"
