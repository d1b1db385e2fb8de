"""Dead letters are read from the starts of their partitions to the ends that these had."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import cast

from streamkit.cli.dlq.reading import AT_ONCE, records_of
from streamkit.record import TopicPartition
from streamkit.settings import Settings
from streamkit.transport.base import Reader
from streamkit.transport.memory import MemoryBroker, MemoryTransport

TOPIC = "orders.dlq"


class Counting:
    """A reader that counts how often it is assigned partitions."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.assignments = 0
        self.log_ranges, self.poll, self.position = reader.log_ranges, reader.poll, reader.position

    def assign(self, starts: Mapping[TopicPartition, int]) -> None:
        self.assignments += 1
        self._reader.assign(starts)


def test_records_up_to_the_ends_are_read_once_and_assigned_anew_when_half_of_the_partitions_are_at_theirs() -> None:
    sizes = [AT_ONCE * number // 20 for number in range(1, 33)]  # each comes to its end in another poll
    broker = MemoryBroker()
    broker.create_topic(TOPIC, len(sizes))
    partitions = [TopicPartition(TOPIC, number) for number in range(len(sizes))]
    for partition, size in zip(partitions, sizes, strict=True):
        for _ in range(size):
            broker.append(TOPIC, b"x", partition=partition.partition)

    async def case() -> int:
        reader = Counting(MemoryTransport(broker, Settings.load({}, {}, {})).reader())
        ranges = await reader.log_ranges(partitions)
        read: dict[int, list[int]] = {number: [] for number in range(len(sizes))}
        async for records in records_of(cast("Reader", reader), dict.fromkeys(partitions, 0), ranges):
            read[records[0].partition] += [record.offset for record in records]
            broker.append(TOPIC, b"later", partition=records[0].partition)
        assert read == {number: list(range(size)) for number, size in enumerate(sizes)}
        return reader.assignments

    assert asyncio.run(case()) <= 7  # at first, and when 16, 8, 4, 2, 1 and none are left
