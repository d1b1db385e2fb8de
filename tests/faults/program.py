"""The worker process of the chaos tests: one agent that writes down what it does and passes each record on.

`python -m tests.faults.program BROKERS SOURCE DIRECTORY SEED CONCURRENCY SHAPE`; SIGTERM ends it in order. The sink
is `SOURCE.out`, the group `SOURCE.group`; SHAPE is record, batch or loop.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Collection, Mapping
from pathlib import Path
from typing import Any

from streamkit import App, Batch, Output, Record, Stream
from streamkit.errors import TransportError
from streamkit.observe.slots import WorkerSlots
from streamkit.record import TopicPartition
from streamkit.runtime.worker import Worker
from streamkit.settings import Settings
from streamkit.transport.base import CommitRejected, CommittedOffset, Consumer, RebalanceListener
from streamkit.transport.kafka import KafkaTransport
from streamkit.transport.kafka.consumer import KafkaConsumer
from tests.faults.ledger import Committed, LedgerFile, Offsets

SETTINGS: dict[str, Any] = {
    "session_timeout": "6s",
    "heartbeat_interval": "1s",
    "request_timeout": "4s",
    "drain_timeout": "5s",
    "commit_interval": "300ms",
}

# What a record's value asks of the handler; another value asks for a time by chance.
HANG, AT_ONCE = b"hang", b"at once"


Ledgers = Mapping[str, LedgerFile]
"""By the topic whose records each of them is about."""


class WatchedTransport(KafkaTransport):
    """Kafka, with the group's side of the work written down as well."""

    def __init__(self, settings: Settings, ledgers: Ledgers) -> None:
        super().__init__(settings)
        self._known = settings
        self._ledgers = ledgers

    def consumer(self, group: str) -> Consumer:
        return WatchedConsumer(self._known, group, self._ledgers)


class WatchedConsumer(KafkaConsumer):
    def __init__(self, settings: Settings, group: str, ledgers: Ledgers) -> None:
        super().__init__(settings, group)
        self._ledgers = ledgers
        self.found: Mapping[TopicPartition, CommittedOffset] = {}
        self.found_from = 0.0

    def subscribe(self, topics: Collection[str], listener: RebalanceListener) -> None:
        super().subscribe(topics, WatchedListener(self, listener, self._ledgers))

    async def committed(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, CommittedOffset]:
        asked = time.monotonic()
        found = await super().committed(partitions)
        self.found, self.found_from = found, asked
        return found

    async def commit(self, offsets: Mapping[TopicPartition, CommittedOffset], generation: int) -> None:
        parts = {topic: _by_number(offsets, topic) for topic in self._ledgers}
        sent = {topic: self._ledgers[topic].commit_sent(generation, part) for topic, part in parts.items() if part}
        accepted: bool | None = None
        try:
            await super().commit(offsets, generation)
            accepted = True
        except CommitRejected:
            accepted = False
            raise
        except TransportError:
            raise  # it may have been stored all the same
        finally:
            for topic, number in sent.items():
                self._ledgers[topic].commit_answered(number, accepted)


class WatchedListener:
    def __init__(self, consumer: WatchedConsumer, listener: RebalanceListener, ledgers: Ledgers) -> None:
        self._consumer = consumer
        self._listener = listener
        self._ledgers = ledgers

    async def revoked(self, partitions: Collection[TopicPartition], *, lost: bool) -> None:
        await self._listener.revoked(partitions, lost=lost)
        for ledger in self._ledgers.values():
            ledger.revoked(lost)

    async def assigned(self, partitions: Collection[TopicPartition]) -> None:
        consumer = self._consumer
        generation = consumer.generation
        await self._listener.assigned(partitions)
        # The engine takes nothing in before this step of the loop is over.
        for topic, ledger in self._ledgers.items():
            numbers = [partition.partition for partition in partitions if partition.topic == topic]
            ledger.assigned(generation, numbers, _by_number(consumer.found, topic), consumer.found_from)


def patience(seed: int, partition: int, offset: int) -> float:
    """Seconds that the handler of a record takes; 0 means that it does not wait at all. The mean is 5 ms."""
    chance = random.Random(f"{seed}/{partition}/{offset}")
    kind = chance.random()
    if kind < 0.3:
        return 0.0
    if kind < 0.99:
        return chance.uniform(0, 0.010)
    return chance.uniform(0, 0.300)


async def run(brokers: str, source: str, directory: Path, seed: int, concurrency: int, shape: str) -> None:
    ledger = LedgerFile(directory)
    app = App("chaos", **SETTINGS)
    records = app.topic(source, value=bytes)
    copies = app.topic(f"{source}.out", value=bytes)

    async def copied(record: Record[str, bytes]) -> bytes:
        where = record.partition, record.offset, record.key
        assignment = ledger.start(*where)
        done = False
        try:
            if record.value == HANG:
                await asyncio.Event().wait()
            seconds = 0.0 if record.value == AT_ONCE else patience(seed, record.partition, record.offset)
            if seconds:
                await asyncio.sleep(seconds)
            done = True
        finally:
            ledger.end(assignment, *where, done=done)
        return b"%d %d" % (record.partition, record.offset)

    common: dict[str, Any] = {"sink": copies, "group": f"{source}.group", "name": "copy"}
    if shape == "batch":

        @app.agent(records, batch=Batch(20, within="100ms"), concurrency=concurrency, **common)  # type: ignore[untyped-decorator]
        async def copy_batch(batch: list[Record[str, bytes]]) -> list[Output[bytes]]:
            return [Output(await copied(record), key=record.key) for record in batch]

    elif shape == "loop":

        @app.agent(records, **common)  # type: ignore[untyped-decorator]
        async def copy_stream(stream: Stream[Record[str, bytes]]) -> AsyncIterator[bytes]:
            async for record in stream:
                yield await copied(record)

    else:
        app.agent(records, concurrency=concurrency, **common)(copied)

    settings = app.settings({"brokers": brokers}, {})
    transport = WatchedTransport(settings, {source: ledger})
    worker = Worker(app, settings, transport, WorkerSlots("test"))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    try:
        await worker.run()
    finally:
        ledger.close()


def _by_number(offsets: Mapping[TopicPartition, CommittedOffset], topic: str) -> Offsets:
    return {tp.partition: Committed(*committed) for tp, committed in offsets.items() if tp.topic == topic}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s.%(msecs)03d %(levelname)s %(name)s %(message)s")
    brokers, source, directory, seed, concurrency, shape = sys.argv[1:]
    asyncio.run(run(brokers, source, Path(directory), int(seed), int(concurrency), shape))
