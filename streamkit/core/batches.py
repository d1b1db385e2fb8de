"""Which records are handled together next: runs of consecutive records of one partition, one run at a time."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from math import inf
from typing import Generic, TypeVar

P = TypeVar("P", bound=Hashable)  # a partition
T = TypeVar("T")


class Line(Generic[P, T]):
    """The records of one partition that wait, during one assignment."""

    __slots__ = ("again", "arrivals", "closed", "halted", "hurried", "items", "on_halt", "partition", "running")

    def __init__(self, partition: P) -> None:
        self.partition = partition
        self.items: deque[T] = deque()
        self.again: list[T] = []  # a batch that was taken and comes again, ahead of the items
        self.arrivals: deque[tuple[float, int]] = deque()  # when how many of the items came
        self.running = False  # a batch is taken and not yet released
        self.hurried = False  # no more can come until some are handled
        self.halted = False
        self.closed = False
        self.on_halt: Callable[[], None] = lambda: None


class Batches(Generic[P, T]):
    """The waiting records of an agent, taken in batches of up to `size`, a partition's one after another.

    A batch is complete when it has `size` records, or when its first record has waited for `within` seconds. Complete
    batches are served in a round robin of the partitions.

    Orphans are batches that still run although their partition was closed. When the partition is opened again, it
    waits until they have ended, so that no key runs twice at a time in one process.
    """

    __slots__ = ("_lines", "_orphans", "_size", "_turns", "_within", "waiting")

    def __init__(self, size: int, within: float) -> None:
        self._size = size
        self._within = within
        self._lines: dict[P, Line[P, T]] = {}
        # The lines that wait for nothing but the end of their next batch.
        self._turns: OrderedDict[Line[P, T], None] = OrderedDict()
        self._orphans: set[P] = set()
        self.waiting = 0  # records

    @property
    def lines(self) -> int:
        """Partitions that have records waiting or running. May be asked from another thread."""
        return sum(bool(line.running or line.again or line.items) for line in list(self._lines.values()))

    @property
    def orphans(self) -> int:
        """Partitions whose batch still runs although they were closed."""
        return len(self._orphans)

    def open(self, partition: P) -> Line[P, T]:
        """Begin an assignment of the partition."""
        if partition in self._lines:
            raise ValueError(f"{partition} is open already")
        line = self._lines[partition] = Line(partition)
        return line

    def put_all(self, line: Line[P, T], items: Sequence[T], now: float) -> None:
        """Queue records in the order of the log. Nothing happens once the line is halted."""
        if not items or line.halted:
            return
        if not line.items and not line.running and line.partition not in self._orphans:
            self._turns[line] = None
        line.items.extend(items)
        line.arrivals.append((now, len(items)))
        self.waiting += len(items)

    def hurry(self, partition: P) -> bool:
        """The partition gets no more records until some are handled: what waits is all there is. Whether it is news."""
        line = self._lines[partition]
        if line.hurried or not line.items:
            return False
        line.hurried = True
        return True

    def take(self, now: float) -> tuple[Line[P, T], list[T]] | None:
        """The batch that is handled next; None while none is complete."""
        for line in self._turns:
            if self._due(line) <= now:
                return line, self._cut(line)
        return None

    def take_from(self, line: Line[P, T], now: float) -> list[T]:
        """The next batch of this partition; empty while none is complete."""
        if line not in self._turns or self._due(line) > now:
            return []
        return self._cut(line)

    def wait(self, now: float) -> float | None:
        """Seconds until a batch is complete without another record; None if only more records can make one."""
        due = min(map(self._due, self._turns), default=None)
        return None if due is None else max(0.0, due - now)

    def put_back(self, line: Line[P, T], items: Sequence[T]) -> None:
        """The end of a taken batch that is not handled with the rest of it: the next batch begins with it, at once."""
        if line.halted:
            return
        line.items.extendleft(reversed(items))
        line.arrivals.appendleft((-inf, len(items)))
        self.waiting += len(items)

    def again(self, line: Line[P, T], items: Sequence[T]) -> None:
        """The taken batch, or what is left of it, is to be taken once more as it is, when the lines that wait now have
        had their turn.

        The partition's other records wait until then. Nothing happens once the line is halted: the batch is then to be
        released.
        """
        if line.halted or not line.running:
            return
        line.again = list(items)
        self.waiting += len(items)
        self.release(line)

    def release(self, line: Line[P, T]) -> None:
        """The batch that was taken is handled; the next one of the partition may run.

        A batch that is never released blocks its partition until the assignment ends.
        """
        if not line.running:
            return
        line.running = False
        if line.closed:
            self._orphans.discard(line.partition)
            successor = self._lines.get(line.partition)
            if successor is not None and successor.items:
                self._turns[successor] = None
        elif line.again or line.items:
            self._turns[line] = None

    def halt(self, line: Line[P, T], _running: Iterable[T] = ()) -> None:
        """Forget what has not started; nothing more of the partition is taken."""
        if line.halted:
            return
        self._turns.pop(line, None)
        self.waiting -= len(line.again) + len(line.items)
        line.again.clear()
        line.items.clear()
        line.arrivals.clear()
        line.halted = True
        line.on_halt()

    def close(self, line: Line[P, T], _running: Iterable[T] = ()) -> None:
        """End the assignment. A batch that still runs is an orphan from here on."""
        self.halt(line)
        del self._lines[line.partition]
        line.closed = True
        if line.running:
            self._orphans.add(line.partition)

    def _due(self, line: Line[P, T]) -> float:
        """When the next batch of a line with waiting records is complete."""
        if line.again or line.hurried or len(line.items) >= self._size:
            return -inf
        return line.arrivals[0][0] + self._within

    def _cut(self, line: Line[P, T]) -> list[T]:
        del self._turns[line]
        batch = self._cut_again(line) or self._cut_items(line)
        self.waiting -= len(batch)
        line.running = True
        return batch

    def _cut_again(self, line: Line[P, T]) -> list[T]:
        batch, line.again = line.again, []
        return batch

    def _cut_items(self, line: Line[P, T]) -> list[T]:
        items, arrivals = line.items, line.arrivals
        if len(items) <= self._size:
            batch = list(items)
            items.clear()
            arrivals.clear()
        else:
            batch = [items.popleft() for _ in range(self._size)]
            self._forget_arrivals(line, self._size)
        line.hurried = False
        return batch

    def _forget_arrivals(self, line: Line[P, T], taken: int) -> None:
        while taken:
            when, number = line.arrivals.popleft()
            if number > taken:
                line.arrivals.appendleft((when, number - taken))
                return
            taken -= number
