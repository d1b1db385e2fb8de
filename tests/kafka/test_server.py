"""Both brokers of the tests do what every other test takes for granted, with plain aiokafka."""

import asyncio
import os
import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from streamkit.cli.embedded import EmbeddedBroker
from tests.kafka.server import ExistingKafka, GenuineKafka, KafkaUnavailable, fetch_jars

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


def test_a_missing_java_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(KafkaUnavailable, match=r"Java 17 needed, java is missing \(Debian: default-jdk-headless\)"):
        fetch_jars()


def test_a_java_that_is_too_old_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_program(tmp_path / "java", "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(KafkaUnavailable, match="Java 17 needed, java 11 found"):
        fetch_jars()


def test_what_maven_could_not_fetch_is_said_in_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_program(tmp_path / "java", "echo 'openjdk version \"17.0.1\"' >&2")
    put_program(tmp_path / "mvn", "echo '[ERROR] cannot resolve kafka_2.13'; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(KafkaUnavailable, match=r"Maven could not fetch the jars: \[ERROR\] cannot resolve"):
        fetch_jars()
    assert not list(tmp_path.glob("streamkit-test/*")), "nothing half fetched stays in the cache"


def put_program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


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
