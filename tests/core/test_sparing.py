from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamkit.core.sparing import Sparing


def test_so_many_are_told_at_once_and_the_next_when_the_period_is_over() -> None:
    sparing = Sparing(2, period=10.0)
    assert [sparing.told(100.0) for _ in range(5)] == [0, 0, None, None, None]
    assert sparing.told(109.9) is None
    assert [sparing.told(110.0) for _ in range(3)] == [4, 0, None]


@given(st.lists(st.floats(0, 3), max_size=50))
def test_each_is_told_or_counted(gaps: list[float]) -> None:
    sparing, now, told, counted = Sparing(3, period=5.0), 0.0, 0, 0
    for gap in gaps:
        now += gap
        untold = sparing.told(now)
        if untold is not None:
            told, counted = told + 1, counted + untold
    last = sparing.told(now + 5.0)
    assert last is not None
    assert told + counted + last == len(gaps)
