from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streamkit.core.lanes import Lanes, Track

Key = str | None


@dataclass(eq=False)
class Item:
    lane: Hashable | None
    name: str | int = ""
    next: Item | None = None


def taken(lanes: Lanes[int, Item]) -> Item:
    item = lanes.take()
    assert item is not None
    return item


def names(lanes: Lanes[int, Item], count: int) -> list[str | int]:
    return [taken(lanes).name for _ in range(count)]


def one_track(*records: tuple[Key, str]) -> tuple[Lanes[int, Item], Track[int, Item]]:
    lanes = Lanes[int, Item]()
    track = lanes.open(0)
    for key, name in records:
        lanes.put(track, Item(key, name))
    return lanes, track


def test_a_key_runs_one_record_at_a_time_in_order() -> None:
    lanes, track = one_track(("a", "a1"), ("a", "a2"), ("a", "a3"))
    for name in ("a1", "a2", "a3"):
        item = taken(lanes)
        assert item.name == name
        assert lanes.take() is None
        lanes.release(track, item)


def test_a_lane_exists_only_while_it_holds_records() -> None:
    lanes, track = one_track(("a", "a1"))
    assert list(track.tails) == ["a"]
    lanes.release(track, taken(lanes))
    assert not track.tails
    assert not lanes.ready


def test_records_without_a_key_wait_for_no_other() -> None:
    lanes, track = one_track((None, "1"), (None, "2"))
    first, second = taken(lanes), taken(lanes)
    assert (first.name, second.name) == ("1", "2")
    assert not track.tails
    lanes.release(track, second)
    assert lanes.take() is None


def test_lanes_of_a_partition_take_turns() -> None:
    lanes, track = one_track(("a", "a1"), ("a", "a2"), ("b", "b1"), ("c", "c1"))
    lanes.release(track, taken(lanes))
    assert names(lanes, 3) == ["b1", "c1", "a2"]


def test_partitions_take_turns_however_many_lanes_they_have() -> None:
    lanes = Lanes[int, Item]()
    many, few = lanes.open(0), lanes.open(1)
    for number in range(100):
        lanes.put(many, Item(f"k{number}", "many"))
    lanes.put(few, Item("x", "few"))
    lanes.put(few, Item("y", "few"))
    assert names(lanes, 5) == ["many", "few", "many", "few", "many"]


def test_a_record_that_is_never_released_blocks_its_key_until_its_assignment_ends_and_no_other() -> None:
    lanes, track = one_track(("a", "a1"), ("a", "a2"), ("b", "b1"))
    taken(lanes)
    lanes.put(track, Item("a", "a3"))
    running = taken(lanes)
    assert running.name == "b1"
    assert lanes.take() is None
    lanes.close(track, [running])
    assert lanes.orphans == 1  # b1 runs; a1 does not
    lanes.put(lanes.open(0), Item("a", "a1"))
    assert taken(lanes).name == "a1"


def test_halting_forgets_what_has_not_started_and_what_runs_goes_on() -> None:
    lanes, track = one_track(("a", "a1"), ("a", "a2"), ("b", "b1"), (None, "n1"))
    running = taken(lanes)
    lanes.halt(track, [running])
    lanes.halt(track, [running])
    assert lanes.take() is None
    assert list(track.tails) == ["a"]
    lanes.release(track, running)
    assert lanes.take() is None
    assert not track.tails


def test_halting_one_partition_leaves_the_others_alone() -> None:
    lanes = Lanes[int, Item]()
    first, second = lanes.open(0), lanes.open(1)
    lanes.put(first, Item("a", "0a"))
    lanes.put(second, Item("a", "1a"))
    lanes.halt(first, [])
    assert names(lanes, 1) == ["1a"]
    assert lanes.take() is None


def test_a_key_that_still_runs_for_a_closed_partition_blocks_its_new_lane_until_it_ends() -> None:
    lanes, old = one_track(("a", "old"))
    orphan = taken(lanes)
    lanes.close(old, [orphan])
    track = lanes.open(0)
    for key, name in (("a", "new"), ("a", "newer"), ("b", "free")):
        lanes.put(track, Item(key, name))
    assert lanes.orphans == 1
    assert names(lanes, 1) == ["free"]
    assert lanes.take() is None
    lanes.release(old, orphan)
    assert lanes.orphans == 0
    assert names(lanes, 1) == ["new"]
    assert lanes.take() is None


