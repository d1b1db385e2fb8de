"""What the engine asks of a message log: the protocols that every transport fulfils.

Offsets, partitions and timestamps are Kafka's. Times are seconds, but record timestamps, which are milliseconds since
the epoch. Methods raise the errors defined here and no client library's own. All of them may raise AccessDenied.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, Protocol

from streamkit.errors import ConfigurationError, TransportError
from streamkit.record import ConsumedRecord, HeaderList, TopicPartition

NO_GENERATION = -1


class Unreachable(TransportError):
    """No broker answered in time."""


class CommitRejected(TransportError):
    """The commit belongs to an assignment that has ended. Nothing of it was stored."""


class MetadataTooLarge(TransportError):
    """The broker refuses commit metadata of this length (`offset.metadata.max.bytes`)."""


class RecordTooLarge(TransportError):
    """The broker refuses a record or a batch for its size (`max.message.bytes`). Nothing of it was stored."""


class Refused(TransportError):
    """The broker will not do this, now or later: not authorised, an invalid request, a failed login."""


class TopicRefused(Refused):
    """This client may not write to the topic, whatever the record."""


class AccessDenied(ConfigurationError):
    """The brokers do not let this client in, or are not to be trusted: a failed login, a wrong certificate.

    No TransportError: whoever tries again after one of those need not try again after this.
    """


class TopicMissing(TransportError):
    """The topic does not exist."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"topic {topic!r} does not exist")
        self.topic = topic


class OffsetOutOfRange(TransportError):
    """The log does not hold the offset that was to be read next."""

    def __init__(self, partition: TopicPartition, offset: int) -> None:
        super().__init__(f"{partition.topic}[{partition.partition}] holds no offset {offset}")
        self.partition = partition
        self.offset = offset


class FetchFailed(TransportError):
    """A record cannot be fetched at all, and passing over it would lose it: corrupt, or larger than a fetch."""


class CommittedOffset(NamedTuple):
    """The next offset to process, and the text that the group stored with it."""

    offset: int
    metadata: str = ""


class LogRange(NamedTuple):
    """The offsets a reader may see: `start` is the first that is kept, `end` the next to come.

    Under read_committed, `end` is the last stable offset.
    """

    start: int
    end: int


# What is asked of each topic.
SHOWN_CONFIG = ("cleanup.policy", "max.message.bytes", "message.timestamp.type", "min.insync.replicas", "retention.ms")


class TopicInfo(NamedTuple):
    partitions: int
    max_message_bytes: int | None  # None: the broker did not say
    replication: int | None = None  # None: the broker did not say
    config: Mapping[str, str] = MappingProxyType({})  # those of SHOWN_CONFIG, in force; empty: the broker did not say


@dataclass(frozen=True, slots=True)
class NewTopic:
    name: str
    partitions: int
    replication: int | None = None  # None: the broker's default
    config: Mapping[str, str] = field(default_factory=dict[str, str])


class Owner(NamedTuple):
    """The member of a group that has a partition."""

    client_id: str
    host: str  # as the brokers see it
    member_id: str


class GroupInfo(NamedTuple):
    """A consumer group as its coordinator describes it (KIP-40)."""

    state: str  # Kafka's: Stable, PreparingRebalance, CompletingRebalance, Empty, Dead (nobody knows it)
    members: int
    owners: Mapping[TopicPartition, Owner]  # of what is assigned; empty while the group rebalances


class RebalanceListener(Protocol):
    """Told of every change of the assignment, and waited for: the group stands still until it returns."""

    async def revoked(self, partitions: Collection[TopicPartition], *, lost: bool) -> None:
        """The partitions are about to go. `lost`: they are gone already, so nothing of them may be committed."""
        ...

    async def assigned(self, partitions: Collection[TopicPartition]) -> None:
        """The whole new assignment. Every partition must be sought before it is polled."""
        ...


class Consumer(Protocol):
    """One member of one consumer group. Used by one event loop; polled by one task."""

    @property
    def generation(self) -> int:
        """The group's generation that the present assignment belongs to; NO_GENERATION outside of one."""
        ...

    @property
    def lease(self) -> float:
        """Loop time until which the group is known to count this member in: last heartbeat + session timeout."""
        ...

    @property
    def answered(self) -> float:
        """Loop time of a broker's last answer to this member, whatever it said; 0.0 before the first."""
        ...

    async def start(self) -> None:
        """Connect. Raises Unreachable or Refused."""
        ...

    def subscribe(self, topics: Collection[str], listener: RebalanceListener) -> None:
        """Join the group. Errors of the listener and of the membership are raised by `poll`."""
        ...

    async def poll(
        self, partitions: Collection[TopicPartition], *, max_records: int, timeout: float
    ) -> Mapping[TopicPartition, Sequence[ConsumedRecord]]:
        """Records of these partitions in log order, at most `max_records` together.

        Waits up to `timeout` for the first; with no partitions it only shows the group that the member is alive. May
        take longer while the group rebalances, and may then return records that were fetched before: whoever polls
        must compare assignments before and after. Raises OffsetOutOfRange, FetchFailed, Refused.
        """
        ...

    def position(self, partition: TopicPartition) -> int:
        """The next offset to fetch. Moves past markers and holes that are never delivered."""
        ...

    def seek(self, partition: TopicPartition, offset: int) -> None: ...

    async def committed(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, CommittedOffset]:
        """What the group has committed; partitions without a commit are absent. Raises TransportError."""
        ...

    async def commit(self, offsets: Mapping[TopicPartition, CommittedOffset], generation: int) -> None:
        """Store the offsets in one attempt, as a member of `generation` and no other.

        Raises CommitRejected, MetadataTooLarge, or another TransportError after which trying again may help.
        """
        ...

    def partition_count(self, topic: str) -> int:
        """As known from the latest metadata; 0 when the topic is not in it."""
        ...

    async def stop(self) -> None:
        """Leave the group and close. Does not call the listener, and does not raise."""
        ...


