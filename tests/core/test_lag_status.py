from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamkit.core.lag_status import (
    LONGEST_PAUSE,
    READINGS,
    Closed,
    Head,
    Reading,
    Reason,
    Status,
    StatusWindow,
    Verdict,
)

INTERVAL = 10.0
BACKPRESSURE, BREAKER, REBALANCE = (Verdict("paused", why) for why in ("backpressure", "breaker", "rebalance"))
OK = Verdict("ok")


class Partition:
    """A window, and the reading that comes next unless told otherwise: 100 records, 40 settled, the head in memory."""

    def __init__(self, commit_interval: float = 1.0) -> None:
        self.window = StatusWindow(INTERVAL, commit_interval)
        self.reading = Reading(1_000.0, 100, 40, 40, "in_memory")

    def look(self, *, after: float = INTERVAL, **changes: Any) -> Verdict | None:
        self.reading = self.reading._replace(at=self.reading.at + after, **changes)
        self.window.note(self.reading)
        return self.window.verdict

    def looks(self, count: int, *, by: int = 0, grow: int = 0, **changes: Any) -> list[Verdict | None]:
        """So many, with so many records settled and committed, and so many new ones, between them."""
        verdicts = []
        for _ in range(count):
            settled, end = self.reading.unsettled + by, self.reading.end + grow
            committed = {"committed": settled} if by and "committed" not in changes else {}
            verdicts.append(self.look(**{"unsettled": settled, "end": end} | committed | changes))
        return verdicts


def test_nothing_is_said_before_the_first_reading() -> None:
    assert Partition().window.verdict is None


def test_a_partition_is_ok_until_a_whole_window_says_otherwise() -> None:
    assert Partition().looks(READINGS - 1) == [OK] * (READINGS - 1)


@pytest.mark.parametrize(
    ("head", "cause"), [("in_memory", "handler"), ("not_fetched", "not_fetching"), ("blocked", "dlq_blocked")]
)
def test_a_partition_that_stands_still_through_a_window_is_stalled_and_its_head_tells_why(
    head: Head, cause: Reason
) -> None:
    assert Partition().looks(READINGS, head=head)[-1] == Verdict("stalled", cause)


def test_a_stall_ends_with_the_first_record_that_is_settled() -> None:
    partition = Partition()
    partition.looks(READINGS)
    assert partition.looks(1, by=1) == [OK]


def test_an_idle_partition_is_ok_for_ever() -> None:
    assert set(Partition().looks(50, unsettled=100, committed=100, head="not_fetched")) == {OK}


def test_a_record_in_memory_that_is_younger_than_the_sampled_end_waits_too() -> None:
    assert Partition().looks(READINGS, unsettled=100, committed=100)[-1] == Verdict("stalled", "handler")


def test_a_partition_that_was_caught_up_in_the_window_is_ok() -> None:
    partition = Partition()
    partition.look(unsettled=100, committed=100, head="not_fetched")
    partition.look(end=200, head="in_memory")
    assert partition.looks(READINGS - 2)[-1] == OK
    assert partition.looks(1) == [Verdict("stalled", "handler")]


def test_a_partition_whose_lag_only_grows_is_falling_behind() -> None:
    assert Partition().looks(READINGS, by=10, grow=12)[-1] == Verdict("falling_behind")


@pytest.mark.parametrize("grow", [10, 9], ids=["stays", "shrinks"])
def test_a_partition_whose_lag_is_ok_while_it(grow: int) -> None:
    assert Partition().looks(READINGS, by=10, grow=grow)[-1] == OK


def test_a_partition_whose_lag_shrank_once_in_the_window_is_ok() -> None:
    partition = Partition()
    partition.looks(5, by=10, grow=12)
    partition.looks(1, by=20, grow=12)
    assert partition.looks(4, by=10, grow=12)[-1] == OK
    assert partition.looks(5, by=10, grow=12)[-1] == Verdict("falling_behind")


# Pauses


@pytest.mark.parametrize(("closed", "verdict"), [("breaker", BREAKER), ("rebalance", REBALANCE)])
def test_an_open_breaker_and_a_rebalance_are_told_at_once_and_are_no_stall(closed: Closed, verdict: Verdict) -> None:
    partition = Partition()
    assert partition.looks(100, closed=closed) == [verdict] * 100
    assert partition.looks(READINGS - 1, closed="") == [OK] * (READINGS - 1)
    assert partition.looks(1) == [Verdict("stalled", "handler")]


def test_nothing_is_paused_where_nothing_waits() -> None:
    assert Partition().look(unsettled=100, committed=100, head="not_fetched", closed="breaker") == OK


def test_a_partition_that_is_closed_for_backpressure_and_goes_on_is_not_paused() -> None:
    assert set(Partition().looks(50, by=10, grow=10, closed="backpressure")) == {OK}


