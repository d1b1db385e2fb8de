"""Order, concurrency, failures and bounds of one agent."""

from __future__ import annotations

import asyncio
import random

import pytest

from streamkit import Record
from tests.runtime.support import World, recording, simulated, until


@pytest.mark.parametrize("concurrency", [1, 8, 64])
@simulated
async def test_records_of_a_key_run_in_order_one_at_a_time(concurrency: int) -> None:
    chance = random.Random(concurrency)
    world = World(partitions=3)
    for partition in range(3):
        world.fill([chance.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(200)], partition=partition)

    async def body(record: Record[str, bytes]) -> None:
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(chance.random() * 0.01)

    async with world.working(recording(world, body, concurrency=concurrency)) as working:
        await until(lambda: sum(map(len, world.done.values())) == 600)
    assert len(world.runs) == 600
    assert world.committed() == {0: 200, 1: 200, 2: 200}
    assert world.most_at_once == concurrency
    assert working.agent.processed_success == 600