class Stored(Protocol):
    """The acknowledgement of a batch."""

    @property
    def offset(self) -> int:
        """Of the batch's first record; -1 if the brokers had the batch already and do not say."""
        ...


class BatchBuilder(Protocol):
    def append(self, *, key: bytes | None, value: bytes | None, timestamp: int, headers: HeaderList) -> object | None:
        """Add a record; None when it does not fit any more (never for the first)."""
        ...


class Producer(Protocol):
    """Idempotent, acks=all. After any failed batch it is broken: stop it and make another."""

    async def start(self) -> None: ...

    async def partition_count(self, topic: str) -> int:
        """Raises TopicMissing."""
        ...

    def batch(self, limit: int) -> BatchBuilder:
        """An empty batch of at most `limit` bytes."""
        ...

    async def send(self, batch: BatchBuilder, topic: str, partition: int) -> asyncio.Future[Stored]:
        """Queue the batch behind earlier ones of the partition, perhaps waiting for them; the future is its
        acknowledgement, and fails with RecordTooLarge, Refused or another TransportError."""
        ...

    async def stop(self) -> None:
        """Close, within a bounded time, whatever is still unacknowledged. Does not raise."""
        ...


class Admin(Protocol):
    """Looks at the log from outside of any group."""

    async def start(self) -> None: ...

    async def topics(self, names: Collection[str]) -> dict[str, TopicInfo]:
        """The topics that exist. Never creates one."""
        ...

    async def all_topics(self) -> frozenset[str]:
        """The names of all topics that this client may see, but Kafka's own (`__...`)."""
        ...

    async def all_groups(self) -> frozenset[str]:
        """The consumer groups that the brokers know: with members, or with offsets that they keep. Raises Refused."""
        ...

    async def group(self, name: str) -> GroupInfo:
        """The members of a consumer group. Raises Refused."""
        ...

    async def create_topics(self, topics: Sequence[NewTopic]) -> None:
        """Create those that do not exist. Raises Refused."""
        ...

    async def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        """Remove what lies before these offsets, for good (KIP-107). What is gone already is none of its business.

        Raises Refused (topics that are only compacted keep what they hold), OffsetOutOfRange for an offset past the
        end, TopicMissing; and ValueError for a negative one. Some partitions may have been done when it raises: asking
        again does no harm.
        """
        ...

    async def log_ranges(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, LogRange]: ...

    async def high_watermarks(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Where the logs end with what open transactions have written, which no reader sees yet."""
        ...

    async def committed(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, CommittedOffset]: ...

    async def stop(self) -> None: ...


class Reader(Protocol):
    """Reads partitions from given offsets, in no group, and commits nothing. Sees what is committed. Used by one task.

    The topics must exist: brokers that do not know one may not say so before `request_timeout`.
    """

    async def start(self) -> None:
        """Connect. Raises Unreachable or Refused."""
        ...

    async def log_ranges(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, LogRange]: ...

    async def offsets_at(self, partitions: Collection[TopicPartition], timestamp: int) -> dict[TopicPartition, int]:
        """The first offset of each whose record is not older than this; partitions that have none are absent.

        Timestamps may be out of order: older records may lie behind that offset, and younger ones never before it.
        """
        ...

    def assign(self, starts: Mapping[TopicPartition, int]) -> None:
        """Read these partitions from these offsets, and no others any more. Raises ValueError for a negative one."""
        ...

    async def poll(self, *, max_records: int, timeout: float) -> Mapping[TopicPartition, Sequence[ConsumedRecord]]:
        """Records in log order, at most `max_records` together; waits up to `timeout` for the first.

        May return nothing and have moved positions past what is never delivered. Raises OffsetOutOfRange, FetchFailed,
        Refused; and Unreachable when polls have waited `request_timeout` for a partition of which nothing is heard.
        """
        ...

    def position(self, partition: TopicPartition) -> int:
        """The next offset to read. Moves past markers and holes that are never delivered."""
        ...

    async def stop(self) -> None:
        """Close, within a bounded time. Does not raise."""
        ...


class Transport(Protocol):
    """Makes clients. Making one does no I/O."""

    def consumer(self, group: str) -> Consumer: ...
    def producer(self) -> Producer: ...
    def admin(self) -> Admin: ...
    def reader(self) -> Reader: ...
