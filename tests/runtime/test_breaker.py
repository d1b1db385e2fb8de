"""The breaker at work: when everything fails, nothing is moved away, and the work goes on by itself when it can."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from streamkit import App, Batch, BatchError, Record, Reject, Retry, Stream
from streamkit.record import TopicPartition
from tests.runtime.retry_support import RetryWorld, flaky, header, tier
from tests.runtime.support import rebalance, simulated, until

IN = TopicPartition("in", 0)
SHAPES = pytest.mark.parametrize("shape", ["record", "batch", "loop"])
Fails = Callable[[Record[str, bytes], int], BaseException | None]


class Broken(Exception):
    pass


def failing(world: RetryWorld, shape: str, fails: Fails, *, size: int = 5, **options: Any) -> App:
    """An app whose agent "work" fails as `fails` says, in one of the shapes. Of a batch only those that failed do."""
    if shape == "record":
        return flaky(world, fails, **options)
    app = App("test")
    topic = app.topic("in", value=bytes)

    def run(record: Record[str, bytes]) -> BaseException | None:
        error = fails(record, world.note(record))
        if error is None:
            world.handled(record)
        return error

    if shape == "loop":
        options.pop("concurrency", None)

        @app.agent(topic, **options)  # type: ignore[untyped-decorator]
        async def work(stream: Stream[Record[str, bytes]]) -> None:
            async for record in stream:
                await asyncio.sleep(0.001)
                if error := run(record):
                    raise error

    else:

        @app.agent(topic, batch=Batch(size, within="50ms"), name="work", **options)  # type: ignore[untyped-decorator]
        async def work_batch(batch: Sequence[Record[str, bytes]]) -> None:
            await asyncio.sleep(0.001)
            errors = {place: run(record) for place, record in enumerate(batch)}
            failed = {place: error for place, error in errors.items() if error is not None}
            if failed:
                raise BatchError(failed)

    return app


def moved(world: RetryWorld) -> int:
    """Copies in all tiers and dead letter topics."""
    return sum(len(world.broker.records(name)) for name in world.broker.topics if name != "in")


def fill(world: RetryWorld, records: int, keys: int, *, partitions: int = 1) -> None:
    for number in range(records):
        world.send(f"k{number % keys}", partition=number % partitions)


def assert_keys_in_order(world: RetryWorld) -> None:
    """Of each key, the last runs of what was never moved came in the order of the log."""
    went = {
        (header(record, "sk-origin-partition"), header(record, "sk-origin-offset"))
        for name in world.broker.topics
        if name != "in"
        for record in world.broker.records(name)
    }
    last: dict[tuple[int, int], float] = {}
    keys: dict[tuple[int, str | None], set[int]] = defaultdict(set)
    for each in world.tries:
        if (str(each.partition), str(each.offset)) not in went:
            last[each.partition, each.offset] = each.began
            keys[each.partition, each.key].add(each.offset)
    for (partition, _), offsets in keys.items():
        ends = [last[partition, offset] for offset in sorted(offsets)]
        assert ends == sorted(ends)


@SHAPES
@pytest.mark.parametrize("in_place", [0, 1])
@simulated
async def test_when_everything_fails_no_more_than_the_limit_is_moved_and_it_heals_by_itself(
    shape: str, in_place: int
) -> None:
    world = RetryWorld(partitions=2)
    sick = True
    retry = Retry.delays("10s", in_place=in_place, in_place_wait="100ms")
    app = failing(world, shape, lambda record, number: Broken() if sick else None, retry=retry, concurrency=8)
    fill(world, 1000, 50, partitions=2)
    async with world.working_with_topics(app) as working:
        await until(lambda: working.slots.agents and working.agent.breaker_open)
        await asyncio.sleep(120)
        assert working.agent.breaker_open
        assert moved(world) <= 100
        assert working.agent.held() > 0
        assert sum(world.committed().values()) <= 100
        tried = len(world.tries)
        await asyncio.sleep(60)
        assert len(world.tries) - tried <= 5 * 4  # probes, and of batches all their records
        sick = False
        await world.settled(working)
        assert not working.agent.breaker_open
        assert working.agent.breaker_openings == 1
        assert working.agent.held() == 0
    assert moved(world) <= 100
    assert not world.dead_letters()
    assert sum(map(len, world.done.values())) == 1000
    assert_keys_in_order(world)


@SHAPES
@simulated
async def test_probes_go_from_lane_to_lane(shape: str) -> None:
    """One that can never succeed does not keep the breaker from seeing that the others can."""
    world = RetryWorld(partitions=3, breaker_failures=20, breaker_keys=5)
    sick, poison = True, -1

    def fails(record: Record[str, bytes], number: int) -> BaseException | None:
        return Broken() if sick or (record.partition == 0 and record.offset == poison) else None

    app = failing(world, shape, fails, retry=Retry.delays("60s"))
    fill(world, 60, 10, partitions=3)
    async with world.working_with_topics(app) as working:
        await until(lambda: working.slots.agents and working.agent.breaker_open)
        await asyncio.sleep(0.5)
        poison = next(offset for offset in range(20) if not world.copies(IN, offset))  # the first of its partition
        sick = False
        await until(lambda: not working.agent.breaker_open, patience=200)
        await world.settled(working)
    assert len(world.tries_of(poison)) > 1


@simulated
async def test_when_all_lanes_have_failed_they_are_tried_in_turn() -> None:
    world = RetryWorld(partitions=3, breaker_failures=20, breaker_keys=5)
    sick = True
    poison: tuple[int, int] | None = None

    def fails(record: Record[str, bytes], number: int) -> BaseException | None:
        return Broken() if sick or (record.partition, record.offset) == poison else None

    app = failing(world, "loop", fails, retry=Retry.delays("60s"))
    fill(world, 60, 10, partitions=3)
    async with world.working_with_topics(app) as working:
        await until(lambda: working.slots.agents and working.agent.held() == 3)
        poison = world.tries[-1].partition, world.tries[-1].offset
        sick = False
        await until(lambda: not working.agent.breaker_open, patience=200)
        await world.settled(working)


@SHAPES
@simulated
async def test_a_bad_key_among_good_ones_never_opens_it(shape: str) -> None:
    world = RetryWorld(breaker_failures=20, breaker_keys=5)
    app = failing(world, shape, lambda record, number: Broken() if record.key == "k0" else None, dead_letter=True)
    fill(world, 500, 4)
    async with world.working_with_topics(app) as working:
        await world.settled(working)
        assert working.agent.breaker_openings == 0
    assert len(world.dead_letters()) == 125


@simulated
async def test_a_batch_that_fails_as_a_whole_is_one_failure() -> None:
    """One bad record fails all of its batch: that must not look as if everything did."""
    world = RetryWorld(breaker_failures=10, breaker_keys=5)
    sick = True
    app = App("test")

    @app.agent(app.topic("in", value=bytes), name="work", batch=Batch(5, within="50ms"), retry=Retry.delays("10s"))
    async def work(batch: Sequence[Record[str, bytes]]) -> None:
        for record in batch:
            world.note(record)
        if sick:
            raise Broken
        for record in batch:
            world.handled(record)

    fill(world, 500, 7)
    async with world.working_with_topics(app) as working:
        await until(lambda: working.slots.agents and working.agent.breaker_open)
        await asyncio.sleep(60)
        assert 40 <= moved(world) <= 50
        sick = False
        await world.settled(working)
    assert len(world.done[IN]) == 500


@simulated
async def test_rejected_records_do_not_open_it() -> None:
    world = RetryWorld(breaker_failures=20)
    app = flaky(world, lambda record, number: Reject("bad"), dead_letter=True)
    fill(world, 100, 20)
    async with world.working_with_topics(app) as working:
        await world.settled(working)
        assert working.agent.breaker_openings == 0
    assert len(world.dead_letters()) == 100


@simulated
async def test_while_it_is_open_a_rejected_record_is_a_dead_letter_all_the_same() -> None:
    world = RetryWorld(breaker_failures=10, breaker_keys=1)
    reject = False
    app = flaky(world, lambda record, number: Reject("bad") if reject else Broken(), dead_letter=True)
    fill(world, 100, 20)
    async with world.working_with_topics(app) as working:
        await until(lambda: working.slots.agents and working.agent.breaker_open)
        reject = True
        await until(lambda: working.agent.dead_letters["rejected"] > 2)
        assert working.agent.breaker_open
        reject = False


@simulated
async def test_undecodable_records_open_it_and_are_held_with_their_bytes() -> None:
    world = RetryWorld(breaker_failures=20, breaker_keys=5)
    app = App("test")
    seen: list[int] = []

    @app.agent(app.topic("in", value=int), dead_letter=True)
    async def work(value: int) -> None:
        seen.append(value)

    for number in range(100):
        world.send(f"k{number}", b"{")
    async with world.working_with_topics(app) as working:
        await until(lambda: working.slots.agents and working.agent.breaker_open)
        await asyncio.sleep(100)
        assert len(world.dead_letters()) <= 20
        assert world.committed()[0] <= 20
    assert not seen


@simulated
async def test_a_record_whose_order_cannot_be_told_does_not_run_because_it_was_held() -> None:
    world = RetryWorld(breaker_failures=5, breaker_keys=1)
    ran: list[int] = []

    def order(record: Record[str, bytes]) -> str:
        raise Broken

    app = App("test")

    @app.agent(app.topic("in", value=bytes), order_by=order, dead_letter=True)
    async def work(record: Record[str, bytes]) -> None:
        ran.append(record.offset)

    fill(world, 8, 8)
    async with world.working_with_topics(app) as working:
        await until(lambda: working.slots.agents and working.agent.breaker_open)
        await asyncio.sleep(100)
        assert len(world.dead_letters()) <= 5
    assert not ran


@simulated
async def test_what_becomes_due_while_it_is_open_waits_with_the_others() -> None:
    world = RetryWorld(breaker_failures=20, breaker_keys=5)
    sick = True
    app = flaky(world, lambda record, number: Broken() if sick else None, retry=Retry.delays("10s", "20s"))
    fill(world, 100, 10)
    async with world.working_with_topics(app) as working:
        await until(lambda: working.slots.agents and working.agent.breaker_open)
        await asyncio.sleep(1)
        copied = moved(world)
        await asyncio.sleep(60)
        assert moved(world) == copied
        assert len(world.broker.records(tier(2))) == 0
        assert world.committed(topic=tier(1)).get(0, 0) == 0
        sick = False
        await world.settled(working)
    assert sum(map(len, world.done.values())) == 100


@simulated
async def test_a_rebalance_and_a_stop_while_it_is_open_lose_nothing_and_do_not_wait() -> None:
    world = RetryWorld(partitions=2, breaker_failures=20, breaker_keys=5)
    sick = True
    retry = Retry.delays("10s")
    app = flaky(world, lambda record, number: Broken() if sick else None, retry=retry, concurrency=4)
    fill(world, 200, 20, partitions=2)
    async with world.working_with_topics(app) as working:
        await until(lambda: working.slots.agents and working.agent.breaker_open)
        rebalance(working)
        await asyncio.sleep(40)
        assert working.agent.breaker_open
        assert moved(world) <= 20
        assert working.agent.held() <= 200
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 1
    assert max(world.revocations) < 1
    sick = False
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    assert sum(map(len, world.done.values())) == 200


@simulated
async def test_a_probe_that_hangs_does_not_keep_others_from_being_tried() -> None:
    world = RetryWorld(breaker_failures=20, breaker_keys=5)
    sick, hanging = True, asyncio.Event()
    app = App("test")

    @app.agent(app.topic("in", value=bytes), concurrency=4, retry=Retry.delays("10s"))
    async def work(record: Record[str, bytes]) -> None:
        world.note(record)
        if sick:
            raise Broken
        if not hanging.is_set():
            hanging.set()
            await asyncio.sleep(100)
        world.handled(record)

    fill(world, 100, 20)
    async with world.working_with_topics(app) as working:
        await until(lambda: working.slots.agents and working.agent.breaker_open)
        sick = False
        await hanging.wait()
        await until(lambda: not working.agent.breaker_open, patience=20)
        await world.settled(working)


@simulated
async def test_the_runs_of_a_probe_that_was_held_do_not_count_as_attempts() -> None:
    world = RetryWorld(breaker_failures=20, breaker_keys=5)
    sick = True
    app = flaky(world, lambda record, number: Broken() if sick else None, retry=Retry.delays("10s"))
    fill(world, 40, 40)
    async with world.working_with_topics(app) as working:
        await until(lambda: working.slots.agents and working.agent.breaker_open)
        await asyncio.sleep(300)
        sick = False
        await world.settled(working)
    assert max(each.attempt for each in world.tries if not world.copies(IN, each.offset)) == 1


@simulated
async def test_late_acknowledgements_of_what_ran_before_it_opened_do_not_close_it() -> None:
    world = RetryWorld(breaker_failures=20, breaker_keys=5)
    world.broker.create_topic("out", 1)
    world.is_settled = lambda partition, offset: True
    app = App("test")
    topic, out = app.topic("in", value=bytes), app.topic("out", value=bytes)

    @app.agent(topic, sink=out, retry=Retry.delays("1h"))
    async def work(value: bytes) -> bytes:
        if value == b"bad":
            raise Broken
        return value

    async with world.working_with_topics(app) as working:
        await working.joined()
        world.broker.faults.acknowledgements.close()
        for number in range(50):
            world.send(f"good {number}", b"good")
        await until(lambda: working.agent.processed_success == 50, "handled, and not acknowledged")
        for number in range(100):
            world.send(f"bad {number}", b"bad")
        await until(lambda: working.agent.breaker_open, "it opens")
        world.broker.faults.acknowledgements.open()
        await asyncio.sleep(60)
        assert working.agent.breaker_open
        assert working.agent.breaker_openings == 1
        assert working.agent.retries[1] <= 20


@simulated
async def test_a_probe_that_returns_and_whose_output_is_refused_does_not_close_it() -> None:
    world = RetryWorld(breaker_failures=10, breaker_keys=5, latency=0.1)  # the refusals come late
    world.broker.create_topic("out", 1)
    world.broker.faults.refuse("out")
    world.is_settled = lambda partition, offset: True
    app = App("test")
    topic, out = app.topic("in", value=bytes), app.topic("out", value=bytes)

    @app.agent(topic, sink=out, retry=Retry.delays("1h"))
    async def work(value: bytes) -> bytes:
        await asyncio.sleep(0.01)
        return value

    for number in range(200):
        world.send(f"k{number}", b"v")
    async with world.working_with_topics(app) as working:
        await working.joined()
        await until(lambda: working.agent.breaker_open, "it opens")
        await asyncio.sleep(120)
        assert working.agent.breaker_open
        assert working.agent.breaker_openings == 1
