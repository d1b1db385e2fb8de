"""Failures that come one after the other, and are few all the same; and what a breaker that is open tries first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest

from streamkit import App, Batch, BatchError, Output, Record, Retry, Stream, Topic
from streamkit.record import TopicPartition
from tests.runtime.retry_support import RetryWorld, flaky
from tests.runtime.support import rebalance, simulated, until

Shape = Callable[[RetryWorld, Callable[[str | None], bool]], App]

KEYS, BAD = 400, 20
ROUNDS = 60


class Bad(Exception):
    pass


def fill(world: RetryWorld, rounds: int = ROUNDS) -> None:
    for _ in range(rounds):
        for number in range(KEYS):
            world.send(f"k{number}", b"bad" if number < BAD else b"good")


def done(world: RetryWorld) -> int:
    return sum(map(len, world.done.values()))


def now() -> float:
    return asyncio.get_running_loop().time()


@simulated
async def test_bad_keys_among_many_good_ones_do_not_open_the_breaker_or_hold_up_the_others() -> None:
    world = RetryWorld(window=8_000, max_partition_unsettled=4_000)
    app = App("test")
    topic = app.topic("in", value=bytes)
    handled = 0

    @app.agent(topic, name="work", retry=Retry.delays("1h"))
    async def work(value: bytes) -> None:
        nonlocal handled
        if value == b"bad":
            raise ValueError("one in twenty")
        handled += 1

    world.is_settled = lambda partition, offset: True
    fill(world)
    async with world.working_with_topics(app) as working:
        await until(lambda: working.worker.ready, "the worker has joined")
        with suppress(AssertionError):
            await until(lambda: handled == ROUNDS * (KEYS - BAD), patience=60)
        assert not working.agent.breaker_openings, handled
        assert handled == ROUNDS * (KEYS - BAD)


@simulated
async def test_after_a_restart_with_nothing_but_bad_keys_in_the_window_it_closes_by_itself() -> None:
    """The offset map has settled all good ones, and the copies of the bad ones were not taken before."""
    world = RetryWorld(window=8_000, max_partition_unsettled=4_000)
    good = [0]

    def app(takes: bool) -> App:
        app = App("test")

        @app.agent(app.topic("in", value=bytes), name="work", retry=Retry.delays("1h"), concurrency=1_000)
        async def work(record: Record[str, bytes]) -> None:
            if record.value == b"bad":
                if not takes:
                    await asyncio.Event().wait()
                raise Bad
            world.handled(record)
            good[0] += 1

        return app

    fill(world)
    async with world.working_with_topics(app(takes=False), drain_timeout=1.0) as working:
        await working.joined()
        await until(lambda: good[0] == 8_000 // KEYS * (KEYS - BAD), "the window is full of those that are settled")
        await asyncio.sleep(10)  # and that is committed
        assert good[0] == 8_000 // KEYS * (KEYS - BAD)
    async with world.working_with_topics(app(takes=True)) as working:
        await working.joined()
        began = now()
        await until(lambda: working.agent.breaker_openings, "nothing but failures")
        await until(lambda: good[0] == ROUNDS * (KEYS - BAD), "all that is good is handled", 60)
        assert now() - began < 30
        assert working.agent.skipped == 8_000 // KEYS * (KEYS - BAD)
        await until(lambda: working.agent.retries[1] == ROUNDS * BAD, "all that is bad is in the tier", 60)
        assert not working.agent.breaker_open
        assert working.agent.breaker_openings == 1
        assert working.agent.held() == 0


@simulated
async def test_probes_are_records_that_have_not_failed_as_long_as_there_are_any() -> None:
    """The service stays down for those that failed, and is up again for the others."""
    world = RetryWorld(breaker_failures=10, breaker_keys=5)
    down, wrong = True, {f"k{n}" for n in range(30)}
    app = App("test")

    @app.agent(app.topic("in", value=bytes), name="work", retry=Retry.delays("1h"), concurrency=5)
    async def work(record: Record[str, bytes]) -> None:
        world.note(record)
        await asyncio.sleep(0.001)
        if down or record.key in wrong:
            raise Bad
        world.handled(record)

    for n in range(30):
        world.send(f"k{n}")
    async with world.working_with_topics(app) as working:
        await working.joined()
        await until(lambda: working.agent.held() >= 6, "some are held")
        tried, began = len(world.tries), now()
        assert [run.key for run in world.tries] == [f"k{n}" for n in range(tried)]  # none of them twice
        down = False
        for n in range(30, 60):
            world.send(f"k{n}")
        await until(lambda: working.agent.breaker_openings and not working.agent.breaker_open, "it has closed", 600)
        probes = [run.key for run in world.tries[tried:] if run.began < now()][: 60 - tried]
        assert len(set(probes)) == len(probes)
        assert now() - began < 30 * 30
        await until(lambda: done(world) == 30, "all that is good is handled")


@simulated
async def test_what_is_held_is_tried_in_turn_when_nothing_else_is_there() -> None:
    world = RetryWorld(breaker_failures=5, breaker_keys=5)
    down = True
    app = App("test")

    @app.agent(app.topic("in", value=bytes), name="work", retry=Retry.delays("1h"), concurrency=3)
    async def work(record: Record[str, bytes]) -> None:
        world.note(record)
        await asyncio.sleep(0.001)
        if down:
            raise Bad
        world.handled(record)

    for n in range(9):
        world.send(f"k{n}")
    async with world.working_with_topics(app) as working:
        await working.joined()
        await until(lambda: len(world.tries) >= 9 + 2 * 5, "each has been tried twice more")
        assert working.agent.held() in (4, 5)
        # The failure that opened it is held as well.
        assert [run.key for run in world.tries[:19]] == [f"k{n}" for n in (*range(4), *(4, 5, 6, 7, 8) * 3)]
        down = False
        await until(lambda: not working.agent.breaker_open, "it has closed")
        await until(lambda: world.done[TopicPartition("in", 0)] == {4, 5, 6, 7, 8}, "what was held is handled")
        assert working.agent.held() == 0


def batches(world: RetryWorld, fails: Callable[[str | None], bool]) -> App:
    app = App("test")

    @app.agent(app.topic("in", value=bytes), name="work", batch=Batch(4, within="100ms"), retry=Retry.delays("1h"))
    async def work(records: list[Record[str, bytes]]) -> None:
        for record in records:
            world.note(record)
        await asyncio.sleep(0.001)
        if any(fails(record.key) for record in records):
            raise Bad
        for record in records:
            world.handled(record)

    return app


def loops(world: RetryWorld, fails: Callable[[str | None], bool]) -> App:
    app = App("test")

    @app.agent(app.topic("in", value=bytes), name="work", retry=Retry.delays("1h"))
    async def work(stream: Stream[Record[str, bytes]]) -> None:
        async for record in stream:
            world.note(record)
            await asyncio.sleep(0.001)
            if fails(record.key):
                raise Bad
            world.handled(record)

    return app


@pytest.mark.parametrize("shape", [batches, loops])
@simulated
async def test_what_one_partition_holds_keeps_no_probes_from_another(
    shape: Shape,
) -> None:
    world = RetryWorld(2, breaker_failures=5, breaker_keys=5)
    down = True
    app = shape(world, lambda key: down or str(key).startswith("bad"))
    for n in range(40):
        world.send(f"bad{n % 5}")
    async with world.working_with_topics(app) as working:
        await working.joined()
        await until(lambda: working.agent.breaker_open and working.agent.held(), "it is open, and something held")
        await asyncio.sleep(5)
        assert working.agent.held() == (4 if shape is batches else 1)  # only the head of the line has run
        down = False
        for n in range(40):
            world.send(f"good{n}", partition=1)
        sent = len(world.tries)
        await until(lambda: not working.agent.breaker_open, "the other partition closes it", 60)
        assert {run.partition for run in world.tries[sent : sent + 4]} == {1}
        await until(lambda: len(world.done[TopicPartition("in", 1)]) == 40, "all that is good is handled")
        await until(lambda: working.agent.retries[1] == 40, "all that is bad is in the tier")
        assert working.agent.held() == 0


@pytest.mark.parametrize("shape", [batches, loops])
@simulated
async def test_a_held_batch_or_record_is_tried_again_and_runs_before_what_came_after_it(
    shape: Shape,
) -> None:
    world = RetryWorld(2, breaker_failures=3, breaker_keys=3)
    down = True
    app = shape(world, lambda _key: down)
    for n in range(40):
        world.send(f"k{n}", partition=n % 2)
    async with world.working_with_topics(app) as working:
        await working.joined()
        await until(lambda: working.agent.held() == (8 if shape is batches else 2), "both are held")
        before = len(world.tries)
        await until(
            lambda: len(world.tries) >= before + (16 if shape is batches else 4), "each is tried twice more", 120
        )
        assert working.agent.breaker_open
        tried = world.tries[before:]
        assert {run.partition for run in tried} == {0, 1}  # in turn
        down = False
        moved = working.agent.retries[1]
        await until(lambda: done(world) == 40 - moved, "all is handled")
        for partition in (0, 1):
            first_runs = list(dict.fromkeys(run.offset for run in world.tries if run.partition == partition))
            assert first_runs == list(range(20))
        assert (working.agent.held(), working.agent.breaker_open) == (0, False)


@simulated
async def test_what_is_held_for_a_partition_that_is_gone_counts_no_more_and_costs_no_probe() -> None:
    world = RetryWorld(2, breaker_failures=5, breaker_keys=5)
    app = App("test")
    down = True

    @app.agent(app.topic("in", value=bytes), name="work", retry=Retry.delays("1h"), concurrency=3)
    async def work(record: Record[str, bytes]) -> None:
        world.note(record)
        await asyncio.sleep(0.001)
        if down:
            raise Bad
        world.handled(record)

    for n in range(12):
        world.send(f"k{n}", partition=n % 2)
    async with world.working_with_topics(app) as working:
        await working.joined()
        await until(lambda: working.agent.held() == 8, "all are held")
        rebalance(working)
        await until(lambda: world.revocations, "they are given back")
        before = len(world.tries)
        assert working.agent.held() == 0
        await until(lambda: len(world.tries) == before + 8, "all are tried again", 600)
        await until(lambda: working.agent.held() == 8, "all are held again")
        assert len({run.key for run in world.tries[before:]}) == 8
        down = False
        await until(lambda: done(world) == 8, "all are handled")
        assert (working.agent.held(), working.agent.breaker_open) == (0, False)


@pytest.mark.parametrize("order_by", ["key", "partition", "none"])
@simulated
async def test_when_everything_fails_it_opens_whatever_the_order(order_by: str) -> None:
    world = RetryWorld(breaker_failures=20, breaker_keys=10)
    app = App("test")

    @app.agent(app.topic("in", value=bytes), name="work", retry=Retry.delays("1h"), order_by=order_by)  # type: ignore[untyped-decorator, call-overload]
    async def work(record: Record[str, bytes]) -> None:
        world.note(record)
        raise Bad

    for n in range(100):
        world.send(f"k{n % 30}")
    async with world.working_with_topics(app) as working:
        await working.joined()
        await until(lambda: working.agent.breaker_open, "it opens")
        await asyncio.sleep(30)
        assert working.agent.retries[1] == 19  # the last one is held


@pytest.mark.parametrize("order_by", ["key", "partition", "none"])
@simulated
async def test_bad_keys_open_nothing_whatever_the_order(order_by: str) -> None:
    world = RetryWorld(breaker_failures=20, breaker_keys=10)
    app = App("test")

    @app.agent(app.topic("in", value=bytes), name="work", retry=Retry.delays("1h"), order_by=order_by)  # type: ignore[untyped-decorator, call-overload]
    async def work(record: Record[str, bytes]) -> None:
        if record.value == b"bad":
            raise Bad
        world.handled(record)

    for n in range(400):
        world.send(f"good{n}", b"good")
    for n in range(200):
        world.send(f"k{n % 9}", b"bad")
    async with world.working_with_topics(app) as working:
        await working.joined()
        await until(lambda: working.agent.retries[1] == 200, "all that is bad is in the tier")
        assert done(world) == 400
        assert not working.agent.breaker_openings


@simulated
async def test_a_long_tail_of_one_bad_key_is_moved_in_time_and_keeps_no_good_record_waiting() -> None:
    """For most of a window nothing else is there to run, so the breaker opens; what it then reads closes it."""
    world = RetryWorld(window=500, max_partition_unsettled=500, breaker_failures=20)
    app = App("test")

    @app.agent(app.topic("in", value=bytes), name="work", retry=Retry.delays("1h"))
    async def work(record: Record[str, bytes]) -> None:
        if record.value == b"bad":
            await asyncio.sleep(0.2)
            raise Bad
        world.handled(record)

    mixed = [b"bad", *[b"good"] * 4] * 100
    values = [*mixed, *[b"bad"] * 300, *mixed * 3, *[b"good"] * 1_000]
    for number, value in enumerate(values):
        world.send("bad" if value == b"bad" else f"k{number % 50}", value)
    bad = values.count(b"bad")
    async with world.working_with_topics(app) as working:
        await working.joined()
        began = now()
        await until(lambda: working.agent.breaker_openings, "a window full of the bad key", 60)
        assert now() - began > 20
        await until(lambda: working.agent.retries[1] == bad, "all that is bad is in the tier", 600)
        await until(lambda: done(world) == len(values) - bad, "all that is good is handled", 1)
        assert now() - began < 2 * 0.2 * bad
        assert (working.agent.held(), working.agent.breaker_open) == (0, False)


@pytest.mark.parametrize("with_keys", [True, False])
@simulated
async def test_records_that_come_back_together_and_fail_once_more_do_not_open_the_breaker(with_keys: bool) -> None:
    world = RetryWorld()
    unlucky = range(0, 4_000, 20)

    def fails(record: Record[str, bytes], number: int) -> BaseException | None:
        return ValueError("twice") if record.offset in unlucky and record.attempt < 3 else None

    app = flaky(world, fails, retry=Retry.delays("10s", "10s", jitter=0), concurrency=64)
    for number in range(4_000):
        world.send(f"k{number}" if with_keys else None)
    async with world.working_with_topics(app) as working:
        with suppress(AssertionError):
            await world.settled(working, patience=60)
        assert not working.agent.breaker_openings
        await world.settled(working, patience=1)


def at_once(world: RetryWorld, app: App, topic: Topic[str, bytes], **options: Any) -> None:
    @app.agent(topic, name="work", **options)  # type: ignore[untyped-decorator]
    async def work(record: Record[str, bytes]) -> Any:
        sent = judged(world, record)
        return sent if "sink" in options else None


def waiting(world: RetryWorld, app: App, topic: Topic[str, bytes], **options: Any) -> None:
    @app.agent(topic, name="work", **options)  # type: ignore[untyped-decorator]
    async def work(record: Record[str, bytes]) -> Any:
        await asyncio.sleep(0.001)
        sent = judged(world, record)
        return sent if "sink" in options else None


def batched(world: RetryWorld, app: App, topic: Topic[str, bytes], **options: Any) -> None:
    @app.agent(topic, name="work", batch=Batch(1, within="1ms"), **options)  # type: ignore[untyped-decorator]
    async def work(records: list[Record[str, bytes]]) -> list[Output[bytes]]:
        return [Output(judged(world, record), key=record.key) for record in records]


def batched_in_part(world: RetryWorld, app: App, topic: Topic[str, bytes], **options: Any) -> None:
    @app.agent(topic, name="work", batch=Batch(3, within="1ms"), **options)  # type: ignore[untyped-decorator]
    async def work(records: list[Record[str, bytes]]) -> None:
        bad = {place: Bad() for place, record in enumerate(records) if record.value != b"good"}
        for place, record in enumerate(records):
            if place not in bad:
                world.handled(record)
        if bad:
            raise BatchError(bad)


def looped(world: RetryWorld, app: App, topic: Topic[str, bytes], **options: Any) -> None:
    @app.agent(topic, name="work", **options)  # type: ignore[untyped-decorator]
    async def work(stream: Stream[Record[str, bytes]]) -> AsyncIterator[bytes]:
        async for record in stream:
            yield judged(world, record)


def looped_without(world: RetryWorld, app: App, topic: Topic[str, bytes], **options: Any) -> None:
    @app.agent(topic, name="work", **options)  # type: ignore[untyped-decorator]
    async def work(stream: Stream[Record[str, bytes]]) -> None:
        async for record in stream:
            judged(world, record)


def judged(world: RetryWorld, record: Record[str, bytes]) -> bytes:
    if record.value != b"good":
        raise Bad
    world.handled(record)
    return record.value


@pytest.mark.parametrize(
    ("declare", "sink"),
    [
        (at_once, False),
        (at_once, True),
        (waiting, False),
        (waiting, True),
        (batched, True),
        (batched_in_part, False),
        (looped, True),
        (looped_without, False),
    ],
)
@simulated
async def test_in_all_shapes_a_key_that_has_succeeded_since_is_news_when_it_fails(
    declare: Callable[..., None], sink: bool
) -> None:
    world = RetryWorld(breaker_failures=20, breaker_keys=10)
    world.broker.create_topic("out", 1)
    app = App("test")
    declare(
        world,
        app,
        app.topic("in", value=bytes),
        retry=Retry.delays("1h"),
        **({"sink": app.topic("out", value=bytes)} if sink else {}),
    )
    for value in (b"bad", b"good", b"good"):
        for n in range(10):
            world.send(f"k{n}", value)
    async with world.working_with_topics(app) as working:
        await working.joined()
        await until(lambda: done(world) == 20, "all that is good is handled")
        await until(lambda: working.agent.retries[1] == 10, "all that is bad is in the tier")
        assert not working.agent.breaker_openings
        await asyncio.sleep(40)  # what was sent is acknowledged, and what failed has left the window
        for n in range(60):
            world.send(f"k{n % 10}", b"bad")
        await until(lambda: working.agent.breaker_open, "it opens", 60)
        await asyncio.sleep(10)
        assert working.agent.retries[1] <= 10 + 19


@simulated
async def test_of_a_batch_in_which_others_fail_the_keys_that_succeed_are_news_when_they_fail_later() -> None:
    world = RetryWorld(breaker_failures=25, breaker_keys=10, breaker_ratio=1.0)
    app = App("test")

    @app.agent(app.topic("in", value=bytes), name="work", batch=Batch(2, within="1s"), retry=Retry.delays("1h"))
    async def work(records: list[Record[str, bytes]]) -> None:
        bad: dict[int, BaseException] = {n: Bad() for n, record in enumerate(records) if record.value != b"good"}
        for n, record in enumerate(records):
            if n not in bad:
                world.handled(record)
        if bad:
            raise BatchError(bad)

    for value in (b"bad", b"good"):
        for n in range(10):
            world.send("other", b"bad")
            world.send(f"k{n}", value)
    async with world.working_with_topics(app) as working:
        await working.joined()
        await until(lambda: working.agent.retries[1] == 30, "all that is bad is in the tier")
        assert (done(world), working.agent.breaker_openings) == (10, 0)
        for n in range(60):
            world.send(f"k{n % 10}", b"bad")
        await until(lambda: working.agent.breaker_open, "it opens", 60)
