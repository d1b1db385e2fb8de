from collections import Counter, deque
from collections.abc import Hashable
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streamkit.core.lanes import Lane, Lanes, Track

Key = str | None


def taken(lanes: Lanes[int, str]) -> Lane[int, str]:
    lane = lanes.take()
    assert lane is not None
    return lane


def one_track(*records: tuple[Key, str]) -> tuple[Lanes[int, str], Track[int, str]]:
    lanes = Lanes[int, str]()
    track = lanes.open(0)
    for key, item in records:
        lanes.put(track, key, item)
    return lanes, track


def test_a_key_runs_one_record_at_a_time_in_order() -> None:
    lanes, _ = one_track(("a", "a1"), ("a", "a2"))
    first = taken(lanes)
    assert first.queue[0] == "a1"
    assert lanes.take() is None
    lanes.release(first)
    assert taken(lanes).queue[0] == "a2"


def test_a_lane_exists_only_while_it_holds_records() -> None:
    lanes, track = one_track(("a", "a1"))
    assert list(track.lanes) == ["a"]
    lanes.release(taken(lanes))
    assert not track.lanes
    assert not lanes.ready


def test_records_without_a_key_wait_for_no_other() -> None:
    lanes, track = one_track((None, "1"), (None, "2"))
    assert [taken(lanes).queue[0], taken(lanes).queue[0]] == ["1", "2"]
    assert track.running == 2
    assert not track.lanes


def test_lanes_of_a_partition_take_turns() -> None:
    lanes, _ = one_track(("a", "a1"), ("a", "a2"), ("b", "b1"), ("c", "c1"))
    lane = taken(lanes)
    lanes.release(lane)
    assert [taken(lanes).queue[0] for _ in range(3)] == ["b1", "c1", "a2"]


def test_partitions_take_turns_however_many_lanes_they_have() -> None:
    lanes = Lanes[int, str]()
    many, few = lanes.open(0), lanes.open(1)
    for number in range(100):
        lanes.put(many, f"k{number}", "many")
    lanes.put(few, "x", "few")
    lanes.put(few, "y", "few")
    assert [taken(lanes).queue[0] for _ in range(5)] == ["many", "few", "many", "few", "many"]


def test_a_parked_key_is_blocked_until_its_assignment_ends_and_others_are_not() -> None:
    lanes, track = one_track(("a", "a1"), ("a", "a2"), ("b", "b1"))
    lanes.park(taken(lanes))
    lanes.put(track, "a", "a3")
    assert taken(lanes).queue[0] == "b1"
    assert lanes.take() is None
    lanes.close(0)
    assert lanes.orphans == 1  # b1 runs; a1 does not
    again = lanes.open(0)
    lanes.put(again, "a", "a1")
    assert taken(lanes).queue[0] == "a1"


def test_halting_forgets_what_has_not_started_and_what_runs_goes_on() -> None:
    lanes, track = one_track(("a", "a1"), ("a", "a2"), ("b", "b1"), (None, "n1"))
    running = taken(lanes)
    lanes.halt(0)
    lanes.halt(0)
    assert lanes.take() is None
    assert track.running == 1
    lanes.release(running)
    assert lanes.take() is None
    assert not track.lanes
    assert track.running == 0


def test_halting_one_partition_leaves_the_others_alone() -> None:
    lanes = Lanes[int, str]()
    first, second = lanes.open(0), lanes.open(1)
    lanes.put(first, "a", "0a")
    lanes.put(second, "a", "1a")
    lanes.halt(0)
    assert taken(lanes).queue[0] == "1a"
    assert lanes.take() is None


def test_a_key_that_still_runs_for_a_closed_partition_blocks_its_new_lane_until_it_ends() -> None:
    lanes, _ = one_track(("a", "old"))
    orphan = taken(lanes)
    lanes.close(0)
    track = lanes.open(0)
    lanes.put(track, "a", "new")
    lanes.put(track, "a", "newer")
    lanes.put(track, "b", "free")
    assert lanes.orphans == 1
    assert taken(lanes).queue[0] == "free"
    assert lanes.take() is None
    lanes.release(orphan)
    assert lanes.orphans == 0
    assert taken(lanes).queue[0] == "new"
    assert lanes.take() is None


def test_an_orphan_blocks_its_key_in_its_own_partition_only() -> None:
    lanes, _ = one_track(("a", "old"))
    taken(lanes)
    lanes.close(0)
    lanes.put(lanes.open(1), "a", "elsewhere")
    assert taken(lanes).queue[0] == "elsewhere"


def test_an_orphan_outlives_several_assignments() -> None:
    lanes, _ = one_track(("a", "old"))
    orphan = taken(lanes)
    lanes.close(0)
    for _ in range(3):
        lanes.put(lanes.open(0), "a", "blocked")
        assert lanes.take() is None
        lanes.close(0)
    lanes.release(orphan)
    assert lanes.orphans == 0
    assert lanes.take() is None
    lanes.put(lanes.open(0), "a", "free")
    assert taken(lanes).queue[0] == "free"


