"""Copies are gathered while other lanes have plenty to run, and only then; and errors go when their records have."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from streamkit import App, Batch, BatchError, Record, Retry, Stream
from streamkit.record import TopicPartition
from tests.runtime.retry_support import RetryWorld, flaky, tier
from tests.runtime.support import simulated, until

SOURCE = TopicPartition("in", 0)
TIERS = Retry.delays("1h", jitter=0)


class Broken(Exception):
    pass


@simulated
async def test_copies_are_sent_together_while_other_lanes_have_plenty_to_run() -> None:
    world = RetryWorld()
    fails = flaky(world, lambda record, number: Broken() if record.offset % 10 == 0 else None, retry=TIERS)
    for number in range(500):
        world.send(f"k{number}")
    async with world.working_with_topics(fails):
        await until(lambda: len(world.done[SOURCE]) == 450 and len(world.broker.records(tier(1))) == 50)
    moments = {record.timestamp for record in world.broker.records(tier(1))}
    # 500 runs of a millisecond, one at a time, with 50 ms for each gathering: and those at the end, at once.
    assert 5 <= len(moments) <= 20


@simulated
async def test_a_copy_is_sent_at_once_while_few_lanes_are_ready_though_every_task_is_busy() -> None:
    world, app = RetryWorld(), App("test")

    @app.agent(app.topic("in", value=bytes), name="work", retry=TIERS)
    async def work(record: Record[str, bytes]) -> None:
        world.note(record)
        await asyncio.sleep(0.001)
        if record.offset == 0:
            raise Broken
        await asyncio.sleep(1)
        world.handled(record)

    for key in "abc":
        world.send(key)
    async with world.working_with_topics(app):
        await until(lambda: len(world.tries) == 2)
        await asyncio.sleep(0.02)
        assert len(world.broker.records(tier(1))) == 1


@simulated
async def test_gathered_copies_are_sent_as_soon_as_nothing_is_ready() -> None:
    world = RetryWorld()
    fails = flaky(world, lambda record, number: Broken() if record.offset == 0 else None, retry=TIERS)
    for key in "aabcdefg":
        world.send(key)
    async with world.working_with_topics(fails):
        await until(lambda: len(world.done[SOURCE]) == 7)
    began = {each.offset: each.began for each in world.tries}
    assert began[1] > began[7], "the other lanes did not run first: the copy was not gathered"
    assert began[1] - began[7] < 0.02


@simulated
async def test_what_is_gathered_when_the_worker_stops_is_sent_and_not_run_again() -> None:
    world = RetryWorld()
    fails = flaky(world, lambda record, number: Broken() if record.offset == 0 else None, retry=TIERS)
    for number in range(500):
        world.send(f"k{number}")
    async with world.working_with_topics(fails):
        await until(lambda: len(world.tries) >= 10)
        assert not world.broker.records(tier(1)), "it was not gathered"
    assert len(world.broker.records(tier(1))) == 1
    assert world.committed()[0] >= 9


def of_values(topic: Any, app: App, errors: Errors, waits: bool) -> None:
    @app.agent(topic, name="work", retry=TIERS)
    async def work(value: bytes) -> None:
        if waits:
            await asyncio.sleep(0)
        raise errors.make()


def of_waiting_values(topic: Any, app: App, errors: Errors) -> None:
    of_values(topic, app, errors, True)


def of_values_at_once(topic: Any, app: App, errors: Errors) -> None:
    of_values(topic, app, errors, False)


def of_loops(topic: Any, app: App, errors: Errors) -> None:
    @app.agent(topic, name="work", retry=TIERS)
    async def work(stream: Stream[bytes]) -> None:
        async for _ in stream:
            raise errors.make()


def of_batches(topic: Any, app: App, errors: Errors) -> None:
    @app.agent(topic, name="work", retry=TIERS, batch=Batch(1, within="10ms"))
    async def work(batch: Sequence[Record[str, bytes]]) -> None:
        raise BatchError({0: errors.make()})


class Errors:
    """How many of the errors that were made are there still."""

    def __init__(self) -> None:
        self._made: list[weakref.ref[Broken]] = []

    def make(self) -> Broken:
        error = Broken()
        self._made.append(weakref.ref(error))
        return error

    @property
    def left(self) -> int:
        return sum(error() is not None for error in self._made)


@contextmanager
def no_collections() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("declare", [of_waiting_values, of_values_at_once, of_loops, of_batches])
@simulated
async def test_an_error_is_gone_when_its_copy_is_stored_without_a_collection(declare: Any) -> None:
    world, errors, app = RetryWorld(), Errors(), App("test")
    declare(app.topic("in", value=bytes), app, errors)
    for number in range(20):
        world.send(f"k{number}")
    with no_collections():
        async with world.working_with_topics(app, breaker_failures=0) as working:
            await until(lambda: working.slots.agents and working.agent.processed_retried == 20)
            assert errors.left <= 1  # the last one may still be at hand
