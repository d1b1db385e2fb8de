"""When a record of a tier may run, whatever the clocks of those who had a part in it show."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamkit.core.due import Waiting, remaining

HOUR = 3_600_000  # ms
T = 1_700_000_000_000  # ms, when the run failed
SKEWS = st.integers(-HOUR, HOUR)
MOMENTS = st.integers(0, 1 << 62) | st.none()


@pytest.mark.parametrize(
    ("publisher", "broker", "reader", "seconds"),
    [
        (0, 0, 0, 9.0),  # read a second after it was published, 10 s to wait
        (HOUR, 0, 0, 10.0),
        (-HOUR, 0, 0, 9.0),
        (0, HOUR, 0, 10.0),
        (0, -HOUR, 0, 9.0),
        (0, 0, -HOUR, 10.0),
        (HOUR, HOUR, 0, 10.0),
        # The reader is ahead of both: nothing tells it from a reader that comes an hour later.
        (0, 0, HOUR, 0.0),
        (-HOUR, -HOUR, 0, 0.0),
    ],
)
def test_how_long_it_waits_with_clocks_that_do_not_agree(
    publisher: int, broker: int, reader: int, seconds: float
) -> None:
    failed = T + publisher
    assert remaining(T + 1000 + reader, T + broker, failed + 10_000, failed, 11.0) == seconds


@given(
    wait=st.integers(0, 10_000_000),
    jitter=st.integers(0, 1_000_000),
    sent=st.integers(0, 100_000),
    read=st.integers(0, 10 * HOUR),
    skew=SKEWS,
    drift=st.integers(-50, 50),
    publisher_is_off=st.booleans(),
)
def test_it_never_runs_early_for_a_reader_that_agrees_with_the_publisher_or_with_the_broker(
    wait: int, jitter: int, sent: int, read: int, skew: int, drift: int, publisher_is_off: bool
) -> None:
    """Milliseconds: it failed at T, `sent` later it was appended, and `read` later it was read."""
    publisher, broker = (skew, drift) if publisher_is_off else (drift, skew)
    appended = T + sent
    now = appended + read
    failed = T + publisher
    left = remaining(now, appended + broker, failed + wait, failed, (wait + jitter) / 1000)
    assert now + left * 1000 >= T + wait - abs(drift) - 0.001
    assert left <= wait / 1000


@given(wait=st.integers(0, 10_000_000), read=st.integers(0, 10 * HOUR), ahead=st.integers(0, HOUR))
def test_a_clock_that_is_ahead_makes_it_late_by_no_more_than_that_and_one_that_is_behind_not_at_all(
    wait: int, read: int, ahead: int
) -> None:
    for publisher, broker in ((ahead, 0), (0, ahead), (-ahead, 0), (0, -ahead)):
        failed = T + publisher
        left = remaining(T + read, T + broker, failed + wait, failed, wait / 1000)
        assert read + left * 1000 <= max(read, wait + max(publisher, broker)) + 0.001


@given(now=st.integers(0, 1 << 62), appended=st.integers(-1, 1 << 62), due=MOMENTS, failed=MOMENTS, ms=st.integers(0))
def test_nothing_that_can_be_forged_makes_it_wait_longer_than_its_tier(
    now: int, appended: int, due: int | None, failed: int | None, ms: int
) -> None:
    longest = min(ms, 30 * 24 * HOUR) / 1000
    assert 0 <= remaining(now, appended, due, failed, longest) <= longest + 1e-9


@pytest.mark.parametrize(("due", "failed"), [(None, None), (None, T), (T + 5_000, None)])
def test_without_both_times_it_waits_as_long_as_its_tier_may(due: int | None, failed: int | None) -> None:
    assert remaining(T, T, due, failed, 10.0) == 10.0
    assert remaining(T + 4_000, T, due, failed, 10.0) == 6.0


def test_a_due_before_the_failure_is_no_wait() -> None:
    assert remaining(T, T, T - 1, T, 10.0) == 0.0


def test_a_due_beyond_what_the_tier_allows_is_cut() -> None:
    assert remaining(T + 1_000, T, T + HOUR, T, 10.0) == 10.0


def test_what_asks_for_less_than_its_tier_waits_so_long() -> None:
    assert remaining(T + 1_000, T, T + 3_000, T, 10.0) == 2.0


STEPS = st.lists(
    st.tuples(st.just("put"), st.integers(0, 5)) | st.tuples(st.just("take"), st.integers(0, 5)), max_size=50
)


@given(steps=STEPS)
def test_they_leave_when_due_and_in_order_of_arrival(steps: list[tuple[str, int]]) -> None:
    waiting: Waiting[list[int]] = Waiting()  # lists that hold themselves cannot be compared
    model: list[tuple[float, int]] = []
    for arrival, (step, time) in enumerate(steps):
        if step == "put":
            waiting.put(time, [arrival])
            model.append((time, arrival))
        else:
            due = sorted(entry for entry in model if entry[0] <= time)
            assert waiting.take(time) == [[arrival] for _, arrival in due]
            model = [entry for entry in model if entry[0] > time]
        assert len(waiting) == len(model)
        assert waiting.next == min((time for time, _ in model), default=None)


def test_items_of_the_same_time_are_never_compared() -> None:
    waiting: Waiting[object] = Waiting()
    first, second = object(), object()
    waiting.put(1.0, first)
    waiting.put(1.0, second)
    assert waiting.take(1.0) == [first, second]


def test_what_is_cleared_never_comes() -> None:
    waiting: Waiting[str] = Waiting()
    waiting.put(1.0, "a")
    waiting.clear()
    assert (len(waiting), waiting.next, waiting.take(2.0)) == (0, None, [])
    waiting.put(2.0, "b")
    assert waiting.take(2.0) == ["b"]
