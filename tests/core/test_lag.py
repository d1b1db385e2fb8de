from hypothesis import given
from hypothesis import strategies as st

from streamkit.core.lag import lag_records

offsets = st.integers(0, 2**62)


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
