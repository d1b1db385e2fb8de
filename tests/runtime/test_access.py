"""Access that the brokers deny ends a worker in order, whichever client it is denied to."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

import pytest

from streamkit import App
from streamkit.transport.base import AccessDenied
from streamkit.transport.memory.admin import MemoryAdmin
from streamkit.transport.memory.consumer import MemoryConsumer
from streamkit.transport.memory.producer import MemoryProducer
from tests.runtime.support import Working, World, recording, simulated, until

DENIAL = "the broker at b:9092 refuses the login of user 'ann'"


async def deny(*_: Any, **__: Any) -> NoReturn:
    raise AccessDenied(DENIAL)


async def ended(working: Working, within: float) -> BaseException | None:
    """How it ended by itself."""
    await asyncio.wait([working.task], timeout=within)
    assert working.task.done(), "the worker goes on"
    return working.task.exception()


def is_denial(error: BaseException | None) -> bool:
    return isinstance(error, AccessDenied) and str(error) == DENIAL and error.exit_code == 78


@simulated
async def test_access_that_is_denied_at_the_start_is_not_tried_again() -> None:
    world = World()
    world.broker.travel = deny  # type: ignore[method-assign]
    working = Working(world, recording(world), world.settings)
    assert is_denial(await ended(working, within=1))


@simulated
async def test_access_that_is_denied_to_a_consumer_stops_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    working = Working(world, recording(world), world.settings)
    await working.joined()
    world.fill(["a"])
    await until(lambda: world.offsets_run == [0])
    monkeypatch.setattr(MemoryConsumer, "poll", deny)
    assert is_denial(await ended(working, within=5))
    assert world.committed() == {0: 1}, "what was settled is committed"


@simulated
async def test_access_that_is_denied_to_the_admin_client_stops_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(stop_when_idle=2.0)
    working = Working(world, recording(world), world.settings)
    await working.joined()
    monkeypatch.setattr(MemoryAdmin, "log_ranges", deny)
    assert is_denial(await ended(working, within=5))


@simulated
async def test_access_that_is_denied_to_the_producer_of_the_app_stops_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    app = App("test")
    topic = app.topic("in", value=str)
    working = Working(world, app, world.settings)
    await until(lambda: app.port.current is not None)
    monkeypatch.setattr(MemoryProducer, "send", deny)
    await topic.send("v")
    assert is_denial(await ended(working, within=5))


@simulated
async def test_access_that_is_denied_to_the_producer_of_an_agent_stops_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(drain_timeout=1.0)
    app = App("test")
    source, sink = app.topic("in", value=bytes), app.topic("out", value=bytes)
    world.broker.create_topic("out", 1)

    @app.agent(source, sink=sink)
    async def work(value: bytes) -> bytes:
        return value

    working = Working(world, app, world.settings)
    await working.joined()
    monkeypatch.setattr(MemoryProducer, "send", deny)
    world.fill(["a"])
    assert is_denial(await ended(working, within=5))
    assert world.committed() == {0: 0}, "the output is not sent"
