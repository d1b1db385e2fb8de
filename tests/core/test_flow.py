from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from streamkit.core.flow import Flow, FlowLimits, Load, next_fetch

EMPTY = Load(unsettled=0, window=0, bytes=0)
LIMITS = FlowLimits(partition_unsettled=100, partition_window=240, records=400, bytes=40_000)


def load(records: int, window: int | None = None, size: int = 1) -> Load:
    return Load(unsettled=records, window=records if window is None else window, bytes=records * size)


def test_an_idle_worker_may_fetch_everything_up_to_the_nearest_bound() -> None:
    assert Flow[str](LIMITS).open({"a": EMPTY, "b": EMPTY}) == {"a": 100, "b": 100}
    assert Flow[str](replace(LIMITS, partition_window=30)).open({"a": EMPTY}) == {"a": 30}
    assert Flow[str](replace(LIMITS, records=40)).open({"a": EMPTY, "b": EMPTY}) == {"a": 30, "b": 30}


def test_no_partitions_no_fetch() -> None:
    assert Flow[str](LIMITS).open({}) == {}
    assert next_fetch({}, at_most=500) == ([], 0)


def test_room_is_what_is_left_to_the_nearest_bound() -> None:
    flow = Flow[str](LIMITS)
    assert flow.open({"a": load(60)}) == {"a": 40}
    assert flow.open({"a": load(60, window=230)}) == {"a": 10}


@pytest.mark.parametrize(
    ("full", "above_half", "half"),
    [
        (load(100), load(51), load(50)),
        (load(1, window=240), load(1, window=121), load(1, window=120)),
        (load(1, size=40_000), load(1, size=20_001), load(1, size=20_000)),
    ],
    ids=["unsettled", "window", "bytes"],
)
def test_a_partition_closes_at_a_bound_and_opens_again_at_half_of_it(full: Load, above_half: Load, half: Load) -> None:
    flow = Flow[str](LIMITS)
    assert "a" in flow.open({"a": above_half})
    assert "a" not in flow.open({"a": full})
    assert "a" not in flow.open({"a": above_half})
    assert "a" in flow.open({"a": half})
    assert "a" in flow.open({"a": above_half})


def test_a_partition_opens_again_at_half_of_the_bound_that_closed_it_whatever_the_others() -> None:
    flow = Flow[str](LIMITS)
    assert flow.open({"a": load(100, window=200)}) == {}
    # The first record hangs: the window stays as it is.
    assert flow.open({"a": load(51, window=200)}) == {}
    assert flow.open({"a": load(50, window=200)}) == {"a": 40}


def test_of_a_window_that_is_full_more_can_be_asked_for_and_given_up_again() -> None:
    flow = Flow[str](LIMITS)
    assert flow.open({"a": load(1, window=240)}) == {}
    assert flow.open({"a": load(1, window=240)}, windows=2) == {"a": 99}
    assert flow.open({"a": load(1, window=450)}, windows=2) == {"a": 30}
    assert flow.open({"a": load(1, window=480)}, windows=2) == {}
    assert flow.open({"a": load(1, window=241)}) == {}
    assert flow.open({"a": load(1, window=120)}) == {"a": 99}


def test_if_more_is_asked_for_a_partition_opens_again_as_soon_as_it_is_below_its_bounds() -> None:
    flow = Flow[str](LIMITS)
    assert flow.open({"a": load(100, window=240)}) == {}
    assert flow.open({"a": load(100, window=260)}, windows=2) == {}
    assert flow.open({"a": load(99, window=260)}, windows=2) == {"a": 1}
    assert flow.open({"a": load(99, window=260)}) == {}
    assert flow.open({"a": load(51, window=239)}) == {}
    assert flow.open({"a": load(51, window=120)}) == {"a": 49}


def test_a_larger_window_leaves_the_other_bounds_as_they_are() -> None:
    flow = Flow[str](LIMITS)
    assert flow.open({"a": load(100)}, windows=2) == {}
    assert flow.open({"b": load(1, size=40_000)}, windows=2) == {}


def test_a_partition_that_went_away_comes_back_open() -> None:
    flow = Flow[str](LIMITS)
    assert flow.open({"a": load(100)}) == {}
    flow.open({})
    assert flow.open({"a": load(60)}) == {"a": 40}


def test_hung_partitions_leave_the_others_their_share() -> None:
    flow = Flow[str](replace(LIMITS, partition_unsettled=1000, partition_window=1000))
    # Shares are 100; b has all of the pool of 200.
    rooms = flow.open({"a": EMPTY, "b": load(300)})
    assert rooms == {"a": 100}
    assert flow.open({"a": load(99), "b": load(300)}) == {"a": 1}
    assert flow.open({"a": load(100), "b": load(300)}) == {}


def test_bytes_of_a_hung_partition_leave_the_others_their_share() -> None:
    flow = Flow[str](LIMITS)
    assert "a" in flow.open({"a": load(9, size=1000), "b": load(30, size=1000)})
    assert "a" not in flow.open({"a": load(10, size=1000), "b": load(30, size=1000)})


