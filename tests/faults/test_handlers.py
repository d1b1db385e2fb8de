"""Handlers that are slow, hang, ignore their cancellation, or leave something behind."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import Counter
from functools import partial

import pytest

from streamkit import App, Record
from streamkit.errors import RecordFailed
from streamkit.transport.base import NewTopic
from streamkit.transport.kafka import consumer as kafka_consumer
from tests.faults.support import QUICK_GROUP, committed_of, create, produce, read_all, running, unique, until
from tests.kafka.server import ExistingKafka, GenuineKafka

Kafka = GenuineKafka | ExistingKafka

SESSION = 2.0
ENDS_AT_ONCE = 10.0  # the drain, the last commit, leaving


def test_a_handler_longer_than_session_and_poll_interval_is_not_evicted_and_stops_no_other_key(
    genuine: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_consumer, "NEVER_MS", round(SESSION * 1000))
    asyncio.run(slow_handler(genuine.brokers))


async def slow_handler(brokers: str) -> None:
    source = unique("slow")
    await create(brokers, NewTopic(source, 1, 1))
    await produce(brokers, source, [(b"slow", b"first"), *((b"k%d" % (n % 10), b"") for n in range(1000))])
    app = App("test", **QUICK_GROUP)
    topic = app.topic(source, value=bytes)
    runs: Counter[str | None] = Counter()
    began: list[float] = []
    done: list[float] = []
    others: list[float] = []

    @app.agent(topic, group=source, concurrency=4)
    async def work(record: Record[str, bytes]) -> None:
        runs[record.key] += 1
        if record.key == "slow":
            began.append(time.monotonic())
            await asyncio.sleep(3 * SESSION)
            done.append(time.monotonic())
        else:
            others.append(time.monotonic())

    async with running(app, brokers) as worker:
        await until(lambda: len(others) == 1000, 20, "other keys wait for the slow one")
        assert began and not done
        while not done:  # other keys go on all the time
            sent = len(others) + 1
            await produce(brokers, source, [(b"k1", b"")])
            await until(partial(reached, others, sent), 2, "a record of another key was not handled")
        assert worker.agent.rebalances == 1
        assert worker.agent.rebalances_lost == 0
    assert done[0] - began[0] > 2 * SESSION
    assert runs["slow"] == 1
    committed = await committed_of(brokers, source, source, 1)
    assert committed[0].offset == 1 + len(others)


def test_a_handler_that_never_ends_is_held_within_bounds_while_other_partitions_go_on(genuine: Kafka) -> None:
    asyncio.run(endless_handler(genuine.brokers, ignores_cancellation=False))


def test_a_handler_that_ignores_its_cancellation_does_not_hold_up_the_stop(genuine: Kafka) -> None:
    asyncio.run(endless_handler(genuine.brokers, ignores_cancellation=True))


async def endless_handler(brokers: str, *, ignores_cancellation: bool) -> None:
    source = unique("endless")
    unsettled, window, others = 300, 800, 5_000
    await create(brokers, NewTopic(source, 2, 1))
    await produce(brokers, source, [(b"hung", b""), *fill(100)], partition=0)
    await produce(brokers, source, fill(others), partition=1)
    app = App("test", **QUICK_GROUP, max_partition_unsettled=unsettled, window=window)
    topic = app.topic(source, value=bytes)
    handled: Counter[int] = Counter()
    let_go = asyncio.Event()

    @app.agent(topic, group=source, concurrency=4)
    async def work(record: Record[str, bytes]) -> None:
        while record.key == "hung" and not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                if not ignores_cancellation:
                    raise
        handled[record.partition] += 1

    try:
        async with running(app, brokers) as worker:
            await until(lambda: handled[1] == others, 20, lambda: f"the other partition stands at {handled[1]}")
            # The other partition is idle now, and has more room than the hung one will ever have.
            await produce(brokers, source, fill(5_000), partition=0)
            await until(lambda: handled[0] == window - 1, 20, lambda: f"{handled[0]} handled beside the hung record")
            await produce(brokers, source, [(b"late", b"")], partition=1)
            await until(lambda: handled[1] == others + 1, 5, "the other partition no longer goes on")
            assert worker.agent.consumed[source] <= window + others + 1
            assert handled[0] == window - 1
            seconds = await worker.stop()
            assert seconds < worker.settings.drain_timeout + ENDS_AT_ONCE
            assert worker.worker.abandoned == ignores_cancellation
    finally:
        let_go.set()
    committed = await committed_of(brokers, source, source, 2)
    assert committed[0].offset == 0
    assert committed[1].offset == others + 1


def reached(records: list[float], count: int) -> bool:
    return len(records) >= count


def fill(records: int) -> list[tuple[bytes, bytes]]:
    return [(b"k%d" % (n % 50), b"") for n in range(records)]


@pytest.mark.parametrize("error", [TimeoutError, asyncio.CancelledError])
def test_a_handlers_own_timeout_or_cancellation_is_a_failure(genuine: Kafka, error: type[BaseException]) -> None:
    failure = asyncio.run(failing_handler(genuine.brokers, error, waits=False))
    assert isinstance(failure.cause, error)
    failure = asyncio.run(failing_handler(genuine.brokers, error, waits=True))
    assert isinstance(failure.cause, error)


async def failing_handler(brokers: str, error: type[BaseException], *, waits: bool) -> RecordFailed:
    source = unique("failing")
    await create(brokers, NewTopic(source, 1, 1))
    await produce(brokers, source, [(b"k", b"%d" % n) for n in range(5)])
    app = App("test", **QUICK_GROUP)
    topic = app.topic(source, value=bytes)

    @app.agent(topic, group=source)
    async def work(value: bytes) -> None:
        if value == b"3":
            if waits:
                await asyncio.sleep(0.01)
            raise error

    async with running(app, brokers) as worker:
        failure = await worker.failure(20)
    assert isinstance(failure, RecordFailed)
    assert (failure.stage, failure.partition, failure.offset, failure.key) == ("handle", 0, 3, b"k")
    assert (await committed_of(brokers, source, source, 1))[0].offset == 3
    return failure


def test_what_one_record_sets_in_its_context_is_not_seen_by_the_next(genuine: Kafka) -> None:
    asyncio.run(contexts(genuine.brokers))


async def contexts(brokers: str) -> None:
    source = unique("contexts")
    await create(brokers, NewTopic(source, 1, 1))
    await produce(brokers, source, [(b"k%d" % (n % 3), b"%d" % n) for n in range(200)])
    app = App("test", **QUICK_GROUP)
    topic = app.topic(source, value=bytes)
    variable: contextvars.ContextVar[bytes | None] = contextvars.ContextVar("variable", default=None)
    before: list[bytes | None] = []
    after: list[tuple[bytes, bytes | None]] = []

    @app.agent(topic, group=source, concurrency=3)
    async def work(value: bytes) -> None:
        before.append(variable.get())
        variable.set(value)
        if int(value) % 2:
            await asyncio.sleep(0)
        after.append((value, variable.get()))

    async with running(app, brokers):
        await until(lambda: len(after) == 200, 20, lambda: f"{len(after)} of 200 handled")
    assert set(before) == {None}
    assert all(mine == seen for mine, seen in after)


def test_a_task_that_outlives_its_handler_cannot_send_for_it(genuine: Kafka) -> None:
    asyncio.run(outliving_task(genuine.brokers))


async def outliving_task(brokers: str) -> None:
    source, target = unique("outliving"), unique("outliving.out")
    await create(brokers, NewTopic(source, 1, 1), NewTopic(target, 1, 1))
    await produce(brokers, source, [(b"k", b"1")])
    app = App("test", **QUICK_GROUP)
    topic, out = app.topic(source, value=bytes), app.topic(target, value=bytes)
    tasks: list[asyncio.Task[None]] = []
    handler_ended = asyncio.Event()

    @app.agent(topic, group=source)
    async def work(value: bytes) -> None:
        async def later() -> None:
            await out.send(b"in time")
            await handler_ended.wait()
            await out.send(b"too late")

        tasks.append(asyncio.ensure_future(later()))
        await asyncio.sleep(0)

    async with running(app, brokers) as worker:
        await until(lambda: worker.slots.agents and worker.agent.processed_success == 1, 20, "nothing was handled")
        handler_ended.set()
        with pytest.raises(RuntimeError, match="a task that outlives it cannot send for it"):
            await asyncio.wait_for(tasks[0], 5)
    sent = await read_all(brokers, target, 1)
    assert [record.value for record in sent[0]] == [b"in time"]
