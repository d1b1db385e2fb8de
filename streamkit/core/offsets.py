"""Which offsets of one partition are settled, and the one that may be committed."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence

COMPACT_AT = 4096
_SETTLED_RUN = re.compile(b"\x01+")


class OffsetWindow:
    """The records of one partition that are settled, during one assignment.

    Records are registered in log order and settled in any order. `committable` is the lowest
    offset that is not settled: everything below it is, so it is the only offset that may ever
    be committed.

    Offsets are held by arrival sequence, not by value, so the holes that compaction and
    transaction markers leave in a log cost nothing. Every operation but `settled_ranges` is
    amortised O(1) a record; a record costs 9 bytes while it is in the window.
    """

    __slots__ = ("_done", "_first", "_head", "_next", "_offsets", "ahead", "closed")

    def __init__(self, start: int) -> None:
        self._offsets = array("q")
        self._done = bytearray()
        self._first = 0  # sequence of _offsets[0]
        self._head = 0  # index of the lowest unsettled record
        self._next = start  # nothing below it is still to come
        self.ahead = 0  # records settled beyond the head
        self.closed = False

    @property
    def committable(self) -> int:
        """The offset to commit: the lowest unsettled one, or else the next to arrive."""
        return self._offsets[self._head] if self._head < len(self._offsets) else self._next

    @property
    def next_offset(self) -> int:
        """The lowest offset that may still arrive."""
        return self._next

    @property
    def head(self) -> int:
        """The sequence of the lowest unsettled record, or else of the next to arrive."""
        return self._first + self._head

    @property
    def settled(self) -> int:
        """Records settled in all, those of an earlier head included."""
        return self._first + self._head + self.ahead

    @property
    def size(self) -> int:
        """Records held because of the lowest unsettled one: itself and all after it."""
        return len(self._offsets) - self._head

    @property
    def pending(self) -> int:
        """Records registered and not settled."""
        return self.size - self.ahead

    def register(self, offset: int) -> int | None:
        """Take in the next record of the log; its sequence, or None if it was seen before."""
        sequence, seen = self.register_all((offset,))
        return None if seen else sequence

    def register_all(self, offsets: Sequence[int]) -> tuple[int, int]:
        """Take in the next records of the log, which must be in log order.

        Returns the sequence of the first new record, and how many at the start of `offsets` were
        seen before. The new ones are `offsets[seen:]`, their sequences consecutive.
        """
        seen = bisect_left(offsets, self._next)
        fresh = offsets[seen:] if seen else offsets
        sequence = self._first + len(self._offsets)
        if fresh:
            self._offsets.extend(array("q", fresh))  # twice as fast as extending by a list
            self._done.extend(bytes(len(fresh)))
            self._next = fresh[-1] + 1
        return sequence, seen

    def reach(self, offset: int) -> None:
        """Note that the log holds nothing to process below `offset`.

        Transaction markers take offsets but are never delivered. Without this, a log that ends
        in one would show a lag of 1 for ever.
        """
        self._next = max(self._next, offset)

    def settle(self, sequence: int) -> bool:
        """Mark one record settled; False if that changes nothing.

        A window is closed when its partition is revoked. What settles afterwards belongs to
        an earlier assignment and must not move the committable offset of a later one.
        """
        index = sequence - self._first
        if self.closed or index < self._head or self._done[index]:
            return False
        self._done[index] = 1
        self.ahead += 1
        if index == self._head:
            self._advance()
        return True

    def settle_all(self, sequences: Iterable[int]) -> int:
        """Mark many records settled; how many of them that changed."""
        if self.closed:
            return 0
        done, first, head = self._done, self._first, self._head
        changed = 0
        for sequence in sequences:
            index = sequence - first
            if index >= head and not done[index]:
                done[index] = 1
                changed += 1
        self.ahead += changed
        if changed and done[head]:
            self._advance()
        return changed

    def is_settled(self, sequence: int) -> bool:
        """Whether the record with this sequence is. Asked from another thread, it may be late by what just happens."""
        index = sequence - self._first
        return index < self._head or 1 in self._done[index : index + 1]

    def settled_ranges(self) -> list[tuple[int, int]]:
        """Offset ranges [start, end) beyond `committable` that hold only settled records.

        A hole belongs to the run before it, so there is one range a run of settled records.
        """
        # The last run ends with its last record: what follows it may not have been read yet.
        bounds = self._offsets[:]
        bounds.append(bounds[-1] + 1 if bounds else self._next)
        runs = (run.span() for run in _SETTLED_RUN.finditer(self._done, self._head))
        return [(bounds[start], bounds[end]) for start, end in runs]

    def _advance(self) -> None:
        head = self._done.find(0, self._head)
        if head < 0:
            head = len(self._done)
        self.ahead -= head - self._head
        self._head = head
        # Dropping the prefix moves what remains, so it waits until that is worth it.
        if head >= COMPACT_AT and 2 * head >= len(self._done):
            del self._offsets[:head], self._done[:head]
            self._first += head
            self._head = 0
