"""Retries of loops: the record is moved or runs again, and the loop begins anew, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

import pytest

from streamkit import App, Record, Reject, Retry, Skip, Stream
from streamkit.record import TopicPartition
from tests.runtime.retry_support import DLQ, RetryWorld, header, tier
from tests.runtime.support import rebalance, simulated, until

IN = TopicPartition("in", 0)
Fails = Callable[[Record[str, bytes], int], BaseException | None]


class Broken(Exception):
    pass


class Looping:
    """An app whose agent "work" loops over records and fails as `fails` says; `loops` holds what each loop got."""

    def __init__(self, world: RetryWorld, fails: Fails, *, worker: str = "w", **options: Any) -> None:
        self.loops: list[list[int]] = []
        self.app = App("test")

        @self.app.agent(self.app.topic("in", value=bytes), **options)  # type: ignore[untyped-decorator]
        async def work(stream: Stream[Record[str, bytes]]) -> None:
            mine: list[int] = []
            self.loops.append(mine)
            async for record in stream:
                mine.append(record.offset)
                number = world.note(record)
                with world.running_alone(record, worker):
                    await asyncio.sleep(0.001)
                    error = fails(record, number)
                if error is not None:
                    raise error
                world.handled(record)


@simulated
async def test_the_record_that_failed_is_moved_and_the_loop_begins_anew_with_the_next() -> None:
    world = RetryWorld()
    looping = Looping(
        world,
        lambda record, number: Broken() if record.offset == 1 and number == 1 else None,
        retry=Retry.delays("10s", jitter=0),
    )
    for key in "aaaa":
        world.send(key)
    async with world.working_with_topics(looping.app) as working:
        await world.settled(working)
    assert looping.loops == [[0, 1], [2, 3, 1]]
    first, second = world.tries_of(1)
    assert 10 <= second.began - first.began < 10.3
    assert (second.attempt, dict(working.agent.retries)) == (2, {1: 1})


@simulated
async def test_in_place_the_loop_begins_anew_with_the_same_record_when_it_has_waited() -> None:
    world = RetryWorld()
    looping = Looping(
        world,
        lambda record, number: Broken() if record.offset == 1 and number < 3 else None,
        retry=Retry.in_place(2, "5s"),
    )
    for key in "abcd":
        world.send(key)
    async with world.working_with_topics(looping.app) as working:
        await until(lambda: len(world.tries) == 2)
        await asyncio.sleep(1)
        assert (world.committed()[0], len(looping.loops)) == (1, 1)
        world.send("e")  # while it waits
        await world.settled(working)
    assert looping.loops == [[0, 1], [1], [1, 2, 3, 4]]
    assert [each.attempt for each in world.tries_of(1)] == [1, 2, 3]


@simulated
async def test_skip_and_reject_end_the_loop_like_any_failure() -> None:
    world = RetryWorld()
    errors = {0: Skip(), 2: Reject("bad")}
    looping = Looping(world, lambda record, number: errors.get(record.offset), retry=Retry.delays("10s"))
    world.passed_over.add((IN, 0))
    for key in "abcd":
        world.send(key)
    async with world.working_with_topics(looping.app) as working:
        await world.settled(working)
    assert looping.loops == [[0], [1, 2], [3]]
    assert [header(letter, "sk-origin-offset") for letter in world.dead_letters()] == ["2"]
    assert working.agent.processed_filtered == 1


@simulated
async def test_what_cannot_be_decoded_is_a_dead_letter_and_the_loop_goes_on_after_it() -> None:
    world = RetryWorld()
    app = App("test")
    loops: list[list[int]] = []

    @app.agent(app.topic("in", value=int), retry=Retry.delays("10s"))
    async def work(stream: Stream[int]) -> None:
        mine: list[int] = []
        loops.append(mine)
        async for number in stream:
            mine.append(number)
            world.done[IN].add(number)

    for number in range(4):
        world.send("a", b"{" if number == 1 else str(number).encode())
    async with world.working_with_topics(app) as working:
        await working.joined()
        await world.settled(working)
    assert loops == [[0, 2, 3]]
    assert [letter.value for letter in world.dead_letters()] == [b"{"]


@simulated
async def test_nothing_passes_what_cannot_be_decoded_while_its_dead_letter_is_refused() -> None:
    world = RetryWorld()
    app = App("test")
    seen: list[int] = []

    @app.agent(app.topic("in", value=int), dead_letter=True)
    async def work(stream: Stream[int]) -> None:
        async for number in stream:
            seen.append(number)
            world.done[IN].add(number)

    world.broker.faults.refuse(DLQ)
    for number in range(3):
        world.send("a", b"{" if number == 1 else str(number).encode())
    async with world.working_with_topics(app) as working:
        await asyncio.sleep(60)
        assert (seen, world.committed()) == ([0], {0: 1})
        world.broker.faults.accept(DLQ)
        await world.settled(working)
    assert seen == [0, 2]


@simulated
async def test_what_a_generator_had_yielded_before_it_failed_is_sent_and_settles_nothing_too_early() -> None:
    world = RetryWorld()
    world.broker.create_topic("out", 1)
    app = App("test")

    @app.agent(app.topic("in", value=bytes), sink=app.topic("out", value=bytes), retry=Retry.delays("10s", jitter=0))
    async def work(stream: Stream[Record[str, bytes]]) -> AsyncIterator[bytes]:
        async for record in stream:
            number = world.note(record)
            yield b"%d.%d" % (record.offset, number)
            if record.offset == 1 and number == 1:
                raise Broken
            yield b"end of %d" % record.offset
            world.handled(record)

    for key in "abc":
        world.send(key)
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    values = [record.value for record in world.broker.records("out")]
    assert values == [b"0.1", b"end of 0", b"1.1", b"2.1", b"end of 2", b"1.2", b"end of 1"]


marker: ContextVar[str] = ContextVar("marker", default="nothing")


@simulated
async def test_what_a_failed_loop_has_set_in_its_context_is_not_seen_by_the_next() -> None:
    world = RetryWorld()
    app = App("test")
    seen: list[str] = []

    @app.agent(app.topic("in", value=bytes), retry=Retry.in_place(1, "1s"))
    async def work(stream: Stream[Record[str, bytes]]) -> None:
        seen.append(marker.get())
        async for record in stream:
            marker.set("left over")
            if world.note(record) == 1:
                raise Broken
            world.handled(record)

    world.send("a")
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    assert seen == ["nothing"] * 2


@simulated
async def test_a_loop_over_the_time_limit_of_a_record_has_failed_with_it() -> None:
    world = RetryWorld()
    app = App("test")

    @app.agent(app.topic("in", value=bytes), timeout="2s", retry=Retry.delays("10s", jitter=0))
    async def work(stream: Stream[Record[str, bytes]]) -> None:
        async for record in stream:
            world.note(record)
            await asyncio.sleep(3 if record.offset == 0 else 1)
            world.handled(record)

    world.send("a")
    world.send("a")
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    assert [each.offset for each in world.tries] == [0, 1, 0]
    assert dict(working.agent.dead_letters)["timeout"] == 1


@simulated
async def test_a_loop_of_a_tier_begins_where_its_source_partition_is_another_workers() -> None:
    world = RetryWorld(partitions=4)
    world.create_copies(tier(1), partitions=2)
    retry = Retry.delays("10s", jitter=0)
    ones, others = (
        Looping(world, lambda record, number: Broken() if number == 1 else None, worker=name, retry=retry)
        for name in ("one", "other")
    )
    for partition in range(4):
        for key in "ab":
            world.send(key, partition=partition)
    async with world.working_with_topics(ones.app) as one, world.working_with_topics(others.app) as other:
        await one.joined()
        await other.joined()
        await until(lambda: all(len(world.tries_of(offset, p)) == 2 for p in range(4) for offset in range(2)))
        await until(lambda: sum(world.committed(topic=tier(1)).values()) == len(world.broker.records(tier(1))))
    assert not world.dead_letters()


@pytest.mark.parametrize("wait", ["in place", "refused"])
@simulated
async def test_a_rebalance_while_the_failed_record_of_a_loop_waits_leaves_its_partition_free(wait: str) -> None:
    world = RetryWorld()
    options: dict[str, Any] = {"retry": Retry.in_place(1, "20m")} if wait == "in place" else {"dead_letter": True}
    looping = Looping(world, lambda record, number: Broken() if number == 1 and record.offset == 0 else None, **options)
    for key in "ab":
        world.send(key)
    world.broker.faults.refuse(DLQ)
    async with world.working_with_topics(looping.app) as working:
        await until(lambda: looping.loops)
        await asyncio.sleep(1)
        rebalance(working)
        await world.settled(working, patience=60)
    assert looping.loops == [[0], [0, 1]]


@simulated
async def test_a_loop_that_fails_while_its_partition_is_given_back_leaves_it_free() -> None:
    world = RetryWorld()
    go_on = asyncio.Event()
    app = App("test")
    loops: list[list[int]] = []

    @app.agent(app.topic("in", value=bytes), retry=Retry.in_place(3, "10m"))
    async def work(stream: Stream[Record[str, bytes]]) -> None:
        mine: list[int] = []
        loops.append(mine)
        async for record in stream:
            mine.append(record.offset)
            if len(loops) == 1:
                await go_on.wait()
                raise Broken
            world.handled(record)

    world.send("a")
    async with world.working_with_topics(app) as working:
        await until(lambda: loops and loops[0])
        rebalance(working)
        await asyncio.sleep(0.1)
        go_on.set()
        await world.settled(working, patience=60)
    assert loops == [[0], [0]]
