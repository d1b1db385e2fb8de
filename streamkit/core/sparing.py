"""Which of many lines of the log are written."""

from __future__ import annotations

from math import inf


class Sparing:
    """Lets so many through in any period, and counts the others. Times are seconds of any clock."""

    def __init__(self, most: int, period: float) -> None:
        self._most = most
        self._period = period
        self._began = -inf
        self._told = 0
        self._untold = 0

    def told(self, now: float) -> int | None:
        """How many were kept back since the last one that was not; None: this one is, too."""
        if now >= self._began + self._period:
            self._began, self._told = now, 0
        if self._told >= self._most:
            self._untold += 1
            return None
        self._told += 1
        untold, self._untold = self._untold, 0
        return untold
