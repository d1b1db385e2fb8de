"""How far a group is behind: in records, and in seconds. All times are seconds since 1970, by one clock.

The table of ends is Kafka Lag Exporter's (github.com/seglo/kafka-lag-exporter). It keeps half an hour of samples, and
extrapolates beyond them, anew at every poll, so its lag drifts when a group stands still. Here the time of a record is
settled once: exactly if it is in memory, else from the table, and what is older than the table is read.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

POINTS = 360  # an hour of samples that are 10 s apart


def lag_records(end: int, committed: int | None, log_start: int) -> int:
    """Records between what is committed and the end of the log, as Kafka counts them: by offset.

    `end` is the offset after the last readable record. What retention has removed is not counted: it will
    never be read. A group without a commit (`None`) is behind by the whole log.
    """
    reached = log_start if committed is None else max(committed, log_start)
    return max(0, end - reached)


class EndTable:
    """Which end a log had when: it tells about when an offset was written.

    A full table drops every second point and goes on, so it forgets nothing, and what is long ago is known as exactly
    as it needs to be.
    """

    __slots__ = ("_ends", "_last_seen", "_seen")

    def __init__(self) -> None:
        self._ends: list[int] = []  # ascending
        self._seen: list[float] = []  # when the log was first seen with this end
        self._last_seen: list[float] = []  # and when last

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def first(self) -> tuple[int, float]:
        """The first end, and when it was seen: of what was written before that, the table knows nothing.

        Raises IndexError while it is empty.
        """
        return self._ends[0], self._seen[0]

    def note(self, end: int, at: float) -> None:
        """The log ends here at this time. Everything is forgotten if the log has shrunk or the clock was set back."""
        if self._ends and (end < self._ends[-1] or at < self._last_seen[-1]):
            self.clear()
        if self._ends and end == self._ends[-1]:
            self._last_seen[-1] = at
            return
        if len(self._ends) >= POINTS:
            for column in (self._ends, self._seen, self._last_seen):
                del column[1:-1:2]
        self._ends.append(end)
        self._seen.append(at)
        self._last_seen.append(at)

    def written(self, offset: int) -> float | None:
        """About when: between the samples before and after it as if the log had grown evenly. None if not known."""
        after = bisect_right(self._ends, offset)
        if after in (0, len(self._ends)):
            return None
        before = after - 1
        share = (offset - self._ends[before] + 0.5) / (self._ends[after] - self._ends[before])
        return self._last_seen[before] + share * (self._seen[after] - self._last_seen[before])

    def written_by(self, offset: int) -> float | None:
        """When it was there for certain; None if it has not been seen."""
        after = bisect_right(self._ends, offset)
        return self._seen[after] if after < len(self._ends) else None

    def clear(self) -> None:
        for column in (self._ends, self._seen, self._last_seen):
            column.clear()


class Found(NamedTuple):
    """What was read at an offset: the first record there or behind it."""

    reached: int  # its offset; without a record, the offset that was read to
    timestamp: float | None  # None: there is no record before `reached`
    due: float | None = None  # of a tier


class Oldest(NamedTuple):
    """The oldest record that is not settled: since when it waits, or of a tier, when it is due. None: there is none."""

    since: float | None

    def age(self, now: float) -> float:
        """Seconds, never negative: of a tier, how long it is overdue."""
        return 0.0 if self.since is None else max(0.0, now - self.since)


NOTHING = Oldest(None)


class Backlog:
    """Since when the oldest unsettled record of one partition waits.

    Its time is settled once and then pinned for as long as it is the oldest. So the lag of a partition that stands
    still grows by one second a second, whatever happens behind it, and also when nobody can be asked any more.
    """

    __slots__ = ("_end", "_exact", "_failed", "_found", "_pinned", "_start", "_table")

    def __init__(self) -> None:
        self._table = EndTable()
        self._start = self._end = 0
        self._pinned: tuple[int, float] | None = None  # offset of the oldest, and its time
        self._exact = False
        self._found: tuple[int, Found] | None = None
        self._failed: int | None = None  # the offset that could not be read

    def sampled(self, start: int, end: int, at: float) -> bool:
        """The log reaches from `start` to `end` at this time. False if it is another one: cut off, or made anew."""
        anew = start < self._start or end < self._end
        if anew:
            self._table.clear()
            self._pinned = self._found = self._failed = None
        self._start, self._end = start, end
        self._table.note(end, at)
        return not anew

    def oldest(self, unsettled: int, timestamp: float | None, now: float, *, fresh: bool = True) -> Oldest | None:
        """`unsettled` is the lowest unsettled offset, and `timestamp` that of its record if it is in memory.

        None if it is not known. Without `fresh` the latest sample is too old to say that nothing has come since.
        """
        offset = max(unsettled, self._start)
        if timestamp is not None and timestamp >= 0:  # negative: the record has none
            return self._pin_exactly(offset, timestamp, now)
        if offset >= self._end:
            return NOTHING if fresh and len(self._table) else None
        if self._pinned is None or self._pinned[0] != offset:
            return self._look_up(offset, now)
        return Oldest(self._pinned[1])

    def oldest_due(self, unsettled: int, due: float | None, *, in_memory: bool, fresh: bool = True) -> Oldest | None:
        """The same of a tier, whose records wait until they are due."""
        if due is not None:
            return Oldest(due)
        offset = max(unsettled, self._start)
        if in_memory:
            return None
        if offset >= self._end:
            return NOTHING if fresh and len(self._table) else None
        found = self._found_at(offset)
        if found is None:
            return None
        if found.timestamp is None:
            return NOTHING if found.reached >= self._end else None
        return None if found.due is None else Oldest(found.due)

    def to_read(self, unsettled: int, *, in_memory: bool, tier: bool = False) -> int | None:
        """The offset whose record has to be read to know; None if that is not needed."""
        offset = max(unsettled, self._start)
        if in_memory or offset >= self._end or self._found_at(offset) is not None:
            return None
        if tier:
            return offset
        if self._pinned is not None and self._pinned[0] == offset:
            return None
        first_end, _ = self._table.first
        return offset if offset < first_end else None

    def read(self, offset: int, found: Found | None) -> None:
        """What was read at the offset; None if it could not be read."""
        if found is None:
            self._failed = offset
        else:
            self._found, self._failed = (offset, found), None

    def _look_up(self, offset: int, now: float) -> Oldest | None:
        since = self._table.written(offset)
        if since is not None:
            return self._pin(offset, min(since, now))
        found = self._found_at(offset)
        if found is not None:
            if found.timestamp is not None and found.timestamp >= 0:
                return self._pin_exactly(offset, found.timestamp, now)
            if found.reached >= self._end:
                return NOTHING
            since = self._table.written(found.reached)
            if since is not None:
                return self._pin(offset, min(since, now))
        elif self._failed != offset:
            return None  # it is about to be read
        # It was there when the table began, so it is at least so old.
        _, begin = self._table.first
        return Oldest(min(begin, now))

    def _pin_exactly(self, offset: int, timestamp: float, now: float) -> Oldest:
        if not self._exact or self._pinned is None or self._pinned[0] != offset:
            # A timestamp may lie in the future: producers have clocks of their own. But the record is here now.
            seen = self._table.written_by(offset)
            self._pin(offset, min(timestamp, now) if seen is None else min(timestamp, now, seen))
            self._exact = True
        assert self._pinned is not None
        return Oldest(self._pinned[1])

    def _pin(self, offset: int, since: float) -> Oldest:
        self._pinned, self._exact = (offset, since), False
        return Oldest(since)

    def _found_at(self, offset: int) -> Found | None:
        return self._found[1] if self._found is not None and self._found[0] == offset else None
