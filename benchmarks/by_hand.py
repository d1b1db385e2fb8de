"""The references: what one would write on aiokafka without a framework."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from benchmarks.brokers import BATCH_BYTES, count, fresh_name, topic
from benchmarks.compare import Measured
from benchmarks.orders import PARTITIONS, amounts
from streamkit.core.partitioner import Partitioner

POLL_RECORDS = 4_000
COMMIT_EVERY = 1.0  # seconds, as streamkit's default

Fetched = dict[Any, list[Any]]


def consume(brokers: str, source: str, records: int) -> Measured:
    """W1: read, decode, add up."""
    return asyncio.run(_consume(brokers, source, records))


def send_each(brokers: str, source: str, records: int) -> Measured:
    """W2: read, change, `send` each record."""
    return asyncio.run(_consume_and_produce(brokers, source, records, _send_each))


def send_batches(brokers: str, source: str, records: int) -> Measured:
    """W2: read, change, build batches by hand."""
    return asyncio.run(_consume_and_produce(brokers, source, records, _send_batches))


class Clock:
    """Runs from the first records on."""

    def __init__(self) -> None:
        self._begun = self._cpu = 0.0

    def start(self) -> None:
        if not self._begun:
            self._begun, self._cpu = time.perf_counter(), time.process_time()

    def stop(self, records: int) -> Measured:
        return Measured(records, time.perf_counter() - self._begun, time.process_time() - self._cpu)


async def _consume(brokers: str, source: str, records: int) -> Measured:
    consumer = await _consumer(brokers, source)
    clock, total = Clock(), 0.0
    try:
        async for fetched in _fetch(consumer, records, clock, before_commit=None):
            for batch in fetched.values():
                for record in batch:
                    total += orjson.loads(record.value)["amount"]
        measured = clock.stop(records)
        await consumer.commit()
    finally:
        await consumer.stop()
    if total != amounts(records):
        raise RuntimeError(f"the amounts add up to {total}, not {amounts(records)}")
    return measured


async def _consume_and_produce(brokers: str, source: str, records: int, work: Any) -> Measured:
    async with topic(brokers, "out", PARTITIONS) as sink:
        consumer = await _consumer(brokers, source)
        producer: Any = AIOKafkaProducer(
            bootstrap_servers=brokers, enable_idempotence=True, acks="all", linger_ms=5, max_batch_size=BATCH_BYTES
        )
        try:
            await producer.start()
            await producer.partitions_for(sink)
            measured: Measured = await work(consumer, producer, sink, records)
            await consumer.commit()
        finally:
            await producer.stop()
            await consumer.stop()
        written = await count(brokers, sink, PARTITIONS)
    if written != records:
        raise RuntimeError(f"{written} records were written, not {records}")
    return measured


async def _send_each(consumer: Any, producer: Any, sink: str, records: int) -> Measured:
    clock, sent = Clock(), Sent()
    async for fetched in _fetch(consumer, records, clock, before_commit=sent.acknowledged):
        for batch in fetched.values():
            for record in batch:
                sent.futures.append(await producer.send(sink, key=record.key, value=_changed(record)))
    await sent.acknowledged()
    return clock.stop(records)


async def _send_batches(consumer: Any, producer: Any, sink: str, records: int) -> Measured:
    clock, sent, choose = Clock(), Sent(), Partitioner(PARTITIONS).choose
    async for fetched in _fetch(consumer, records, clock, before_commit=sent.acknowledged):
        now = int(time.time() * 1000)
        batches: dict[int, Any] = {}
        for batch in fetched.values():
            for record in batch:
                key, value = record.key, _changed(record)
                number = choose(key)
                builder = batches.get(number)
                if builder is None:
                    builder = batches[number] = producer.create_batch()
                if builder.append(key=key, value=value, timestamp=now) is None:
                    sent.futures.append(await producer.send_batch(builder, sink, partition=number))
                    builder = batches[number] = producer.create_batch()
                    builder.append(key=key, value=value, timestamp=now)
        for number, builder in batches.items():
            sent.futures.append(await producer.send_batch(builder, sink, partition=number))
    await sent.acknowledged()
    return clock.stop(records)


def _changed(record: Any) -> bytes:
    order = orjson.loads(record.value)
    order["total"] = order["amount"] * 1.2
    return orjson.dumps(order)


class Sent:
    """Sends that are not yet acknowledged."""

    def __init__(self) -> None:
        self.futures: list[asyncio.Future[Any]] = []

    async def acknowledged(self) -> None:
        await asyncio.gather(*self.futures)
        self.futures.clear()


async def _consumer(brokers: str, source: str) -> Any:
    consumer: Any = AIOKafkaConsumer(
        source,
        bootstrap_servers=brokers,
        group_id=fresh_name("hand"),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    return consumer


async def _fetch(
    consumer: Any, records: int, clock: Clock, before_commit: Callable[[], Awaitable[None]] | None
) -> AsyncIterator[Fetched]:
    """Poll until so many records have come, and commit every second."""
    committed = time.monotonic()
    while records > 0:
        fetched: Fetched = await consumer.getmany(timeout_ms=1000, max_records=POLL_RECORDS)
        if fetched:
            clock.start()
        yield fetched
        records -= sum(map(len, fetched.values()))
        if time.monotonic() - committed >= COMMIT_EVERY:
            if before_commit is not None:
                await before_commit()
            await consumer.commit()
            committed = time.monotonic()
