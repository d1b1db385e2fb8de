"""When records of tiers run: never early, hardly late, whatever the clocks and the headers say."""

from __future__ import annotations

import asyncio
import math
from itertools import pairwise
from typing import Any

import pytest

from streamkit import App, Record, Retry, RetryLater
from streamkit.record import TopicPartition
from tests.runtime.retry_support import BEGAN, DLQ, RetryWorld, flaky, header, tier, wall
from tests.runtime.support import rebalance, simulated, until

IN = TopicPartition("in", 0)


class Broken(Exception):
    pass


def at(loop_time: float) -> str:
    return str(round((BEGAN + loop_time) * 1000))


def once(world: RetryWorld, retry: Retry, **options: Any) -> App:
    """Each record fails the first time."""
    return flaky(world, lambda record, number: Broken() if number == 1 else None, retry=retry, **options)


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
@simulated
async def test_jitter_adds_up_to_its_part_of_the_wait_and_takes_nothing_off(chance: float) -> None:
    world = RetryWorld()
    app = once(world, Retry.delays("100s", jitter=0.2))
    async with world.working_with_topics(app) as working:
        await working.joined()
        working.runner._failures._chance = lambda: chance
        world.send("a")
        await world.settled(working)
    first, second = (each.began for each in world.tries)
    due = 100 * (1 + 0.2 * chance)
    assert due <= second - first < due + 0.25


@pytest.mark.parametrize(
    ("forged", "waits"),
    [
        ({}, 10),
        ({"sk-due": "soon"}, 10),
        ({"sk-due": "-1"}, 10),
        ({"sk-due": "9" * 30}, 10),
        ({"sk-due": "99999999999999"}, 10),
        ({"sk-due": at(10**6), "sk-failed-at": at(0)}, 10),
        ({"sk-due": "0", "sk-failed-at": "0"}, 0),
        ({"sk-due": "0", "sk-failed-at": "\u0661"}, 10),
    ],
    ids=str,
)
@simulated
async def test_a_forged_or_absent_due_time_never_waits_longer_than_the_tier(
    forged: dict[str, str], waits: float
) -> None:
    world = RetryWorld()
    world.create_copies(tier(1))
    world.is_settled = lambda partition, offset: True
    app = flaky(world, lambda record, number: None, retry=Retry.delays("10s", jitter=0))
    async with world.working_with_topics(app) as working:
        await working.joined()
        began = asyncio.get_running_loop().time()
        headers = [("h", b"1"), *((name, value.encode()) for name, value in forged.items())]
        world.send("a", b"v", topic=tier(1), headers=headers)
        await until(lambda: world.tries, patience=20)
    (ran,) = world.tries
    assert waits <= ran.began - began < waits + 0.25


@pytest.mark.parametrize(
    ("attempt", "shown"),
    [("", 2), ("0", 2), ("7", 8), ("-3", 2), ("1e3", 2), ("99999999999999999999", 2), (str(2**63 - 2), 2**63 - 1)],
)
@simulated
async def test_a_forged_number_of_attempts_changes_nothing_but_what_is_shown(attempt: str, shown: int) -> None:
    """The next tier follows from the one that the record was read from."""
    world = RetryWorld()
    world.create_copies(tier(1))
    world.is_settled = lambda partition, offset: True
    app = flaky(world, lambda record, number: Broken(), retry=Retry.delays("1s", "2s", jitter=0))
    async with world.working_with_topics(app) as working:
        await working.joined()
        headers = [("sk-attempt", attempt.encode()), ("sk-origin-partition", b"x"), ("sk-origin-offset", b"\xff")]
        world.send("a", b"v", topic=tier(1), headers=headers)
        await until(world.dead_letters, patience=20)
    assert [each.attempt for each in world.tries] == [shown, shown + 1]
    (letter,) = world.dead_letters()
    assert header(letter, "sk-attempt") == str(shown + 1)
    assert (header(letter, "sk-origin-topic"), header(letter, "sk-origin-offset")) == ("in", "0")


