"""Long waits in tiers: across rebalances, restarts and max.poll.interval, and for records as old as a retention."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from streamkit import App, Record, Retry
from streamkit.record import TopicPartition
from streamkit.transport.base import NewTopic
from streamkit.transport.kafka import consumer
from streamkit.transport.kafka.admin import KafkaAdmin
from tests.faults.retry_evidence import by_place, copy_topics, header, origin_of
from tests.faults.retry_program import group_of
from tests.faults.support import (
    QUICK_GROUP,
    RunningWorker,
    admin_of,
    create,
    eventually,
    producer_of,
    read_all,
    running,
    unique,
    until,
)
from tests.kafka.server import ExistingKafka, GenuineKafka

PARTITIONS = 2
WAIT = 5.0  # seconds in the tier
POLL_INTERVAL_MS = 1_000
DAY_MS = 86_400_000

Runs = dict[tuple[int, int], list[tuple[int, float]]]  # by place, the attempts and when each began


def test_a_wait_beyond_max_poll_interval_outlives_a_rebalance_and_a_restart(
    genuine: GenuineKafka | ExistingKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "NEVER_MS", POLL_INTERVAL_MS)
    asyncio.run(waits(genuine.brokers))


async def waits(brokers: str) -> None:
    source = unique("waits")
    await create(brokers, *copy_topics(source, 1, PARTITIONS))
    runs: Runs = defaultdict(list)
    app = unlucky_app(source, runs)
    async with AsyncExitStack() as workers:
        first = await workers.enter_async_context(apart(brokers, source, runs))
        async with producer_of(brokers) as producer:
            for number in range(40):
                await producer.send_and_wait(source, b"1", key=b"k%d" % number, partition=number % PARTITIONS)
        await until(lambda: retried(first) == 40, 20, lambda: runs)
        second = await workers.enter_async_context(apart(brokers, source, runs))  # a rebalance
        await until(lambda: second.worker.ready, 20, "the second worker did not join")
        await first.stop()
        third = await workers.enter_async_context(running(app, brokers))
        await until(lambda: third.worker.ready, 20, "the third worker did not join")
        began = min(at for each in runs.values() for _, at in each)
        assert time.time() < began + WAIT, "too slow: the faults were to come within the wait"
        await until(lambda: sum(map(len, runs.values())) >= 80, WAIT + 20, lambda: runs)
        await asyncio.sleep(0.5)  # for what would run once more
        lost = sum(each.agent.rebalances_lost for each in (first, second, third))
    assert not lost, "a member was thrown out"
    for place, each in runs.items():
        (one, failed), (two, again) = each
        assert (one, two) == (1, 2), place
        assert again - failed >= WAIT, f"{place} came {WAIT - again + failed:.3f} s early"


def unlucky_app(source: str, runs: Runs) -> App:
    app = App("test", **QUICK_GROUP)
    topic = app.topic(source, value=bytes)

    @app.agent(topic, group=group_of(source), retry=Retry.delays(f"{round(WAIT * 1000)}ms", jitter=0))
    async def unlucky(record: Record[str, bytes]) -> None:
        runs[record.partition, record.offset].append((record.attempt, time.time()))
        if record.value == b"always" or record.attempt <= int(record.value or b"0"):
            raise ValueError(f"attempt {record.attempt}")

    return app


@asynccontextmanager
async def apart(brokers: str, source: str, runs: Runs) -> AsyncIterator[RunningWorker]:
    """A worker of an app of its own, as that of another process."""
    async with running(unlucky_app(source, runs), brokers) as worker:
        await worker.ready()
        yield worker


def retried(worker: RunningWorker) -> int:
    return worker.agent.processed_retried


def test_copies_of_records_60_days_old_or_dated_ahead_do_not_fall_to_retention(
    genuine: GenuineKafka | ExistingKafka,
) -> None:
    asyncio.run(old(genuine.brokers))


async def old(brokers: str) -> None:
    """With segments of a second, so that retention takes all but the last of what is old."""
    source, control = unique("old"), unique("control")
    short = {"segment.ms": "1000", "retention.ms": str(30 * DAY_MS)}
    _, tier, letters = copy_topics(source, 1, 1, **short)
    now = round(time.time() * 1000)
    times = [now - 60 * DAY_MS, now + 2 * 3_600_000, now]
    kept = {"retention.ms": "-1", "message.timestamp.after.max.ms": str(DAY_MS)}
    await create(brokers, NewTopic(source, 1, 1, kept), tier, letters, NewTopic(control, 1, 1, short))
    runs: Runs = defaultdict(list)
    async with running(unlucky_app(source, runs), brokers) as worker, admin_of(brokers) as admin:
        async with producer_of(brokers) as producer:
            await worker.ready()
            for _ in range(2):  # the second time begins new segments
                for stamp in times:
                    await producer.send_and_wait(source, b"1", key=b"k", timestamp_ms=stamp)
                    await producer.send_and_wait(source, b"always", key=b"k", timestamp_ms=stamp)
                await producer.send_and_wait(control, b"x", timestamp_ms=times[0])
                await asyncio.sleep(1.2)
            await producer.send_and_wait(control, b"x", timestamp_ms=now)
        await fallen(admin, control)  # a retention has passed over the tier while its records waited
        assert max(map(len, runs.values())) == 1, "too slow: retention was to pass within the wait"
        await until(lambda: worker.agent.dead_letters["exhausted"] == 6, 30, lambda: runs)
        again = unique("control")
        await create(brokers, NewTopic(again, 1, 1, short))
        async with producer_of(brokers) as producer:
            await producer.send_and_wait(again, b"x", timestamp_ms=times[0])
            await asyncio.sleep(1.2)
            await producer.send_and_wait(again, b"x", timestamp_ms=now)
        await fallen(admin, again)  # and over the dead letters
        names = [TopicPartition(tier.name, 0), TopicPartition(letters.name, 0)]
        starts = {name: bounds.start for name, bounds in (await admin.log_ranges(names)).items()}
        assert starts == dict.fromkeys(names, 0)
    assert {place: [attempt for attempt, _ in each] for place, each in runs.items()} == {
        (0, offset): [1, 2] for offset in range(12)
    }
    found = by_place(await read_all(brokers, letters.name, 1)).values()
    stamped: dict[Any, str] = {origin_of(letter)[1]: header(letter, "sk-origin-timestamp") for letter in found}
    assert stamped == {1 + 2 * number: str(stamp) for number, stamp in enumerate(times * 2)}


async def fallen(admin: KafkaAdmin, topic: str) -> None:
    """Return when retention has taken the first record."""
    partition = TopicPartition(topic, 0)

    async def gone() -> bool:
        return (await admin.log_ranges([partition]))[partition].start > 0

    await eventually(gone, 20, "retention did not do its work")
