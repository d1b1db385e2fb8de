"""Handlers of the loop shape."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from streamkit import App, Output, Record, RecordFailed, Stream, UserCodeFailed
from streamkit.core.batches import Batches
from streamkit.record import TopicPartition
from streamkit.runtime.pool import SLICE
from tests.runtime.support import World, rebalance, simulated, until
from tests.transport.virtual_time import VirtualTimeLoop

IN = TopicPartition("in", 0)


class Looping:
    """An app whose agent "work" loops over records; how each loop ended is in `ends`."""

    def __init__(self, world: World, **options: Any) -> None:
        self.world = world
        self.begun = 0
        self.ends: list[str] = []
        self.seen: list[int] = []
        self.app = App("test")
        topic = self.app.topic("in", value=bytes)

        @self.app.agent(topic, **options)  # type: ignore[untyped-decorator]
        async def work(stream: Stream[Record[str, bytes]]) -> None:
            self.begun += 1
            try:
                async for record in stream:
                    self.seen.append(record.offset)
                    with world.running(record):
                        await self.handle(record)
                await self.after()
                self.ends.append("ended")
            except BaseException as error:
                self.ends.append(type(error).__name__)
                raise

    async def handle(self, record: Record[str, bytes]) -> None:
        pass

    async def after(self) -> None:
        pass


@simulated
async def test_one_loop_a_partition_takes_its_records_in_order_and_ends_at_the_stop() -> None:
    world = World(partitions=3)
    for partition in range(3):
        world.fill("abcabc", partition=partition)
    looping = Looping(world)
    async with world.working(looping.app) as working:
        await until(lambda: world.committed() == {0: 6, 1: 6, 2: 6})
        assert working.agent.in_flight() == 0
    assert (looping.begun, looping.ends) == (3, ["ended"] * 3)
    assert working.agent.processed_success == 18
    assert sum(working.agent.processing.counts) == 18
    for partition in range(3):
        assert [run.offset for run in world.runs if run.partition == partition] == list(range(6))


@simulated
async def test_a_record_is_handled_when_the_next_is_asked_for_and_not_before() -> None:
    world = World()
    world.fill(["a", "b"])
    looping = Looping(world)
    go_on = asyncio.Event()

    async def handle(record: Record[str, bytes]) -> None:
        if record.offset == 1:
            await go_on.wait()

    looping.handle = handle  # type: ignore[method-assign]
    async with world.working(looping.app) as working:
        await until(lambda: world.committed() == {0: 1})
        await asyncio.sleep(5)
        assert world.committed() == {0: 1}
        assert working.agent.in_flight() == 1
        go_on.set()
        await until(lambda: world.committed() == {0: 2})


@simulated
async def test_what_comes_after_the_loop_is_drained_and_what_it_sends_is_delivered() -> None:
    world = World()
    world.broker.create_topic("out", 1)
    world.fill(["a", "b"])
    app = App("test")
    out = app.topic("out", value=bytes)

    @app.agent(app.topic("in", value=bytes), sink=out)
    async def work(stream: Stream[bytes]) -> AsyncIterator[Output[bytes]]:
        count = 0
        yield Output(b"begins", key="begin")
        async for _ in stream:
            count += 1
            world.done[IN].add(count - 1)
        await asyncio.sleep(1)
        yield Output(b"%d" % count, key="end")
        await out.send(b"sent", key="end")

    async with world.working(app):
        await until(lambda: world.committed() == {0: 2})
    assert [record.value for record in world.broker.records("out")] == [b"begins", b"2", b"sent"]


@simulated
async def test_outputs_belong_to_the_record_they_come_after_and_go_under_its_key() -> None:
    world = World()
    world.broker.create_topic("out", 1)
    world.fill(["a", "b"])
    world.broker.faults.acknowledgements.close()
    app = App("test")

    @app.agent(app.topic("in", value=bytes), sink=app.topic("out", value=str))
    async def work(stream: Stream[Record[str, bytes]]) -> AsyncIterator[str]:
        async for record in stream:
            world.done[IN].add(record.offset)
            yield f"first of {record.offset}"
            if record.offset == 1:
                yield "second"

    async with world.working(app):
        await until(lambda: len(world.broker.records("out")) >= 1)
        await asyncio.sleep(5)
        assert world.committed() == {0: 0}
        world.broker.faults.acknowledgements.open()
        await until(lambda: world.committed() == {0: 2})
    out = [(record.key, record.value) for record in world.broker.records("out")]
    assert out == [(b"a", b"first of 0"), (b"b", b"first of 1"), (b"b", b"second")]


@simulated
async def test_on_a_rebalance_the_loops_end_and_others_begin() -> None:
    world = World(partitions=2)
    world.fill("aaaa")
    looping = Looping(world)

    async def handle(record: Record[str, bytes]) -> None:
        await asyncio.sleep(1)

    looping.handle = handle  # type: ignore[method-assign]
    async with world.working(looping.app) as working:
        await until(lambda: len(world.done[IN]) == 1)
        rebalance(working)
        await until(lambda: working.agent.rebalances == 2)
        assert looping.ends == ["ended"] * 2
        await until(lambda: world.committed()[0] == 4)
    assert looping.begun == 4
    assert looping.seen == [0, 1, 2, 3]


@pytest.mark.parametrize("wrong", ["raises", "breaks"])
@simulated
async def test_a_loop_that_ends_before_its_stream_has_failed_at_the_record_it_had(wrong: str) -> None:
    world = World()
    world.fill(["a", "b", "c"])
    app = App("test")

    @app.agent(app.topic("in", value=bytes))
    async def work(stream: Stream[Record[str, bytes]]) -> None:
        async for record in stream:
            if record.offset == 1:
                if wrong == "breaks":
                    break
                raise ValueError("no")
            world.done[IN].add(record.offset)

    error = await world.failing(app)
    assert isinstance(error, RecordFailed)
    assert (error.stage, error.offset, error.key) == ("handle", 1, b"b")
    assert ("ValueError: no" if wrong == "raises" else "the loop ended before its stream did") in str(error)
    assert world.committed() == {0: 1}


async def _raises() -> None:
    raise ValueError("no")


async def _cancels() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(("wrong", "says"), [(_raises, "ValueError: no"), (_cancels, "CancelledError")])
@simulated
async def test_a_loop_that_fails_outside_of_a_record_stops_the_worker(
    wrong: Callable[[], Awaitable[None]], says: str
) -> None:
    world = World()
    app = App("test")

    @app.agent(app.topic("in", value=bytes))
    async def work(stream: Stream[bytes]) -> None:
        await wrong()

    error = await world.failing(app)
    assert isinstance(error, UserCodeFailed)
    assert str(error) == f"the loop of agent 'work' on in[0], outside of a record, raised {says}"


@simulated
async def test_a_loop_that_returns_at_once_stops_the_worker() -> None:
    world = World()
    app = App("test")

    @app.agent(app.topic("in", value=bytes))
    async def work(stream: Stream[bytes]) -> None:
        return

    error = await world.failing(app)
    assert "the loop ended before its stream did: `async for` must go on until the stream ends" in str(error)


@simulated
async def test_an_error_after_the_stream_has_ended_is_the_workers_failure() -> None:
    world = World()
    world.fill(["a"])
    looping = Looping(world)

    async def after() -> None:
        raise ValueError("at the end")

    looping.after = after  # type: ignore[method-assign]
    with pytest.raises(UserCodeFailed, match="at the end"):
        async with world.working(looping.app):
            await until(lambda: world.committed() == {0: 1})


@simulated
async def test_an_undecodable_record_stops_the_agent_and_the_stream_ends() -> None:
    world = World()
    for value in (b"{}", b"no", b"{}"):
        world.broker.append("in", value, key=b"a", partition=0)
    world.done[IN].add(0)
    ended: list[int] = []
    app = App("test")

    @app.agent(app.topic("in", value=dict[str, Any]))
    async def work(stream: Stream[dict[str, Any]]) -> None:
        count = 0
        async for _ in stream:
            count += 1
        ended.append(count)

    error = await world.failing(app)
    assert isinstance(error, RecordFailed)
    assert (error.stage, error.offset) == ("decode-value", 1)
    assert ended == [1]
    assert world.committed() == {0: 1}


@simulated
async def test_the_timeout_counts_for_each_record() -> None:
    world = World()
    world.fill("aaaaa")
    looping = Looping(world, timeout="1s")

    async def handle(record: Record[str, bytes]) -> None:
        await asyncio.sleep(60 if record.offset == 4 else 0.9)

    looping.handle = handle  # type: ignore[method-assign]
    error = await world.failing(looping.app)
    assert isinstance(error, RecordFailed)
    assert (error.offset, "TimeoutError: not done within its timeout of 1 s" in str(error)) == (4, True)
    assert world.committed() == {0: 4}


@simulated
async def test_a_handler_that_takes_its_timeout_for_its_own_has_handled_the_record() -> None:
    world = World()
    world.fill("aaa")
    looping = Looping(world, timeout="1s")

    async def handle(record: Record[str, bytes]) -> None:
        if record.offset == 1:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return

    looping.handle = handle  # type: ignore[method-assign]
    async with world.working(looping.app):
        await until(lambda: world.committed() == {0: 3})


@simulated
async def test_a_loop_that_does_not_end_within_the_drain_is_cancelled_and_its_record_runs_again() -> None:
    world = World()
    world.fill("ab")
    looping = Looping(world)

    async def handle(record: Record[str, bytes]) -> None:
        if looping.begun == 1 and record.offset == 1:
            await asyncio.sleep(60)

    looping.handle = handle  # type: ignore[method-assign]
    async with world.working(looping.app, drain_timeout=1.0) as working:
        await until(lambda: looping.seen == [0, 1])
        rebalance(working)
        await until(lambda: world.committed() == {0: 2})
        assert working.agent.processed_cancelled == 1
    assert looping.ends == ["CancelledError", "ended"]
    assert looping.seen == [0, 1, 1]


@simulated
async def test_a_loop_that_ignores_its_cancellation_blocks_its_partition_when_that_comes_back() -> None:
    world = World()
    world.fill("ab")
    looping = Looping(world)
    let_go = asyncio.Event()

    async def handle(record: Record[str, bytes]) -> None:
        while looping.begun == 1 and not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    looping.handle = handle  # type: ignore[method-assign]
    async with world.working(looping.app, drain_timeout=1.0) as working:
        await until(lambda: looping.seen == [0])
        rebalance(working)
        await until(lambda: working.agent.rebalances == 2)
        await asyncio.sleep(5)
        assert looping.seen == [0]
        let_go.set()
        await until(lambda: world.committed() == {0: 2})
    assert looping.seen == [0, 0, 1]


@simulated
async def test_a_worker_thrown_out_of_its_group_cancels_its_loops() -> None:
    world = World()
    world.fill("ab")
    looping = Looping(world)

    async def handle(record: Record[str, bytes]) -> None:
        if looping.begun == 1:
            await asyncio.sleep(60)

    looping.handle = handle  # type: ignore[method-assign]
    async with world.working(looping.app) as working:
        await until(lambda: looping.seen == [0])
        world.broker.faults.network.close()
        await asyncio.sleep(15)
        world.broker.faults.network.open()
        await until(lambda: world.committed() == {0: 2})
        assert working.agent.rebalances_lost == 1
    assert looping.ends == ["CancelledError", "ended"]


@simulated
async def test_a_task_that_outlives_its_record_cannot_send_for_it() -> None:
    world = World()
    world.broker.create_topic("out", 1)
    world.fill("ab")
    app = App("test")
    out = app.topic("out", value=bytes)
    errors: list[BaseException] = []

    async def late() -> None:
        await asyncio.sleep(1)
        try:
            await out.send(b"late")
        except RuntimeError as error:
            errors.append(error)

    tasks: list[asyncio.Task[None]] = []

    @app.agent(app.topic("in", value=bytes))
    async def work(stream: Stream[Record[str, bytes]]) -> None:
        async for record in stream:
            world.done[IN].add(record.offset)
            if record.offset == 0:
                tasks.append(asyncio.ensure_future(late()))

    async with world.working(app):
        await until(lambda: errors)
    assert "a task that outlives it cannot send" in str(errors[0])


@simulated
async def test_a_stream_is_asked_by_one_task_at_a_time() -> None:
    world = World()
    app = App("test")

    @app.agent(app.topic("in", value=bytes))
    async def work(stream: Stream[bytes]) -> None:
        items = aiter(stream)
        await asyncio.gather(anext(items), anext(items))

    error = await world.failing(app)
    assert "asked for its next record by two tasks at a time" in str(error)


@simulated
async def test_loops_that_never_wait_leave_the_loop_to_others() -> None:
    clock = asyncio.get_running_loop()
    assert isinstance(clock, VirtualTimeLoop)
    world = World()
    world.fill(["a"] * 1_000)
    looping = Looping(world)
    gaps: list[float] = []
    finished = asyncio.Event()

    async def handle(record: Record[str, bytes]) -> None:
        clock.jump(0.001)  # of computing
        if record.offset == 999:
            finished.set()

    async def others() -> None:
        while True:
            before = clock.time()
            await asyncio.sleep(0)
            gaps.append(clock.time() - before)

    looping.handle = handle  # type: ignore[method-assign]
    async with world.working(looping.app) as working:
        await working.joined()
        task = asyncio.ensure_future(others())
        await finished.wait()
        task.cancel()
    assert 0.001 < max(gaps) <= SLICE + 0.0011


def test_a_stream_of_a_list_or_of_an_async_iterable_is_for_tests() -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    async def collect(stream: Stream[int]) -> list[int]:
        return [number async for number in stream]

    assert asyncio.run(collect(Stream([1, 2]))) == [1, 2]
    assert asyncio.run(collect(Stream(numbers()))) == [0, 1, 2]


@simulated
async def test_a_record_that_another_task_asked_for_waits_for_what_the_loop_sends_for_it() -> None:
    world = World()
    world.broker.create_topic("out", 1)
    world.fill("ab")
    world.broker.faults.acknowledgements.close()
    app = App("test")
    out = app.topic("out", value=bytes)

    @app.agent(app.topic("in", value=bytes))
    async def work(stream: Stream[Record[str, bytes]]) -> None:
        records = aiter(stream)
        while True:
            try:  # a task of its own in Python 3.11, and by hand in any
                record = await asyncio.wait_for(asyncio.ensure_future(anext(records)), 60)
            except StopAsyncIteration:
                break
            await out.send(b"%d" % record.offset)
            world.done[IN].add(record.offset)
        await out.send(b"end")

    async with world.working(app):
        await until(lambda: len(world.broker.records("out")) == 2)
        await asyncio.sleep(5)
        assert world.committed() == {0: 0}
        world.broker.faults.acknowledgements.open()
        await until(lambda: world.committed() == {0: 2})
    assert [record.value for record in world.broker.records("out")] == [b"0", b"1", b"end"]


@simulated
async def test_a_record_wakes_the_loop_of_its_partition_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(partitions=50)
    looping = Looping(world)
    take_from, asked = Batches.take_from, 0

    def counted(*args: Any) -> Any:
        nonlocal asked
        asked += 1
        return take_from(*args)

    async with world.working(looping.app) as working:
        await until(lambda: looping.begun == 50)
        await working.joined()
        await asyncio.sleep(1)
        monkeypatch.setattr(Batches, "take_from", counted)
        world.fill("a")
        await until(lambda: looping.seen)
        await asyncio.sleep(1)
    assert asked == 2  # the record, and what follows it
