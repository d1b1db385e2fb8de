"""Topics that grow, vanish, lose records to retention, or end in transaction markers."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Literal

import pytest
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.admin import NewPartitions, RecordsToDelete

from streamkit import App, Record
from streamkit.errors import LostRange
from streamkit.record import TopicPartition
from streamkit.transport.base import NewTopic
from streamkit.transport.kafka.admin import KafkaAdmin
from tests.faults.support import (
    QUICK_GROUP,
    admin_of,
    committed_of,
    create,
    eventually,
    kafka_admin_of,
    produce,
    producer_of,
    ready,
    running,
    unique,
    until,
)
from tests.kafka.server import ExistingKafka, GenuineKafka

Kafka = GenuineKafka | ExistingKafka
OnGap = Literal["stop", "earliest", "latest"]


@pytest.mark.parametrize("start_from", ["earliest", "latest"])
def test_partitions_that_a_running_topic_gains_are_read_from_their_beginning(
    genuine: Kafka, start_from: Literal["earliest", "latest"]
) -> None:
    asyncio.run(growing(genuine.brokers, start_from))


async def growing(brokers: str, start_from: Literal["earliest", "latest"]) -> None:
    source = unique("growing")
    await create(brokers, NewTopic(source, 3, 1))
    app = App("test", **QUICK_GROUP, metadata_max_age="500ms")
    topic = app.topic(source, value=bytes)
    handled: Counter[int] = Counter()

    @app.agent(topic, group=source, start_from=start_from)
    async def count(record: Record[str, bytes]) -> None:
        handled[record.partition] += 1

    async with running(app, brokers) as worker:
        await worker.ready()
        await produce_to_each(brokers, source, 3, 100)
        await until(lambda: handled == dict.fromkeys(range(3), 100), 20, lambda: handled)
        async with kafka_admin_of(brokers) as kafka, admin_of(brokers) as admin:
            await kafka.create_partitions({source: NewPartitions(6)})
            await ready(admin, [NewTopic(source, 6)])
        await produce_to_each(brokers, source, 6, 100)
        wanted = dict.fromkeys(range(3), 200) | dict.fromkeys(range(3, 6), 100)
        await until(lambda: handled == wanted, 20, lambda: handled)
    committed = await committed_of(brokers, source, source, 6)
    assert {number: offset.offset for number, offset in committed.items()} == wanted


async def produce_to_each(brokers: str, topic: str, partitions: int, records: int) -> None:
    for partition in range(partitions):
        await produce(brokers, topic, [(b"k%d" % n, b"x") for n in range(records)], partition)


@pytest.mark.parametrize("last", ["committed", "aborted"])
def test_a_log_that_ends_in_a_transaction_marker_is_committed_to_its_very_end(
    genuine: Kafka, last: Literal["committed", "aborted"]
) -> None:
    asyncio.run(markers(genuine.brokers, last))


async def markers(brokers: str, last: Literal["committed", "aborted"]) -> None:
    source = unique("markers")
    partition = TopicPartition(source, 0)
    await create(brokers, NewTopic(source, 1, 1))
    app = App("test", **QUICK_GROUP)
    topic = app.topic(source, value=bytes)
    values: list[bytes] = []

    @app.agent(topic, group=source)
    async def note(value: bytes) -> None:
        values.append(value)

    async with running(app, brokers) as worker, producer_of(brokers, transactional_id=source) as producer:
        await worker.ready()
        for outcome in ("aborted", "committed", last):
            await producer.begin_transaction()
            for n in range(10):
                await producer.send(source, b"%s %d" % (outcome.encode(), n), key=b"k")
            await (producer.commit_transaction() if outcome == "committed" else producer.abort_transaction())
        async with admin_of(brokers) as admin:
            end = (await admin.log_ranges([partition]))[partition].end
            assert end == 33
            await eventually(lambda: committed_to(admin, source, partition, end), 20, "there is a lag for ever")
    transactions = 2 if last == "committed" else 1
    assert values == [b"committed %d" % n for n in range(10)] * transactions
    async with running(app, brokers, stop_when_idle="100ms") as worker:
        await asyncio.wait_for(asyncio.shield(worker.task), 20)


async def committed_to(admin: KafkaAdmin, group: str, partition: TopicPartition, offset: int) -> bool:
    found = await admin.committed(group, [partition])
    return partition in found and found[partition].offset == offset


def test_a_subscribed_topic_that_is_deleted_stops_the_worker_and_is_named(genuine: Kafka) -> None:
    asyncio.run(deleted(genuine.brokers))


async def deleted(brokers: str) -> None:
    source = unique("deleted")
    await create(brokers, NewTopic(source, 2, 1))
    await produce_to_each(brokers, source, 2, 10)
    app = App("test", **QUICK_GROUP, metadata_max_age="500ms")
    topic = app.topic(source, value=bytes)

    @app.agent(topic, group=f"{source}.group")
    async def ignore(value: bytes) -> None:
        pass

    async with running(app, brokers) as worker:
        await worker.ready()
        await until(lambda: worker.agent.processed_success == 20, 20, "not everything was handled")
        async with kafka_admin_of(brokers) as kafka, admin_of(brokers) as admin:
            await kafka.delete_topics([source])
            failure = await worker.failure(20)
            assert await admin.topics([source]) == {}, "the topic was created again"
    assert isinstance(failure, LostRange)
    assert failure.topic == source
    assert source in str(failure)
    assert "the topic is gone" in str(failure)
    assert failure.exit_code == 1


@pytest.mark.parametrize(
    ("on_gap", "handled"),
    [("stop", []), ("earliest", [*range(50, 110)]), ("latest", [])],
)
def test_a_committed_offset_that_fell_to_retention_is_never_passed_over_in_silence(
    genuine: Kafka, on_gap: OnGap, handled: list[int]
) -> None:
    asyncio.run(retention(genuine.brokers, on_gap, handled))


async def retention(brokers: str, on_gap: OnGap, expected: list[int]) -> None:
    source = unique("retention")
    await create(brokers, NewTopic(source, 1, 1))
    await produce(brokers, source, [(b"k", b"x")] * 10)
    app = App("test", **QUICK_GROUP)
    topic = app.topic(source, value=bytes)
    handled: list[int] = []

    @app.agent(topic, group=source, on_gap=on_gap)
    async def note(record: Record[str, bytes]) -> None:
        handled.append(record.offset)

    async with running(app, brokers, stop_when_idle="200ms") as worker:
        await asyncio.wait_for(asyncio.shield(worker.task), 20)
    assert handled == [*range(10)]
    handled.clear()
    await produce(brokers, source, [(b"k", b"x")] * 100)
    async with kafka_admin_of(brokers) as kafka:
        await kafka.delete_records({KafkaPartition(source, 0): RecordsToDelete(before_offset=50)})
    if on_gap == "stop":
        async with running(app, brokers) as worker:
            failure = await worker.failure(20)
        assert isinstance(failure, LostRange)
        where = failure.topic, failure.partition, failure.committed, failure.start, failure.end
        assert where == (source, 0, 10, 50, 110)
        assert "offsets 10 to 49 (40) fell to retention unread" in str(failure)
        assert (await committed_of(brokers, source, source, 1))[0].offset == 10
    else:
        async with running(app, brokers) as worker:
            await worker.ready()
            await produce(brokers, source, [(b"k", b"x")])
            await until(lambda: handled == [*expected, 110], 20, lambda: handled)


def test_records_that_fall_to_retention_while_the_worker_is_behind_stop_it(genuine: Kafka) -> None:
    asyncio.run(overtaken(genuine.brokers))


async def overtaken(brokers: str) -> None:
    """The first record hangs with the window full; retention passes what was not fetched yet."""
    source = unique("overtaken")
    await create(brokers, NewTopic(source, 1, 1))
    # Larger than what a fetch holds, so that the rest is still with the broker.
    await produce(brokers, source, ((b"k", b"." * 50_000) for n in range(400)))
    app = App("test", **QUICK_GROUP, max_partition_unsettled=10, window=10)
    topic = app.topic(source, value=bytes)
    let_go = asyncio.Event()
    handled: list[int] = []

    @app.agent(topic, group=source)
    async def hang(record: Record[str, bytes]) -> None:
        await let_go.wait()
        handled.append(record.offset)

    async with running(app, brokers) as worker:
        await worker.ready()
        await until(lambda: worker.agent.consumed[source] == 10, 20, lambda: worker.agent.consumed)
        async with kafka_admin_of(brokers) as kafka:
            await kafka.delete_records({KafkaPartition(source, 0): RecordsToDelete(before_offset=390)})
        let_go.set()
        failure = await worker.failure(20)
    assert isinstance(failure, LostRange)
    assert failure.start == 390
    assert failure.committed == len(handled) < 390
    assert handled == [*range(failure.committed)]
    assert (await committed_of(brokers, source, source, 1))[0].offset == failure.committed


def test_an_idle_group_commits_nothing(genuine: Kafka) -> None:
    asyncio.run(idle(genuine.brokers))


async def idle(brokers: str) -> None:
    source = unique("idle")
    await create(brokers, NewTopic(source, 1, 1))
    await produce(brokers, source, [(b"k", b"x")] * 10)
    app = App("test", **QUICK_GROUP)
    topic = app.topic(source, value=bytes)

    @app.agent(topic, group=source)
    async def ignore(value: bytes) -> None:
        pass

    async with running(app, brokers) as worker, admin_of(brokers) as admin:
        partition = TopicPartition(source, 0)

        await worker.ready()
        await eventually(lambda: committed_to(admin, source, partition, 10), 20, "not everything was committed")
        await until(lambda: worker.agent.commits_succeeded, 5, "the commit was not acknowledged")
        commits = worker.agent.commits_succeeded
        await asyncio.sleep(10 * worker.settings.commit_interval)
        assert worker.agent.commits_succeeded == commits
        assert worker.agent.commits_failed == 0
