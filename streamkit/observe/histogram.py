"""A histogram that costs the hot path little, and the traces that its buckets remember."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final, NamedTuple

from streamkit.core.traces import trace_of
from streamkit.record import Headers

EXEMPLAR_EVERY: Final = 1.0  # seconds, in which a bucket remembers one trace: more are never scraped


class Exemplar(NamedTuple):
    """A record that was traced, of those in a bucket the last."""

    trace_id: str
    value: float  # seconds
    at: float  # seconds since 1970


class Histogram:
    """Counts by bucket, written by the loop's thread only. `counts` are not cumulative, and there is one more of them
    than bounds; who counts inline adds to `counts` and `sum`."""

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)  # seconds, inclusive
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] = {}  # by the bucket's place

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def observe_gaps(self, moments: Sequence[float]) -> None:
        """Take in how far these moments are apart, each from the one before; seconds, in ascending order.

        For many that belong in the first bucket: as far as that reaches, none of them is looked at.
        """
        counts, bounds = self.counts, self.bounds
        place, last = 0, len(moments) - 1
        while place < last:
            reached = bisect_right(moments, moments[place] + bounds[0], place + 1) - 1
            if reached > place:
                counts[0] += reached - place
                place = reached
            else:
                counts[bisect_left(bounds, moments[place + 1] - moments[place])] += 1
                place += 1
        self.sum += moments[-1] - moments[0]

    def observe_since(self, since: float, moments: Sequence[float]) -> None:
        """Take in how long after `since` these moments were; seconds, in ascending order. Those before it count as 0.

        For many: only where their buckets begin and end is looked for.
        """
        if not moments:
            return
        counts, bounds = self.counts, self.bounds
        place = bisect_left(bounds, moments[0] - since)
        last = bisect_left(bounds, moments[-1] - since)
        counted = 0
        for each in range(place, last):
            reached = bisect_right(moments, since + bounds[each], counted)
            counts[each] += reached - counted
            counted = reached
        counts[last] += len(moments) - counted
        after = bisect_left(moments, since)
        self.sum += max(0.0, sum(moments[after:]) - since * (len(moments) - after))

    def observe_ages(self, moments: Sequence[float], now: float, per_second: float = 1.0) -> None:
        """Take in how long ago these moments were; in ascending order, they and `now` with so many units `per_second`.
        Those to come count as 0.

        For many: only where their buckets begin and end is looked for.
        """
        if not moments:
            return
        counts, bounds = self.counts, self.bounds
        younger = bisect_right(moments, now)
        counts[0] += len(moments) - younger
        self.sum += max(0.0, now * younger - sum(moments[:younger])) / per_second
        place = bisect_left(bounds, (now - moments[-1]) / per_second)
        last = bisect_left(bounds, (now - moments[0]) / per_second)
        for each in range(place, last):
            older = bisect_left(moments, now - bounds[each] * per_second, 0, younger)
            counts[each] += younger - older
            younger = older
        counts[last] += younger

    def trace(self, seconds: float, headers: Headers, now: float) -> None:
        """Remember the trace of a record that was observed, if it has a sampled one; `now` in seconds since 1970."""
        place = bisect_left(self.bounds, seconds)
        last = self.exemplars.get(place)
        if last is None or not 0.0 <= now - last.at < EXEMPLAR_EVERY:
            trace = trace_of(headers)
            if trace is not None and trace.sampled:
                self.exemplars[place] = Exemplar(trace.id, seconds, now)