def test_a_key_that_an_orphan_lets_go_on_takes_its_turn_behind_those_that_are_ready() -> None:
    lanes, old = one_track(("a", "old"))
    orphan = taken(lanes)
    lanes.close(old, [orphan])
    track = lanes.open(0)
    lanes.put(track, Item("a", "new"))
    lanes.put(track, Item("b", "ready"))
    lanes.release(old, orphan)
    assert names(lanes, 2) == ["ready", "new"]


def test_an_orphan_blocks_its_key_in_its_own_partition_only() -> None:
    lanes, track = one_track(("a", "old"))
    lanes.close(track, [taken(lanes)])
    lanes.put(lanes.open(1), Item("a", "elsewhere"))
    assert names(lanes, 1) == ["elsewhere"]


def test_an_orphan_outlives_several_assignments() -> None:
    lanes, old = one_track(("a", "old"))
    orphan = taken(lanes)
    lanes.close(old, [orphan])
    for _ in range(3):
        track = lanes.open(0)
        lanes.put(track, Item("a", "blocked"))
        assert lanes.take() is None
        lanes.close(track, [])
    lanes.release(old, orphan)
    assert lanes.orphans == 0
    assert lanes.take() is None
    lanes.put(lanes.open(0), Item("a", "free"))
    assert names(lanes, 1) == ["free"]


def test_an_orphan_without_a_key_blocks_nothing() -> None:
    lanes, track = one_track((None, "old"))
    orphan = taken(lanes)
    lanes.close(track, [orphan])
    assert lanes.orphans == 0
    lanes.put(lanes.open(0), Item(None, "new"))
    assert names(lanes, 1) == ["new"]
    lanes.release(track, orphan)
    assert not lanes.ready


def test_a_partition_is_not_opened_twice() -> None:
    lanes, track = one_track()
    with pytest.raises(ValueError, match="0 is open already"):
        lanes.open(0)
    lanes.close(track, [])
    lanes.open(0)


def test_a_record_that_runs_again_takes_its_turn_behind_those_that_are_ready_and_its_key_waits_for_it() -> None:
    lanes, track = one_track(("a", "a1"), ("a", "a2"), ("b", "b1"), ("c", "c1"))
    first = taken(lanes)
    lanes.again(track, first)
    assert lanes.ready_count == 3
    assert names(lanes, 3) == ["b1", "c1", "a1"]
    assert lanes.take() is None
    lanes.release(track, first)
    assert names(lanes, 1) == ["a2"]


@pytest.mark.parametrize("key", ["a", None])
def test_a_record_may_run_again_when_nothing_else_is_ready(key: Key) -> None:
    lanes, track = one_track((key, "1"))
    for _ in range(3):
        item = taken(lanes)
        assert not lanes.ready
        lanes.again(track, item)
    assert names(lanes, 1) == ["1"]


@pytest.mark.parametrize("key", ["a", None])
def test_a_record_that_is_to_run_again_is_forgotten_when_its_partition_is_halted(key: Key) -> None:
    lanes, track = one_track((key, "1"), (key, "2"))
    item = taken(lanes)
    lanes.again(track, item)
    lanes.halt(track, [])
    assert lanes.take() is None
    lanes.again(track, item)
    assert lanes.take() is None


def test_after_a_halt_nothing_is_queued_any_more() -> None:
    lanes, track = one_track()
    lanes.halt(track, [])
    lanes.put(track, Item("a", "late"))
    assert (lanes.take(), track.tails) == (None, {})


def test_a_record_that_did_not_run_at_a_halt_brings_nothing_back_when_it_is_released() -> None:
    lanes, track = one_track(("a", "a1"), ("a", "a2"), ("b", "b1"), ("b", "b2"))
    waits, runs = taken(lanes), taken(lanes)
    lanes.halt(track, [runs])
    lanes.release(track, waits)
    assert not lanes.ready
    assert list(track.tails) == ["b"]
    lanes.release(track, runs)
    assert not lanes.ready
    assert not track.tails


def test_a_record_of_an_earlier_assignment_does_not_free_the_orphan_of_a_later_one() -> None:
    lanes, first = one_track(("a", "1"))
    waits = taken(lanes)
    lanes.close(first, [])
    second = lanes.open(0)
    lanes.put(second, Item("a", "1 again"))
    orphan = taken(lanes)
    lanes.close(second, [orphan])
    third = lanes.open(0)
    lanes.put(third, Item("a", "blocked"))
    lanes.release(first, waits)
    assert (lanes.orphans, lanes.take()) == (1, None)
    lanes.release(second, orphan)
    assert names(lanes, 1) == ["blocked"]


