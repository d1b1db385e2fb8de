"""Topics, records and workers for the fault tests."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import ConsumerRecord

from streamkit import App
from streamkit.observe.slots import AgentSlots, WorkerSlots
from streamkit.record import TopicPartition
from streamkit.runtime.worker import Worker
from streamkit.transport.base import CommittedOffset, NewTopic, Transport
from streamkit.transport.kafka import KafkaTransport
from streamkit.transport.kafka.admin import KafkaAdmin

POLL_EVERY = 0.02
STOP_SECONDS = 30.0

QUICK_GROUP: dict[str, Any] = {
    "session_timeout": "2s",
    "heartbeat_interval": "300ms",
    "request_timeout": "1900ms",
    "drain_timeout": "2s",
    "commit_interval": "100ms",
}
"""Settings that notice a dead member within 2 s."""


def unique(name: str) -> str:
    """A name for a topic or group that no other test uses."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


async def until(condition: Callable[[], object], seconds: float, what: Callable[[], object] | str) -> None:
    """Wait for something that no event tells. Raises AssertionError with `what` when `seconds` have passed."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what if isinstance(what, str) else what()}")
        await asyncio.sleep(POLL_EVERY)


async def eventually(condition: Callable[[], Awaitable[object]], seconds: float, what: str) -> None:
    """As `until`, for a condition that has to be awaited."""
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(POLL_EVERY)


@asynccontextmanager
async def admin_of(brokers: str) -> AsyncIterator[KafkaAdmin]:
    admin = KafkaAdmin(App("test").settings({"brokers": brokers}, {}))
    await admin.start()
    try:
        yield admin
    finally:
        await admin.stop()


@asynccontextmanager
async def kafka_admin_of(brokers: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """For what streamkit itself never does to a cluster."""
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def create(brokers: str, *topics: NewTopic) -> None:
    async with admin_of(brokers) as admin:
        await admin.create_topics(topics)
        await ready(admin, topics)


async def ready(admin: KafkaAdmin, topics: Sequence[NewTopic]) -> None:
    """Return when the brokers know all partitions of new topics."""
    wanted = {topic.name: topic.partitions for topic in topics}

    async def known() -> bool:
        return {name: info.partitions for name, info in (await admin.topics(list(wanted))).items()} == wanted

    await eventually(known, 20, f"the brokers do not know {wanted}")


@asynccontextmanager
async def producer_of(brokers: str, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=brokers, **options)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def produce(
    brokers: str, topic: str, records: Iterable[tuple[bytes | None, bytes | None]], partition: int | None = None
) -> None:
    """Append records of key and value, all acknowledged on return."""
    async with producer_of(brokers, linger_ms=5, max_batch_size=256 * 1024) as producer:
        sent = [await producer.send(topic, key=key, value=value, partition=partition) for key, value in records]
        for acknowledgement in sent:
            await acknowledgement


async def read_all(brokers: str, topic: str, partitions: int) -> dict[int, list[ConsumerRecord]]:
    """What the topic holds now, by partition, in log order."""
    consumer = AIOKafkaConsumer(bootstrap_servers=brokers, enable_auto_commit=False, fetch_max_wait_ms=50)
    await consumer.start()
    try:
        mine = [KafkaPartition(topic, number) for number in range(partitions)]
        consumer.assign(mine)
        await consumer.seek_to_beginning(*mine)
        ends = await consumer.end_offsets(mine)
        found: dict[int, list[ConsumerRecord]] = {number: [] for number in range(partitions)}
        while any([await consumer.position(tp) < ends[tp] for tp in mine]):
            for tp, records in (await consumer.getmany(timeout_ms=500, max_records=5_000)).items():
                found[tp.partition].extend(records)
        return found
    finally:
        await consumer.stop()


async def committed_of(brokers: str, group: str, topic: str, partitions: int) -> dict[int, CommittedOffset]:
    """What the group has committed, by partition."""
    wanted = [TopicPartition(topic, number) for number in range(partitions)]
    async with admin_of(brokers) as admin:
        return {tp.partition: offset for tp, offset in (await admin.committed(group, wanted)).items()}


def program(
    brokers: str, source: str, directory: Path, concurrency: int, seed: int = 0, shape: str = "record"
) -> list[str]:
    """The command of a worker process that writes a ledger."""
    command = [sys.executable, "-m", "tests.faults.program"]
    return [*command, brokers, source, str(directory), str(seed), str(concurrency), shape]


def tail(directory: Path) -> str:
    """The end of what the processes of `processes` have logged."""
    return (directory / "workers.log").read_text(errors="replace")[-4_000:]


@contextmanager
def processes() -> Iterator[Callable[[list[str], Path], subprocess.Popen[bytes]]]:
    """A function that starts processes, logging to `workers.log` in a directory; none of them outlives the block."""
    started: list[subprocess.Popen[bytes]] = []

    def start(command: list[str], directory: Path) -> subprocess.Popen[bytes]:
        with (directory / "workers.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.wait()


class RunningWorker:
    """A worker in this process, in the background."""

    def __init__(self, app: App, transport: Callable[[Any], Transport], settings: dict[str, str]) -> None:
        self.settings = app.settings(settings, {})
        self.slots = WorkerSlots("test")
        self.worker = Worker(app, self.settings, transport(self.settings), self.slots)
        self.task = asyncio.ensure_future(self.worker.run())

    @property
    def agent(self) -> AgentSlots:
        """The numbers of the only agent."""
        (slots,) = self.slots.agents.values()
        return slots

    async def ready(self, seconds: float = 20.0) -> None:
        """Return when every agent has its partitions; raises what ended the worker before."""
        await until(lambda: self.worker.ready or self.task.done(), seconds, "the worker did not join")
        if self.task.done():
            self.task.result()

    async def stop(self, seconds: float = STOP_SECONDS) -> float:
        """Stop in order; how many seconds that took. Raises what `run` raises."""
        began = time.monotonic()
        self.worker.stop()
        await asyncio.wait_for(self.task, seconds)
        return time.monotonic() - began

    async def failure(self, seconds: float) -> Exception:
        """What the worker ends with by itself."""
        done, _ = await asyncio.wait([self.task], timeout=seconds)
        assert done, f"the worker still runs after {seconds:g} s"
        error = self.task.exception()
        assert isinstance(error, Exception), f"the worker ended with {error!r}"
        return error


@asynccontextmanager
async def running(
    app: App, brokers: str, transport: Callable[[Any], Transport] = KafkaTransport, **settings: str
) -> AsyncIterator[RunningWorker]:
    """A worker of the app, stopped at the end of the block; an unexpected failure of it is raised there."""
    worker = RunningWorker(app, transport, {"brokers": brokers, **settings})
    try:
        yield worker
        if not worker.task.done():
            await worker.stop()
    finally:
        if not worker.task.done():
            worker.worker.stop()
            await asyncio.wait([worker.task], timeout=STOP_SECONDS)
            worker.task.cancel()
        await asyncio.wait([worker.task])
        if not worker.task.cancelled():
            worker.task.exception()  # retrieved: the test has its own failure to tell
