"""When a commit is due."""

from __future__ import annotations

from math import inf


class CommitSchedule:
    """Commits at most every `every_s` seconds, or after `records` settled records.

    `started = schedule.begin(now)` goes with the snapshot of what is to be committed, before the commit is
    awaited; `schedule.committed(started)` follows its success. So what settles meanwhile stays due, and a
    commit that fails needs no call: all of it stays due, and is tried again after `every_s` at the latest.
    """

    __slots__ = ("_changes", "_committed", "_every_s", "_last", "_records", "_started")

    def __init__(self, every_s: float = 1.0, records: int = 10_000) -> None:
        self._every_s = every_s
        self._records = records
        self._changes = 0  # these three only ever grow
        self._started = 0
        self._committed = 0
        self._last = -inf  # when the last commit began

    @property
    def dirty(self) -> bool:
        """Whether anything changed that no commit has covered."""
        return self._changes > self._committed

    @property
    def full(self) -> bool:
        """Whether enough changed since the last commit began for the next not to wait."""
        return self._changes - self._started >= self._records

    def settled(self, records: int = 1) -> None:
        """Note that records have settled."""
        self._changes += records

    def touch(self) -> None:
        """Note that the committable offset moved without a record: past transaction markers."""
        self._changes += 1

    def wait(self, now: float) -> float | None:
        """Seconds until a commit is due, 0 if it is; None while there is nothing to commit."""
        if not self.dirty:
            return None
        # Counted from the last attempt, not the last success: a broker that refuses is not hammered.
        if self.full:
            return 0.0
        return max(0.0, self._last + self._every_s - now)

    def due(self, now: float) -> bool:
        return self.wait(now) == 0.0

    def begin(self, now: float) -> int:
        """Note that a commit begins; what `committed` is to be given if it succeeds."""
        self._last = now
        self._started = self._changes
        return self._started

    def committed(self, started: int) -> None:
        """Note that the commit that began with `started` was acknowledged."""
        self._committed = max(self._committed, started)