@simulated
async def test_the_frameworks_headers_of_a_source_topic_are_dropped_and_all_others_kept() -> None:
    world = RetryWorld()
    seen: list[Any] = []

    def fails(record: Record[str, bytes], number: int) -> BaseException | None:
        seen.append(record.headers)
        return Broken()

    app = flaky(world, fails, retry=Retry.delays("1s"))
    forged = [
        ("sk-due", b"0"),
        ("sk-attempt", b"9"),
        ("sk-origin-topic", b"x"),
        ("sk-nonsense", b""),
        ("sk-omitted", b""),
    ]
    users = [("h", b"\xff"), ("h", None), ("", b""), ("sk", b"1"), ("SK-due", b"2")]
    world.send("a", headers=(*forged, *users, ("sk-dlq-id", b"0:7")))
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    (letter,) = world.dead_letters()
    (copy,) = world.broker.records(tier(1))
    for record in (letter, copy):
        assert [each for each in record.headers if not each[0].startswith("sk-")] == users
        assert header(record, "sk-origin-topic") == "in"
        assert header(record, "sk-dlq-id") == "0:7"
        assert header(record, "sk-nonsense") is header(record, "sk-omitted") is None
    assert (header(copy, "sk-attempt"), header(letter, "sk-attempt")) == ("1", "2")
    assert list(seen[1]) == users


@pytest.mark.parametrize("publisher", [-3600, 0, 3600])
@pytest.mark.parametrize("reader", [-3600, 0, 3600])
@simulated
async def test_clocks_an_hour_apart_make_nothing_early_and_nothing_later_than_twice_its_wait(
    publisher: float, reader: float
) -> None:
    """Early only where the reader's clock is ahead of both the publisher's and the broker's: then at once."""
    world = RetryWorld()
    app = once(world, Retry.delays("1m", jitter=0))
    world.send("a")

    def skewed(by: float) -> dict[str, Any]:
        return {"create_topics": True, "wall": lambda: wall() + by}

    async with world.working(app, options=skewed(publisher)):
        await until(lambda: tier(1) in world.broker.topics and world.broker.records(tier(1)))
        await asyncio.sleep(10)
    async with world.working(app, options=skewed(reader)) as working:
        await world.settled(working)
    first, second = (each.began for each in world.tries)
    if reader > max(publisher, 0):
        assert second - first < 15
    else:
        assert 60 <= second - first < 75


@simulated
async def test_a_restart_within_the_wait_neither_loses_nor_hastens_it() -> None:
    world = RetryWorld()
    app = once(world, Retry.delays("1m", jitter=0))
    world.send("a")
    for _ in range(4):
        async with world.working_with_topics(app):
            await asyncio.sleep(12)
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    first, second = (each.began for each in world.tries)
    assert 60 <= second - first < 60.25


@simulated
async def test_what_is_due_when_nobody_runs_is_run_by_the_next_worker_at_once() -> None:
    world = RetryWorld()
    app = once(world, Retry.delays("10s", jitter=0))
    world.send("a")
    async with world.working_with_topics(app):
        await until(lambda: tier(1) in world.broker.topics and world.broker.records(tier(1)))
    await asyncio.sleep(100)
    async with world.working_with_topics(app) as working:
        began = asyncio.get_running_loop().time()
        await world.settled(working)
    assert world.tries[1].began - began < 1


@simulated
async def test_while_it_waits_longer_than_a_session_the_member_stays_and_commits_what_is_settled() -> None:
    world = RetryWorld()
    app = flaky(
        world,
        lambda record, number: Broken() if record.offset == 0 and number == 1 else None,
        retry=Retry.delays("10m", jitter=0),
    )
    world.send("a")
    async with world.working_with_topics(app) as working:
        await until(lambda: world.committed() == {0: 1})
        for _ in range(5):
            await asyncio.sleep(60)
            world.send("a")
        await asyncio.sleep(10)
        assert world.committed() == {0: 6}
        await world.settled(working)
        assert working.agent.rebalances == 1
        assert working.agent.oldest_due() == {}
    assert world.tries_of(0)[1].began - world.tries_of(0)[0].began >= 600