def test_an_orphan_without_a_key_blocks_nothing() -> None:
    lanes, _ = one_track((None, "old"))
    orphan = taken(lanes)
    lanes.close(0)
    assert lanes.orphans == 0
    lanes.put(lanes.open(0), None, "new")
    assert taken(lanes).queue[0] == "new"
    lanes.release(orphan)
    assert not lanes.ready


def test_a_partition_is_not_opened_twice() -> None:
    lanes, _ = one_track()
    with pytest.raises(ValueError, match="0 is open already"):
        lanes.open(0)
    lanes.close(0)
    lanes.open(0)


@pytest.mark.parametrize("at_once", [1, 16])
def test_2000_queued_records_of_one_hot_key_delay_no_ready_key_by_more_than_one_round(at_once: int) -> None:
    """A round is one record of every lane that is ready; waits are counted in records taken."""
    lanes, track = one_track(*[("hot", "")] * 2000)
    for number in range(999):
        lanes.put(track, f"k{number}", "")
    since: dict[Hashable, int] = dict.fromkeys(track.lanes, 0)
    round_then: dict[Hashable, int] = dict.fromkeys(track.lanes, len(track.lanes))
    running: deque[Lane[int, str]] = deque()
    count = longest = 0
    while lanes.ready or running:
        while len(running) < at_once and (lane := lanes.take()) is not None:
            wait = count - since[lane.key]
            assert wait < round_then[lane.key]
            longest = max(wait, longest)
            count += 1
            running.append(lane)
        done = running.popleft()
        if done.key != "hot" and count < 5000:  # new records of the others come in all the time
            lanes.put(track, done.key, "")
        lanes.release(done)
        since[done.key], round_then[done.key] = count, lanes.ready_count
    assert count >= 2000 + 4000
    assert longest == 999


@dataclass(eq=False)
class ModelLane:
    """One key of one partition, or one record without a key; and who was served since it became ready."""

    partition: int
    key: Key
    items: list[int]
    lanes_served: Counter["ModelLane"] = field(default_factory=Counter["ModelLane"])
    partitions_served: Counter[int] = field(default_factory=Counter[int])


class LanesAgainstAModel(RuleBasedStateMachine):
    """The model looks through everything that waits for what may run, and knows of no turns, only of fairness."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes = Lanes[int, int]()
        self.items = 0
        self.tracks: dict[int, Track[int, int]] = {}
        self.waiting: dict[int, list[ModelLane]] = {}
        self.halted: set[int] = set()
        self.running: list[tuple[Lane[int, int], ModelLane, Track[int, int]]] = []
        self.parked: set[ModelLane] = set()

    def orphans(self) -> set[tuple[int, Key]]:
        return {(m.partition, m.key) for _, m, track in self.running if track.closed and m.key is not None}

    def ready(self) -> list[ModelLane]:
        busy = {model for _, model, _ in self.running} | self.parked
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
            self.lanes.put(self.tracks[partition], key, self.items)
            known = next((lane for lane in lanes if lane.key == key is not None), None)
            if known is None:
                lanes.append(ModelLane(partition, key, [self.items]))
            else:
                known.items.append(self.items)

    @rule(count=st.integers(1, 4))
    def take(self, count: int) -> None:
        for _ in range(count):
            ready = self.ready()
            lane = self.lanes.take()
            if lane is None:
                assert not ready
                return
            (model,) = [model for model in ready if model.items[0] == lane.queue[0]]
            assert lane.key == model.key
            self.running.append((lane, model, self.tracks[model.partition]))
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

    @rule(data=st.data())
    @precondition(lambda self: self.running)
    def release(self, data: st.DataObject) -> None:
        lane, model, track = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.lanes.release(lane)
        if not track.closed:
            model.items.pop(0)
            if not model.items or model.partition in self.halted:
                self.waiting[model.partition].remove(model)

    @rule(data=st.data())
    @precondition(lambda self: any(not track.closed for _, _, track in self.running))
    def park(self, data: st.DataObject) -> None:
        open_now = [index for index, (_, _, track) in enumerate(self.running) if not track.closed]
        lane, model, _ = self.running.pop(data.draw(st.sampled_from(open_now)))
        self.lanes.park(lane)
        self.parked.add(model)

    @rule(data=st.data())
    @precondition(lambda self: self.tracks)
    def halt(self, data: st.DataObject) -> None:
        partition = data.draw(st.sampled_from(sorted(self.tracks)))
        self.lanes.halt(partition)
        self.halted.add(partition)

    @rule(data=st.data())
    @precondition(lambda self: self.tracks)
    def close(self, data: st.DataObject) -> None:
        partition = data.draw(st.sampled_from(sorted(self.tracks)))
        self.lanes.close(partition)
        del self.tracks[partition], self.waiting[partition]
        self.halted.discard(partition)

    @invariant()
    def agree(self) -> None:
        ready = self.ready()
        assert self.lanes.ready == bool(ready)
        assert self.lanes.ready_count == len(ready)
        assert self.lanes.orphans == len(self.orphans())
        keys = [(m.partition, m.key) for _, m, _ in self.running if m.key is not None]
        assert len(keys) == len(set(keys))
        for track in self.tracks.values():
            assert track.running == sum(mine is track for _, _, mine in self.running)


TestLanesAgainstAModel = LanesAgainstAModel.TestCase
TestLanesAgainstAModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