def test_a_pause_for_backpressure_becomes_a_stall_after_5_minutes() -> None:
    verdicts = Partition().looks(32, closed="backpressure")
    assert verdicts[0] == OK
    assert verdicts[1:30] == [BACKPRESSURE] * 29
    assert verdicts[30:] == [Verdict("stalled", "handler")] * 2
    assert (len(verdicts) - 2) * INTERVAL == LONGEST_PAUSE


def test_a_stall_is_not_called_a_pause_when_memory_fills_up_behind_it() -> None:
    partition = Partition()
    partition.looks(READINGS, head="blocked")
    assert set(partition.looks(40, closed="backpressure")) == {Verdict("stalled", "dlq_blocked")}


def test_a_pause_for_backpressure_begins_anew_when_a_record_was_settled() -> None:
    partition = Partition()
    partition.looks(30, closed="backpressure")
    partition.looks(1, by=1)
    assert partition.looks(29) == [BACKPRESSURE] * 29


# Tiers


def test_a_tier_is_ok_at_any_depth_as_long_as_its_head_is_not_due() -> None:
    assert set(Partition().looks(100, grow=1_000, due=9e9)) == {Verdict("ok", "retry_wait")}


def test_a_tier_that_stands_still_with_an_overdue_head_is_stalled_after_a_window_from_when_it_was_due() -> None:
    partition = Partition()
    partition.looks(100, due=2_000.0)
    assert partition.reading.at == 2_000.0
    assert partition.looks(READINGS - 2) == [OK] * (READINGS - 2)
    assert partition.looks(1) == [Verdict("stalled", "handler")]


# Commits


def test_what_is_settled_and_not_committed_for_a_window_is_stopped_also_where_nothing_waits() -> None:
    partition = Partition()
    verdicts = partition.looks(READINGS, unsettled=100, head="not_fetched")
    assert verdicts == [OK] * (READINGS - 1) + [Verdict("stopped", "commit_failing")]
    assert partition.look(committed=100) == OK


def test_a_slow_committer_has_three_of_its_intervals() -> None:
    verdicts = Partition(commit_interval=60.0).looks(20, unsettled=100, head="not_fetched")
    assert verdicts == [OK] * 18 + [Verdict("stopped", "commit_failing")] * 2


def test_a_worker_that_commits_behind_what_it_settles_is_not_stopped() -> None:
    partition = Partition()
    for n in range(3 * READINGS):
        assert partition.looks(1, by=5, grow=5, committed=40 + 5 * n) == [OK]


def test_a_group_that_has_committed_nothing_is_not_stopped() -> None:
    assert set(Partition().looks(2 * READINGS, by=5, grow=5, committed=None)) == {OK}


@pytest.mark.parametrize("committed", [39, None])
def test_a_commit_that_goes_back_is_rewound_until_it_is_where_it_was(committed: int | None) -> None:
    partition = Partition()
    partition.looks(3)
    assert partition.looks(20, committed=committed) == [Verdict("rewound")] * 20
    assert partition.look(unsettled=41, committed=40) == OK


# Time


def test_readings_in_quick_succession_count_as_one() -> None:
    partition = Partition()
    for _ in range(READINGS - 1):
        assert partition.look() == OK
        for _ in range(4):
            assert partition.look(after=1.0) == OK
        partition.reading = partition.reading._replace(at=partition.reading.at - 4.0)
    assert partition.look() == Verdict("stalled", "handler")


def test_a_clock_that_was_set_back_ends_no_window() -> None:
    partition = Partition()
    partition.look()
    partition.look(after=-500.0)
    assert partition.looks(READINGS - 2)[-1] == Verdict("stalled", "handler")


@given(
    st.lists(
        st.builds(
            Reading,
            at=st.floats(0, 1_000),
            end=st.integers(0, 20),
            unsettled=st.integers(0, 20),
            committed=st.none() | st.integers(0, 20),
            head=st.sampled_from(get_args(Head)),
            due=st.none() | st.floats(0, 1_000),
            closed=st.sampled_from(get_args(Closed)),
        ),
        min_size=1,
        max_size=40,
    ),
    st.floats(0.1, 100),
)
def test_there_is_always_one_verdict_and_a_stall_says_why(readings: list[Reading], interval: float) -> None:
    window = StatusWindow(interval, 1.0)
    for index, reading in enumerate(readings):
        window.note(reading)
        verdict = window.verdict
        assert verdict is not None
        assert verdict.status in get_args(Status)
        assert verdict.reason in get_args(Reason)
        if verdict != ("ok", "retry_wait"):
            assert bool(verdict.reason) == (verdict.status in ("stalled", "stopped", "paused"))
        if verdict.status == "stalled":
            latest = readings[max(0, index + 1 - READINGS) : index + 1]
            assert {each.unsettled for each in latest} == {reading.unsettled}
        if verdict.status in ("stalled", "falling_behind"):
            assert reading.behind
            assert index + 1 >= READINGS