@simulated
async def test_ten_thousand_records_due_over_a_minute_are_late_by_no_more_than_a_quarter_second() -> None:
    world = RetryWorld(partitions=4)
    count = 10_000
    app = App("test")
    due: dict[tuple[int, int], float] = {}
    late: list[float] = []

    @app.agent(app.topic("in", value=bytes), name="work", retry=Retry.delays("10m", jitter=0), concurrency=8)
    async def work(record: Record[str, bytes]) -> None:
        late.append(asyncio.get_running_loop().time() - due[record.partition, record.offset])

    world.create_copies(tier(1), partitions=4)
    world.is_settled = lambda partition, offset: True
    async with world.working_with_topics(app) as working:
        await working.joined()
        start = asyncio.get_running_loop().time() + 5
        for number in range(count):
            partition, offset = number % 4, number // 4
            due[partition, offset] = start + number * 60 / count
            failed = due[partition, offset] - 600
            headers = (
                ("sk-origin-partition", b"%d" % partition),
                ("sk-origin-offset", b"%d" % offset),
                ("sk-failed-at", at(failed).encode()),
                ("sk-due", str(math.ceil((BEGAN + due[partition, offset]) * 1000)).encode()),
            )
            stamp = int(at(failed))  # it lies there since it failed
            world.send(f"{number}", b"v", topic=tier(1), partition=partition, headers=headers, timestamp=stamp)
        await until(lambda: len(late) == count, patience=80)
        counts = working.agent.lateness[1].counts
        assert sum(counts) == count
    late.sort()
    assert late[0] >= -0.0005
    assert late[count * 99 // 100] <= 0.25


@simulated
async def test_records_of_one_tier_with_different_waits_leave_in_the_order_of_their_dues() -> None:
    """None waits behind another that was there before it."""
    world = RetryWorld()
    waits = {0: "50s", 1: "20s", 2: "40s", 3: "10s"}
    app = flaky(
        world,
        lambda record, number: RetryLater(waits[record.offset]) if number == 1 else None,
        retry=Retry.delays("60s", jitter=0),
    )
    for key in "abcd":
        world.send(key)
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    second = world.tries[4:]
    assert [each.offset for each in second] == [3, 1, 2, 0]
    assert all(earlier.began < later.began for earlier, later in pairwise(second))


@simulated
async def test_old_and_future_records_wait_as_long_as_any_and_show_their_own_time() -> None:
    world = RetryWorld()
    times: list[int] = []

    def fails(record: Record[str, bytes], number: int) -> BaseException | None:
        times.append(round(record.timestamp.timestamp() * 1000))
        return Broken() if number < 3 else None

    app = flaky(world, fails, retry=Retry.delays("10s", "20s", jitter=0))
    now = round(wall() * 1000)
    stamps = [now - 60 * 86_400_000, now + 2 * 3_600_000]
    for key, stamp in zip("ab", stamps, strict=True):
        world.send(key, timestamp=stamp)
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    for offset, stamp in enumerate(stamps):
        first, second, third = (each.began for each in world.tries_of(offset))
        assert 10 <= second - first < 10.3
        assert 20 <= third - second < 20.3
        assert times.count(stamp) == 3
    assert all(abs(record.timestamp - now) < 60_000 for record in world.broker.records(tier(1)))


@simulated
async def test_a_rebalance_forgets_what_waits_and_reads_it_again() -> None:
    world = RetryWorld(partitions=2)
    app = once(world, Retry.delays("30s", jitter=0))
    for number in range(50):
        world.send(f"k{number}", partition=number % 2)
    async with world.working_with_topics(app) as working:
        await until(lambda: len(world.tries) == 50)
        for _ in range(3):
            await asyncio.sleep(5)
            rebalance(working)
        await asyncio.sleep(5)
        assert len(working.runner._intake.returning) == 50
        await world.settled(working)
    assert len(world.tries) == 100
    for partition in range(2):
        for offset in range(25):
            first, second = (each.began for each in world.tries_of(offset, partition))
            assert 30 <= second - first < 30.5
    assert not world.broker.records(DLQ)


@pytest.mark.parametrize("fraction", [0.0, 0.0002, 0.0004, 0.0006, 0.0008])
@simulated
async def test_no_fraction_of_a_millisecond_makes_a_record_early(fraction: float) -> None:
    world = RetryWorld()
    world.create_copies(tier(1))
    world.is_settled = lambda partition, offset: True
    began = math.ceil(asyncio.get_running_loop().time())
    headers = [("sk-failed-at", at(began).encode()), ("sk-due", at(began + 9).encode())]
    world.send("a", b"v", topic=tier(1), headers=headers)
    app = flaky(world, lambda record, number: None, retry=Retry.delays("10s", jitter=0))
    await asyncio.sleep(began + 1 + fraction - asyncio.get_running_loop().time())
    async with world.working_with_topics(app):
        await until(lambda: world.tries, patience=20)
    (ran,) = world.tries
    assert began + 9 <= ran.began + 1e-6 < began + 9.25  # the wall clock is as exact as a float of its size
