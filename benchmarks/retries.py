"""Records a second while some fail, and how late those are that come back from a tier.

`python -m benchmarks.retries [--quick] [--rounds N] [--records N] [--due N] [--brokers HOST:PORT] [--only NAME]`
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any
from zlib import crc32

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from benchmarks.brokers import BATCH_BYTES, brokers, fill, fresh_name, topic
from benchmarks.compare import Bar, Measured, Side, in_fresh_process, interleaved, report
from benchmarks.engine import Run
from benchmarks.orders import KEYS, PARTITIONS, Order, orders
from streamkit import App, Record, Retry, RetryLater
from streamkit.core.copies import Cause, Origin, tier_headers
from streamkit.retry import dead_letter_topic, tier_topic
from streamkit.runtime.delivery import Delivery, current
from streamkit.runtime.returned import Returned

BAR = Bar("5 % fail", "none fail", 0.8)
WAITING, AT_ONCE = "handlers that wait for 1 ms, 64 at a time", "handlers that only add up"
EVERY = 20  # one of so many fails
LATE_BAR = 0.250  # seconds, of the 99th percentile
SPAN = 60.0  # seconds over which the records of the second part are due
FIRST_DUE = 10.0  # seconds, in which all come to be there
AT_A_TIME = 50  # copies that are sent together


class Unlucky(Exception):
    pass


def consume(brokers: str, source: str, records: int, kind: str, fails: bool, wait: str = "1h") -> Measured:
    """Read, decode and add up: how fast it goes for the records that do not fail.

    A failing record costs as much as dozens that only add up: raising, a copy with its headers, and the brokers'
    answer. So for such handlers the rate is told without a bar, and the bar is for handlers that wait.
    """
    return asyncio.run(_consume(brokers, source, records, kind, fails, wait))


async def _consume(brokers: str, source: str, records: int, kind: str, fails: bool, wait: str) -> Measured:
    app = App("bench")
    group = fresh_name("retries")
    total = 0.0
    failing = {f"o-{index:08}" for index in range(records) if fails and fails_once(index)}

    waits = kind == WAITING

    @app.agent(app.topic(source, value=Order), group=group, retry=Retry.delays(wait), concurrency=64 if waits else 1)
    async def add_up(order: Order) -> None:
        nonlocal total
        if waits:
            await asyncio.sleep(0.001)
        if order.order_id in failing:
            failing.discard(order.order_id)
            raise Unlucky(order.order_id)
        total += order.amount

    left = records - len(failing)
    async with copies(brokers, source, group):
        run = Run(app, brokers, create_topics=True)

        def handled() -> int:
            return sum(agent.processed_success for agent in run.slots.agents.values())

        await run.until(lambda: handled() >= left, handled)
    openings = sum(agent.breaker_openings for agent in run.slots.agents.values())
    if openings:
        print(f"  (the breaker opened {openings} times in a run of {kind})", flush=True)
    return Measured(left, run.ended - run.first_poll, run.cpu)


def fails_once(index: int) -> bool:
    """One of 20, here and there: at fixed distances all keys would come to theirs at the same time."""
    return crc32(b"%d" % index) % EVERY == 0


def lateness(brokers: str, source: str, records: int, span: float, burst: bool) -> list[float]:
    """Seconds from when each record was due in its tier to the start of its handler, in order of size.

    With `burst` all records of the source fail at once. Otherwise the source has one record, and the others lie in the
    tier before the first is due.
    """
    return asyncio.run(_lateness(brokers, source, records, span, burst))


async def _lateness(brokers: str, source: str, records: int, span: float, burst: bool) -> list[float]:
    app = App("bench")
    group = fresh_name("lateness")
    late: list[float] = []
    asked = iter(range(records))
    first_due = 0.0
    joined = asyncio.Event()

    @app.agent(app.topic(source, value=bytes), group=group, retry=Retry.delays(f"{round(span) + 60}s", jitter=0))
    async def come_back(record: Record[str, bytes]) -> None:
        nonlocal first_due
        now = time.time()
        if record.attempt > 1:
            late.append(now - _due(current.get()))
        elif burst:
            first_due = first_due or now + FIRST_DUE
            due = first_due + next(asked) * span / records
            raise RetryLater(f"{max(1, round((due - now) * 1000))}ms")
        else:
            joined.set()

    async def fill_tier() -> None:
        if not burst:
            await joined.wait()
            await put_into_tier(brokers, source, group, records, span)

    async with copies(brokers, source, group), asyncio.TaskGroup() as tasks:
        tasks.create_task(fill_tier())
        run = Run(app, brokers, create_topics=True)
        await run.until(lambda: len(late) == records, lambda: len(late) or round(time.time()))
    return sorted(late)


def _due(owner: object) -> float:
    """What `sk-due` says, in seconds since 1970."""
    assert type(owner) is Delivery and type(owner.record) is Returned
    due_ms = owner.record.origin.due
    assert due_ms is not None
    return due_ms / 1000


async def put_into_tier(brokers: str, source: str, group: str, records: int, span: float) -> None:
    """Copies as an agent would have made them one by one: each fails just before it is sent."""
    producer: Any = AIOKafkaProducer(bootstrap_servers=brokers, max_batch_size=BATCH_BYTES)
    await producer.start()
    try:
        first_due = time.time() + FIRST_DUE
        for begin in range(0, records, AT_A_TIME):
            partition = begin // AT_A_TIME % PARTITIONS
            failed_ms = round(time.time() * 1000)
            batch = producer.create_batch()
            for number in range(begin, min(begin + AT_A_TIME, records)):
                headers = tier_headers(
                    [],
                    Origin(source, partition, number, failed_ms, attempts=1),
                    group=group,
                    due_ms=round((first_due + number * span / records) * 1000),
                    failed_ms=failed_ms,
                    cause=Cause(Unlucky("once"), "handle"),
                )
                added = batch.append(key=b"k%d" % (number % KEYS), value=b"x", timestamp=None, headers=headers)
                assert added is not None, "the batch is full"
            await (await producer.send_batch(batch, tier_topic(source, group, 1), partition=partition))
        assert time.time() < first_due, "the tier was not filled in time"
    finally:
        await producer.stop()


@contextlib.asynccontextmanager
async def copies(brokers: str, source: str, group: str) -> AsyncIterator[None]:
    """The topics of copies are deleted at the end of the block."""
    try:
        yield
    finally:
        admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
        await admin.start()
        try:
            await admin.delete_topics([tier_topic(source, group, 1), dead_letter_topic(source)])
        finally:
            await admin.close()


async def compare_throughput(brokers: str, kind: str, records: int, rounds: int, *, warm_up: bool) -> None:
    async with topic(brokers, "orders", PARTITIONS) as source:
        await fill(brokers, source, PARTITIONS, orders(records))
        given = (brokers, source, records, kind)
        sides: dict[str, Side] = {
            "none fail": partial(consume, *given, False),
            "5 % fail": partial(consume, *given, True),
            "5 % fail and come back": partial(consume, *given, True, "500ms"),
            "none fail, once more": partial(consume, *given, False),
        }
        results = await asyncio.to_thread(interleaved, sides, rounds, warm_up=warm_up)
        bars = [BAR] if kind == WAITING else []
        report(f"{kind}, {records:,} orders: those that do not fail", results, "none fail", bars)


async def measure_lateness(brokers: str, records: int, span: float, *, burst: bool) -> None:
    async with topic(brokers, "due", PARTITIONS) as source:
        await fill(brokers, source, PARTITIONS, ((b"k%d" % (n % KEYS), b"x") for n in range(records if burst else 1)))
        late = await asyncio.to_thread(in_fresh_process, partial(lateness, brokers, source, records, span, burst))
    half, most, last = late[len(late) // 2], late[len(late) * 99 // 100], late[-1]
    how = "all copied in one burst" if burst else "copied before"
    print(f"\n{records:,} records due over {span:g} s in a tier, {how}: start of the handler - due")
    named = {"first": late[0], "p50": half, "p99": most, "last": last}
    print("  " + ", ".join(f"{name} {seconds * 1000:.1f} ms" for name, seconds in named.items()))
    if not burst:
        verdict = "PASS" if late[0] >= 0 and most <= LATE_BAR else "below bar"
        print(f"  bar never early, p99 <= {LATE_BAR * 1000:.0f} ms: {verdict}", flush=True)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retries", description=__doc__)
    parser.add_argument("--brokers", help="of an existing Kafka; otherwise one is started")
    parser.add_argument("--records", type=int, default=40_000, help="of handlers that wait; of others 4 times as many")
    parser.add_argument("--due", type=int, default=10_000, help="records of the second part")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", choices=["throughput", "lateness"])
    parser.add_argument("--quick", action="store_true", help="a few records once, to see that it runs")
    options = parser.parse_args(arguments)
    records, rounds = (2_000, 1) if options.quick else (options.records, options.rounds)
    due, span = (200, 1.0) if options.quick else (options.due, SPAN)
    with brokers(options.brokers) as address:
        if options.only != "lateness":
            for kind, number in ((WAITING, records), (AT_ONCE, 4 * records)):
                asyncio.run(compare_throughput(address, kind, number, rounds, warm_up=not options.quick))
        if options.only != "throughput":
            for burst in (False, True):
                asyncio.run(measure_lateness(address, due, span, burst=burst))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
