"""What fifty rebalances on a genuine Kafka leave behind: nothing."""

from __future__ import annotations

import asyncio
import os

import pytest

from streamkit import App
from streamkit.transport.base import NewTopic
from tests.faults.support import QUICK_GROUP, create, produce, running, unique, until
from tests.kafka.server import ExistingKafka, GenuineKafka

JOINS = 25  # each brings two rebalances: the second worker comes, and goes


@pytest.mark.long
def test_fifty_rebalances_leave_no_task_and_no_socket_behind(genuine: GenuineKafka | ExistingKafka) -> None:
    asyncio.run(rebalances(genuine.brokers))


async def rebalances(brokers: str) -> None:
    source = unique("leaks")
    await create(brokers, NewTopic(source, 2, 1))
    handled: list[bytes] = []

    def counting() -> App:
        app = App("test", **QUICK_GROUP)
        topic = app.topic(source, value=bytes)

        @app.agent(topic, group=source)
        async def count(value: bytes) -> None:
            handled.append(value)

        return app

    async with running(counting(), brokers) as worker:
        await worker.ready()
        left: list[tuple[int, int]] = []
        for join in range(JOINS):
            async with running(counting(), brokers) as second:
                await second.ready()
            await until(lambda: len(worker.agent.assigned) == 2, 20, "the first worker has both partitions again")
            await produce(brokers, source, [(b"k", b"%d" % join)])
            left.append((len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))))
        assert worker.agent.rebalances >= 2 * JOINS
        await until(lambda: len(set(handled)) == JOINS, 20, lambda: handled)
    # A connection that idles or a metadata request may be counted by chance, but nothing may add up.
    (tasks, sockets), (last_tasks, last_sockets) = left[2], left[-1]
    assert last_tasks <= tasks + 3, left
    assert last_sockets <= sockets + 3, left
