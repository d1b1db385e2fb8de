"""The broker itself: topics, groups, and what clients may ask of them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from streamkit.record import Headers, TopicPartition
from streamkit.transport.base import (
    CommitRejected,
    CommittedOffset,
    MetadataTooLarge,
    NewTopic,
    OffsetOutOfRange,
    RecordTooLarge,
    Refused,
    TopicMissing,
    Unreachable,
)
from streamkit.transport.memory.faults import Faults
from streamkit.transport.memory.group import Group, StaleGeneration, UnknownMember
from streamkit.transport.memory.log import Log, MemoryRecord, Payload, TopicLog
from streamkit.transport.memory.signals import Signal

# Kafka's `offset.metadata.max.bytes`; it counts characters.
METADATA_LIMIT = 4096
_TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")


class CommitAttempt(NamedTuple):
    """One partition of one commit that reached the broker."""

    at: float
    group: str
    member: str
    generation: int
    partition: TopicPartition
    offset: int
    metadata: str
    accepted: bool


class Acknowledgement(NamedTuple):
    """Where a batch lies: the offset and timestamp of its first record."""

    topic: str
    partition: int
    offset: int
    timestamp: int


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class MemoryBroker:
    """Topics and groups in memory. Methods that are not coroutines are for tests and take effect at once.

    `clock` gives the milliseconds since the epoch, for topics with LogAppendTime and for `append`. All other time is
    the running loop's. `latency` is how many seconds a request takes to arrive, and its answer to come back.
    """

    def __init__(self, *, clock: Callable[[], int] = wall_clock_ms, latency: float = 0.0) -> None:
        self.clock = clock
        self.latency = latency
        self.faults = Faults()
        self.topics: dict[str, TopicLog] = {}
        self.groups: dict[str, Group] = {}
        self.commits: list[CommitAttempt] = []
        self.news = Signal()  # there may be something for a poll that waits

    # For tests

    def create_topic(self, name: str, partitions: int = 1, **config: str) -> None:
        """`config` with underscores for dots: `max_message_bytes="1000"`."""
        self.topics[name] = TopicLog(name, partitions, {key.replace("_", "."): value for key, value in config.items()})

    def delete_topic(self, name: str) -> None:
        """With its offsets in all groups, as Kafka does."""
        del self.topics[name]
        for group in self.groups.values():
            for partition in [partition for partition in group.offsets if partition.topic == name]:
                del group.offsets[partition]

    def add_partitions(self, name: str, total: int) -> None:
        self.topics[name].grow(total)

    def append(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int = 0,
        headers: Headers = (),
        timestamp: int | None = None,
    ) -> int:
        """One record, without a producer; its offset."""
        stamp = self.clock() if timestamp is None else timestamp
        offset = self.log(TopicPartition(topic, partition)).append([Payload(key, value, stamp, headers)])
        self.news.notify()
        return offset

    def append_marker(self, topic: str, partition: int = 0) -> int:
        """A transaction marker: takes an offset, and is never delivered."""
        offset = self.log(TopicPartition(topic, partition)).append_marker()
        self.news.notify()
        return offset

    def delete_records(self, topic: str, before: int, *, partition: int = 0) -> None:
        """Retention: the log then starts at `before`."""
        self.log(TopicPartition(topic, partition)).delete_before(before)

    def records(self, topic: str) -> list[MemoryRecord]:
        """Everything that is kept, by partition and offset."""
        return [record for log in self.topics[topic].partitions for record in log.records]

    # For clients

    def log(self, partition: TopicPartition) -> Log:
        """Raises TopicMissing, also for a partition that the topic does not have."""
        topic = self.topics.get(partition.topic)
        if topic is None or not 0 <= partition.partition < len(topic.partitions):
            raise TopicMissing(partition.topic)
        return topic.partitions[partition.partition]

    def counts(self, topics: Iterable[str]) -> dict[str, int]:
        """How many partitions each has; 0 if it does not exist."""
        return {name: len(self.topics[name].partitions) if name in self.topics else 0 for name in topics}

    def group(self, name: str) -> Group:
        if name not in self.groups:
            self.groups[name] = Group(name, self.counts)
        return self.groups[name]

    async def travel(self, within: float) -> None:
        """The way of a request, or of its answer. Raises Unreachable."""
        await asyncio.sleep(self.latency)
        if not await self.faults.network.passed(within):
            raise Unreachable(f"the broker did not answer within {within:g} s")

    async def heartbeat(self, group: str, member: str, generation: int, within: float) -> bool:
        """True when the member is to join again. Raises UnknownMember, StaleGeneration, Unreachable."""
        await self.travel(within)
        if not await self.faults.heartbeats(member).passed(within):
            raise Unreachable(f"the heartbeats of {member} are frozen")
        return self.group(group).heartbeat(member, generation)

    async def commit(
        self,
        group: str,
        member: str,
        generation: int,
        offsets: Mapping[TopicPartition, CommittedOffset],
        within: float,
    ) -> None:
        await self.travel(within)
        if not await self.faults.commits.passed(within):
            raise Unreachable(f"the commit was not answered within {within:g} s")
        failure = self.faults.next_commit()
        if failure is None or failure.stored:
            self._commit(group, member, generation, offsets)
        else:
            self._note(group, member, generation, offsets, accepted=False)
        if failure is not None:
            raise failure.error
        await self.travel(within)

    async def committed(
        self, group: str, partitions: Collection[TopicPartition], within: float
    ) -> dict[TopicPartition, CommittedOffset]:
        await self.travel(within)
        offsets = self.groups[group].offsets if group in self.groups else {}
        return {partition: offsets[partition] for partition in partitions if partition in offsets}

    async def produce(
        self, partition: TopicPartition, payloads: Sequence[Payload], size: int, within: float
    ) -> Acknowledgement:
        """Store all or nothing of a batch of `size` bytes. Raises RecordTooLarge, TopicMissing, Unreachable."""
        await self.travel(within)
        if refusal := self.faults.refusal(partition.topic):
            raise refusal.with_traceback(None)  # which would grow from one batch to the next
        failure = self.faults.next_produce()
        if failure is not None and not failure.stored:
            raise failure.error
        acknowledgement = self._produce(partition, payloads, size)
        if failure is not None:
            raise failure.error
        # As long as it takes: an idempotent producer asks again and again, and is never told to give up.
        await self.faults.acknowledgements.passed(None)
        await self.travel(within)
        return acknowledgement

    async def create_topics(self, topics: Sequence[NewTopic], within: float) -> None:
        """Create those that do not exist. Replication is shown, and counts for nothing else."""
        await self.travel(within)
        for topic in topics:
            if not _TOPIC_NAME.fullmatch(topic.name) or topic.name in (".", ".."):
                raise Refused(f"topic {topic.name!r} could not be created: not a valid name")
            if topic.partitions < 1:
                raise Refused(f"topic {topic.name!r} could not be created: it needs at least one partition")
            if topic.name not in self.topics:
                self.topics[topic.name] = TopicLog(topic.name, topic.partitions, topic.config, topic.replication or 1)

    async def remove_records(self, before: Mapping[TopicPartition, int], within: float) -> None:
        """What an admin may delete, unlike `delete_records`. Raises Refused, OffsetOutOfRange, TopicMissing."""
        await self.travel(within)
        for partition, offset in sorted(before.items()):
            log = self.log(partition)
            if "delete" not in self.topics[partition.topic].cleanup_policy:
                what = f"{partition.topic}[{partition.partition}] could not be emptied up to offset {offset}"
                raise Refused(f"{what}: its cleanup.policy does not delete")
            if offset > log.range.end:
                raise OffsetOutOfRange(partition, offset)
            log.delete_before(offset)
        await self.travel(within)

    def _commit(
        self, group: str, member: str, generation: int, offsets: Mapping[TopicPartition, CommittedOffset]
    ) -> None:
        try:
            self.group(group).check_commit(member, generation)
        except (UnknownMember, StaleGeneration) as error:
            self._note(group, member, generation, offsets, accepted=False)
            raise CommitRejected(f"{type(error).__name__}: {error}") from error
        fitting = {tp: committed for tp, committed in offsets.items() if len(committed.metadata) <= METADATA_LIMIT}
        too_long = {tp: committed for tp, committed in offsets.items() if tp not in fitting}
        self.group(group).offsets.update(fitting)
        self._note(group, member, generation, fitting, accepted=True)
        self._note(group, member, generation, too_long, accepted=False)
        if too_long:
            raise MetadataTooLarge(f"commit metadata of more than {METADATA_LIMIT} characters: {sorted(too_long)}")

    def _note(
        self,
        group: str,
        member: str,
        generation: int,
        offsets: Mapping[TopicPartition, CommittedOffset],
        *,
        accepted: bool,
    ) -> None:
        now = asyncio.get_running_loop().time()
        self.commits.extend(
            CommitAttempt(now, group, member, generation, partition, offset, metadata, accepted)
            for partition, (offset, metadata) in offsets.items()
        )

    def _produce(self, partition: TopicPartition, payloads: Sequence[Payload], size: int) -> Acknowledgement:
        log = self.log(partition)
        topic = self.topics[partition.topic]
        if size > topic.max_message_bytes:
            raise RecordTooLarge(f"{size} bytes; {topic.name} takes {topic.max_message_bytes} (max.message.bytes)")
        if topic.stamps_on_append:
            payloads = [payload._replace(timestamp=self.clock()) for payload in payloads]
        offset = log.append(payloads)
        self.news.notify()
        return Acknowledgement(*partition, offset, payloads[0].timestamp if payloads else -1)
