"""The broker stands still for longer than a request may take, in the middle of the work."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from math import inf

from streamkit import App, Record
from streamkit.errors import TransportError
from streamkit.record import TopicPartition
from streamkit.transport.base import NewTopic
from tests.faults import oracles
from tests.faults.ledger import Committed
from tests.faults.oracles import RecordId, Seen, Sent
from tests.faults.support import admin_of, create, produce, read_all, running, unique, until
from tests.kafka.server import GenuineKafka

PARTITIONS = 4
RECORDS = 6_000  # of each partition
UNSETTLED = 1_000  # records that a partition may hold
BEFORE = 2_000  # handled when the broker stops
OUTAGE = 20.0  # seconds
CLOCK_SLACK = 0.002  # the sink's timestamps are whole milliseconds


def test_handlers_go_on_up_to_the_bounds_while_the_broker_stands_still_and_nothing_is_committed_too_early(
    own_genuine: GenuineKafka,
) -> None:
    asyncio.run(outage(own_genuine))


async def outage(kafka: GenuineKafka) -> None:
    source = unique("outage")
    target = f"{source}.out"
    sink_config = {"message.timestamp.type": "LogAppendTime"}
    await create(kafka.brokers, NewTopic(source, PARTITIONS, 1), NewTopic(target, PARTITIONS, 1, sink_config))
    log: dict[int, list[str | None]] = {n: [f"k{i % 100}" for i in range(RECORDS)] for n in range(PARTITIONS)}
    for partition, keys in log.items():
        await produce(kafka.brokers, source, [(str(key).encode(), b"x") for key in keys], partition)
    app = App("test", request_timeout="3s", commit_interval="100ms", max_partition_unsettled=UNSETTLED)
    topic, sink = app.topic(source, value=bytes), app.topic(target, value=bytes)
    handled: Counter[int] = Counter()

    @app.agent(topic, sink=sink, group=source, concurrency=16)
    async def copy(record: Record[str, bytes]) -> bytes:
        await asyncio.sleep(0.002)
        handled[record.partition] += 1
        return b"%d %d" % (record.partition, record.offset)

    seen: list[Seen] = []
    async with running(app, kafka.brokers) as worker, looking(kafka.brokers, source, seen):
        await until(lambda: handled.total() >= BEFORE, 30, "no work was done")
        kafka.pause()
        paused = time.monotonic()
        at_pause = Counter(handled)
        try:
            await asyncio.sleep(OUTAGE)
            in_outage = Counter(handled)
            consumed = worker.agent.consumed[source]
        finally:
            kafka.resume()
        committed = {n: max((s.committed.offset for s in seen if s.partition == n), default=0) for n in log}
        print(f"{at_pause.total()} handled before, {in_outage.total()} at the end of the outage, {consumed} consumed")
        assert not any(s for s in seen if s.asked > paused and s.answered < paused + OUTAGE), "the broker answered"
        assert in_outage.total() > at_pause.total() + UNSETTLED
        assert in_outage.total() == consumed, "a handler waited for the broker"
        # What was committed at the pause may be seen only afterwards, so count from what had been handled.
        assert all(in_outage[n] <= at_pause[n] + UNSETTLED for n in log), (at_pause, in_outage, committed)
        await until(lambda: last_committed(seen) == dict.fromkeys(log, RECORDS), 60, lambda: last_committed(seen))
        assert worker.agent.rebalances_lost == 0
    appended: dict[RecordId, float] = {}
    outputs: list[list[Sent]] = []
    for records in (await read_all(kafka.brokers, target, PARTITIONS)).values():
        outputs.append([Sent(*map(int, (record.value or b"").split())) for record in records])
        for sent, record in zip(outputs[-1], records, strict=True):
            appended[sent] = min(record.timestamp / 1000, appended.get(sent, inf))
    wall = time.time() - time.monotonic()
    seen_by_wall = [one._replace(answered=one.answered + wall) for one in seen]
    violations = [
        *oracles.output_violations(log, outputs),
        *oracles.committed_unsettled(seen_by_wall, log, lambda sent: appended.get(sent, inf), slack=CLOCK_SLACK),
        *oracles.regressions(seen),
    ]
    assert not violations, violations[:10]


@contextlib.asynccontextmanager
async def looking(brokers: str, source: str, seen: list[Seen]) -> AsyncIterator[None]:
    """Note what is committed, as somebody outside of the group sees it."""
    wanted = [TopicPartition(source, number) for number in range(PARTITIONS)]

    async def look() -> None:
        async with admin_of(brokers) as admin:
            while True:
                asked = time.monotonic()
                with contextlib.suppress(TransportError):
                    for partition, offset in (await admin.committed(source, wanted)).items():
                        seen.append(Seen(asked, time.monotonic(), partition.partition, Committed(*offset)))
                await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(look())
        try:
            yield
        finally:
            task.cancel()


def last_committed(seen: list[Seen]) -> dict[int, int]:
    return {one.partition: one.committed.offset for one in seen}
