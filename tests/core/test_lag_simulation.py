"""Lag in seconds against the truth, over 100 minutes of one partition, looked at every second.

The worker settles up to 80 records a second; the log is sampled every 10 s. It grows by 50 a second, then by one every
five seconds, by 500 for a minute, and by one a second.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable

from streamkit.core.lag import Backlog, Found

SECONDS = 6_000
SPEED = 80
SAMPLE = 10
STUCK, PAUSED = range(1_800, 2_200), range(3_000, 5_400)

InMemory = Callable[[int], bool]


def arrivals() -> list[float]:
    chance, now, written = random.Random(1), 0.0, []
    while now < SECONDS:
        rate = 50.0
        if 600 <= now < 1_500:
            rate = 0.2
        elif 2_400 <= now < 2_460:
            rate = 500.0
        elif now >= 3_600:
            rate = 1.0
        now += chance.expovariate(rate)
        written.append(now)
    return written


WRITTEN = arrivals()


def progress(paused: range) -> list[int]:
    """The lowest unsettled offset in each second."""
    unsettled, offsets = 0, []
    for now in range(SECONDS):
        if now not in STUCK and now not in paused:
            unsettled = min(end(now), unsettled + SPEED)
        offsets.append(unsettled)
    return offsets


def end(now: float) -> int:
    return bisect_right(WRITTEN, now)


def errors(in_memory: InMemory, *, paused: range = PAUSED, restart: int | None = None) -> dict[int, float]:
    """By second, how wrong the lag was, in seconds; seconds in which it was not known are absent."""
    backlog, offsets = Backlog(), progress(paused)
    wrong: dict[int, float] = {}
    for now in range(SECONDS):
        unsettled, known = offsets[now], in_memory(now) and offsets[now] < end(now)
        if now == restart:
            backlog = Backlog()  # nothing is left in memory, and the table is empty
        if now % SAMPLE == 0:
            backlog.sampled(0, end(now), now)
            offset = backlog.to_read(unsettled, in_memory=known)
            if offset is not None:
                backlog.read(offset, Found(offset, WRITTEN[offset]))
        oldest = backlog.oldest(unsettled, WRITTEN[unsettled] if known else None, now)
        if oldest is not None:
            truth = 0.0 if unsettled >= end(now) else now - WRITTEN[unsettled]
            wrong[now] = abs(oldest.age(now) - truth)
    return wrong


def test_what_is_in_memory_has_the_true_lag_to_the_last_digit() -> None:
    assert set(errors(lambda now: True).values()) == {0.0}


def test_a_partition_that_is_not_read_for_40_minutes_while_its_rate_falls_has_the_true_lag() -> None:
    wrong = errors(lambda now: now not in PAUSED)
    assert len(wrong) == SECONDS
    assert max(wrong.values()) < 0.001


def test_after_a_restart_in_the_middle_of_it_one_record_is_read_and_the_lag_is_true() -> None:
    restart = PAUSED.start + 1_200
    wrong = errors(lambda now: now not in PAUSED, restart=restart)
    assert len(wrong) == SECONDS
    assert max(wrong.values()) < 0.001


def test_a_partition_that_was_settled_to_its_end_when_reading_stopped_is_wrong_by_less_than_a_sample() -> None:
    quiet = range(700, 1_500)  # a record every five seconds: the first comes between two samples
    assert max(errors(lambda now: now not in quiet, paused=quiet).values()) < SAMPLE


def test_without_any_record_in_memory_the_lag_is_wrong_by_2_seconds_at_most() -> None:
    """As for a group that is looked at from outside."""
    assert max(errors(lambda now: False).values()) < 2.0
