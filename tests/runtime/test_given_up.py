"""Handlers of every shape that are cancelled when their partition is given back, and what they have sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from streamkit import App, Batch, Stream, Topic, UserCodeFailed
from streamkit.record import TopicPartition
from tests.runtime.support import World, rebalance, simulated, until

IN = TopicPartition("in", 0)
Send = Callable[[], Awaitable[None]]


def declare(app: App, shape: str, source: Topic[str, bytes], body: Send, **options: Any) -> None:
    """An agent "work" of one of the shapes, which does the same for each record."""
    match shape:
        case "value":

            @app.agent(source, name="work", **options)  # type: ignore[untyped-decorator]
            async def of_value(value: bytes) -> None:
                await body()

        case "batch":

            @app.agent(source, name="work", batch=Batch(1, within="1s"), **options)  # type: ignore[untyped-decorator]
            async def of_batch(batch: list[bytes]) -> None:
                await body()

        case _:

            @app.agent(source, name="work", **options)  # type: ignore[untyped-decorator]
            async def of_loop(stream: Stream[bytes]) -> None:
                async for _ in stream:
                    await body()


SHAPES = pytest.mark.parametrize("shape", ["value", "batch", "loop"])


@SHAPES
@simulated
async def test_a_cancelled_record_is_not_settled_by_the_acknowledgement_of_what_it_had_sent(shape: str) -> None:
    world = World(drain_timeout=1.0)
    world.broker.create_topic("out", 1)
    world.fill("a")
    app = App("test")
    out = app.topic("out", value=bytes)
    begun = asyncio.Event()

    async def body() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            await out.send(b"not done")  # acknowledged while the other handlers get their moment to end

    declare(app, shape, app.topic("in", value=bytes), body)
    async with world.working(app) as working:
        await begun.wait()
        await working.stopped()
        assert working.agent.processed_cancelled == 1
    assert [record.value for record in world.broker.records("out")] == [b"not done"]
    assert world.committed() == {0: 0}


@SHAPES
@simulated
async def test_a_refused_output_of_a_cancelled_record_does_not_stop_the_agent(shape: str) -> None:
    world = World(drain_timeout=1.0)
    world.broker.create_topic("out", 1)
    world.fill("a")
    app = App("test", max_request_size=100_000)
    out = app.topic("out", value=bytes)
    begun: list[float] = []

    async def body() -> None:
        begun.append(asyncio.get_running_loop().time())
        if len(begun) > 1:
            world.done[IN].add(0)
            return
        world.broker.topics["out"].config["max.message.bytes"] = "1000"
        try:
            await asyncio.sleep(60)
        finally:
            await out.send(bytes(5_000))

    declare(app, shape, app.topic("in", value=bytes), body)
    async with world.working(app) as working:
        await until(lambda: begun)
        rebalance(working)
        await until(lambda: world.committed() == {0: 1})
    assert len(begun) == 2


@simulated
async def test_what_a_loop_sends_after_its_last_record_is_refused_for_all_to_see() -> None:
    world = World()
    world.broker.create_topic("out", 1)
    app = App("test", max_request_size=100_000)
    out = app.topic("out", value=bytes)

    @app.agent(app.topic("in", value=bytes))
    async def work(stream: Stream[bytes]) -> None:
        async for _ in stream:
            pass
        world.broker.topics["out"].config["max.message.bytes"] = "1000"
        await out.send(bytes(5_000))

    with pytest.raises(UserCodeFailed, match="an output of agent 'work' outside of a record"):
        async with world.working(app) as working:
            await working.joined()


@SHAPES
@simulated
async def test_a_handler_that_goes_on_after_its_timeout_is_cancelled_by_the_revoke_all_the_same(shape: str) -> None:
    world = World(drain_timeout=1.0)
    world.fill("a")
    app = App("test")
    ends: list[str] = []

    async def body() -> None:
        if ends:
            world.done[IN].add(0)
            return
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(600)
        ends.append("timeout")
        try:
            await asyncio.sleep(600)
        finally:
            ends.append("revoke")

    declare(app, shape, app.topic("in", value=bytes), body, timeout="1s")
    async with world.working(app) as working:
        await until(lambda: ends)
        rebalance(working)
        await until(lambda: world.committed() == {0: 1})
        assert working.agent.processed_cancelled == 1
    assert ends == ["timeout", "revoke"]
