"""Reads the log in no group."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

from streamkit.record import TopicPartition
from streamkit.settings import Settings
from streamkit.transport.base import LogRange, OffsetOutOfRange, Unreachable
from streamkit.transport.memory.broker import MemoryBroker
from streamkit.transport.memory.log import MemoryRecord, in_turn


class MemoryReader:
    def __init__(self, broker: MemoryBroker, settings: Settings) -> None:
        self._broker = broker
        self._timeout = settings.request_timeout
        self._positions: dict[TopicPartition, int] = {}
        self._silence = 0.0  # seconds that polls have waited while the network was closed

    async def start(self) -> None:
        await self._broker.travel(self._timeout)

    async def log_ranges(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, LogRange]:
        """Raises TopicMissing."""
        await self._broker.travel(self._timeout)
        return {partition: self._broker.log(partition).range for partition in partitions}

    async def offsets_at(self, partitions: Collection[TopicPartition], timestamp: int) -> dict[TopicPartition, int]:
        """Raises TopicMissing."""
        await self._broker.travel(self._timeout)
        found = {partition: self._broker.log(partition).offset_at(timestamp) for partition in partitions}
        return {partition: offset for partition, offset in found.items() if offset is not None}

    def assign(self, starts: Mapping[TopicPartition, int]) -> None:
        for partition, offset in starts.items():
            if offset < 0:
                raise ValueError(f"{partition.topic}[{partition.partition}] is to be read from offset {offset}")
        self._positions = dict(starts)
        self._silence = 0.0

    async def poll(self, *, max_records: int, timeout: float) -> Mapping[TopicPartition, list[MemoryRecord]]:
        """As the protocol says; raises TopicMissing at once."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            records = self._take(max_records)
            waited = loop.time() - began
            if records or waited >= timeout:
                self._note(waited)
                return records
            await self._broker.news.wait(timeout - waited)

    def position(self, partition: TopicPartition) -> int:
        """Raises KeyError for a partition that is not assigned."""
        return self._positions[partition]

    async def stop(self) -> None:
        """Nothing to close."""

    def _take(self, limit: int) -> dict[TopicPartition, list[MemoryRecord]]:
        if self._broker.faults.network.closed:
            return {}
        return in_turn(self._positions, list(self._positions), limit, self._read)

    def _read(self, partition: TopicPartition, limit: int) -> list[MemoryRecord]:
        position = self._positions[partition]
        log = self._broker.log(partition)
        if not log.range.start <= position <= log.range.end:
            raise OffsetOutOfRange(partition, position)
        records, self._positions[partition] = log.read(position, limit)
        return records

    def _note(self, waited: float) -> None:
        self._silence = self._silence + waited if self._broker.faults.network.closed else 0.0
        if self._silence >= self._timeout:
            raise Unreachable(f"the broker did not answer within {self._timeout:g} s")
