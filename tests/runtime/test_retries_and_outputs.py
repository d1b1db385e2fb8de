"""What a failed attempt has sent: it is sent, and settles its record neither too early nor never."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streamkit import App, Record, Retry, Skip
from streamkit.record import TopicPartition
from streamkit.transport.base import TopicRefused
from tests.runtime.retry_support import RetryWorld, header, tier
from tests.runtime.support import simulated, until

IN = TopicPartition("in", 0)
TIERS = Retry.delays("10s", jitter=0)


class Broken(Exception):
    pass


class Yielding:
    """An app whose handler yields `<offset>.<run>`, then fails as long as its run is below `fails_until`."""

    def __init__(self, world: RetryWorld, *, fails_until: int = 2, error: type[Exception] = Broken, **options: Any):
        world.broker.create_topic("out", 1)
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.app = App("test")
        topic, out = self.app.topic("in", value=bytes), self.app.topic("out", value=bytes)

        @self.app.agent(topic, sink=out, name="work", **options)  # type: ignore[untyped-decorator]
        async def work(record: Record[str, bytes]) -> AsyncIterator[bytes]:
            number = world.note(record)
            yield b"%d.%d" % (record.offset, number)
            await self.go_on.wait()
            if number < fails_until:
                raise error
            world.handled(record)


def outputs(world: RetryWorld) -> list[bytes]:
    return [record.value or b"" for record in world.broker.records("out")]


@pytest.mark.parametrize("retry", [TIERS, Retry.in_place(1, "5s")], ids=["tier", "in place"])
@simulated
async def test_what_was_yielded_before_the_failure_is_sent_and_so_is_what_the_next_run_yields(retry: Retry) -> None:
    world = RetryWorld()
    yielding = Yielding(world, retry=retry)
    world.send("a")
    async with world.working_with_topics(yielding.app) as working:
        await world.settled(working)
    assert outputs(world) == [b"0.1", b"0.2"]
    assert world.committed() == {0: 1}


@pytest.mark.parametrize("retry", [TIERS, Retry.in_place(1, "5s")], ids=["tier", "in place"])
@simulated
async def test_the_record_is_not_settled_before_what_its_failed_run_has_sent_is_acknowledged(retry: Retry) -> None:
    world = RetryWorld(send_timeout=100.0)
    yielding = Yielding(world, retry=retry)
    async with world.working_with_topics(yielding.app) as working:
        await working.joined()
        yielding.go_on.clear()
        world.broker.faults.acknowledgements.close()
        world.send("a")
        await until(lambda: outputs(world))
        yielding.go_on.set()
        await asyncio.sleep(30)
        assert world.committed() == {0: 0}
        world.broker.faults.acknowledgements.open()
        await world.settled(working)
    assert sorted(outputs(world)) == [b"0.1", b"0.2"]


@simulated
async def test_an_output_of_a_failed_run_that_is_refused_changes_nothing_for_the_copy() -> None:
    world = RetryWorld()
    yielding = Yielding(world, retry=TIERS)
    world.send("a")
    world.broker.faults.refuse("out", TopicRefused("no"))
    async with world.working_with_topics(yielding.app) as working:
        await until(lambda: world.committed() == {0: 1})
        world.broker.faults.accept("out")
        await world.settled(working)
        assert dict(working.agent.retries) == {1: 1}
    assert outputs(world) == [b"0.2"]
    assert len(world.tries) == 2


@simulated
async def test_an_output_of_a_skipped_run_that_is_refused_leaves_nothing_unsettled() -> None:
    world = RetryWorld()
    yielding = Yielding(world, error=Skip, fails_until=9, retry=TIERS)
    world.passed_over.add((IN, 0))
    world.send("a")
    world.broker.faults.refuse("out", TopicRefused("no"))
    async with world.working_with_topics(yielding.app) as working:
        await world.settled(working)
    assert world.committed() == {0: 1}


@simulated
async def test_refused_while_the_handler_runs_the_record_fails_at_stage_sink_when_it_has_ended() -> None:
    world = RetryWorld()
    yielding = Yielding(world, fails_until=0, retry=TIERS, concurrency=2)
    yielding.go_on.clear()
    world.send("a")
    world.send("a")
    world.broker.faults.refuse("out", TopicRefused("no"))
    async with world.working_with_topics(yielding.app) as working:
        await until(lambda: world.tries)
        await asyncio.sleep(2)
        assert len(world.tries) == 1
        assert not world.broker.records(tier(1))
        yielding.go_on.set()
        await until(lambda: world.broker.records(tier(1)))
        world.broker.faults.accept("out")
        await world.settled(working)
    assert {header(copy, "sk-stage") for copy in world.broker.records(tier(1))} == {"sink"}
    assert outputs(world)[-1] == b"0.2"


@simulated
async def test_refused_after_the_handler_returned_the_record_goes_to_the_tier_and_its_key_had_gone_on() -> None:
    world = RetryWorld()
    world.broker.create_topic("out", 1)
    app = App("test")

    @app.agent(app.topic("in", value=bytes), sink=app.topic("out", value=bytes), name="work", retry=TIERS)
    async def work(record: Record[str, bytes]) -> bytes:
        world.note(record)
        if record.attempt > 1:
            world.handled(record)
        return b"%d" % record.offset

    for _ in range(3):
        world.send("a")
    world.broker.faults.refuse("out", TopicRefused("no"))
    async with world.working_with_topics(app) as working:
        await until(lambda: sum(working.slots.agents["work"].retries.values()) == 3 if working.slots.agents else False)
        world.broker.faults.accept("out")
        await world.settled(working)
    assert [each.offset for each in world.tries] == [0, 1, 2, 0, 1, 2]
    assert sorted(outputs(world)) == [b"0", b"1", b"2"]
    assert {header(copy, "sk-stage") for copy in world.broker.records(tier(1))} == {"sink"}


@simulated
async def test_with_its_output_and_its_copy_refused_the_record_stays_unsettled() -> None:
    world = RetryWorld()
    world.broker.create_topic("out", 1)
    app = App("test")

    @app.agent(app.topic("in", value=bytes), sink=app.topic("out", value=bytes), name="work", retry=TIERS)
    async def work(record: Record[str, bytes]) -> bytes:
        world.note(record)
        if record.attempt > 1:
            world.handled(record)
        return b"x"

    world.send("a")
    world.send("a")
    for name in ("out", tier(1)):
        world.broker.faults.refuse(name, TopicRefused("no"))
    async with world.working_with_topics(app) as working:
        await working.joined()
        await asyncio.sleep(30)
        assert world.committed() == {0: 0}
        assert working.agent.blocked() == 2
        for name in ("out", tier(1)):
            world.broker.faults.accept(name)
        await world.settled(working)


@simulated
async def test_several_refused_outputs_of_one_record_make_one_copy() -> None:
    world = RetryWorld()
    world.broker.create_topic("out", 4)
    app = App("test")

    @app.agent(app.topic("in", value=bytes), sink=app.topic("out", value=bytes), name="work", retry=TIERS)
    async def work(record: Record[str, bytes]) -> AsyncIterator[bytes]:
        world.note(record)
        for number in range(20):
            yield b"%d" % number
        if record.attempt > 1:
            world.handled(record)

    world.send("a")
    world.broker.faults.refuse("out")
    async with world.working_with_topics(app) as working:
        await until(lambda: tier(1) in world.broker.topics and world.broker.records(tier(1)))
        world.broker.faults.accept("out")
        await world.settled(working)
    assert len(world.broker.records(tier(1))) == 1
    assert len(world.tries) == 2


@simulated
async def test_in_place_a_rejected_output_takes_the_record_to_its_tier_without_another_run() -> None:
    """Its lane has gone on: run in place now, it would run after later records."""
    world = RetryWorld()
    world.broker.create_topic("out", 1)
    app = App("test")
    retry = Retry.delays("10s", jitter=0, in_place=2, in_place_wait="1s")

    @app.agent(app.topic("in", value=bytes), sink=app.topic("out", value=bytes), name="work", retry=retry)
    async def work(record: Record[str, bytes]) -> bytes:
        world.note(record)
        if record.attempt > 1:
            world.handled(record)
        return b"x"

    world.send("a")
    world.send("a")
    world.broker.faults.refuse("out", TopicRefused("no"))
    async with world.working_with_topics(app) as working:
        await until(lambda: tier(1) in world.broker.topics and len(world.broker.records(tier(1))) == 2)
        world.broker.faults.accept("out")
        await world.settled(working)
    assert [(each.offset, each.attempt) for each in world.tries] == [(0, 1), (1, 1), (0, 2), (1, 2)]


@simulated
async def test_a_sink_that_refuses_everything_moves_no_more_than_the_breaker_allows() -> None:
    world = RetryWorld(breaker_failures=20, breaker_keys=5)
    world.broker.create_topic("out", 1)
    app = App("test")

    @app.agent(
        app.topic("in", value=bytes),
        sink=app.topic("out", value=bytes),
        name="work",
        retry=Retry.delays("10m", jitter=0),
    )
    async def work(record: Record[str, bytes]) -> bytes:
        await asyncio.sleep(0.01)
        return b"x"

    world.is_settled = lambda partition, offset: True
    for number in range(300):
        world.send(f"k{number}")
    world.broker.faults.refuse("out", TopicRefused("no"))
    async with world.working_with_topics(app) as working:
        await working.joined()
        await asyncio.sleep(60)
        assert working.agent.breaker_open
        assert len(world.broker.records(tier(1))) <= 20
        world.broker.faults.accept("out")
        await world.settled(working)
        assert working.agent.breaker_openings == 1
    assert len(outputs(world)) == 300
