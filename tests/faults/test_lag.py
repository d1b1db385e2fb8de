"""Lag on a genuine Kafka: transactions, compaction, old records."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaProducer

from streamkit import App
from streamkit.observe.lag import LagTable
from streamkit.record import TopicPartition
from streamkit.runtime.runner import Runner
from streamkit.transport.base import NewTopic
from streamkit.transport.kafka import KafkaTransport
from tests.faults.support import (
    QUICK_GROUP,
    RunningWorker,
    committed_of,
    create,
    produce,
    producer_of,
    read_all,
    running,
    unique,
    until,
)
from tests.kafka.server import ExistingKafka, GenuineKafka
from tests.observe.lag_support import Times, Watch, noted_times, sampling, silenced, tell

Kafka = GenuineKafka | ExistingKafka

INTERVAL = 0.3  # seconds between samples
PATIENCE = 20.0
HOUR = 3_600.0


@pytest.fixture
def times() -> Iterator[Times]:
    with noted_times() as noted:
        yield noted


def quick(topic: str) -> App:
    """Its agent does nothing, in a group that is named as the topic."""
    app = App("test", **QUICK_GROUP)

    @app.agent(app.topic(topic, value=bytes), group=topic)
    async def ignore(value: bytes) -> None:
        pass

    return app


async def runner_of(worker: RunningWorker) -> Runner:
    await until(lambda: worker.worker._runners, PATIENCE, "the worker did not begin")
    (runner,) = worker.worker._runners
    return runner


@asynccontextmanager
async def watched(worker: RunningWorker, times: Times) -> AsyncIterator[Watch]:
    runner = await runner_of(worker)
    tell(runner.slots, runner, times)
    await worker.ready()
    table = LagTable(interval=INTERVAL, commit_interval=worker.settings.commit_interval)
    async with sampling(worker.slots, KafkaTransport(worker.settings), table, INTERVAL) as watch:
        yield watch


async def caught_up(watch: Watch, partition: TopicPartition, end: int) -> None:
    """Everything is settled, committed and sampled."""

    def is_at_end() -> bool:
        ends = watch.values("streamkit_log_end_offset", partition.topic)
        return ends == {0: end} and (watch.records(partition), watch.seconds(partition)) == (0, 0)

    await until(is_at_end, PATIENCE, lambda: watch.scrape())


async def send_old(producer: AIOKafkaProducer, topic: str, *, key: bytes, age: float) -> None:
    written = round((time.time() - age) * 1000)
    await producer.send_and_wait(topic, b"x", key=key, partition=0, timestamp_ms=written)


def test_a_log_that_ends_in_markers_has_no_lag_when_all_is_settled(genuine: Kafka, times: Times) -> None:
    asyncio.run(markers(genuine.brokers, times))


async def markers(brokers: str, times: Times) -> None:
    source = unique("markers")
    partition = TopicPartition(source, 0)
    await create(brokers, NewTopic(source, 1, 1))
    async with running(quick(source), brokers) as worker, watched(worker, times) as watch:
        async with producer_of(brokers, transactional_id=source) as producer:
            end = 0
            for number in range(3):
                await producer.begin_transaction()
                for _ in range(10):
                    await producer.send_and_wait(source, b"x", partition=0)
                # What is written and not committed yet is no lag: nobody may read it.
                assert watch.records(partition) in (0, None)
                await (producer.abort_transaction() if number else producer.commit_transaction())
                end += 11  # with the marker
                await caught_up(watch, partition, end)
        assert (await committed_of(brokers, source, source, 1))[0].offset == end
        assert worker.agent.processed_success == 10
        assert watch.status(partition) == ("ok", "")


def test_an_open_transaction_holds_the_end_where_it_began(genuine: Kafka, times: Times) -> None:
    asyncio.run(open_transaction(genuine.brokers, times))


async def open_transaction(brokers: str, times: Times) -> None:
    source = unique("open")
    partition = TopicPartition(source, 0)
    await create(brokers, NewTopic(source, 1, 1))
    await produce(brokers, source, [(None, b"x")] * 5)
    async with running(quick(source), brokers) as worker, watched(worker, times) as watch:
        async with producer_of(brokers, transactional_id=source) as producer:
            await producer.begin_transaction()
            await producer.send_and_wait(source, b"hidden", partition=0)
            await produce(brokers, source, [(None, b"behind it")] * 5)
            await caught_up(watch, partition, 5)
            for _ in range(3):
                await watch.poller.sample()
            assert (watch.records(partition), watch.seconds(partition)) == (0, 0)
            assert unstable(watch, source) == 6
            await producer.commit_transaction()
        await caught_up(watch, partition, 12)
        assert unstable(watch, source) == 0


def unstable(watch: Watch, topic: str) -> float:
    """Records that an open transaction keeps from everybody."""
    (found,) = [
        value
        for (name, labels), value in watch.scrape().items()
        if name == "streamkit_unstable_records" and ("topic", topic) in labels
    ]
    return found


def test_an_empty_topic_has_no_lag(genuine: Kafka, times: Times) -> None:
    asyncio.run(empty(genuine.brokers, times))


async def empty(brokers: str, times: Times) -> None:
    source = unique("empty")
    partition = TopicPartition(source, 0)
    await create(brokers, NewTopic(source, 1, 1))
    async with running(quick(source), brokers) as worker, watched(worker, times) as watch:
        await caught_up(watch, partition, 0)
        await until(lambda: watch.status(partition) == ("ok", ""), PATIENCE, lambda: watch.scrape())


def test_after_a_restart_with_a_backlog_that_is_not_fetched_its_oldest_record_is_read(
    genuine: Kafka, times: Times
) -> None:
    asyncio.run(backlog(genuine.brokers, times))


async def backlog(brokers: str, times: Times) -> None:
    source = unique("backlog")
    partition = TopicPartition(source, 0)
    await create(brokers, NewTopic(source, 1, 1))
    await produce(brokers, source, [(None, b"x")] * 5)
    async with running(quick(source), brokers, stop_when_idle="200ms") as worker:
        await asyncio.wait_for(asyncio.shield(worker.task), PATIENCE)
    written = time.time() - HOUR
    async with producer_of(brokers) as producer:
        for number in range(100):
            await send_old(producer, source, key=b"k", age=HOUR - 10 * number)
    async with running(quick(source), brokers) as worker:
        with silenced(await runner_of(worker)):
            async with watched(worker, times) as watch:
                await until(lambda: watch.seconds(partition) is not None, PATIENCE, lambda: watch.scrape())
                assert watch.seconds(partition) == pytest.approx(time.time() - written, abs=1)
                assert watch.records(partition) == 100
                await until(
                    lambda: watch.status(partition) == ("stalled", "not_fetching"), PATIENCE, lambda: watch.scrape()
                )
                assert watch.seconds(partition) == pytest.approx(time.time() - written, abs=1)
        async with watched(worker, times) as watch:
            await caught_up(watch, partition, 105)


def test_in_a_compacted_topic_the_next_record_that_is_left_counts(genuine: Kafka, times: Times) -> None:
    asyncio.run(compacted(genuine.brokers, times))


async def compacted(brokers: str, times: Times) -> None:
    source = unique("compacted")
    partition = TopicPartition(source, 0)
    at_once = {
        "cleanup.policy": "compact",
        "segment.ms": "50",
        "min.cleanable.dirty.ratio": "0.001",
        "max.compaction.lag.ms": "50",
    }
    await create(brokers, NewTopic(source, 1, 1, at_once))
    await produce(brokers, source, [(b"first", b"x")])
    async with running(quick(source), brokers, stop_when_idle="200ms") as worker:
        await asyncio.wait_for(asyncio.shield(worker.task), PATIENCE)
    async with producer_of(brokers) as producer:
        for _ in range(20):
            await send_old(producer, source, key=b"again", age=2 * HOUR)
        last = time.time() - HOUR
        await send_old(producer, source, key=b"again", age=HOUR)
        await asyncio.sleep(0.1)  # the segment is as old as it may get
        await send_old(producer, source, key=b"last", age=0)

    async def left() -> list[int]:
        return [record.offset for record in (await read_all(brokers, source, 1))[0]]

    deadline = time.monotonic() + 60  # the cleaner looks every 15 s
    while await left() != [0, 21, 22]:
        assert time.monotonic() < deadline, await left()
        await asyncio.sleep(0.5)
    async with running(quick(source), brokers) as worker:
        with silenced(await runner_of(worker)):
            async with watched(worker, times) as watch:
                await until(lambda: watch.seconds(partition) is not None, PATIENCE, lambda: watch.scrape())
                assert watch.seconds(partition) == pytest.approx(time.time() - last, abs=1)
        async with watched(worker, times) as watch:
            await caught_up(watch, partition, 23)