def test_an_orphan_is_not_run_again_and_its_key_waits_until_it_is_released() -> None:
    lanes, old = one_track(("a", "old"))
    orphan = taken(lanes)
    lanes.close(old, [orphan])
    lanes.put(lanes.open(0), Item("a", "new"))
    lanes.again(old, orphan)
    assert lanes.take() is None
    lanes.release(old, orphan)
    assert names(lanes, 1) == ["new"]


@pytest.mark.parametrize("at_once", [1, 16])
def test_2000_queued_records_of_one_hot_key_delay_no_ready_key_by_more_than_one_round(at_once: int) -> None:
    """A round is one record of every lane that is ready; waits are counted in records taken."""
    lanes, track = one_track(*[("hot", "")] * 2000)
    for number in range(999):
        lanes.put(track, Item(f"k{number}"))
    since: dict[Hashable, int] = dict.fromkeys(track.tails, 0)
    round_then: dict[Hashable, int] = dict.fromkeys(track.tails, len(track.tails))
    running: deque[Item] = deque()
    count = longest = 0
    while lanes.ready or running:
        while len(running) < at_once and (item := lanes.take()) is not None:
            wait = count - since[item.lane]
            assert wait < round_then[item.lane]
            longest = max(wait, longest)
            count += 1
            running.append(item)
        done = running.popleft()
        if done.lane != "hot" and count < 5000:  # new records of the others come in all the time
            lanes.put(track, Item(done.lane))
        lanes.release(track, done)
        since[done.lane], round_then[done.lane] = count, lanes.ready_count
    assert count >= 2000 + 4000
    assert longest == 999


@dataclass(eq=False)
class ModelLane:
    """One key of one partition, or one record without a key; and who was served since it became ready."""

    partition: int
    key: Key
    items: list[int]
    lanes_served: Counter[ModelLane] = field(default_factory=Counter)
    partitions_served: Counter[int] = field(default_factory=Counter)


