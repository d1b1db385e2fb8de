"""The broker of a benchmark, and the records it holds."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from streamkit.cli.embedded import EmbeddedBroker
from streamkit.core.partitioner import Partitioner
from streamkit.record import HeaderList
from tests.kafka.server import GenuineKafka, KafkaUnavailable

BATCH_BYTES = 512 * 1024


@contextlib.contextmanager
def brokers(given: str | None) -> Iterator[str]:
    """The brokers that were given, else a genuine Kafka for the length of the block, else the embedded broker."""
    if given is not None:
        yield given
        return
    with contextlib.ExitStack() as stack:
        try:
            broker: GenuineKafka | EmbeddedBroker = stack.enter_context(GenuineKafka())
        except KafkaUnavailable as reason:
            print(f"{reason}: measured on the embedded broker, which the figures in the README are not")
            broker = stack.enter_context(EmbeddedBroker())
        yield broker.brokers


def fresh_name(kind: str) -> str:
    return f"bench.{kind}.{uuid.uuid4().hex[:8]}"


@contextlib.asynccontextmanager
async def topic(brokers: str, kind: str, partitions: int, suffix: str = "") -> AsyncIterator[str]:
    """A topic for the length of the block."""
    name = fresh_name(kind) + suffix
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    try:
        response = await admin.create_topics([NewTopic(name, partitions, 1)])
        (_, code, *_), *_ = response.topic_errors
        if code:
            raise RuntimeError(f"the broker does not create {name}: error {code}")
        yield name
        await admin.delete_topics([name])
    finally:
        await admin.close()


async def fill(brokers: str, topic: str, partitions: int, records: Iterable[tuple[bytes, bytes]]) -> None:
    """Send key and value of each, in order; fast, because built into batches."""
    await fill_whole(brokers, topic, partitions, ((key, value, None, []) for key, value in records))


async def fill_whole(
    brokers: str, topic: str, partitions: int, records: Iterable[tuple[bytes, bytes, int | None, HeaderList]]
) -> None:
    """The same for records with a timestamp (ms since 1970; None: now) and headers."""
    producer: Any = AIOKafkaProducer(bootstrap_servers=brokers, max_batch_size=BATCH_BYTES)
    await producer.start()
    try:
        await producer.partitions_for(topic)
        choose = Partitioner(partitions).choose
        batches: dict[int, Any] = {}
        sent: list[asyncio.Future[Any]] = []
        for key, value, timestamp, headers in records:
            number = choose(key)
            batch = batches.get(number)
            if batch is None:
                batch = batches[number] = producer.create_batch()
            if batch.append(key=key, value=value, timestamp=timestamp, headers=headers) is None:
                sent.append(await producer.send_batch(batch, topic, partition=number))
                batch = batches[number] = producer.create_batch()
                batch.append(key=key, value=value, timestamp=timestamp, headers=headers)
        sent += [await producer.send_batch(batch, topic, partition=number) for number, batch in batches.items()]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


async def count(brokers: str, topic: str, partitions: int) -> int:
    """How many records the topic has taken."""
    reader: Any = AIOKafkaConsumer(bootstrap_servers=brokers, enable_auto_commit=False)
    await reader.start()
    try:
        ends = await reader.end_offsets([TopicPartition(topic, number) for number in range(partitions)])
        return sum(ends.values())
    finally:
        await reader.stop()
