"""When a record of a tier may run, and those that wait for it."""

from __future__ import annotations

import heapq
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


def remaining(now_ms: int, appended_ms: int, due_ms: int | None, failed_ms: int | None, longest: float) -> float:
    """Seconds that a record of a tier has still to wait, from 0 to `longest`, the tier's wait with all of its jitter.

    `due_ms` and `failed_ms` were written by whoever published the copy, `appended_ms` by the broker, and `now_ms` is
    the reader's own clock: three clocks that need not agree. How long the record is to wait is the difference of two
    readings of one clock. It has waited when both the publisher's clock and the broker's say so, as the reader reads
    them: too early only if the reader is ahead of both. If either is ahead of the reader, so long after being read is
    enough.
    """
    most = longest * 1000
    wanted = most if due_ms is None or failed_ms is None else min(max(0, due_ms - failed_ms), most)
    due = appended_ms + wanted
    if due_ms is not None:
        due = max(due, due_ms)
    return min(max(0, due - now_ms), wanted) / 1000


class Waiting(Generic[T]):
    """Items that wait for a time of their own; those of the same time leave in order of arrival."""

    __slots__ = ("_arrivals", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._arrivals = count()

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next(self) -> float | None:
        """When the first of them is due; None if none waits."""
        return self._heap[0][0] if self._heap else None

    def put(self, due: float, item: T) -> None:
        heapq.heappush(self._heap, (due, next(self._arrivals), item))

    def take(self, now: float) -> list[T]:
        """Those that are due, the earliest first."""
        taken: list[T] = []
        while self._heap and self._heap[0][0] <= now:
            taken.append(heapq.heappop(self._heap)[2])
        return taken

    def clear(self) -> None:
        self._heap.clear()
