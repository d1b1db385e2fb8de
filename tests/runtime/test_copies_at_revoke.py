"""Copies that are acknowledged while their partitions are given back."""

from __future__ import annotations

import asyncio
from collections import Counter

from streamkit import Retry
from tests.runtime.retry_support import RetryWorld, flaky, tier
from tests.runtime.support import rebalance, simulated, until

RECORDS, REBALANCES = 600, 40


@simulated
async def test_what_is_acknowledged_during_a_revoke_is_committed_and_not_copied_again() -> None:
    world = RetryWorld(breaker_failures=0)
    retry = Retry.delays("1h", jitter=0)
    app = flaky(
        world, lambda record, number: ValueError("first") if record.attempt == 1 else None, retry=retry, concurrency=4
    )
    for number in range(RECORDS):
        world.send(f"k{number % 40}")
    async with world.working_with_topics(app) as working:
        await until(lambda: working.worker.ready)
        for step in range(REBALANCES):
            await asyncio.sleep(0.01 + step * 0.0007)  # in the middle of something else each time
            rebalance(working)
        await until(lambda: len(world.broker.records(tier(1))) >= RECORDS)
    runs = Counter(each.offset for each in world.tries)
    assert runs == Counter(range(RECORDS))
    assert len(world.broker.records(tier(1))) == RECORDS
