"""What the engine tells the observer of each assigned partition."""

from __future__ import annotations

import asyncio
import sys
import threading
from array import array
from typing import Any

import pytest

from streamkit import App, Record, Retry
from streamkit.core.offsets import COMPACT_AT, OffsetWindow
from streamkit.observe.partition_state import PartitionState
from streamkit.record import TopicPartition
from streamkit.transport.base import TopicRefused
from tests.runtime.retry_support import BEGAN, DLQ, tier, wall
from tests.runtime.support import Working, rebalance, simulated, until
from tests.runtime.test_metrics import SHAPES, MeasuredWorld, shaped
from tests.transport import virtual_time

IN = TopicPartition("in", 0)


def reading(working: Working, partition: TopicPartition = IN) -> PartitionState:
    return working.agent.partitions()[partition]


@SHAPES
@simulated
async def test_a_handler_that_does_not_let_go_of_the_loop_is_seen_to_run(shape: str) -> None:
    world = MeasuredWorld()
    seen: list[tuple[int, float | None, int]] = []

    async def body(record: Record[str, bytes]) -> None:
        state = reading(working)  # as another thread would read it
        seen.append((working.agent.in_flight(), state.head_started, state.buffered))

    async with world.working_with_topics(shaped(shape, body)) as working:
        await working.joined()
        for key in ("a", "b"):
            world.send(key)
        await world.settled(working)
        assert len(seen) == 2
        in_flight, began, buffered = seen[0]
        assert began == pytest.approx(wall(), abs=1.0)
        assert (in_flight, buffered) == ((2, 0) if shape == "batch" else (1, 1))
        assert working.agent.in_flight() == 0
        assert reading(working).head_started is None


@SHAPES
@simulated
async def test_a_handler_that_keeps_the_loop_is_seen_to_run_though_others_were_handled_just_before(shape: str) -> None:
    world = MeasuredWorld()
    seen: list[PartitionState] = []

    async def body(record: Record[str, bytes]) -> None:
        if record.key == "c":
            seen.append(reading(working))  # as another thread would read it

    for key in ("a", "b", "c", "d"):
        world.send(key)
    async with world.working_with_topics(shaped(shape, body)) as working:
        await world.settled(working)
        (state,) = seen
        assert state.head_started == pytest.approx(wall(), abs=3.0)
        assert state.buffered == (0 if shape == "batch" else 1)


@simulated
async def test_the_oldest_handler_is_told_past_what_was_settled_ahead_while_another_keeps_the_loop() -> None:
    world = MeasuredWorld()
    go_on = asyncio.Event()
    seen: list[PartitionState] = []

    async def body(record: Record[str, bytes]) -> None:
        if record.key == "keeps":
            seen.append(reading(working))  # as another thread would read it
        elif record.key != "fast":
            await go_on.wait()

    async with world.working_with_topics(shaped("record", body, concurrency=2)) as working:
        await working.joined()
        for key in ("slow", "fast", "fast"):
            world.send(key)
        await until(lambda: reading(working).settled_ahead == 2)
        began = wall()
        world.send("slow too")
        world.send("keeps")
        await asyncio.sleep(10)
        assert not seen
        go_on.set()
        await world.settled(working)
        (state,) = seen  # the first one is handled, and the window does not know it yet
        assert (state.unsettled, state.settled_ahead) == (0, 2)
        assert state.head_started == pytest.approx(began, abs=1.0)


@SHAPES
@simulated
async def test_of_a_partition_in_which_all_is_settled_nothing_is_told_but_where_it_is(shape: str) -> None:
    world = MeasuredWorld(partitions=2)

    async def body(record: Record[str, bytes]) -> None:
        await asyncio.sleep(0)

    async with world.working_with_topics(shaped(shape, body)) as working:
        await working.joined()
        assigned = wall()
        world.send("a")
        await asyncio.sleep(100)
        other = reading(working, TopicPartition("in", 1))
        assert other.progressed_at == pytest.approx(assigned, abs=0.5)
        state = reading(working)
        assert state.event_timestamp == pytest.approx(assigned, abs=0.5)
        assert other.event_timestamp is None
        assert state._replace(progressed_at=0.0, event_timestamp=None) == PartitionState(
            unsettled=1,
            position=1,
            head_timestamp=None,
            head_started=None,
            head_due=None,
            head_blocked=False,
            buffered=0,
            settled_ahead=0,
            closed="",
            progressed_at=0.0,
            buffered_bytes=0,
        )


@SHAPES
@simulated
async def test_the_head_is_told_while_it_runs(shape: str) -> None:
    world = MeasuredWorld()
    go_on = asyncio.Event()

    async def body(record: Record[str, bytes]) -> None:
        if record.key == "hung":
            await go_on.wait()

    options: dict[str, Any] = {"concurrency": 4} if shape == "record" else {}
    async with world.working_with_topics(shaped(shape, body, **options)) as working:
        await working.joined()
        began = wall()
        world.send("hung", b"12345", timestamp=1_600_000_000_250)
        for key in ("a", "b", "hung", "hung", "a"):
            world.send(key, timestamp=1_600_000_001_000)
        await asyncio.sleep(10)
        state = reading(working)
        assert (state.unsettled, state.position) == (0, 6)
        assert state.head_timestamp == 1_600_000_000.25
        assert state.head_started == pytest.approx(began, abs=0.5)
        assert not state.head_blocked
        assert state.progressed_at < began
        waiting, ahead = {"record": (2, 3), "batch": (2, 0), "loop": (5, 0)}[shape]
        assert (state.buffered, state.settled_ahead) == (waiting, ahead)
        assert state.buffered_bytes > (6 - ahead) * 250
        go_on.set()
        await world.settled(working)
        assert reading(working).progressed_at == pytest.approx(wall(), abs=1)


