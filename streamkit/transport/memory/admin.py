"""Looks at the broker from outside of any group."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from streamkit.record import TopicPartition
from streamkit.settings import Settings
from streamkit.transport.base import CommittedOffset, GroupInfo, LogRange, NewTopic, TopicInfo
from streamkit.transport.memory.broker import MemoryBroker


class MemoryAdmin:
    def __init__(self, broker: MemoryBroker, settings: Settings) -> None:
        self._broker = broker
        self._timeout = settings.request_timeout

    async def start(self) -> None:
        await self._broker.travel(self._timeout)

    async def topics(self, names: Collection[str]) -> dict[str, TopicInfo]:
        await self._broker.travel(self._timeout)
        found = {name: self._broker.topics[name] for name in names if name in self._broker.topics}
        return {
            name: TopicInfo(len(topic.partitions), topic.max_message_bytes, topic.replication, topic.shown_config)
            for name, topic in found.items()
        }

    async def all_topics(self) -> frozenset[str]:
        await self._broker.travel(self._timeout)
        return frozenset(self._broker.topics)

    async def all_groups(self) -> frozenset[str]:
        await self._broker.travel(self._timeout)
        return frozenset(name for name, group in self._broker.groups.items() if group.members or group.offsets)

    async def group(self, name: str) -> GroupInfo:
        await self._broker.travel(self._timeout)
        group = self._broker.groups.get(name)
        if group is None:
            return GroupInfo("Dead", 0, {})
        return GroupInfo(group.state, len(group.members), group.owners())

    async def create_topics(self, topics: Sequence[NewTopic]) -> None:
        await self._broker.create_topics(topics, self._timeout)

    async def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        for partition, offset in before.items():
            if offset < 0:
                raise ValueError(f"{partition.topic}[{partition.partition}] is to be emptied up to offset {offset}")
        await self._broker.remove_records(before, self._timeout)

    async def log_ranges(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, LogRange]:
        """Raises TopicMissing."""
        await self._broker.travel(self._timeout)
        return {partition: self._broker.log(partition).range for partition in partitions}

    async def high_watermarks(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Raises TopicMissing. There are no transactions here."""
        return {partition: found.end for partition, found in (await self.log_ranges(partitions)).items()}

    async def committed(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, CommittedOffset]:
        return await self._broker.committed(group, partitions, self._timeout)

    async def stop(self) -> None:
        """Nothing to close."""
