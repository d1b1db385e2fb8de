"""Batches against a naive model, and what the model does not tell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamkit.core.batches import Batches, Line

PARTITIONS = st.sampled_from("abc")


class Model(RuleBasedStateMachine):
    """Each partition is a list; what is taken is its start; who runs is remembered for every assignment."""

    @initialize(size=st.integers(1, 4), within=st.sampled_from([0.0, 1.0, 5.0]))
    def start(self, size: int, within: float) -> None:
        self.size, self.within, self.now, self.serial = size, within, 0.0, 0
        self.batches: Batches[str, int] = Batches(size, within)
        self.lines: dict[str, Line[str, int]] = {}
        self.waiting: dict[str, list[tuple[float, int]]] = {}
        self.running: dict[str, Line[str, int]] = {}  # of any assignment, at most one a partition
        self.taken: dict[str, list[int]] = {}  # what runs
        self.once_more: dict[str, list[int]] = {}  # batches that come again
        self.hurried: set[str] = set()

    def due(self, partition: str) -> bool:
        if partition in self.running:
            return False
        waiting = self.waiting[partition]
        if partition in self.once_more or not waiting:
            return partition in self.once_more
        return partition in self.hurried or len(waiting) >= self.size or waiting[0][0] + self.within <= self.now

    @precondition(lambda self: len(self.lines) < 3)
    @rule(partition=PARTITIONS)
    def open(self, partition: str) -> None:
        if partition not in self.lines:
            self.lines[partition] = self.batches.open(partition)
            self.waiting[partition] = []

    @rule(partition=PARTITIONS, number=st.integers(0, 9), passes=st.sampled_from([0.0, 0.5, 2.0]))
    def put(self, partition: str, number: int, passes: float) -> None:
        self.now += passes
        if partition in self.lines and not self.lines[partition].halted:
            items = list(range(self.serial, self.serial + number))
            self.serial += number
            self.batches.put_all(self.lines[partition], items, self.now)
            self.waiting[partition] += [(self.now, item) for item in items]

    @rule(partition=PARTITIONS)
    def hurry(self, partition: str) -> None:
        if partition in self.lines:
            news = partition not in self.hurried and bool(self.waiting[partition])
            assert self.batches.hurry(partition) == news
            if news:
                self.hurried.add(partition)

    def note_taken(self, line: Line[str, int], items: list[int]) -> None:
        partition = line.partition
        assert self.due(partition)
        if partition in self.once_more:
            assert items == self.once_more.pop(partition)
        else:
            assert items == [item for _, item in self.waiting[partition][: self.size]]
            del self.waiting[partition][: self.size]
            self.hurried.discard(partition)
        self.running[partition] = line
        self.taken[partition] = list(items)

    @rule(passes=st.sampled_from([0.0, 1.0, 5.0]))
    def take(self, passes: float) -> None:
        self.now += passes
        taken = self.batches.take(self.now)
        if taken is None:
            assert not any(map(self.due, self.lines))
        else:
            self.note_taken(*taken)

    @rule(partition=PARTITIONS)
    def take_from(self, partition: str) -> None:
        if partition in self.lines:
            due = self.due(partition)
            items = self.batches.take_from(self.lines[partition], self.now)
            assert bool(items) == due
            if items:
                self.note_taken(self.lines[partition], items)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        partition = data.draw(st.sampled_from(sorted(self.running)))
        self.batches.release(self.running.pop(partition))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def run_again(self, data: st.DataObject) -> None:
        partition = data.draw(st.sampled_from(sorted(self.running)))
        items = data.draw(st.lists(st.sampled_from(self.taken[partition]), unique=True).map(sorted))
        line = self.running[partition]
        self.batches.again(line, items)
        if not line.halted:
            del self.running[partition]
            if items:
                self.once_more[partition] = items

    @rule(partition=PARTITIONS)
    def run_again_what_does_not_run(self, partition: str) -> None:
        if partition in self.lines and self.running.get(partition) is not self.lines[partition]:
            self.batches.again(self.lines[partition], [-1])

    @rule(partition=PARTITIONS)
    def put_too_late(self, partition: str) -> None:
        if partition in self.lines and self.lines[partition].halted:
            self.batches.put_all(self.lines[partition], [-1], self.now)

    @rule(partition=PARTITIONS, number=st.integers(1, 3))
    def put_back(self, partition: str, number: int) -> None:
        line = self.lines.get(partition)
        if line is not None and self.running.get(partition) is line and not line.halted:
            items = list(range(self.serial, self.serial + number))
            self.serial += number
            self.batches.put_back(line, items)
            self.waiting[partition] = [(float("-inf"), item) for item in items] + self.waiting[partition]

    @rule(partition=PARTITIONS)
    def halt(self, partition: str) -> None:
        if partition in self.lines:
            self.batches.halt(self.lines[partition])
            self.waiting[partition] = []
            self.once_more.pop(partition, None)

    @rule(partition=PARTITIONS)
    def close(self, partition: str) -> None:
        if partition in self.lines:
            self.batches.close(self.lines.pop(partition))
            del self.waiting[partition]
            self.once_more.pop(partition, None)
            self.hurried.discard(partition)

    @invariant()
    def it_counts_what_waits_and_who_runs_on(self) -> None:
        again = sum(map(len, self.once_more.values()))
        assert self.batches.waiting == again + sum(map(len, self.waiting.values()))
        assert self.batches.orphans == sum(line.closed for line in self.running.values())

    @invariant()
    def it_tells_how_long_to_wait(self) -> None:
        wait = self.batches.wait(self.now)
        if any(map(self.due, self.lines)):
            assert wait == 0.0
        else:
            can = [w[0][0] for p, w in self.waiting.items() if w and p not in self.running]
            assert wait == (min(can) + self.within - self.now if can else None)


TestModel = Model.TestCase


def test_partitions_take_turns() -> None:
    batches: Batches[str, int] = Batches(2, 0.0)
    lines = {partition: batches.open(partition) for partition in "abc"}
    for line in lines.values():
        batches.put_all(line, range(6), 0.0)
    order = []
    for _ in range(9):
        taken = batches.take(0.0)
        assert taken is not None
        order.append(taken[0].partition)
        batches.release(taken[0])
    assert order == list("abc" * 3)


def test_a_full_batch_does_not_wait_behind_one_that_is_not() -> None:
    batches: Batches[str, int] = Batches(2, 10.0)
    slow, fast = batches.open("slow"), batches.open("fast")
    batches.put_all(slow, [1], 0.0)
    batches.put_all(fast, [1, 2], 0.0)
    assert batches.take(0.0) == (fast, [1, 2])
    assert batches.take(9.9) is None
    assert batches.take(10.0) == (slow, [1])


def test_halting_is_told_once() -> None:
    batches: Batches[str, int] = Batches(2, 0.0)
    line = batches.open("a")
    told: list[str] = []
    line.on_halt = lambda: told.append("halted")
    batches.halt(line)
    batches.close(line)
    assert told == ["halted"]
    batches.put_back(line, [1])
    batches.release(line)
    assert (batches.waiting, batches.take(0.0)) == (0, None)


def test_a_partition_is_open_once() -> None:
    batches: Batches[str, int] = Batches(1, 0.0)
    batches.open("a")
    with pytest.raises(ValueError, match="a is open already"):
        batches.open("a")


@given(sizes=st.lists(st.integers(0, 7)), size=st.integers(1, 5))
def test_all_records_come_out_in_order(sizes: list[int], size: int) -> None:
    batches: Batches[str, int] = Batches(size, 0.0)
    line, put, out = batches.open("a"), 0, list[int]()
    for number in sizes:
        batches.put_all(line, range(put, put + number), 0.0)
        put += number
        out += batches.take_from(line, 0.0)
        batches.release(line)
    while items := batches.take_from(line, 0.0):
        out += items
        batches.release(line)
    assert out == list(range(put))


def test_a_release_without_a_batch_changes_nothing() -> None:
    batches: Batches[str, int] = Batches(1, 0.0)
    line = batches.open("a")
    batches.put_all(line, [1, 2], 0.0)
    batches.release(line)
    assert batches.take(0.0) == (line, [1])
    assert batches.take(0.0) is None


def test_a_partition_that_comes_back_waits_for_the_batch_that_still_runs() -> None:
    batches: Batches[str, int] = Batches(2, 0.0)
    old = batches.open("a")
    batches.put_all(old, [1, 2, 3], 0.0)
    assert batches.take(0.0) == (old, [1, 2])
    batches.close(old)
    assert batches.orphans == 1
    new = batches.open("a")
    batches.put_all(new, [1, 2], 0.0)
    assert (batches.take(0.0), batches.take_from(new, 0.0), batches.wait(0.0)) == (None, [], None)
    batches.release(old)
    assert (batches.orphans, batches.take(0.0)) == (0, (new, [1, 2]))


def test_a_partition_has_one_batch_at_a_time() -> None:
    batches: Batches[str, int] = Batches(2, 0.0)
    line = batches.open("a")
    batches.put_all(line, [1, 2], 0.0)
    assert batches.take(0.0) == (line, [1, 2])
    batches.put_all(line, [3, 4], 0.0)
    assert (batches.take(0.0), batches.take_from(line, 0.0)) == (None, [])
    batches.release(line)
    assert batches.take(0.0) == (line, [3, 4])


def test_what_is_put_back_begins_the_next_batch_at_once() -> None:
    batches: Batches[str, int] = Batches(3, 60.0)
    line = batches.open("a")
    batches.put_all(line, [1, 2, 3], 0.0)
    assert batches.take(0.0) == (line, [1, 2, 3])
    batches.put_back(line, [2, 3])
    assert (batches.waiting, batches.take(0.0)) == (2, None)
    batches.release(line)
    assert batches.take(0.0) == (line, [2, 3])
    batches.release(line)
    assert (batches.waiting, batches.take(60.0), batches.wait(0.0)) == (0, None, None)


def test_what_waits_in_a_partition_that_gets_no_more_is_complete() -> None:
    batches: Batches[str, int] = Batches(3, 60.0)
    line = batches.open("a")
    batches.hurry("a")  # nothing waits: the next batch may wait for more
    batches.put_all(line, [1], 0.0)
    assert batches.take(0.0) is None
    batches.hurry("a")
    assert batches.take(0.0) == (line, [1])
    batches.put_all(line, [2], 0.0)
    batches.release(line)
    assert batches.take(0.0) is None


def test_an_orphan_ends_whether_or_not_its_partition_has_come_back() -> None:
    batches: Batches[str, int] = Batches(2, 0.0)
    line = batches.open("a")
    batches.put_all(line, [1], 0.0)
    assert batches.take(0.0) == (line, [1])
    batches.close(line)
    batches.release(line)
    assert (batches.orphans, batches.take(0.0)) == (0, None)


def test_a_batch_that_runs_again_is_complete_as_it_is_and_takes_its_turn_behind_the_others() -> None:
    batches: Batches[str, int] = Batches(3, 60.0)
    line, other = batches.open("a"), batches.open("b")
    batches.put_all(line, range(6), 0.0)
    batches.put_all(other, range(6), 0.0)
    assert batches.take(0.0) == (line, [0, 1, 2])
    batches.again(line, [1, 2])
    assert (batches.waiting, batches.wait(0.0)) == (11, 0.0)
    assert batches.take(0.0) == (other, [0, 1, 2])
    assert batches.take(0.0) == (line, [1, 2])
    assert batches.take(0.0) is None
    batches.release(line)
    assert batches.take(0.0) == (line, [3, 4, 5])


def test_a_batch_may_run_again_when_nothing_else_waits() -> None:
    batches: Batches[str, int] = Batches(4, 60.0)
    line = batches.open("a")
    batches.put_all(line, [1, 2, 3], 0.0)
    items = batches.take_from(line, 60.0)
    for _ in range(3):
        batches.again(line, items)
        batches.put_all(line, [4], 0.0)
        assert batches.take_from(line, 0.0) == items
        assert batches.take_from(line, 0.0) == []
    batches.release(line)
    assert batches.wait(0.0) == 60.0
    assert batches.take_from(line, 60.0) == [4, 4, 4]


def test_what_is_put_back_comes_after_the_part_that_runs_again() -> None:
    batches: Batches[str, int] = Batches(3, 60.0)
    line = batches.open("a")
    batches.put_all(line, [1, 2, 3, 4], 0.0)
    assert batches.take_from(line, 0.0) == [1, 2, 3]
    batches.put_back(line, [3])
    batches.again(line, [1, 2])
    assert batches.take_from(line, 0.0) == [1, 2]
    batches.release(line)
    assert batches.take_from(line, 0.0) == [3, 4]


def test_a_batch_of_which_nothing_runs_again_is_released() -> None:
    batches: Batches[str, int] = Batches(1, 0.0)
    line = batches.open("a")
    batches.put_all(line, [1, 2], 0.0)
    assert batches.take(0.0) == (line, [1])
    batches.again(line, [])
    assert batches.take(0.0) == (line, [2])


def test_a_batch_that_is_to_run_again_is_forgotten_at_a_halt_and_is_no_orphan() -> None:
    batches: Batches[str, int] = Batches(2, 0.0)
    line = batches.open("a")
    batches.put_all(line, [1, 2], 0.0)
    assert batches.take(0.0) == (line, [1, 2])
    batches.again(line, [2])
    batches.close(line)
    assert (batches.waiting, batches.orphans, batches.take(0.0)) == (0, 0, None)


def test_a_batch_that_still_runs_from_before_is_not_run_again_and_its_partition_waits_for_its_release() -> None:
    batches: Batches[str, int] = Batches(2, 0.0)
    old = batches.open("a")
    batches.put_all(old, [1, 2], 0.0)
    assert batches.take(0.0) == (old, [1, 2])
    batches.close(old)
    new = batches.open("a")
    batches.put_all(new, [1, 2], 0.0)
    batches.again(old, [1, 2])
    assert (batches.waiting, batches.orphans, batches.take(0.0)) == (2, 1, None)
    batches.release(old)
    assert batches.take(0.0) == (new, [1, 2])


def test_after_a_halt_nothing_waits_any_more() -> None:
    batches: Batches[str, int] = Batches(2, 0.0)
    line = batches.open("a")
    batches.halt(line)
    batches.put_all(line, [1, 2], 0.0)
    assert (batches.waiting, batches.take(0.0)) == (0, None)


def test_lines_that_have_records_are_counted() -> None:
    batches: Batches[str, int] = Batches(2, 0.0)
    line, _ = batches.open("a"), batches.open("b")
    batches.put_all(line, [1, 2, 3], 0.0)
    assert batches.lines == 1
    taken = batches.take(0.0)
    assert taken is not None
    batches.again(line, taken[1])
    for _ in range(2):
        assert batches.lines == 1
        batches.take_from(line, 0.0)
        assert batches.lines == 1  # it runs
        batches.release(line)
    assert batches.lines == 0
