from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamkit.core.lag import NOTHING, POINTS, Backlog, EndTable, Found, Oldest, lag_records

offsets = st.integers(0, 2**62)
SAMPLE = 10.0  # seconds


@given(offsets, offsets, offsets)
def test_lag_is_what_is_left_to_read(end: int, committed: int, log_start: int) -> None:
    lag = lag_records(end, committed, log_start)
    assert lag == len(range(max(committed, log_start), end))


def test_a_group_without_a_commit_is_behind_by_the_whole_log() -> None:
    assert lag_records(end=50, committed=None, log_start=20) == 30


def test_records_that_retention_removed_are_not_behind() -> None:
    assert lag_records(end=50, committed=5, log_start=20) == 30


def test_a_commit_beyond_an_end_that_was_measured_earlier_is_no_negative_lag() -> None:
    assert lag_records(end=50, committed=60, log_start=0) == 0


# The table


def table(*points: tuple[int, float]) -> EndTable:
    made = EndTable()
    for end, at in points:
        made.note(end, at)
    return made


def test_between_two_samples_the_log_has_grown_evenly() -> None:
    ends = table((100, 10.0), (200, 20.0))
    assert ends.written(100) == pytest.approx(10.05)
    assert ends.written(150) == pytest.approx(15.05)
    assert ends.written(199) == pytest.approx(19.95)


def test_what_was_written_before_or_after_all_samples_is_not_known() -> None:
    ends = table((100, 10.0), (200, 20.0))
    assert ends.written(99) is None
    assert ends.written(200) is None
    assert EndTable().written(0) is None


def test_a_record_after_a_quiet_hour_was_not_written_in_the_middle_of_it() -> None:
    ends = table((100, 0.0), (100, 10.0), (100, 3600.0), (101, 3610.0))
    assert ends.written(100) == pytest.approx(3605.0)


def test_what_was_seen_was_written_by_then() -> None:
    ends = table((100, 10.0), (200, 20.0))
    assert ends.written_by(5) == 10.0
    assert ends.written_by(100) == 20.0
    assert ends.written_by(200) is None


@pytest.mark.parametrize("point", [(150, 30.0), (250, 15.0)], ids=["the log shrank", "the clock was set back"])
def test_a_table_begins_anew_when(point: tuple[int, float]) -> None:
    ends = table((100, 10.0), (200, 20.0), point)
    assert ends.first == point
    assert len(ends) == 1


def test_a_full_table_drops_every_second_point_but_neither_the_first_nor_the_last() -> None:
    ends = table(*((n * 10, n * SAMPLE) for n in range(POINTS)))
    assert len(ends) == POINTS
    ends.note(POINTS * 10, POINTS * SAMPLE)
    assert len(ends) == POINTS // 2 + 2
    assert ends.first == (0, 0.0)
    assert ends.written(POINTS * 10 - 1) == pytest.approx(POINTS * SAMPLE - 0.5)


def test_a_table_of_a_week_is_exact_where_the_log_grew_evenly_and_holds_little() -> None:
    ends = table(*((n * 10, n * SAMPLE) for n in range(60_000)))
    assert len(ends) <= POINTS
    for offset in (0, 1_000, 300_000, 599_000):
        assert ends.written(offset) == pytest.approx(offset + 0.5)


# The oldest record


def sampled(*samples: tuple[int, float], start: int = 0) -> Backlog:
    backlog = Backlog()
    for end, at in samples:
        backlog.sampled(start, end, at)
    return backlog


def since(oldest: Oldest | None) -> float:
    assert oldest is not None
    assert oldest.since is not None
    return oldest.since


def test_nothing_waits_when_everything_up_to_the_end_is_settled() -> None:
    backlog = sampled((100, 10.0))
    assert backlog.oldest(100, None, 12.0) == NOTHING
    assert NOTHING.age(12.0) == 0.0


def test_nothing_is_known_before_the_first_sample() -> None:
    assert Backlog().oldest(100, None, 12.0) is None


def test_whether_something_has_come_since_an_old_sample_is_not_known() -> None:
    assert sampled((100, 10.0)).oldest(100, None, 5_000.0, fresh=False) is None


def test_a_record_in_memory_has_its_own_time_also_before_the_first_sample() -> None:
    assert Backlog().oldest(100, 3.0, 12.0) == Oldest(3.0)
    assert sampled((100, 10.0)).oldest(100, 11.0, 12.0) == Oldest(11.0)
    assert Oldest(11.0).age(12.0) == 1.0


def test_a_record_that_is_not_in_memory_has_the_time_that_the_table_tells() -> None:
    assert since(sampled((100, 10.0), (200, 20.0)).oldest(150, None, 22.0)) == pytest.approx(15.05)


