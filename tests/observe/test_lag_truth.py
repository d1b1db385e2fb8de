"""Lag against the truth, in virtual time: what is shown of a worker each second, and what its handlers have done."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest

from streamkit import App, Batch, Record, Retry, Stream
from streamkit.record import TopicPartition
from streamkit.transport.base import Unreachable
from tests.observe.lag_support import IN, INTERVAL, LagWorld, Times, Watch, noted_times, silenced, watching
from tests.runtime.retry_support import BEGAN, DLQ, RetryWorld, flaky, tier, wall
from tests.runtime.support import Working, recording, simulated, until

SECOND = 1.0
STALLED = 10 * INTERVAL * 1.1 + INTERVAL  # seconds until ten samples have been taken, whatever their jitter


@pytest.fixture
def times() -> Iterator[Times]:
    random.seed(1)  # of the time between samples
    with noted_times() as noted:
        yield noted


async def quick(record: Record[str, bytes]) -> None:
    await asyncio.sleep(0.05)


@asynccontextmanager
async def at_work(world: LagWorld, times: Times, **options: object) -> AsyncIterator[tuple[Working, Watch]]:
    app = recording(world, quick, **options)  # type: ignore[arg-type]
    async with world.working(app) as working, watching(working, times) as watch:
        yield working, watch


async def caught_up(watch: Watch, partition: TopicPartition = IN, patience: float = 300.0) -> None:
    """Everything is settled, committed and sampled."""
    deadline = wall() + patience
    while (watch.records(partition), watch.seconds(partition)) != (0, 0):
        assert wall() < deadline, "the lag does not end"
        await asyncio.sleep(SECOND)


@simulated
async def test_a_steady_worker_has_the_true_lag_within_a_second_and_none_in_the_end(times: Times) -> None:
    world = LagWorld()
    async with at_work(world, times) as (_, watch):
        coming = asyncio.create_task(world.arrivals(0.2, 1_000))
        assert max(await world.compare(watch, 190)) < SECOND
        await coming
        await caught_up(watch)
        assert watch.status() == ("ok", "")


@simulated
async def test_a_worker_that_cannot_keep_up_has_the_true_lag_within_a_second_and_is_falling_behind(
    times: Times,
) -> None:
    world = LagWorld()
    async with at_work(world, times) as (_, watch):
        coming = asyncio.create_task(world.arrivals(0.04, 10_000))
        assert max(await world.compare(watch, 300)) < SECOND
        assert world.truth() > 50
        assert watch.status() == ("falling_behind", "")
        await coming
        await caught_up(watch)


@pytest.mark.parametrize("shape", ["batch", "loop"])
@simulated
async def test_batches_and_loops_that_cannot_keep_up_have_the_true_lag_within_a_second(
    shape: str, times: Times
) -> None:
    world, app = LagWorld(), App("test")
    topic = app.topic("in", value=bytes)

    def done(record: Record[str, bytes]) -> None:
        world.done[TopicPartition(record.topic, record.partition)].add(record.offset)

    if shape == "batch":

        @app.agent(topic, batch=Batch(20, within="200ms"), name="work")
        async def work(batch: Sequence[Record[str, bytes]]) -> None:
            await asyncio.sleep(5)
            for record in batch:
                done(record)

    else:

        @app.agent(topic, name="work")
        async def work_loop(stream: Stream[Record[str, bytes]]) -> None:
            async for record in stream:
                await asyncio.sleep(0.25)
                done(record)

    async with world.working(app) as working, watching(working, times) as watch:
        coming = asyncio.create_task(world.arrivals(0.2, 700))
        assert max(await world.compare(watch, 139)) < SECOND
        assert world.truth() > 20
        assert watch.status() == ("falling_behind", "")
        await coming
        await caught_up(watch)


@simulated
async def test_a_stuck_record_has_the_true_age_while_others_overtake_it_and_is_a_stall_of_the_handler(
    times: Times,
) -> None:
    world, let_go = LagWorld(), asyncio.Event()

    async def stuck(record: Record[str, bytes]) -> None:
        if record.offset == 30:
            await let_go.wait()

    app = recording(world, stuck, concurrency=4)
    async with world.working(app) as working, watching(working, times) as watch:
        coming = asyncio.create_task(world.arrivals(0.5, 1_000))
        assert max(await world.compare(watch, 400)) < SECOND
        assert world.truth() > 380
        assert watch.status() == ("stalled", "handler")
        let_go.set()
        assert max((await world.compare(watch, 100))[1:]) < SECOND
        await coming
        await caught_up(watch)
        await until(lambda: watch.status() == ("ok", ""))


@simulated
async def test_a_partition_that_is_not_fetched_for_40_minutes_has_the_true_lag_though_its_rate_falls(
    times: Times,
) -> None:
    """Its lag goes from nothing to 40 minutes, with no record of it in memory: one scrape late, and then pinned."""
    world = LagWorld()

    async def ever_fewer() -> None:
        for every in (0.1, 1.0, 10.0, 60.0):
            await world.arrivals(every, round(600 / every))

    async with at_work(world, times, concurrency=7) as (working, watch):
        world.fill("abc")
        await until(lambda: len(world.runs) == 3)
        await caught_up(watch)
        with silenced(working.runner):
            coming = asyncio.create_task(ever_fewer())
            await world.compare(watch, 20)
            assert max(await world.compare(watch, 2_380)) < SECOND
            assert world.truth() > 2_390
            assert watch.status() == ("stalled", "not_fetching")
            coming.cancel()
        await caught_up(watch)


@simulated
async def test_a_restart_with_a_backlog_that_is_not_fetched_reads_one_record_and_has_the_true_lag_at_once(
    times: Times,
) -> None:
    world = LagWorld()
    async with at_work(world, times) as (_, watch):
        world.fill("abc")
        await until(lambda: len(world.runs) == 3)
        await caught_up(watch)
    await world.arrivals(0.5, 2_000)
    async with world.working(recording(world, quick)) as working:
        await until(lambda: working.worker._runners)
        with silenced(working.runner):
            async with watching(working, times) as watch:
                await asyncio.sleep(1)
                assert max(await world.compare(watch, 60)) < SECOND
                assert world.truth() > 1_000
                assert watch.records() == 2_000
        async with watching(working, times) as watch:
            await caught_up(watch)


@simulated
async def test_a_restart_with_a_backlog_has_the_true_lag_while_it_is_worked_off(times: Times) -> None:
    world = LagWorld()
    await world.arrivals(0.5, 2_000)
    async with at_work(world, times) as (_, watch):
        await asyncio.sleep(1)
        assert world.truth() > 900
        assert max(await world.compare(watch, 110)) < SECOND
        await caught_up(watch)


@simulated
async def test_after_a_rebalance_the_new_owner_has_the_true_lag_at_once_and_the_old_ones_series_end(
    times: Times,
) -> None:
    world = LagWorld(partitions=2)

    async def slow(record: Record[str, bytes]) -> None:
        await asyncio.sleep(1.0)

    for n in range(400):
        world.fill([f"k{n}"], partition=n % 2)
    await asyncio.sleep(1_000)
    async with world.working(recording(world, slow, worker="a")) as first, watching(first, times) as before:
        await asyncio.sleep(1)
        assert before.values("streamkit_consumer_lag_seconds").keys() == {0, 1}
        async with world.working(recording(world, slow, worker="b")) as second, watching(second, times) as after:
            await until(lambda: len(first.partitions) == len(second.partitions) == 1)
            await asyncio.sleep(1)
            for working, watch in ((first, before), (second, after)):
                (mine,) = working.partitions
                partition = TopicPartition("in", mine)
                for name, labels in watch.scrape():
                    assert dict(labels).get("partition", str(mine)) == str(mine), f"{name} of a partition that is gone"
                assert watch.records(partition) is not None
                assert max(await world.compare(watch, 30, partition)) <= SECOND
                assert world.truth(partition) > 1_000


@simulated
async def test_a_log_that_ends_in_markers_has_no_lag_when_all_is_settled(times: Times) -> None:
    world = LagWorld()
    async with at_work(world, times) as (_, watch):
        for _ in range(3):
            world.fill("abc")
            for _ in range(5):
                world.broker.append_marker("in")
            await asyncio.sleep(12)
        await caught_up(watch)
        assert world.committed() == world.ends() == {0: 24}
        await asyncio.sleep(STALLED)
        assert (watch.records(), watch.seconds(), watch.status()) == (0, 0, ("ok", ""))


@simulated
async def test_markers_alone_are_no_lag_in_seconds_even_where_nothing_is_fetched(times: Times) -> None:
    world = LagWorld()
    for _ in range(5):
        world.broker.append_marker("in")
    async with world.working(recording(world, quick)) as working:
        await until(lambda: working.worker._runners)
        with silenced(working.runner):
            async with watching(working, times) as watch:
                await asyncio.sleep(1)
                assert (watch.records(), watch.seconds()) == (5, 0)
        async with watching(working, times) as watch:
            await caught_up(watch)


@simulated
async def test_an_empty_topic_has_no_lag(times: Times) -> None:
    world = LagWorld()
    async with at_work(world, times) as (_, watch):
        await caught_up(watch)
        await asyncio.sleep(STALLED)
        assert (watch.records(), watch.seconds(), watch.status()) == (0, 0, ("ok", ""))
        assert watch.values("streamkit_oldest_unprocessed_timestamp_seconds") == {}


@simulated
async def test_in_a_compacted_topic_the_next_record_that_is_left_counts(times: Times) -> None:
    world = LagWorld()
    for n in range(100):
        world.broker.append("in", b"{}", timestamp=round((BEGAN + n) * 1000))
    await asyncio.sleep(100)
    for offset in (*range(40), 99):
        world.broker.log(IN).punch(offset)
    async with world.working(recording(world, quick)) as working:
        await until(lambda: working.worker._runners)
        with silenced(working.runner):
            async with watching(working, times) as watch:
                await asyncio.sleep(1)
                assert max(await world.compare(watch, 30)) < SECOND
                assert watch.seconds() == pytest.approx(wall() - BEGAN - 40, abs=SECOND)
        async with watching(working, times) as watch:
            await caught_up(watch)
            assert world.committed() == {0: 100}


@simulated
async def test_while_no_broker_answers_the_age_of_what_waits_goes_on_and_what_they_would_have_to_say_is_absent(
    times: Times,
) -> None:
    world, let_go = LagWorld(session_timeout=600.0), asyncio.Event()

    async def stuck(record: Record[str, bytes]) -> None:
        await let_go.wait()

    app = recording(world, stuck)
    async with world.working(app) as working, watching(working, times) as watch:
        world.fill("a")
        await asyncio.sleep(15)
        assert watch.records() == 1
        world.broker.faults.network.close()
        assert max(await world.compare(watch, 120)) < SECOND
        assert (watch.records(), watch.status()) == (None, None)
        world.broker.faults.network.open()
        let_go.set()
        await caught_up(watch)


@simulated
async def test_commits_that_fail_stop_a_partition_whose_records_are_all_handled(times: Times) -> None:
    world = LagWorld()
    async with at_work(world, times) as (_, watch):
        world.broker.faults.fail_commits(100_000, Unreachable("no answer"))
        world.fill("abc")
        await asyncio.sleep(STALLED)
        assert (watch.records(), watch.seconds()) == (3, 0)
        assert watch.status() == ("stopped", "commit_failing")
        world.broker.faults._commits.clear()
        await caught_up(watch)
        await until(lambda: watch.status() == ("ok", ""))


@simulated
async def test_a_timestamp_from_the_future_counts_from_when_the_record_was_seen(times: Times) -> None:
    world, let_go = LagWorld(), asyncio.Event()

    async def stuck(record: Record[str, bytes]) -> None:
        await let_go.wait()

    async with world.working(recording(world, stuck)) as working, watching(working, times) as watch:
        await caught_up(watch)
        world.broker.append("in", b"{}", timestamp=round((wall() + 3_600) * 1000))
        began = wall()
        await asyncio.sleep(60)
        assert watch.seconds() == pytest.approx(wall() - began, abs=INTERVAL * 1.1)
        before = watch.seconds()
        assert before is not None
        await asyncio.sleep(60)
        assert watch.seconds() == pytest.approx(before + 60)
        let_go.set()
        await caught_up(watch)


# Retries


def failing(world: RetryWorld, retry: Retry) -> App:
    return flaky(world, lambda record, _: ValueError() if record.key == "bad" else None, retry=retry, concurrency=4)


@simulated
async def test_a_tier_has_no_lag_before_its_first_record_is_due_and_then_what_it_is_overdue(times: Times) -> None:
    world, first = RetryWorld(), TopicPartition(tier(1), 0)
    app = failing(world, Retry.delays("10m", jitter=0))
    async with world.working_with_topics(app) as working, watching(working, times) as watch:
        world.send("bad")
        await until(lambda: len(world.broker.records(first.topic)) == 1)
        due = wall() + 600
        await asyncio.sleep(STALLED)
        assert (watch.records(first), watch.seconds(first), watch.status(first)) == (1, 0, ("ok", "retry_wait"))
        shown = watch.values("streamkit_oldest_unprocessed_timestamp_seconds", first.topic)
        assert shown == {0: pytest.approx(due, abs=SECOND)}
        assert (watch.records(), watch.seconds(), watch.status()) == (0, 0, ("ok", ""))
        await caught_up(watch, first, patience=600)
        assert wall() == pytest.approx(due, abs=INTERVAL * 1.1 + SECOND)


@simulated
async def test_the_head_of_a_tier_that_is_not_fetched_is_read_to_know_when_it_is_due(times: Times) -> None:
    world, first = RetryWorld(), TopicPartition(tier(1), 0)
    app = failing(world, Retry.delays("10m", jitter=0))
    async with world.working_with_topics(app):
        world.send("bad")
        await until(lambda: first.topic in world.broker.topics and world.broker.records(first.topic))
        due = wall() + 600
    async with world.working_with_topics(app) as working:
        await until(lambda: working.worker._runners)
        with silenced(working.runner):
            async with watching(working, times) as watch:
                await asyncio.sleep(100)
                assert (watch.seconds(first), watch.status(first)) == (0, ("ok", "retry_wait"))
                await asyncio.sleep(570)
                assert watch.seconds(first) == pytest.approx(wall() - due, abs=SECOND)
                assert watch.status(first) == ("ok", "")
                await asyncio.sleep(STALLED)
                assert watch.status(first) == ("stalled", "not_fetching")
        async with watching(working, times) as watch:
            await caught_up(watch, first)


@simulated
async def test_a_record_that_the_dead_letter_topic_does_not_take_is_what_stalls_its_partition(times: Times) -> None:
    world = RetryWorld()
    world.broker.faults.refuse(DLQ)
    app = flaky(world, lambda record, _: ValueError() if record.key == "bad" else None, dead_letter=True)
    async with world.working_with_topics(app) as working, watching(working, times) as watch:
        world.send("bad")
        await asyncio.sleep(STALLED)
        assert watch.status() == ("stalled", "dlq_blocked")
        assert watch.seconds() == pytest.approx(STALLED, abs=SECOND)
        world.broker.faults.accept(DLQ)
        await caught_up(watch)


@simulated
async def test_what_waits_for_an_open_breaker_is_paused_and_its_age_goes_on(times: Times) -> None:
    world, broken = RetryWorld(), True
    app = flaky(world, lambda _, __: ValueError() if broken else None, retry=Retry.delays("1h"), concurrency=4)
    async with world.working_with_topics(app) as working, watching(working, times) as watch:
        for n in range(200):
            world.send(f"k{n}")
        await until(lambda: working.agent.breaker_open, "the breaker opens")
        began = wall()
        await asyncio.sleep(STALLED)
        assert watch.status() == ("paused", "breaker")
        assert watch.seconds() == pytest.approx(wall() - began, abs=2 * SECOND)
        broken = False
        await caught_up(watch)
