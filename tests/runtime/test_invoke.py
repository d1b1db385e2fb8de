"""How handlers are run: their shapes, their contexts, and what of asyncio works inside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest

from streamkit import App, Output, Record
from streamkit.errors import RecordFailed
from streamkit.record import TopicPartition
from tests.runtime.support import World, recording, simulated, until

IN = TopicPartition("in", 0)
request: ContextVar[str] = ContextVar("request", default="nobody's")


@simulated
async def test_a_value_handler_gets_the_value() -> None:
    world = World()
    world.fill(["a"], value=b'{"n": 1}')
    app = App("test")
    seen: list[object] = []

    @app.agent(app.topic("in", value=dict[str, int]))
    async def work(value: dict[str, int]) -> None:
        seen.append(value)
        world.done[IN].add(len(world.done[IN]))

    async with world.working(app):
        await until(lambda: world.committed() == {0: 1})
    assert seen == [{"n": 1}]


@simulated
async def test_a_record_handler_gets_all_that_lies_in_the_log() -> None:
    world = World(partitions=2)
    headers = (("h", b"1"), ("h", None))
    world.broker.append("in", b"value", key=b"7", partition=1, headers=headers, timestamp=1234)
    world.broker.append("in", None, partition=1)
    app = App("test")
    seen: list[Record[int, bytes | None]] = []

    @app.agent(app.topic("in", key=int, value=bytes | None))
    async def work(record: Record[int, bytes | None]) -> None:
        seen.append(record)
        world.done[TopicPartition("in", 1)].add(record.offset)

    async with world.working(app):
        await until(lambda: len(seen) == 2)
    first, second = seen
    assert (first.key, first.value, first.topic, first.partition, first.offset) == (7, b"value", "in", 1, 0)
    assert (first.timestamp_ms, tuple(first.headers), first.attempt) == (1234, headers, 1)
    assert (second.key, second.value, second.offset) == (None, None, 1)
    for record in seen:  # every field has been set, though the constructor is not called
        assert all(hasattr(record, field) for field in Record.__slots__)


@simulated
async def test_a_tombstone_reaches_a_value_handler_as_none() -> None:
    world = World()
    world.broker.append("in", None, key=b"a")
    app = App("test")
    seen: list[object] = []

    @app.agent(app.topic("in", value=dict[str, int] | None))
    async def work(value: dict[str, int] | None) -> None:
        seen.append(value)
        world.done[IN].add(0)

    async with world.working(app):
        await until(lambda: seen)
    assert seen == [None]


def splitting(world: World, body: Any = None) -> App:
    """A generator that yields each letter of the value to "out"."""
    world.broker.create_topic("out")
    app = App("test")
    out = app.topic("out", value=str)

    @app.agent(app.topic("in", value=str), sink=out)
    async def work(record: Record[str, str]) -> AsyncIterator[str]:
        with world.running(record):
            for letter in record.value:
                yield letter
                if body is not None:
                    await body(letter)

    return app


@simulated
async def test_a_generator_sends_any_number_of_outputs_in_order() -> None:
    world = World()
    for value in (b"abc", b"", b"d"):
        world.fill(["k"], value=value)
    async with world.working(splitting(world)) as working:
        await until(lambda: world.committed() == {0: 3})
    assert [(r.key, r.value) for r in world.broker.records("out")] == [(b"k", v) for v in (b"a", b"b", b"c", b"d")]
    assert working.slots.produced["out"].acknowledged == 4


@simulated
async def test_outputs_that_a_generator_yielded_before_it_failed_are_sent() -> None:
    world = World()
    world.fill(["k"], value=b"abc")

    async def body(letter: str) -> None:
        if letter == "b":
            await asyncio.sleep(0.1)
            raise ValueError("after b")

    error = await world.failing(splitting(world, body))
    assert isinstance(error, RecordFailed)
    assert (error.stage, error.offset) == ("handle", 0)
    assert [record.value for record in world.broker.records("out")] == [b"a", b"b"]
    assert world.committed() == {0: 0}


@pytest.mark.parametrize("waits", [False, True])
@simulated
async def test_a_generator_whose_output_fails_is_closed_before_its_lane_is_given_up(waits: bool) -> None:
    world = World()
    world.fill(["k"], value=b"a")
    world.broker.create_topic("out")
    app = App("test")
    closed: list[bool] = []

    @app.agent(app.topic("in", value=str), sink=app.topic("out", value=str))
    async def work(value: str) -> AsyncIterator[Any]:
        try:
            if waits:
                await asyncio.sleep(0.1)
            yield 7
        finally:
            await asyncio.sleep(1)
            closed.append(True)

    error = await world.failing(app)
    assert isinstance(error, RecordFailed)
    assert error.stage == "sink"
    assert closed == [True]


# Contexts


@pytest.mark.parametrize("waits", [False, True])
@simulated
async def test_context_variables_do_not_leak_from_record_to_record(waits: bool) -> None:
    world = World()
    world.fill(["a", "a", "b"])
    seen: list[str] = []

    async def body(record: Record[str, bytes]) -> None:
        seen.append(request.get())
        request.set(f"of {record.offset}")
        if waits:
            await asyncio.sleep(0.1)
        assert request.get() == f"of {record.offset}"

    async with world.working(recording(world, body, concurrency=2)):
        await until(lambda: len(seen) == 3)
    assert seen == ["nobody's"] * 3


@simulated
async def test_a_context_variable_stays_with_its_record_across_waits_and_tasks() -> None:
    world = World()
    world.fill([None] * 5)

    async def child() -> str:
        await asyncio.sleep(0.1)
        return request.get()

    async def body(record: Record[str, bytes]) -> None:
        request.set(str(record.offset))
        for _ in range(3):
            await asyncio.sleep(0.1)
            assert request.get() == str(record.offset)
        assert await asyncio.ensure_future(child()) == str(record.offset)

    async with world.working(recording(world, body, concurrency=5)):
        await until(lambda: len(world.done[IN]) == 5)


@simulated
async def test_a_contextvar_token_can_be_reset_after_waiting() -> None:
    world = World()
    world.fill(["a"])

    async def body(record: Record[str, bytes]) -> None:
        token = request.set("mine")
        await asyncio.sleep(0.1)
        request.reset(token)  # would raise ValueError in another context

    async with world.working(recording(world, body)):
        await until(lambda: world.done[IN])


# asyncio inside handlers: they have no task of their own, and must not notice


@simulated
async def test_timeouts_task_groups_and_gather_work_inside_handlers() -> None:
    world = World()
    world.fill(["a", "b"])
    noted: list[object] = []

    async def double(number: int) -> int:
        await asyncio.sleep(number / 10)
        return 2 * number

    async def body(record: Record[str, bytes]) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await asyncio.sleep(60)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(60), 0.5)
        async with asyncio.timeout(5):
            await asyncio.sleep(0.1)
        noted.append(await asyncio.gather(double(1), double(2)))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(double(3))
        noted.append(task.result())
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(double(1000))
                raise ValueError("one fails, the others are cancelled")
        current = asyncio.current_task()
        assert current is not None
        assert current.cancelling() == 0

    async with world.working(recording(world, body)):
        await until(lambda: len(world.done[IN]) == 2)
    assert noted == [[2, 4], 6] * 2


@simulated
async def test_a_task_group_inside_a_handler_ends_with_it_when_it_is_cancelled() -> None:
    world = World()
    world.fill(["a"])
    cancelled: list[bool] = []

    async def child() -> None:
        try:
            await asyncio.sleep(10_000)
        finally:
            cancelled.append(True)

    async def body(record: Record[str, bytes]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())

    async with world.working(recording(world, body)) as working:
        await until(lambda: world.runs)
    assert cancelled == [True]
    assert working.agent.processed_cancelled == 1


@simulated
async def test_a_timeout_inside_a_handler_that_the_framework_cancels_is_not_taken_for_its_own() -> None:
    world = World()
    world.fill(["a"])

    async def body(record: Record[str, bytes]) -> None:
        async with asyncio.timeout(1000):
            await asyncio.sleep(10_000)

    error = await world.failing(recording(world, body, timeout="2s"))
    assert isinstance(error, RecordFailed)
    assert "not done within its timeout of 2 s" in str(error)


@simulated
async def test_a_handler_that_cancels_its_own_task_has_failed() -> None:
    world = World()
    world.fill(["a"])

    async def body(record: Record[str, bytes]) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    error = await world.failing(recording(world, body))
    assert isinstance(error, RecordFailed)
    assert isinstance(error.cause, asyncio.CancelledError)


@simulated
async def test_a_handler_may_wait_for_a_future_of_another_handler() -> None:
    world = World()
    world.fill(["waits", "sets"])
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    got: list[int] = []

    async def body(record: Record[str, bytes]) -> None:
        if record.key == "waits":
            got.append(await answer)
        else:
            answer.set_result(7)

    async with world.working(recording(world, body, concurrency=2)):
        await until(lambda: got)
    assert got == [7]


# Tasks that outlive their handler


@simulated
async def test_a_task_that_outlives_its_handler_cannot_send_for_it() -> None:
    world = World()
    world.broker.create_topic("out")
    world.fill(["a"])
    app = App("test")
    out = app.topic("out", value=str)
    tasks: list[asyncio.Task[None]] = []

    async def later() -> None:
        await out.send("within")
        await asyncio.sleep(1)
        await out.send("too late")

    @app.agent(app.topic("in", value=bytes))
    async def work(record: Record[str, bytes]) -> None:
        with world.running(record):
            tasks.append(asyncio.ensure_future(later()))
            await asyncio.sleep(0.5)

    async with world.working(app):
        await until(lambda: tasks and tasks[0].done())
        with pytest.raises(RuntimeError, match="a task that outlives it cannot send for it"):
            tasks[0].result()
    assert [record.value for record in world.broker.records("out")] == [b"within"]
    assert world.committed() == {0: 1}


@simulated
async def test_a_generator_that_outlived_its_partition_sends_nothing_more() -> None:
    world = World()
    world.fill(["k"], value=b"ab")
    let_go = asyncio.Event()

    async def deaf(letter: str) -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    async with world.working(splitting(world, deaf)) as working:
        await until(lambda: world.runs)
        await working.stopped()
    let_go.set()
    await asyncio.sleep(1)
    assert [record.value for record in world.broker.records("out")] == [b"a"]


@simulated
async def test_what_a_handler_returns_after_its_partition_has_gone_is_not_sent() -> None:
    world = World()
    world.broker.create_topic("out")
    world.fill(["k"])
    app = App("test")
    let_go = asyncio.Event()

    @app.agent(app.topic("in", value=bytes), sink=app.topic("out", value=str))
    async def work(record: Record[str, bytes]) -> Output[str]:
        with world.running(record):
            while not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    continue
        return Output("late")

    async with world.working(app, drain_timeout=1.0) as working:
        await until(lambda: world.runs)
        working.consumer._rejoin.set()  # the partition goes and comes back
        await until(lambda: working.agent.rebalances == 2)
        let_go.set()
        await until(lambda: len(world.runs) == 2)
        await until(lambda: world.broker.records("out"))
        await asyncio.sleep(1)
    assert len(world.broker.records("out")) == 1  # from the second run
