from collections.abc import Callable
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streamkit.core.offsets import COMPACT_AT, OffsetWindow


@st.composite
def logs_and_settlements(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """The offsets of a log with holes, and the indexes of those that are settled, in that order."""
    gaps = draw(st.lists(st.integers(min_value=1, max_value=5), min_size=1, max_size=200))
    offsets = list(accumulate(gaps))
    order = draw(st.permutations(range(len(offsets))))
    return offsets, list(order[: draw(st.integers(min_value=0, max_value=len(order)))])


def lowest_unsettled(offsets: list[int], settled: set[int]) -> int:
    return next((o for n, o in enumerate(offsets) if n not in settled), offsets[-1] + 1)


def registered(offsets: list[int]) -> OffsetWindow:
    window = OffsetWindow(start=0)
    window.register_all(offsets)
    return window


@given(logs_and_settlements())
def test_committable_is_the_lowest_unsettled_offset(case: tuple[list[int], list[int]]) -> None:
    offsets, settlements = case
    window = OffsetWindow(start=0)
    sequences = [window.register(offset) for offset in offsets]
    for count, index in enumerate(settlements, start=1):
        sequence = sequences[index]
        assert sequence is not None
        assert window.settle(sequence) is True
        done = set(settlements[:count])
        assert window.committable == lowest_unsettled(offsets, done)
        assert window.pending == len(offsets) - count


@given(logs_and_settlements())
def test_settled_ranges_hold_the_records_settled_ahead_and_no_others(case: tuple[list[int], list[int]]) -> None:
    offsets, settlements = case
    window = registered(offsets)
    window.settle_all(settlements)
    inside = {o for o in offsets for start, end in window.settled_ranges() if start <= o < end}
    assert inside == {offsets[n] for n in settlements if offsets[n] > window.committable}
    assert len(inside) == window.ahead


class Windows(RuleBasedStateMachine):
    """One record at a time and many at once come to the same, and to what a plain model says."""

    def __init__(self) -> None:
        super().__init__()
        self.single = OffsetWindow(start=10)
        self.batch = OffsetWindow(start=10)
        self.offsets: list[int] = []
        self.settled: set[int] = set()
        self.next = 10

    @rule(gaps=st.lists(st.integers(0, 3), max_size=30), rewind=st.integers(0, 5))
    def register(self, gaps: list[int], rewind: int) -> None:
        offsets = [n + g for n, g in enumerate(accumulate(gaps), start=self.next - rewind)]
        fresh = [o for o in offsets if o >= self.next]
        sequence, seen = self.batch.register_all(offsets)
        expected = [sequence - seen + n if n >= seen else None for n in range(len(offsets))]
        assert [self.single.register(o) for o in offsets] == expected
        assert offsets[seen:] == fresh
        self.offsets += fresh
        self.next = max(self.next, *(o + 1 for o in fresh), 0)

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        if not self.offsets:
            return
        sequences = data.draw(st.lists(st.integers(0, len(self.offsets) - 1), max_size=30))
        changed = len(set(sequences) - self.settled)
        assert self.batch.settle_all(iter(sequences)) == changed
        assert sum(self.single.settle(n) for n in sequences) == changed
        self.settled.update(sequences)

    @rule(forward=st.integers(-3, 3))
    def reach(self, forward: int) -> None:
        self.single.reach(self.next + forward)
        self.batch.reach(self.next + forward)
        self.next = max(self.next, self.next + forward)

    @invariant()
    def both_are_as_the_model(self) -> None:
        unsettled = [o for n, o in enumerate(self.offsets) if n not in self.settled]
        committable = unsettled[0] if unsettled else self.next
        ahead = [o for n, o in enumerate(self.offsets) if n in self.settled and o > committable]
        for window in (self.single, self.batch):
            assert (window.committable, window.next_offset) == (committable, self.next)
            assert (window.pending, window.ahead) == (len(unsettled), len(ahead))
            assert window.size == len(unsettled) + len(ahead)


TestWindows = Windows.TestCase


@given(logs_and_settlements())
def test_what_is_settled_is_known_of_each_record(case: tuple[list[int], list[int]]) -> None:
    offsets, settlements = case
    window = registered(offsets)
    window.settle_all(settlements)
    assert {n for n in range(len(offsets) + 1) if window.is_settled(n)} == set(settlements)


def test_what_is_settled_is_known_of_records_that_the_window_holds_no_more() -> None:
    window = registered(list(range(COMPACT_AT + 2)))
    window.settle_all(range(COMPACT_AT))
    assert window.is_settled(0)
    assert window.is_settled(COMPACT_AT - 1)
    assert not window.is_settled(COMPACT_AT)


def test_committable_before_the_first_record_is_where_the_assignment_started() -> None:
    window = OffsetWindow(start=42)
    assert (window.committable, window.next_offset, window.size) == (42, 42, 0)
    assert window.settled_ranges() == []


def test_a_record_that_arrives_twice_is_registered_once() -> None:
    window = OffsetWindow(start=0)
    assert window.register(7) is not None
    assert window.register(7) is None


def test_a_batch_says_how_many_of_its_records_were_seen_before() -> None:
    window = registered([3, 5])
    assert window.register_all([3, 5, 9]) == (2, 2)
    assert window.register_all([3, 5]) == (3, 2)
    assert window.register_all([]) == (3, 0)
    assert window.next_offset == 10


def test_a_log_that_ends_in_markers_is_committable_to_its_end() -> None:
    window = registered([0])
    window.reach(3)
    assert window.committable == 0
    window.settle(0)
    assert window.committable == 3


def test_settling_twice_changes_nothing() -> None:
    window = registered([0, 1])
    assert window.settle(0) is True
    assert window.settle(0) is False
    assert window.settle_all([0, 1, 1]) == 1
    assert window.committable == 2


def test_the_highest_settled_offset_is_never_committable_while_a_lower_one_is_open() -> None:
    window = registered([0, 1, 2])
    window.settle_all([1, 2])
    assert (window.committable, window.ahead, window.pending, window.size) == (0, 2, 1, 3)


def test_a_closed_window_ignores_what_settles_late() -> None:
    window = registered([0, 1])
    window.closed = True
    assert window.settle(0) is False
    assert window.settle_all([0, 1]) == 0
    assert window.committable == 0


def test_a_hole_belongs_to_the_run_before_it() -> None:
    window = registered([0, 5, 6, 9, 12, 20])
    window.settle_all([1, 2, 5])
    assert window.settled_ranges() == [(5, 9), (20, 21)]


def test_a_settled_range_does_not_reach_beyond_the_last_record() -> None:
    window = registered([0, 1])
    window.reach(9)
    window.settle(1)
    assert window.settled_ranges() == [(1, 2)]


def in_one_go(window: OffsetWindow, sequences: range) -> None:
    window.settle_all(sequences)


def one_by_one(window: OffsetWindow, sequences: range) -> None:
    for sequence in sequences:
        window.settle(sequence)


@pytest.mark.parametrize("settle", [in_one_go, one_by_one])
def test_dropping_the_settled_prefix_keeps_sequences_valid(settle: Callable[[OffsetWindow, range], None]) -> None:
    window = registered(list(range(2 * COMPACT_AT)))
    settle(window, range(COMPACT_AT))
    assert len(window._offsets) == COMPACT_AT
    assert window.settle_all([0, COMPACT_AT - 1]) == 0  # settled and dropped: not the last ones
    assert window.settle(COMPACT_AT + 1) is True
    assert (window.committable, window.ahead) == (COMPACT_AT, 1)
    assert window.settle(COMPACT_AT) is True
    assert window.committable == COMPACT_AT + 2
    assert window.register(2 * COMPACT_AT) == 2 * COMPACT_AT


def test_memory_does_not_grow_with_what_was_settled() -> None:
    window = OffsetWindow(start=0)
    for start in range(0, 50_000, 500):
        sequence, _ = window.register_all(range(start, start + 500))
        window.settle_all(range(sequence, sequence + 500))
    assert len(window._offsets) <= COMPACT_AT + 500


def test_the_head_and_what_is_settled_are_counted_from_the_beginning() -> None:
    window = registered(list(range(10, 10 + 2 * COMPACT_AT)))
    assert (window.head, window.settled) == (0, 0)
    window.settle_all([0, 1, 5])
    assert (window.head, window.settled) == (2, 3)
    window.settle_all(range(2, 2 * COMPACT_AT))
    assert (window.head, window.settled) == (2 * COMPACT_AT, 2 * COMPACT_AT)
