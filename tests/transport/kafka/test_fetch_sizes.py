"""Records that are larger than a fetch may be, on a genuine Kafka."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from streamkit.record import TopicPartition
from streamkit.settings import Settings
from streamkit.transport.base import NewTopic
from streamkit.transport.kafka import KafkaTransport
from tests.faults.support import create, unique
from tests.kafka.server import ExistingKafka, GenuineKafka
from tests.transport.kafka.test_security import Seeks

PARTITIONS = 3
LARGE = 300_000
SMALL: dict[str, Any] = {"max_partition_fetch_bytes": "64KiB", "fetch_max_bytes": "64KiB"}


@pytest.mark.parametrize("given", [SMALL, {**SMALL, "fetch_max_bytes": "10MiB"}], ids=["whole answer", "partition"])
def test_records_larger_than_a_fetch_are_delivered_from_every_partition(
    genuine: GenuineKafka | ExistingKafka, given: dict[str, Any]
) -> None:
    async def case() -> None:
        topic = unique("large")
        await create(genuine.brokers, NewTopic(topic, PARTITIONS))
        transport = KafkaTransport(Settings.load({"brokers": genuine.brokers}, {}, given))
        await fill(transport, topic)
        consumer = transport.consumer(f"{topic}.group")
        await consumer.start()
        try:
            listener = Seeks(consumer)
            consumer.subscribe([topic], listener)
            sizes: dict[TopicPartition, list[int]] = {}
            async with asyncio.timeout(20):
                while sum(map(len, sizes.values())) < 3 * PARTITIONS:
                    polled = await consumer.poll(listener.assigned_to, max_records=10, timeout=0.2)
                    for partition, records in polled.items():
                        sizes.setdefault(partition, []).extend(len(record.value or b"") for record in records)
        finally:
            await consumer.stop()
        assert sizes == {TopicPartition(topic, number): [LARGE, 10, LARGE] for number in range(PARTITIONS)}

    asyncio.run(case())


async def fill(transport: KafkaTransport, topic: str) -> None:
    """Three records in each partition, each in a batch of its own."""
    producer = transport.producer()
    await producer.start()
    try:
        for number in range(PARTITIONS):
            for size in (LARGE, 10, LARGE):
                batch = producer.batch(2 * LARGE)
                batch.append(key=None, value=b"x" * size, timestamp=round(time.time() * 1000), headers=[])
                await (await producer.send(batch, topic, number))
    finally:
        await producer.stop()
