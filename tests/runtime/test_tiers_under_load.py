"""Tiers are read in stretches while the sources have work, but each of them is."""

from __future__ import annotations

import asyncio

from streamkit import App, Record, Retry
from streamkit.record import TopicPartition
from tests.runtime.retry_support import RetryWorld, tier, wall
from tests.runtime.support import simulated, until

ROOM = 100  # records of each partition


def due_in(seconds: float) -> list[tuple[str, bytes | None]]:
    failed = round(wall() * 1000)
    return [("sk-failed-at", b"%d" % failed), ("sk-due", b"%d" % (failed + round(seconds * 1000)))]


@simulated
async def test_a_tier_is_read_under_load_although_another_has_more_room() -> None:
    world, app = RetryWorld(partitions=2, max_partition_unsettled=ROOM), App("test")
    world.create_copies(tier(1), 2)
    world.is_settled = lambda partition, offset: True

    @app.agent(app.topic("in", value=bytes), name="work", retry=Retry.delays("1h", jitter=0), concurrency=1)
    async def work(record: Record[str, bytes]) -> None:
        world.note(record)
        await asyncio.sleep(0.005)
        world.done[TopicPartition("in", record.partition)].add(record.offset)

    async def load() -> None:
        """As many records as keep the only task busy, and fewer than fill the window."""
        sent = 0
        while True:
            while sent - len(world.done[TopicPartition("in", 0)]) < ROOM // 5:
                world.send(f"k{sent}")
                sent += 1
            await asyncio.sleep(0.005)

    async with world.working_with_topics(app) as working:
        await working.joined()
        for number in range(ROOM * 3 // 5):
            world.send(f"later{number}", topic=tier(1), headers=due_in(3000))
        await until(lambda: working.agent.consumed[tier(1)] == ROOM * 3 // 5)
        loading = asyncio.ensure_future(load())
        try:
            await asyncio.sleep(1)
            world.send("now", topic=tier(1), headers=due_in(0))
            await until(lambda: any(each.key == "now" for each in world.tries), patience=3)
        finally:
            loading.cancel()
            await asyncio.wait([loading])