def test_the_time_from_the_table_is_pinned_while_the_table_goes_on() -> None:
    backlog = sampled((100, 10.0), (200, 20.0))
    pinned = since(backlog.oldest(150, None, 22.0))
    for n in range(2 * POINTS):
        backlog.sampled(0, 200 + n, 30.0 + n * SAMPLE)
        assert backlog.oldest(150, None, 30.0 + n * SAMPLE) == Oldest(pinned)
    assert backlog.oldest(150, None, 9e6, fresh=False) == Oldest(pinned)


def test_the_next_record_is_looked_up_anew() -> None:
    backlog = sampled((100, 10.0), (200, 20.0))
    assert since(backlog.oldest(150, None, 22.0)) == pytest.approx(15.05)
    assert since(backlog.oldest(180, None, 22.0)) == pytest.approx(18.05)


def test_a_record_that_comes_into_memory_corrects_the_time_from_the_table_and_it_stays_corrected() -> None:
    backlog = sampled((100, 10.0), (200, 20.0))
    backlog.oldest(150, None, 22.0)
    assert backlog.oldest(150, 14.0, 23.0) == Oldest(14.0)
    assert backlog.oldest(150, None, 24.0) == Oldest(14.0)


def test_a_timestamp_in_the_future_is_no_later_than_the_record_was_seen() -> None:
    backlog = Backlog()
    assert backlog.oldest(100, 5_000.0, 12.0) == Oldest(12.0)
    assert backlog.oldest(100, 5_000.0, 40.0) == Oldest(12.0)
    assert sampled((90, 5.0), (110, 8.0)).oldest(100, 5_000.0, 12.0) == Oldest(8.0)


def test_a_record_without_a_timestamp_has_the_time_that_the_table_tells() -> None:
    assert since(sampled((100, 10.0), (200, 20.0)).oldest(150, -0.001, 22.0)) == pytest.approx(15.05)


def test_what_retention_removed_does_not_wait() -> None:
    backlog = sampled((100, 10.0), (200, 20.0), start=180)
    assert since(backlog.oldest(150, None, 22.0)) == pytest.approx(18.05)


def test_what_is_older_than_the_table_is_to_be_read_and_not_known_before() -> None:
    backlog = sampled((100, 10.0))
    assert backlog.to_read(40, in_memory=False) == 40
    assert backlog.oldest(40, None, 12.0) is None
    backlog.read(40, Found(40, 3.0))
    assert backlog.to_read(40, in_memory=False) is None
    assert backlog.oldest(40, None, 12.0) == Oldest(3.0)
    assert backlog.to_read(40, in_memory=False) is None
    assert backlog.to_read(41, in_memory=False) == 41


@pytest.mark.parametrize(("unsettled", "in_memory"), [(40, True), (100, False), (150, False), (200, False)])
def test_nothing_is_read_that_is_in_memory_or_in_the_table_or_that_is_not_there(
    unsettled: int, in_memory: bool
) -> None:
    assert sampled((100, 10.0), (200, 20.0)).to_read(unsettled, in_memory=in_memory) is None


def test_nothing_is_read_whose_time_is_known_from_when_it_was_in_memory() -> None:
    backlog = sampled((100, 10.0))
    backlog.oldest(40, 3.0, 12.0)
    assert backlog.to_read(40, in_memory=False) is None


def test_what_cannot_be_read_is_at_least_as_old_as_the_table_and_is_tried_again() -> None:
    backlog = sampled((100, 10.0), (200, 20.0))
    backlog.read(40, None)
    assert backlog.oldest(40, None, 22.0) == Oldest(10.0)
    assert backlog.to_read(40, in_memory=False) == 40
    backlog.read(40, Found(40, 3.0))
    assert backlog.oldest(40, None, 22.0) == Oldest(3.0)


def test_behind_a_hole_the_next_record_counts() -> None:
    backlog = sampled((100, 10.0))
    backlog.read(40, Found(70, 5.0))
    assert backlog.oldest(40, None, 12.0) == Oldest(5.0)


def test_where_there_are_only_holes_up_to_the_end_nothing_waits_until_something_comes() -> None:
    backlog = sampled((100, 10.0))
    backlog.read(40, Found(100, None))
    assert backlog.oldest(40, None, 12.0) == NOTHING
    backlog.sampled(0, 120, 20.0)
    assert since(backlog.oldest(40, None, 21.0)) == pytest.approx(10.25)


@pytest.mark.parametrize("found", [Found(40, -0.001), Found(70, None)])
def test_what_was_read_without_a_time_is_at_least_as_old_as_the_table(found: Found) -> None:
    backlog = sampled((100, 10.0))
    backlog.read(40, found)
    assert backlog.oldest(40, None, 12.0) == Oldest(10.0)


@pytest.mark.parametrize("sample", [(0, 90), (5, 500)], ids=["its end", "its start"])
def test_a_log_is_another_one_when_it_goes_back_with(sample: tuple[int, int]) -> None:
    backlog = Backlog()
    assert backlog.sampled(10, 100, 10.0)
    assert backlog.sampled(10, 200, 20.0)
    backlog.oldest(40, 3.0, 21.0)
    assert not backlog.sampled(*sample, 30.0)
    assert backlog.oldest(40, None, 31.0) is None
    assert backlog.to_read(40, in_memory=False) == 40


