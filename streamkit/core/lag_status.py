"""What state a partition is in, and why: Burrow's rules (github.com/linkedin/Burrow), for one who can look inside.

Burrow sees commits, so an idle topic, a slow committer and a hung handler look alike to it. Here it is the lowest
unsettled offset that counts. All times are in seconds.
"""

from __future__ import annotations

from collections import deque
from typing import Literal, NamedTuple

READINGS = 10
LONGEST_PAUSE = 300.0  # for backpressure

Status = Literal["ok", "falling_behind", "stalled", "stopped", "rewound", "paused"]
Reason = Literal[
    "",
    "backpressure",
    "breaker",
    "commit_failing",
    "dlq_blocked",
    "handler",
    "no_owner",
    "not_fetching",
    "rebalance",
    "retry_wait",
]
Closed = Literal["", "backpressure", "breaker", "rebalance"]
Head = Literal["blocked", "in_memory", "not_fetched"]
"""The record at the lowest unsettled offset. Blocked: it failed, and no tier or dead letter topic takes it."""


class Verdict(NamedTuple):
    status: Status
    reason: Reason = ""


OK = Verdict("ok")


class Reading(NamedTuple):
    """One look at a partition. `committed` is None without a commit; `due` is when the head of a tier is due."""

    at: float
    end: int
    unsettled: int
    committed: int | None
    head: Head
    due: float | None = None
    closed: Closed = ""

    @property
    def behind(self) -> int:
        """Records that wait. What is in memory may be younger than the sample of the end."""
        least = 0 if self.head == "not_fetched" else 1
        return max(least, self.end - self.unsettled)

    @property
    def waits_for_retry(self) -> bool:
        return self.due is not None and self.due > self.at

    @property
    def held(self) -> bool:
        """Not to be worked on at present, so that standing still is no fault."""
        return self.waits_for_retry or self.closed in ("breaker", "rebalance")

    @property
    def lag(self) -> int:
        """Records that wait although they could be worked on."""
        return 0 if self.held else self.behind

    @property
    def uncommitted(self) -> bool:
        return self.committed is not None and self.committed < self.unsettled


class _Spell:
    """How long something has held while what it depends on stayed the same."""

    __slots__ = ("_of", "_since")

    def __init__(self) -> None:
        self._of: object = None
        self._since: float | None = None

    def note(self, holds: bool, of: object, at: float) -> float:
        """Seconds; 0 if it does not hold, or holds only now."""
        if not holds:
            self._since = None
            return 0.0
        if self._since is None or self._of != of:
            self._of, self._since = of, at
        return at - self._since


class StatusWindow:
    """The latest readings of one partition, `interval` apart, and the verdict on them.

    Of readings that follow each other much sooner, the last one counts.
    """

    __slots__ = (
        "_full",
        "_highest",
        "_interval",
        "_next_at",
        "_readings",
        "_stalled_at",
        "_too_long",
        "_uncommitted",
        "verdict",
    )

    def __init__(self, interval: float, commit_interval: float) -> None:
        self._interval = interval
        self._too_long = max(3 * commit_interval, (READINGS - 1) * interval)  # without a commit
        self._readings: deque[Reading] = deque(maxlen=READINGS)
        self._next_at = 0.0  # before that, a reading takes the place of the last one
        self._highest: int | None = None  # that was committed
        self._uncommitted, self._full = _Spell(), _Spell()
        self._stalled_at: int | None = None
        self.verdict: Verdict | None = None  # before the first reading

    def note(self, reading: Reading) -> None:
        """Take it in; the verdict is then on it and those before."""
        readings = self._readings
        if readings and readings[-1].at <= reading.at < self._next_at:
            readings[-1] = reading
        else:
            readings.append(reading)
            self._next_at = reading.at + self._interval / 2
        if reading.committed is not None:
            self._highest = max(reading.committed, self._highest or 0)
        uncommitted_for = self._uncommitted.note(reading.uncommitted, reading.committed, reading.at)
        full_for = self._full.note(reading.closed == "backpressure", reading.unsettled, reading.at)
        self.verdict = self._judge(reading, uncommitted_for, full_for)
        self._stalled_at = reading.unsettled if self.verdict.status == "stalled" else None

    def _judge(self, reading: Reading, uncommitted_for: float, full_for: float) -> Verdict:
        if self._highest is not None and (reading.committed is None or reading.committed < self._highest):
            return Verdict("rewound")
        if uncommitted_for >= self._too_long:
            return Verdict("stopped", "commit_failing")
        if not reading.behind:
            return OK
        if reading.waits_for_retry:
            return Verdict("ok", "retry_wait")
        if reading.held:
            return Verdict("paused", reading.closed)
        # A partition is closed and opened all the time while its records are worked on. And what stood still before the
        # memory was full does so no less afterwards.
        if 0 < full_for < LONGEST_PAUSE and self._stalled_at != reading.unsettled:
            return Verdict("paused", "backpressure")
        return self._judge_window(reading)

    def _judge_window(self, reading: Reading) -> Verdict:
        lags = [each.lag for each in self._readings]
        if len(lags) < READINGS or not all(lags):
            return OK
        if all(each.unsettled == reading.unsettled for each in self._readings):
            return Verdict("stalled", _CAUSES[reading.head])
        if lags == sorted(lags) and lags[-1] > lags[0]:
            return Verdict("falling_behind")
        return OK


_CAUSES: dict[Head, Reason] = {"blocked": "dlq_blocked", "in_memory": "handler", "not_fetched": "not_fetching"}