class LanesAgainstAModel(RuleBasedStateMachine):
    """The model looks through everything that waits for what may run, and knows of no turns, only of fairness."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes = Lanes[int, Item]()
        self.items = 0
        self.tracks: dict[int, Track[int, Item]] = {}
        self.waiting: dict[int, list[ModelLane]] = {}
        self.halted: set[int] = set()
        self.running: list[tuple[Item, ModelLane, Track[int, Item]]] = []
        # Failed, and to be taken again or released, or neither: their lanes wait.
        self.parked: list[tuple[Item, ModelLane, Track[int, Item]]] = []

    def orphans(self) -> set[tuple[int, Key]]:
        return {(m.partition, m.key) for _, m, track in self.running if track.closed and m.key is not None}

    def running_of(self, partition: int) -> list[Item]:
        return [item for item, _, track in self.running if track is self.tracks[partition]]

    def ready(self) -> list[ModelLane]:
        busy = {model for _, model, _ in [*self.running, *self.parked]}
        orphans = self.orphans()
        return [
            lane
            for partition, lanes in self.waiting.items()
            if partition not in self.halted
            for lane in lanes
            if lane not in busy and (partition, lane.key) not in orphans
        ]

    @rule(partition=st.integers(0, 2))
    def open(self, partition: int) -> None:
        if partition not in self.tracks:
            self.tracks[partition] = self.lanes.open(partition)
            self.waiting[partition] = []

    @rule(data=st.data(), key=st.sampled_from(["a", "b", "c", None]), count=st.integers(1, 3))
    @precondition(lambda self: set(self.tracks) - self.halted)
    def put(self, data: st.DataObject, key: Key, count: int) -> None:
        partition = data.draw(st.sampled_from(sorted(set(self.tracks) - self.halted)))
        lanes = self.waiting[partition]
        for _ in range(count):
            self.items += 1
            self.lanes.put(self.tracks[partition], Item(key, self.items))
            known = next((lane for lane in lanes if lane.key == key is not None), None)
            if known is None:
                lanes.append(ModelLane(partition, key, [self.items]))
            else:
                known.items.append(self.items)

    @rule(count=st.integers(1, 4))
    def take(self, count: int) -> None:
        for _ in range(count):
            ready = self.ready()
            item = self.lanes.take()
            if item is None:
                assert not ready
                return
            (model,) = [model for model in ready if model.items[0] == item.name]
            assert item.lane == model.key
            self.running.append((item, model, self.tracks[model.partition]))
            self.note_served(model, [other for other in ready if other is not model])
            model.lanes_served.clear()
            model.partitions_served.clear()

    def note_served(self, served: ModelLane, others: list[ModelLane]) -> None:
        for other in others:
            other.partitions_served[served.partition] += 1
            own = other.partitions_served[other.partition]
            assert all(times <= own + 1 for times in other.partitions_served.values())
            if other.partition == served.partition:
                other.lanes_served[served] += 1
                assert other.lanes_served[served] == 1

    def is_halted(self, track: Track[int, Item]) -> bool:
        return track.closed or track.partition in self.halted

    @rule(partition=st.integers(0, 2))
    def put_too_late(self, partition: int) -> None:
        if partition in self.halted:
            self.lanes.put(self.tracks[partition], Item("a", "too late"))

    @rule(data=st.data())
    @precondition(lambda self: self.running)
    def release(self, data: st.DataObject) -> None:
        item, model, track = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.lanes.release(track, item)
        if not track.closed:
            self.note_released(model)

    def note_released(self, model: ModelLane) -> None:
        model.items.pop(0)
        if not model.items or model.partition in self.halted:
            self.waiting[model.partition].remove(model)

    @rule(data=st.data())
    @precondition(lambda self: self.running)
    def run_again(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.running))
        item, _, track = entry
        self.lanes.again(track, item)
        if not self.is_halted(track):
            self.running.remove(entry)

    @rule(data=st.data())
    @precondition(lambda self: any(not track.closed for _, _, track in self.running))
    def park(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from([entry for entry in self.running if not entry[2].closed]))
        self.running.remove(entry)
        self.parked.append(entry)

    @rule(data=st.data())
    @precondition(lambda self: self.parked)
    def run_parked_again(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.parked))
        item, _, track = entry
        self.lanes.again(track, item)
        if not self.is_halted(track):
            self.parked.remove(entry)

    @rule(data=st.data())
    @precondition(lambda self: self.parked)
    def release_parked(self, data: st.DataObject) -> None:
        """After a halt it brings nothing back, and frees no orphan."""
        item, model, track = self.parked.pop(data.draw(st.integers(0, len(self.parked) - 1)))
        self.lanes.release(track, item)
        if not self.is_halted(track):
            self.note_released(model)

    @rule(data=st.data())
    @precondition(lambda self: self.tracks)
    def halt(self, data: st.DataObject) -> None:
        partition = data.draw(st.sampled_from(sorted(self.tracks)))
        self.lanes.halt(self.tracks[partition], self.running_of(partition))
        self.halted.add(partition)

    @rule(data=st.data())
    @precondition(lambda self: self.tracks)
    def close(self, data: st.DataObject) -> None:
        partition = data.draw(st.sampled_from(sorted(self.tracks)))
        running = self.running_of(partition)
        self.lanes.close(self.tracks.pop(partition), running)
        del self.waiting[partition]
        self.halted.discard(partition)

    @invariant()
    def agree(self) -> None:
        ready = self.ready()
        assert self.lanes.ready == bool(ready)
        assert self.lanes.ready_count == len(ready)
        assert self.lanes.orphans == len(self.orphans())
        keys = [(m.partition, m.key) for _, m, _ in self.running if m.key is not None]
        assert len(keys) == len(set(keys))
        for partition, track in self.tracks.items():
            if partition not in self.halted:
                assert set(track.tails) == {lane.key for lane in self.waiting[partition]} - {None}


TestLanesAgainstAModel = LanesAgainstAModel.TestCase
TestLanesAgainstAModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_the_lanes_know_how_many_keys_have_records() -> None:
    lanes, track = one_track(("a", "a1"), ("a", "a2"), ("b", "b1"), (None, "1"))
    other = lanes.open(1)
    lanes.put(other, Item("a", "other"))
    assert lanes.keys == 3
    for _ in range(4):
        item = taken(lanes)
        lanes.release(other if item.name == "other" else track, item)
    assert lanes.keys == 1
    lanes.halt(track, [])
    assert lanes.keys == 0
