"""Both brokers of the tests do what every other test takes for granted, with plain aiokafka."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from streamkit.cli.embedded import EmbeddedBroker
from tests.kafka.server import ExistingKafka, GenuineKafka, fetch_jars

VALUES = [b"one", b"two", b"three"]


def test_the_embedded_broker_stores_what_was_produced(embedded: EmbeddedBroker) -> None:
    assert asyncio.run(round_trip(embedded.brokers)) == VALUES


def test_the_genuine_kafka_stores_what_was_produced(genuine: GenuineKafka | ExistingKafka) -> None:
    assert asyncio.run(round_trip(genuine.brokers)) == VALUES


def test_the_genuine_kafka_keeps_its_records_over_sigkill(own_genuine: GenuineKafka) -> None:
    topic = asyncio.run(produce(own_genuine.brokers))
    own_genuine.kill()
    own_genuine.start()
    assert asyncio.run(consume(own_genuine.brokers, topic)) == VALUES


def test_the_genuine_kafka_answers_nothing_while_paused_and_goes_on_afterwards(own_genuine: GenuineKafka) -> None:
    topic = asyncio.run(produce(own_genuine.brokers))
    own_genuine.pause()
    with pytest.raises(KafkaError):
        asyncio.run(describe(own_genuine.brokers))
    own_genuine.resume()
    assert asyncio.run(consume(own_genuine.brokers, topic)) == VALUES


def test_the_jars_are_fetched_once(own_genuine: GenuineKafka) -> None:
    jars = fetch_jars()
    assert next(jars.glob("kafka-clients-*.jar"), None)
    assert fetch_jars() == jars


async def round_trip(brokers: str) -> list[bytes | None]:
    return await consume(brokers, await produce(brokers))


async def produce(brokers: str) -> str:
    topic = f"test.server.{uuid.uuid4().hex}"
    async with admin_client(brokers) as admin:
        await admin.create_topics([NewTopic(topic, 1, 1)])
    async with AIOKafkaProducer(bootstrap_servers=brokers, enable_idempotence=True) as producer:
        for value in VALUES:
            await producer.send_and_wait(topic, value, partition=0)
    return topic


async def consume(brokers: str, topic: str) -> list[bytes | None]:
    async with AIOKafkaConsumer(bootstrap_servers=brokers, enable_auto_commit=False) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        await consumer.seek_to_beginning()
        return [(await consumer.getone()).value for _ in VALUES]


async def describe(brokers: str) -> None:
    async with admin_client(brokers, request_timeout_ms=500) as admin:
        await admin.describe_cluster()


@asynccontextmanager
async def admin_client(brokers: str, request_timeout_ms: int = 10_000) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers, request_timeout_ms=request_timeout_ms)
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()