@simulated
async def test_a_tier_tells_when_its_head_is_due() -> None:
    world = MeasuredWorld()

    async def body(record: Record[str, bytes]) -> None:
        if record.attempt == 1:
            raise KeyError

    app = shaped("record", body, retry=Retry.delays("60s", jitter=0))
    async with world.working_with_topics(app) as working:
        await working.joined()
        world.send("a", timestamp=1_600_000_000_000)
        first = TopicPartition(tier(1), 0)
        await until(lambda: reading(working, first).position == 1)
        state = reading(working, first)
        (copy,) = world.broker.records(tier(1))
        assert state.head_due == pytest.approx(copy.timestamp / 1000 + 60, abs=0.1)
        assert state.head_timestamp == 1_600_000_000.0
        assert (state.unsettled, state.buffered) == (0, 1)
        assert reading(working).head_due is None
        await world.settled(working)
        assert reading(working, first).head_due is None


@simulated
async def test_a_head_that_nobody_takes_is_blocked() -> None:
    world = MeasuredWorld()

    async def body(record: Record[str, bytes]) -> None:
        if record.key == "bad":
            raise KeyError

    world.broker.faults.refuse(DLQ, TopicRefused("no"))
    async with world.working_with_topics(shaped("record", body, dead_letter=True)) as working:
        await working.joined()
        for key in ("bad", "a", "bad"):
            world.send(key)
        await until(lambda: working.agent.blocked() == 1)
        await asyncio.sleep(1)
        state = reading(working)
        assert (state.unsettled, state.head_blocked, state.head_started) == (0, True, None)
        world.broker.faults.accept(DLQ)
        await world.settled(working)
        assert not reading(working).head_blocked


@simulated
async def test_a_partition_that_is_being_given_back_is_closed_for_that_and_then_it_is_gone() -> None:
    world = MeasuredWorld()
    go_on = asyncio.Event()

    async def body(record: Record[str, bytes]) -> None:
        await go_on.wait()

    async with world.working_with_topics(shaped("record", body)) as working:
        await working.joined()
        world.send("a")
        await until(lambda: working.agent.in_flight() == 1)
        rebalance(working)
        await until(lambda: reading(working).closed == "rebalance")
        go_on.set()
        await until(lambda: working.agent.rebalances == 2)
        assert reading(working).closed == ""
    assert working.agent.partitions() == {}


@simulated
async def test_markers_move_the_position_and_are_progress_when_nothing_waits() -> None:
    world = MeasuredWorld()
    async with world.working_with_topics(shaped("record", nothing_but_time)) as working:
        await working.joined()
        await asyncio.sleep(100)
        world.broker.append_marker("in")
        await until(lambda: reading(working).position == 1)
        assert reading(working).progressed_at > BEGAN + 100
        assert reading(working).unsettled == 1


async def nothing_but_time(record: Record[str, bytes]) -> None:
    await asyncio.sleep(0.001)


def test_offset_and_timestamp_of_the_head_belong_together_while_the_loop_goes_on() -> None:
    """Read by a thread without pause, while windows move and are compacted."""
    records, first = 4 * COMPACT_AT, 1_600_000_000_000

    async def case() -> list[PartitionState]:
        world = MeasuredWorld()
        app = App("test")

        @app.agent(app.topic("in", value=bytes), concurrency=3)
        async def work(record: Record[str, bytes]) -> None:
            if record.offset % 5 == 0:
                await asyncio.sleep(0)

        for number in range(records):
            world.send(f"k{number % 50}", timestamp=first + 7 * number)
        seen: list[PartitionState] = []
        over = threading.Event()
        async with world.working_with_topics(app) as working:

            def watch() -> None:
                while not over.is_set():
                    for agent in list(working.slots.agents.values()):
                        seen.extend(agent.partitions().values())

            thread = threading.Thread(target=watch)
            thread.start()
            try:
                await world.settled(working)
            finally:
                over.set()
                thread.join()
        return seen

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # both threads go on all the time
    try:
        seen = virtual_time.run(case())
    finally:
        sys.setswitchinterval(interval)
    heads = [state for state in seen if state.head_timestamp is not None]
    assert len({state.unsettled for state in heads}) > 5
    assert [s for s in heads if s.head_timestamp != (first + 7 * s.unsettled) / 1000] == []
    assert [state.unsettled for state in seen] == sorted(state.unsettled for state in seen)
    assert all(state.unsettled <= state.position and state.settled_ahead >= 0 for state in seen)


class SettledMeanwhile(array):  # type: ignore[type-arg]
    """Offsets of which the last one is settled while another thread looks for the lowest unsettled one."""

    window: OffsetWindow

    def __len__(self) -> int:
        length = super().__len__()
        self.window.settle_all(range(self.window.head, length))
        return length


@simulated
async def test_a_reading_does_not_fail_when_all_is_settled_in_the_midst_of_it() -> None:
    world = MeasuredWorld()

    async def body(record: Record[str, bytes]) -> None:
        await asyncio.Event().wait()

    async with world.working_with_topics(shaped("record", body)) as working:
        await working.joined()
        world.send("a")
        await until(lambda: reading(working).position == 1)
        window = working.runner.membership.partitions[IN].window
        offsets = SettledMeanwhile("q", [0])
        SettledMeanwhile.window = window
        window._offsets = offsets
        assert reading(working).unsettled == 1
