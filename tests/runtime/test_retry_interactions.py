"""What retries meet on the way: logs that begin anew, outputs that are refused late, breakers that open meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from streamkit import App, Batch, BatchError, Record, Reject, Retry, RetryLater, Skip
from streamkit.errors import RecordFailed
from streamkit.record import TopicPartition
from streamkit.transport.base import TopicRefused
from streamkit.transport.memory.log import Log
from tests.runtime.retry_support import DLQ, RetryWorld, flaky, header, tier
from tests.runtime.support import simulated, until

IN = TopicPartition("in", 0)


class Broken(Exception):
    pass


def cut_short(world: RetryWorld, topic: str, partition: int = 0) -> None:
    """The log is made anew, and so is what was committed of it."""
    place = TopicPartition(topic, partition)
    world.broker.topics[topic].partitions[partition] = Log(place)
    world.broker._committable.pop(place, None)
    world.is_settled = lambda partition, offset: True  # its offsets name other records now


# A log that begins anew while records of other partitions wait in its lanes, and its own in theirs


@simulated
async def test_a_record_of_a_tier_that_waits_in_a_lane_of_its_source_outlives_the_sources_log() -> None:
    world = RetryWorld()
    go_on = asyncio.Event()
    app = App("test")

    @app.agent(app.topic("in", value=bytes), name="work", retry=Retry.delays("5s", jitter=0), on_gap="earliest")
    async def work(record: Record[str, bytes]) -> None:
        number = world.note(record)
        if record.value == b"long":
            await go_on.wait()
        elif record.value == b"fails" and number == 1:
            raise Broken
        world.handled(record)

    world.send("a", b"fails")
    async with world.working_with_topics(app) as working:
        await until(lambda: world.committed() == {0: 1})
        world.send("a", b"long")
        await asyncio.sleep(10)  # that of the tier is due, and waits behind it
        assert [each.attempt for each in world.tries] == [1, 1]
        cut_short(world, "in")
        await until(lambda: working.consumer.position(IN) == 0)
        go_on.set()
        await until(lambda: world.committed(topic=tier(1)) == {0: 1}, patience=60)
        world.faults.clear()
    assert [each.attempt for each in world.tries_of(0)] == [1, 2]


@pytest.mark.parametrize("state", ["in place", "copy refused"])
@simulated
async def test_a_tier_whose_log_begins_anew_while_its_record_waits_leaves_the_key_free(state: str) -> None:
    world = RetryWorld()
    in_place = 1 if state == "in place" else 0
    retry = Retry.delays("5s", jitter=0, in_place=in_place, in_place_wait="20s")
    app = flaky(
        world,
        lambda record, number: Broken() if record.value == b"fails" else None,
        retry=retry,
        on_gap="earliest",
    )
    world.send("a", b"fails")
    place = TopicPartition(tier(1), 0)
    if state == "copy refused":
        world.broker.faults.refuse(DLQ, TopicRefused("no"))
    async with world.working_with_topics(app) as working:
        await until(lambda: len(world.tries) == 2 + in_place)
        if state == "copy refused":
            await until(working.agent.blocked)
        await asyncio.sleep(1)
        world.send("a")
        await asyncio.sleep(1)
        cut_short(world, tier(1))
        await until(lambda: working.consumer.position(place) == 0)
        world.broker.faults.accept(DLQ)
        await until(lambda: world.committed() == {0: 2}, patience=60)
        world.faults.clear()
    assert len(world.tries_of(1)) == 1


@simulated
async def test_a_log_that_is_found_cut_short_while_its_partition_is_given_back_begins_anew_no_sooner() -> None:
    world = RetryWorld()
    go_on = asyncio.Event()
    app = App("test")

    @app.agent(app.topic("in", value=bytes), name="work", on_gap="earliest")
    async def work(record: Record[str, bytes]) -> None:
        await go_on.wait()
        world.handled(record)

    world.send("a")
    async with world.working_with_topics(app) as working:
        await until(lambda: working.slots.agents and working.agent.in_flight())
        membership = working.runner.membership
        (before,) = membership.partitions.values()
        working.worker.stop()
        await until(lambda: before.halted)
        await membership.gap(IN, 5)  # of a poll that was under way
        assert list(membership.partitions.values()) == [before]
        assert not before.window.closed
        go_on.set()
        await working.task
    assert not membership.partitions
    assert world.committed() == {0: 1}


# Outputs that are refused late


class Sending:
    """An agent whose handler sends two outputs for each record."""

    def __init__(self, world: RetryWorld) -> None:
        world.broker.create_topic("out", 1)
        self.app = App("test")
        topic, out = self.app.topic("in", value=bytes), self.app.topic("out", value=bytes)

        @self.app.agent(topic, sink=out, name="work", retry=Retry.delays("10m", jitter=0))
        async def work(record: Record[str, bytes]) -> AsyncIterator[bytes]:
            world.note(record)
            yield b"%d.1" % record.offset
            yield b"%d.2" % record.offset


@simulated
async def test_a_second_refused_output_of_a_record_that_the_breaker_holds_does_not_settle_it() -> None:
    world = RetryWorld(breaker_failures=3, breaker_keys=3)
    world.is_settled = lambda partition, offset: True
    sending = Sending(world)
    for key in "abcdefgh":
        world.send(key)
    world.broker.faults.refuse("out", TopicRefused("no"))
    async with world.working_with_topics(sending.app) as working:
        await until(lambda: working.slots.agents and working.agent.breaker_open)
        await asyncio.sleep(0.5)
        moved = {header(copy, "sk-origin-offset") for copy in world.broker.records(tier(1))}
        await working.stopped()
    kept = min(offset for offset in range(8) if str(offset) not in moved)
    assert world.committed()[0] <= kept
    world.broker.faults.accept("out")
    async with world.working_with_topics(sending.app) as working:
        await world.settled(working)
    sent = {record.value for record in world.broker.records("out")}
    assert sent == {b"%d.%d" % (offset, number) for offset in range(8) for number in (1, 2)}


# Breakers


@pytest.mark.parametrize("order_by", ["key", "partition", "none"])
@simulated
async def test_a_breaker_opens_in_every_order_when_everything_fails(order_by: str) -> None:
    world = RetryWorld(partitions=2, breaker_failures=20, breaker_keys=5)
    app = flaky(world, lambda record, number: Broken(), retry=Retry.delays("10m", jitter=0), order_by=order_by)
    for number in range(300):
        world.send(f"k{number % 30}", partition=number % 2)
    async with world.working_with_topics(app) as working:
        await working.joined()
        await asyncio.sleep(20)
        assert working.agent.breaker_open
    assert len(world.broker.records(tier(1))) <= 20


@simulated
async def test_a_breaker_opens_although_there_are_few_keys_when_everything_fails() -> None:
    world = RetryWorld(breaker_failures=20, breaker_keys=5)
    app = flaky(world, lambda record, number: Broken(), retry=Retry.delays("10m", jitter=0))
    for number in range(300):
        world.send(f"k{number % 3}")
    async with world.working_with_topics(app) as working:
        await working.joined()
        await asyncio.sleep(20)
        assert working.agent.breaker_open
    assert len(world.broker.records(tier(1))) <= 20


@simulated
async def test_a_record_that_is_held_when_a_probe_is_due_and_nothing_else_is_there_is_tried_again() -> None:
    world = RetryWorld(breaker_failures=3, breaker_keys=3)
    app = App("test")

    @app.agent(app.topic("in", value=bytes), name="work", concurrency=10, dead_letter=True)
    async def work(record: Record[str, bytes]) -> None:
        number = world.note(record)
        if record.value == b"long":
            await asyncio.sleep(10)
            if number == 1:
                raise RetryLater("1s")
            world.handled(record)
        else:
            await asyncio.sleep(0.01)
            raise Broken if number == 1 else Reject("it is this one")

    world.send("long", b"long")
    for key in "abc":
        world.send(key)
    async with world.working_with_topics(app):
        await until(lambda: len(world.tries) == 5)  # the breaker is open, and one that it held has gone
        await until(lambda: world.committed() == {0: 4}, patience=100)
    assert len(world.tries_of(0)) == 2


@simulated
async def test_a_held_record_that_has_to_wait_behind_another_held_one_leaves_the_probe_to_that() -> None:
    world = RetryWorld(breaker_failures=3, breaker_keys=3)
    world.is_settled = lambda partition, offset: True
    world.broker.create_topic("out", 1)
    app = App("test")
    sick = False

    @app.agent(
        app.topic("in", value=bytes),
        sink=app.topic("out", value=bytes),
        name="work",
        retry=Retry.delays("10m", jitter=0),
    )
    async def work(record: Record[str, bytes]) -> bytes:
        world.note(record)
        if sick:
            raise Broken
        return record.value

    world.broker.faults.refuse("out", TopicRefused("no"))
    for key in "abc":
        world.send(key)
    async with world.working_with_topics(app) as working:
        await until(lambda: working.slots.agents and working.agent.held() == 1)  # its lane has gone on
        sick = True
        world.send("c")
        await until(lambda: working.agent.held() == 2)
        await asyncio.sleep(5)
        sick = False
        world.broker.faults.accept("out")
        await until(lambda: world.committed() == {0: 4}, patience=100)


# Memory


@pytest.mark.parametrize("where", ["in place", "tiers"])
@simulated
async def test_one_record_that_is_blocked_does_not_keep_all_later_ones_in_memory(where: str) -> None:
    world = RetryWorld(partitions=2, breaker_failures=0)
    world.is_settled = lambda partition, offset: True  # it takes long for so many
    retry = Retry.in_place(1, "1s") if where == "in place" else Retry.delays("1s", jitter=0)
    app = App("test")

    @app.agent(app.topic("in", value=bytes), name="work", retry=retry, dead_letter=True, concurrency=50)
    async def work(record: Record[str, bytes]) -> None:
        if record.attempt == 1 or record.value == b"never":
            raise Broken

    async with world.working_with_topics(app) as working:
        await working.joined()
        world.broker.faults.refuse(DLQ, TopicRefused("no"))
        world.send("never", b"never")
        await until(working.agent.blocked)
        for turn in range(1, 9):
            for number in range(1000):
                world.send(f"k{number}", partition=1)
            await until(lambda: world.committed().get(1) == 1000 * turn)  # noqa: B023
            await asyncio.sleep(3)
        runner = working.runner
        parking = runner._failures._parked if where == "in place" else runner._intake.returning
        assert sum(map(len, parking._gone.values())) < 4000
        world.broker.faults.accept(DLQ)
        await until(lambda: not working.agent.blocked())


# Errors that cannot be shown


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("way", ["tier", "dead letter", "breaker", "stop"])
@simulated
async def test_an_error_whose_str_raises_is_dealt_with_like_any_other(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    world = RetryWorld(breaker_failures=1 if way == "breaker" else 0, breaker_keys=1)
    options: dict[str, dict[str, Any]] = {
        "tier": {"retry": Retry.delays("1s")},
        "dead letter": {"dead_letter": True},
        "breaker": {"dead_letter": True},
        "stop": {},
    }
    app = flaky(world, lambda record, number: Unspeakable() if number == 1 else None, **options[way])
    world.send("a")
    if way == "stop":
        error = await world.failing(app)
        assert isinstance(error, RecordFailed)
        assert "Unspeakable" in str(error)
        return
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    assert "Unspeakable" in caplog.text
    assert working.agent.processed_success + working.agent.processed_dead_lettered == 1


# Batches


@simulated
async def test_a_record_of_a_batch_that_is_skipped_is_not_settled_before_what_the_batch_has_sent() -> None:
    world = RetryWorld()
    world.broker.create_topic("out", 1)
    world.passed_over.add((IN, 0))
    app = App("test")
    topic, out = app.topic("in", value=bytes), app.topic("out", value=bytes)

    @app.agent(topic, batch=Batch(2, within="10ms"), retry=Retry.delays("1s"), name="work")
    async def work(batch: Sequence[Record[str, bytes]]) -> None:
        for record in batch:
            await out.send(record.value, key="k")
        world.handled(batch[1])
        raise BatchError({0: Skip()})

    for key in "ab":
        world.send(key)
    world.broker.faults.acknowledgements.close()
    async with world.working_with_topics(app) as working:
        await until(lambda: len(world.broker.records("out")) == 2)
        await asyncio.sleep(3)
        committed = world.committed()
        world.broker.faults.acknowledgements.open()
        await world.settled(working)
    assert committed == {0: 0}


@simulated
async def test_a_task_that_outlives_a_batch_all_of_which_has_failed_cannot_send_for_it() -> None:
    world = RetryWorld()
    world.broker.create_topic("out", 1)
    app = App("test")
    topic, out = app.topic("in", value=bytes), app.topic("out", value=bytes)
    go_on, told = asyncio.Event(), list[str]()

    async def outlives() -> None:
        await go_on.wait()
        try:
            await out.send(b"late", key="k")
        except RuntimeError as error:
            told.append(str(error))

    tasks: list[asyncio.Task[None]] = []

    @app.agent(topic, batch=Batch(2, within="10ms"), dead_letter=True, name="work")
    async def work(batch: Sequence[Record[str, bytes]]) -> None:
        tasks.append(asyncio.create_task(outlives()))
        raise Broken

    world.send("a")
    async with world.working_with_topics(app) as working:
        await world.settled(working)
        go_on.set()
        await asyncio.wait(tasks)
    assert told


# Tiers that are declared no more


@simulated
async def test_an_undeclared_tier_that_is_empty_can_be_deleted_once_the_worker_was_started_anew(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = RetryWorld()
    world.create_copies(tier(2))
    world.broker.append(tier(2), b"{}", key=b"a")
    world.is_settled = lambda partition, offset: True
    app = flaky(world, lambda record, number: None, retry=Retry.delays("1s", jitter=0))
    async with world.working_with_topics(app):
        await until(lambda: world.committed(topic=tier(2)) == {0: 1})
    assert "Once it is empty and its workers were started anew, it can be deleted." in caplog.text
    async with world.working_with_topics(app) as working:
        await working.joined()
        world.broker.delete_topic(tier(2))
        world.send("a")
        await asyncio.sleep(60)
        await until(lambda: world.committed() == {0: 1})
