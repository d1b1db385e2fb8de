"""When so much fails that it cannot be the records' fault, and when it has passed."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from math import inf

SLOTS = 10  # of a window
KNOWN_FOR = 600.0  # seconds that a key is known to fail after it last did
MOST_KNOWN = 10_000  # keys


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """When a breaker opens and closes; `ValueError` for limits that make no sense."""

    failures: int = 100  # 0: it never opens
    keys: int = 10  # that have begun to fail among those in a row
    ratio: float = 0.5  # of the outcomes within the window
    window: float = 30.0  # seconds
    successes: int = 3  # in a row that close it
    first_probe: float = 1.0  # seconds
    last_probe: float = 30.0  # seconds

    def __post_init__(self) -> None:
        if self.failures < 0:
            raise ValueError("failures must be at least 0")
        if self.keys < 1 or self.successes < 1:
            raise ValueError("keys and successes must be at least 1")
        if not 0 < self.ratio <= 1:
            raise ValueError("ratio must be above 0, and 1 at most")
        if not 0 < self.window < inf:
            raise ValueError("window must be above 0 seconds")
        if not 0 < self.first_probe <= self.last_probe < inf:
            raise ValueError("first_probe must be above 0 seconds, and last_probe not below it")


class Row:
    """Failures since the last success."""

    __slots__ = ("failures", "news")

    def __init__(self) -> None:
        self.end()

    def end(self) -> None:
        self.failures = 0
        self.news = 0  # keys that have begun to fail among them


class Breaker:
    """Opens when `failures` runs in a row have failed and at least `keys` keys have begun to fail among them; or when
    as many records have failed at their first run within `window` seconds, and they are `ratio` of all that ended.

    A key that failed when it last ran is no news to a row: lanes that fail fall behind the others, and what is left to
    run in the end may be theirs alone. A record that has failed before is no news at all: those that have failed
    together come back together.

    While it is open, single records are tried as probes, and `successes` in a row close it. Times are seconds on any
    clock that does not go back.
    """

    __slots__ = (
        "_closed_at",
        "_firsts",
        "_interval",
        "_limits",
        "_probe_at",
        "_probing",
        "_recent",
        "_returned_at",
        "_rows",
        "_successes",
        "failing",
        "open",
    )

    def __init__(self, limits: BreakerLimits) -> None:
        self._limits = limits
        self.open = False
        self._rows = (Row(), Row())  # of failures of handlers, and of refused outputs
        self._returned_at = -inf  # when a handler last did
        # Keys whose last run has failed, and when, the oldest first. Who runs them takes out those that succeed.
        self.failing: dict[Hashable, float] = {}
        self._successes = 0  # since it opened and since the last failure
        self._recent: deque[list[int]] = deque()  # slot of the window; successes and first failures in it
        self._firsts = 0  # failures in all of them
        self._interval = limits.first_probe
        self._probe_at = 0.0
        self._probing = False  # a probe has begun, and no failure since
        self._closed_at = -inf

    def returned(self, count: int, now: float) -> None:
        """So many handlers have returned. Among all outcomes these are successes at once, unless what they have sent is
        `refused`: acknowledgements come late, and in the meantime failures would be alone."""
        if count and self._limits.failures and not self.open:
            self._rows[0].end()
            self._returned_at = now
            self._slot(now)[1] += count

    def succeeded(self, count: int, now: float) -> bool:
        """So many runs have ended well, with all that they have sent acknowledged. Whether that closed it."""
        limits = self._limits
        if not count or not limits.failures:
            return False
        if not self.open:
            self._rows[1].end()
            return False
        self._successes += count
        self._probe_at = now
        if self._successes < limits.successes:
            return False
        self.open = False
        self._closed_at = now
        return True

    def failed(
        self, key: Hashable, now: float, *, again: bool = False, began: float = inf, refused: bool = False
    ) -> bool:
        """A run has failed. Whether that opened it. `again`: its record has failed before. Without a key (None) any
        other is news.

        `began` is when the run did. In a row are those that began after a handler last returned: what fails is often
        slower than what succeeds, and comes last, though it began with it. `refused`: the handler has returned, and
        what it has sent was refused; those are a row of their own.
        """
        if not self._limits.failures:
            return False
        news = self._is_news(key, now) and not again
        if self.open:
            self._failed_again(now)
            return False
        row = self._rows[refused]
        if refused or began >= self._returned_at:
            row.failures += 1
            row.news += news
        slot = self._slot(now)
        slot[1] -= refused  # it was taken for one when its handler returned
        slot[2] += not again
        self._firsts += not again
        if not self._too_many(row):
            return False
        self._open(now)
        return True

    def next_probe(self, now: float) -> float:
        """Seconds until a probe may begin; only while it is open."""
        return max(0.0, self._probe_at - now)

    def began_probe(self, now: float) -> None:
        """A probe that hangs holds up no other: the next one is due after the interval all the same."""
        self._probing = True
        self._probe_at = now + self._interval

    def _too_many(self, row: Row) -> bool:
        limits, failures = self._limits, self._firsts
        if row.failures >= limits.failures and row.news >= limits.keys:
            return True
        if failures < limits.failures:
            return False
        successes = sum(slot[1] for slot in self._recent)
        return failures >= limits.ratio * (failures + successes)

    def _is_news(self, key: Hashable, now: float) -> bool:
        if key is None:
            return True
        before = self.failing.pop(key, -inf)
        self.failing[key] = now
        if len(self.failing) > MOST_KNOWN:
            del self.failing[next(iter(self.failing))]
        return now - before > KNOWN_FOR

    def _open(self, now: float) -> None:
        self.open = True
        self._successes = 0
        for row in self._rows:
            row.end()
        self._recent.clear()
        self._firsts = 0
        self._probing = False
        if now - self._closed_at > self._limits.window:
            self._interval = self._limits.first_probe
        self._probe_at = now + self._interval

    def _failed_again(self, now: float) -> None:
        self._successes = 0
        # Once a probe: what ran when it opened, and fails now, must not drive the interval up.
        if self._probing:
            self._probing = False
            self._interval = min(2 * self._interval, self._limits.last_probe)
        self._probe_at = now + self._interval

    def _slot(self, now: float) -> list[int]:
        """That of now. Whole slots leave the window: what counts is never older than it, and at least nine tenths."""
        recent = self._recent
        number = int(now * SLOTS / self._limits.window)
        if not recent or recent[-1][0] != number:
            recent.append([number, 0, 0])
            while recent[0][0] <= number - SLOTS:
                self._firsts -= recent.popleft()[2]
        return recent[-1]
