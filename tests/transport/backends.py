"""The transports under test, and what has to be done to their logs from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from streamkit.record import TopicPartition
from streamkit.settings import Settings
from streamkit.transport.base import Consumer, Transport
from streamkit.transport.memory import MemoryBroker, MemoryConsumer, MemoryTransport
from tests.transport import virtual_time

# What a case may need. A backend names what it lacks.
NEEDS = frozenset(
    {
        # Members may commit for as long as `revoked` runs. The embedded broker refuses that, and then waits for ever
        # for the member whose membership aiokafka gave up because of it.
        "commit_in_rebalance",
        "rebalance_timeout",  # members that do not join in time are thrown out
        "session_expiry",  # members that are not heard from are thrown out
        "metadata_limit",  # commit metadata over 4,096 characters is refused
        "no_auto_create",  # asking for a topic does not create it
        "size_limit",  # max.message.bytes is kept to, and shown
        "delete_records",
        "markers",  # transactions
        "grow",  # partitions can be added
        "topic_config",  # bad names and settings are refused
    }
)


class Backend(Protocol):
    name: str
    lacks: frozenset[str]

    def run(self, case: Coroutine[Any, Any, None]) -> None: ...
    def transport(self, settings: Settings) -> Transport: ...
    def freeze(self, consumer: Consumer) -> None:
        """Send no more heartbeats for it."""
        ...

    async def end_in_markers(self, partition: TopicPartition) -> None:
        """Append offsets that are never delivered: an aborted record and its marker."""
        ...

    async def delete_records(self, partition: TopicPartition, before: int) -> None: ...
    async def add_partitions(self, topic: str, total: int) -> None: ...


class MemoryBackend:
    """Runs in virtual time."""

    name = "memory"
    lacks: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.broker = MemoryBroker()

    def run(self, case: Coroutine[Any, Any, None]) -> None:
        virtual_time.run(case)

    def transport(self, settings: Settings) -> Transport:
        return MemoryTransport(self.broker, settings)

    def freeze(self, consumer: Consumer) -> None:
        assert isinstance(consumer, MemoryConsumer)
        self.broker.faults.freeze(consumer.member)

    async def end_in_markers(self, partition: TopicPartition) -> None:
        self.broker.append_marker(*partition)
        self.broker.append_marker(*partition)

    async def delete_records(self, partition: TopicPartition, before: int) -> None:
        self.broker.delete_records(partition.topic, before, partition=partition.partition)

    async def add_partitions(self, topic: str, total: int) -> None:
        self.broker.add_partitions(topic, total)


class KafkaBackend:
    """The Kafka transport, on whatever broker speaks the protocol."""

    def __init__(self, name: str, brokers: str, lacks: frozenset[str] = frozenset()) -> None:
        self.name = name
        self.brokers = brokers
        self.lacks = lacks

    def run(self, case: Coroutine[Any, Any, None]) -> None:
        asyncio.run(case)

    def transport(self, settings: Settings) -> Transport:
        from dataclasses import replace

        from streamkit.transport.kafka import KafkaTransport

        return KafkaTransport(replace(settings, brokers=tuple(self.brokers.split(","))))

    def freeze(self, consumer: Consumer) -> None:
        async def hangs() -> bool:
            await asyncio.get_running_loop().create_future()
            return False

        consumer._consumer._coordinator._do_heartbeat = hangs  # type: ignore[attr-defined]

    async def end_in_markers(self, partition: TopicPartition) -> None:
        from aiokafka import AIOKafkaProducer

        producer = AIOKafkaProducer(bootstrap_servers=self.brokers, transactional_id=f"markers-{partition.topic}")
        async with producer:
            await producer.begin_transaction()
            await producer.send_and_wait(partition.topic, b"aborted", partition=partition.partition)
            await producer.abort_transaction()

    async def delete_records(self, partition: TopicPartition, before: int) -> None:
        import aiokafka
        from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

        admin = AIOKafkaAdminClient(bootstrap_servers=self.brokers)
        await admin.start()
        try:
            await admin.delete_records({aiokafka.TopicPartition(*partition): RecordsToDelete(before_offset=before)})
        finally:
            await admin.close()

    async def add_partitions(self, topic: str, total: int) -> None:
        from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

        admin = AIOKafkaAdminClient(bootstrap_servers=self.brokers)
        await admin.start()
        try:
            await admin.create_partitions({topic: NewPartitions(total_count=total)})
        finally:
            await admin.close()
