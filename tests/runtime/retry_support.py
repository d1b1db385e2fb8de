"""What the tests of retries share: a world whose wall clock is the loop's, and that knows where each record is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from streamkit import App, Record
from streamkit.record import TopicPartition
from streamkit.transport.memory.log import MemoryRecord
from tests.runtime.support import GROUP, Working, World

BEGAN = 1_700_000_000.0  # the wall clock when the loop's is 0, in seconds since 1970
DLQ = "in.dlq"


class Try(NamedTuple):
    """One run of a handler."""

    key: str | None
    partition: int
    offset: int
    attempt: int
    began: float  # loop time


def wall() -> float:
    return BEGAN + asyncio.get_running_loop().time()


def tier(number: int, source: str = "in", group: str = GROUP) -> str:
    return f"{source}.{group}.retry-{number}"


def header(record: MemoryRecord, name: str) -> str | None:
    values = [value for each, value in record.headers if each == name]
    assert len(values) <= 1, f"{name} is there {len(values)} times"
    return None if not values or values[0] is None else values[0].decode()


def origin(record: MemoryRecord) -> TopicPartition | None:
    topic, partition = header(record, "sk-origin-topic"), header(record, "sk-origin-partition")
    return None if topic is None or partition is None else TopicPartition(topic, int(partition))


class RetryWorld(World):
    """A copy in a tier or among the dead letters counts as settled, as the contract says."""

    def __init__(self, partitions: int = 1, **settings: Any) -> None:
        super().__init__(partitions, **settings)
        self.broker.clock = lambda: round(wall() * 1000)
        self.tries: list[Try] = []
        self.passed_over: set[tuple[TopicPartition, int]] = set()  # by Skip
        self.is_settled = self._is_settled

    def committed(self, group: str = GROUP, topic: str = "in") -> dict[int, int]:
        offsets = self.broker.group(group).offsets.items()
        return {tp.partition: committed.offset for tp, committed in offsets if tp.topic == topic}

    def send(
        self, key: str | None, value: bytes = b"{}", *, partition: int = 0, topic: str = "in", **given: Any
    ) -> int:
        """A record whose order is not judged."""
        raw = None if key is None else key.encode()
        return self.broker.append(topic, value, key=raw, partition=partition, **given)

    def create_copies(self, name: str, partitions: int = 1, **config: str) -> None:
        """A topic for copies, before any worker does so."""
        given = {"message_timestamp_type": "LogAppendTime", "max_message_bytes": "2000000", "retention_ms": "-1"}
        self.broker.create_topic(name, partitions, **given | config)

    def note(self, record: Record[Any, Any]) -> int:
        """A run begins; its number among those of the record."""
        now = asyncio.get_running_loop().time()
        self.tries.append(Try(record.key, record.partition, record.offset, record.attempt, now))
        return sum(each.partition == record.partition and each.offset == record.offset for each in self.tries)

    @contextmanager
    def running_alone(self, record: Record[Any, Any], worker: str = "w") -> Iterator[None]:
        """Around a handler's body: of a key, tiers included, no two records run at a time in one worker."""
        name = worker, TopicPartition(record.topic, record.partition), record.key
        if record.key is not None and self._running[name]:
            self.faults.append(f"{name}: {record.offset} started while another record of the key ran")
        self._running[name] += 1
        self.most_at_once = max(self.most_at_once, self._running.total())
        try:
            yield
        finally:
            self._running[name] -= 1

    def handled(self, record: Record[Any, Any]) -> None:
        self.done[TopicPartition(record.topic, record.partition)].add(record.offset)

    def tries_of(self, offset: int, partition: int = 0) -> list[Try]:
        return [each for each in self.tries if each.offset == offset and each.partition == partition]

    def dead_letters(self, topic: str = DLQ) -> list[MemoryRecord]:
        return self.broker.records(topic) if topic in self.broker.topics else []

    def copies(self, source: TopicPartition, offset: int) -> list[MemoryRecord]:
        """Everywhere but in the source."""
        return [
            record
            for name in list(self.broker.topics)
            if name != source.topic
            for record in self.broker.records(name)
            if origin(record) == source and header(record, "sk-origin-offset") == str(offset)
        ]

    def working_with_topics(self, app: App, **settings: Any) -> Any:
        return self.working(app, options={"create_topics": True, "wall": wall}, **settings)

    async def settled(self, working: Working, patience: float = 10_000.0) -> None:
        """Until everything is, in the source and the tiers."""

        def everything() -> bool:
            ranges = {log.partition: log.range for topic in self.broker.topics.values() for log in topic.partitions}
            return working.worker.ready and working.worker.settled_to(ranges)

        deadline = asyncio.get_running_loop().time() + patience
        while not everything():
            assert asyncio.get_running_loop().time() < deadline, "not everything is settled"
            await asyncio.sleep(0.1)  # seldom, or tests of long waits would spend their time here

    def _is_settled(self, partition: TopicPartition, offset: int) -> bool:
        if (partition, offset) in self.passed_over or offset in self.done[partition]:
            return True
        if partition.topic == "in" or ".retry-" not in partition.topic:
            return bool(self.copies(partition, offset))
        (record,) = self.broker.log(partition).read(offset, 1)[0]
        source, at = origin(record), header(record, "sk-origin-offset")
        if source is None or at is None:
            return True
        if int(at) in self.done[source] or (source, int(at)) in self.passed_over:
            return True
        return any(copy.timestamp >= record.timestamp and copy is not record for copy in self.copies(source, int(at)))


def flaky(
    world: RetryWorld,
    fails: Callable[[Record[str, bytes], int], BaseException | None],
    *,
    name: str = "work",
    **options: Any,
) -> App:
    """An app with one agent that fails as `fails` says, told the record and the number of its run."""
    app = App("test")
    topic = app.topic("in", value=bytes)

    @app.agent(topic, name=name, **options)  # type: ignore[untyped-decorator]
    async def work(record: Record[str, bytes]) -> None:
        number = world.note(record)
        await asyncio.sleep(0.001)
        error = fails(record, number)
        if error is not None:
            raise error
        world.handled(record)

    return app
