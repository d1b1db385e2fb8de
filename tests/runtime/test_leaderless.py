"""A partition that has no leader for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import pytest

from streamkit.record import TopicPartition
from streamkit.transport.base import Unreachable
from streamkit.transport.memory.admin import MemoryAdmin
from tests.runtime.support import World, recording, simulated, until


@simulated
async def test_a_partition_without_a_leader_does_not_keep_the_others_from_being_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(partitions=2)
    world.fill("abc", partition=0)
    async with world.working(recording(world)):
        await until(lambda: world.committed() == {0: 3, 1: 0})
    world.fill("def", partition=0)
    log_ranges = MemoryAdmin.log_ranges

    async def leaderless(admin: MemoryAdmin, partitions: Collection[TopicPartition]) -> Any:
        if any(partition.partition == 1 for partition in partitions):
            await asyncio.sleep(world.settings.request_timeout)
            raise Unreachable("no leader")  # as aiokafka: it asks all leaders, and waits for the missing one
        return await log_ranges(admin, partitions)

    monkeypatch.setattr(MemoryAdmin, "log_ranges", leaderless)
    async with world.working(recording(world)):
        await until(lambda: world.committed() == {0: 6, 1: 0}, patience=60)