# Tiers


def test_a_tier_is_behind_by_what_is_overdue() -> None:
    assert sampled((100, 10.0)).oldest_due(40, 50.0, in_memory=True) == Oldest(50.0)
    waiting = Oldest(50.0)
    assert (waiting.age(20.0), waiting.age(50.0), waiting.age(62.0)) == (0.0, 0.0, 12.0)


def test_a_tier_without_records_has_nothing_that_waits() -> None:
    assert sampled((100, 10.0)).oldest_due(100, None, in_memory=False) == NOTHING
    assert sampled((100, 10.0)).oldest_due(100, None, in_memory=False, fresh=False) is None
    assert Backlog().oldest_due(100, None, in_memory=False) is None


def test_when_a_record_in_memory_is_due_only_the_engine_can_tell() -> None:
    assert sampled((100, 10.0)).oldest_due(40, None, in_memory=True) is None


def test_a_record_of_a_tier_that_is_not_in_memory_is_read_whatever_its_age() -> None:
    backlog = sampled((100, 10.0), (200, 20.0))
    assert backlog.to_read(150, in_memory=False, tier=True) == 150
    assert backlog.oldest_due(150, None, in_memory=False) is None
    backlog.read(150, Found(150, 15.0, due=75.0))
    assert backlog.to_read(150, in_memory=False, tier=True) is None
    assert backlog.oldest_due(150, None, in_memory=False) == Oldest(75.0)


def test_a_foreign_record_in_a_tier_does_not_tell_when_it_is_due() -> None:
    backlog = sampled((100, 10.0))
    backlog.read(40, Found(40, 3.0))
    assert backlog.oldest_due(40, None, in_memory=False) is None


def test_a_tier_that_holds_only_markers_has_nothing_that_waits() -> None:
    backlog = sampled((100, 10.0))
    backlog.read(40, Found(100, None))
    assert backlog.oldest_due(40, None, in_memory=False) == NOTHING
    backlog.sampled(0, 120, 20.0)
    assert backlog.oldest_due(40, None, in_memory=False) is None


# Whatever happens


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int]]:
    return draw(
        st.lists(
            st.tuples(
                st.sampled_from(
                    ["append", "sample", "settle", "fetch", "drop", "read", "fail", "wait", "retain", "anew"]
                ),
                st.integers(0, 30),
            ),
            max_size=60,
        )
    )


@given(histories(), st.integers(-100, 100))
def test_lag_is_never_nan_nor_negative_is_0_when_all_is_settled_and_grows_as_time_does(
    history: list[tuple[str, int]], skew: int
) -> None:
    backlog = Backlog()
    now, start, unsettled, in_memory, known_end = 1_000.0, 0, 0, False, 0
    written: list[float] = []
    before: tuple[float, int, Oldest] | None = None
    for what, much in history:
        match what:
            case "append":
                written += [now + skew] * much
            case "sample":
                backlog.sampled(start, len(written), now)
                known_end = len(written)
            case "settle":
                unsettled, in_memory = min(unsettled + much, len(written)), False
            case "fetch":
                in_memory = unsettled < len(written)
            case "drop":
                in_memory = False
            case "read" | "fail":
                offset = backlog.to_read(unsettled, in_memory=in_memory)
                if offset is not None:
                    backlog.read(offset, Found(offset, written[offset]) if what == "read" else None)
            case "wait":
                now += much
            case "retain":
                start = min(start + much, unsettled)
            case _:
                start, unsettled, in_memory, written = 0, 0, False, written[: len(written) // 2]
                backlog.sampled(start, len(written), now)
                known_end, before = len(written), None
        oldest = backlog.oldest(unsettled, written[unsettled] if in_memory else None, now)
        if oldest is None:
            continue
        age = oldest.age(now)
        assert math.isfinite(age)
        assert age >= 0
        if unsettled >= known_end and not in_memory:
            assert age == 0
        if oldest.since is not None:
            assert oldest.since <= now
            assert age == now - oldest.since
        if before is not None and before[1] == unsettled and before[2] == oldest and oldest.since is not None:
            assert age - before[2].age(before[0]) == now - before[0]
        before = now, unsettled, oldest


@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 50)), min_size=2, max_size=50),
    st.data(),
)
def test_a_time_from_the_table_is_wrong_by_less_than_the_time_between_two_samples(
    growth: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Each pair: records that come at once, and how many seconds after the last sample."""
    backlog, now = Backlog(), 0.0
    written: list[float] = []
    for seconds, records in growth:
        written += [now + data.draw(st.floats(0, seconds))] * records
        now += seconds
        backlog.sampled(0, len(written), now)
    first, _ = backlog._table.first
    for offset in range(first, len(written)):
        gap = max(seconds for seconds, _ in growth)
        assert abs(since(backlog.oldest(offset, None, now)) - written[offset]) <= gap