@pytest.mark.parametrize("hung", [load(100), load(1, size=10**9)])
def test_a_partition_with_nothing_unsettled_is_always_open(hung: Load) -> None:
    limits = FlowLimits(partition_unsettled=100, partition_window=100, records=1, bytes=1)
    assert Flow[str](limits).open({"a": EMPTY, "b": hung, "c": hung}) == {"a": 1}


def test_a_fetch_brings_no_partition_more_than_its_room() -> None:
    assert next_fetch({"a": 800, "b": 500, "c": 499}, at_most=500) == (["a", "b"], 500)
    assert next_fetch({"a": 7, "b": 20, "c": 20}, at_most=500) == (["b", "c"], 20)


def test_a_partition_that_a_fetch_left_out_is_in_the_next() -> None:
    rooms = {"hung": 7, "idle": 20, "closed before": 12}
    assert next_fetch(rooms, at_most=500, before=["idle"]) == (["idle", "closed before"], 12)
    assert next_fetch(rooms, at_most=500, before=["idle", "closed before"]) == (["hung", "idle", "closed before"], 7)
    assert next_fetch(rooms, at_most=500, before=list(rooms)) == (["idle"], 20)
    assert next_fetch({}, at_most=500, before=["idle"]) == ([], 0)


@pytest.mark.parametrize("name", ["partition_unsettled", "partition_window", "records", "bytes"])
def test_a_limit_below_one_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        replace(LIMITS, **{name: 0})


def test_the_limits_by_default_are_those_that_the_offset_map_is_made_for() -> None:
    assert FlowLimits() == FlowLimits(10_000, 24_000, 100_000, 268_435_456)


class Intake(RuleBasedStateMachine):
    """Partitions are fetched as they are opened, and records settle in any order; "hung" never settles one."""

    LARGEST = 7  # bytes of a record
    AT_MOST = 20  # records of a fetch

    @initialize(
        names=st.lists(st.sampled_from("abcd"), min_size=1, unique=True),
        unsettled=st.integers(1, 60),
        window=st.integers(1, 60),
        records=st.integers(10, 120),
        size=st.integers(1, 400),
    )
    def start(self, names: list[str], unsettled: int, window: int, records: int, size: int) -> None:
        self.limits = FlowLimits(unsettled, window, records, size)
        self.flow = Flow[str](self.limits)
        self.held: dict[str, list[int]] = {name: [] for name in [*names, "hung"]}  # sizes; 0 once settled
        self.full: set[tuple[str, str]] = set()  # names and their own bounds that closed them

    def loads(self) -> dict[str, Load]:
        return {
            name: Load(sum(1 for size in sizes if size), len(sizes), sum(sizes)) for name, sizes in self.held.items()
        }

    @rule(data=st.data())
    def fetch(self, data: st.DataObject) -> None:
        loads = self.loads()
        rooms = self.flow.open(loads)
        self.check_hysteresis(loads, set(rooms))
        names, most = next_fetch(rooms, self.AT_MOST)
        for _ in range(data.draw(st.integers(0, most))):
            self.held[data.draw(st.sampled_from(names))].append(data.draw(st.integers(1, self.LARGEST)))

    def check_hysteresis(self, loads: dict[str, Load], now_open: set[str]) -> None:
        for name, load in loads.items():
            levels = {
                "unsettled": load.unsettled / self.limits.partition_unsettled,
                "window": load.window / self.limits.partition_window,
            }
            for bound, level in levels.items():
                if load.unsettled and (level >= 1 or (level > 0.5 and (name, bound) in self.full)):
                    self.full.add((name, bound))
                    assert name not in now_open
                else:
                    self.full.discard((name, bound))
            assert load.unsettled or name in now_open

    @rule(data=st.data(), whole=st.booleans())
    def settle(self, data: st.DataObject, whole: bool) -> None:
        for name, sizes in self.held.items():
            if name != "hung" and sizes:
                chosen = range(len(sizes)) if whole else data.draw(st.lists(st.integers(0, len(sizes) - 1)))
                for n in chosen:
                    sizes[n] = 0
                while sizes and not sizes[0]:
                    del sizes[0]

    @invariant()
    def bounds_are_kept(self) -> None:
        loads = self.loads().values()
        assert all(load.unsettled <= self.limits.partition_unsettled for load in loads)
        assert all(load.window <= self.limits.partition_window for load in loads)
        assert sum(load.unsettled for load in loads) <= self.limits.records
        # Of a total of bytes, what one fetch brings comes on top, and one record for each of the others.
        most = self.limits.bytes + self.LARGEST * (self.AT_MOST + len(loads))
        assert sum(load.bytes for load in loads) <= most

    @rule()
    def everyone_goes_on_beside_a_hung_partition(self) -> None:
        for sizes in (sizes for name, sizes in self.held.items() if name != "hung"):
            sizes.clear()
        rooms = self.flow.open(self.loads())
        self.check_hysteresis(self.loads(), set(rooms))
        names, most = next_fetch(rooms, self.AT_MOST)
        assert set(names) >= set(self.held) - {"hung"}
        assert most >= 1


TestIntake = Intake.TestCase
