"""What is remembered of the records of a window when they themselves are not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

FORGET_AT = 512


class Stamps:
    """A moment of each record from the window's head on, in ms since 1970, by sequence. No record is kept alive.

    Written by the loop's thread; `at` may be asked from another. A list, because an array takes longer to fill and to
    ask than all else that is measured of a record.
    """

    __slots__ = ("held",)

    def __init__(self) -> None:
        # The sequence of the first, and all: in one, so that who reads both has those that belong together.
        self.held: tuple[int, list[int]] = 0, []

    def extend(self, values: Iterable[int]) -> None:
        """Those of the records with the next sequences."""
        self.held[1].extend(values)

    def put(self, sequence: int, value: int) -> None:
        """Another one of a record that is held."""
        first, values = self.held
        values[sequence - first] = value

    def at(self, sequence: int) -> int | None:
        """None if it is not held."""
        first, values = self.held
        place = sequence - first
        return values[place] if 0 <= place < len(values) else None

    def of(self, sequences: Sequence[int]) -> list[int]:
        """Of each that is held, in no particular order."""
        first, values = self.held
        if not first:
            return [values[sequence] for sequence in sequences]
        return [values[sequence - first] for sequence in sequences if sequence >= first]

    def between(self, first: int, end: int) -> list[int]:
        """Of those from `first` on that are below `end`, as many as are held."""
        start, values = self.held
        return values[max(0, first - start) : max(0, end - start)]

    def forget(self, before: int) -> None:
        """What is below this sequence is not needed any more. Moving the others waits until that is worth it."""
        first, values = self.held
        gone = before - first
        if gone >= FORGET_AT and 2 * gone >= len(values):
            self.held = before, values[gone:]
