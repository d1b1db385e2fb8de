"""Partitions as append-only lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from streamkit.record import Headers, TopicPartition
from streamkit.transport.base import LogRange, OffsetOutOfRange

T = TypeVar("T")

# What Kafka gives a topic that is created without.
DEFAULT_CONFIG = {
    "cleanup.policy": "delete",
    "max.message.bytes": "1048588",
    "message.timestamp.type": "CreateTime",
    "min.insync.replicas": "1",
    "retention.ms": "604800000",
}


class MemoryRecord(NamedTuple):
    """A ConsumedRecord."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Payload(NamedTuple):
    """A record before the log has given it an offset; the timestamp is in ms since the epoch."""

    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: Headers


class Log:
    """One partition. A marker, or the hole that compaction leaves, takes an offset and is never read."""

    def __init__(self, partition: TopicPartition) -> None:
        self.partition = partition
        self._start = 0
        self._entries: list[MemoryRecord | None] = []

    @property
    def range(self) -> LogRange:
        return LogRange(self._start, self._start + len(self._entries))

    @property
    def records(self) -> Sequence[MemoryRecord]:
        """Everything that is kept."""
        return [entry for entry in self._entries if entry is not None]

    def offset_at(self, timestamp: int) -> int | None:
        """Of the first record that is not older than this (ms since the epoch)."""
        return next((record.offset for record in self.records if record.timestamp >= timestamp), None)

    def append(self, payloads: Iterable[Payload]) -> int:
        """The offset of the first."""
        base = self.range.end
        topic, partition = self.partition
        self._entries.extend(
            MemoryRecord(topic, partition, base + index, timestamp, key, value, tuple(headers))
            for index, (key, value, timestamp, headers) in enumerate(payloads)
        )
        return base

    def append_marker(self) -> int:
        self._entries.append(None)
        return self.range.end - 1

    def punch(self, offset: int) -> None:
        """Leave a hole, as compaction does."""
        self._entries[offset - self._start] = None

    def delete_before(self, offset: int) -> None:
        """As DeleteRecords does, and retention."""
        offset = min(max(offset, self._start), self.range.end)
        del self._entries[: offset - self._start]
        self._start = offset

    def read(self, offset: int, limit: int) -> tuple[list[MemoryRecord], int]:
        """Up to `limit` records from `offset` on, and the offset to read next: past what is never read."""
        records: list[MemoryRecord] = []
        index = offset - self._start
        while len(records) < limit and index < len(self._entries):
            entry = self._entries[index]
            index += 1
            if entry is not None:
                records.append(entry)
        return records, self._start + index


def in_turn(
    positions: dict[TopicPartition, T],
    wanted: Iterable[TopicPartition],
    limit: int,
    read: Callable[[TopicPartition, int], list[MemoryRecord]],
) -> dict[TopicPartition, list[MemoryRecord]]:
    """Up to `limit` records of these partitions together. Who is served goes to the end of `positions`.

    Raises OffsetOutOfRange of `read` if nothing came before it.
    """
    taken: dict[TopicPartition, list[MemoryRecord]] = {}
    for partition in wanted:
        try:
            records = read(partition, limit)
        except OffsetOutOfRange:
            if taken:
                break  # the next poll raises it
            raise
        if records:
            taken[partition] = records
            limit -= len(records)
        if not limit:
            break
    for partition in taken:
        positions[partition] = positions.pop(partition)
    return taken


class TopicLog:
    """A topic: its partitions, and the settings it was created with."""

    def __init__(self, name: str, partitions: int, config: Mapping[str, str], replication: int = 1) -> None:
        self.name = name
        self.config = dict(config)
        self.replication = replication
        self.partitions: list[Log] = []
        self.grow(partitions)

    @property
    def max_message_bytes(self) -> int:
        return int(self.shown_config["max.message.bytes"])

    @property
    def cleanup_policy(self) -> Sequence[str]:
        return self.shown_config["cleanup.policy"].split(",")

    @property
    def shown_config(self) -> dict[str, str]:
        """As admins see it: with the defaults, and without what they do not ask for."""
        return {name: self.config.get(name, default) for name, default in DEFAULT_CONFIG.items()}

    @property
    def stamps_on_append(self) -> bool:
        return self.config.get("message.timestamp.type") == "LogAppendTime"

    def grow(self, partitions: int) -> None:
        for number in range(len(self.partitions), partitions):
            self.partitions.append(Log(TopicPartition(self.name, number)))
