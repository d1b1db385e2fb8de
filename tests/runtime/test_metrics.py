"""The numbers that a running worker exports: each is in the catalogue, and says what has happened."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from streamkit import App, Batch, Record, RecordFailed, Retry, Skip, Stream
from streamkit.observe.catalogue import CATALOGUE
from streamkit.observe.collector import StreamkitCollector
from streamkit.observe.histogram import Histogram
from streamkit.observe.lag import LagTable
from streamkit.record import TopicPartition
from streamkit.transport.base import CommittedOffset, Unreachable
from tests.observe.support import behind
from tests.runtime.retry_support import BEGAN, RetryWorld, wall
from tests.runtime.support import Working, rebalance, simulated, until
from tests.transport.virtual_time import VirtualTimeLoop

Body = Callable[[Record[str, bytes]], Any]

SHAPES = pytest.mark.parametrize("shape", ["record", "batch", "loop"])


class Broken(Exception):
    pass


class MeasuredWorld(RetryWorld):
    """One that judges nothing: here it is numbers that are tested."""

    def __init__(self, partitions: int = 1, **settings: Any) -> None:
        super().__init__(partitions, **settings)
        self.is_settled = lambda partition, offset: True


async def nothing(record: Record[str, bytes]) -> None:
    pass


def shaped(shape: str, body: Body, **options: Any) -> App:
    """An app whose agent "work" runs `body` for each record."""
    app = App("test")
    topic = app.topic("in", value=bytes)

    if shape == "record":

        @app.agent(topic, **options)  # type: ignore[untyped-decorator]
        async def work(record: Record[str, bytes]) -> None:
            await body(record)

    elif shape == "batch":

        @app.agent(topic, name="work", batch=Batch(4, within="10ms"), **options)  # type: ignore[untyped-decorator]
        async def work_batch(batch: Sequence[Record[str, bytes]]) -> None:
            for record in batch:
                await body(record)

    else:

        @app.agent(topic, name="work", **options)  # type: ignore[untyped-decorator]
        async def work_loop(stream: Stream[Record[str, bytes]]) -> None:
            async for record in stream:
                await body(record)

    return app


class Scraped:
    """Every metric that was exported so far, with the sets of labels that it had."""

    def __init__(self) -> None:
        self.labels: dict[str, set[frozenset[str]]] = defaultdict(set)

    def scrape(self, working: Working) -> None:
        lag = LagTable()
        for agent in working.slots.agents.values():
            lag.record(agent.group, {p: behind(state.position) for p, state in agent.partitions().items()}, at=1.0)
            lag.judge(agent)
        collector = StreamkitCollector(working.slots, lag)
        for _ in range(2):
            for family in collector.collect():
                for sample in family.samples:
                    name = sample.name
                    if family.type == "histogram":
                        name = name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
                    self.labels[name].add(frozenset(sample.labels.keys() - {"le"}))


@simulated
async def test_all_that_workers_export_is_in_the_catalogue_and_all_of_the_catalogue_is_exported() -> None:
    scraped = Scraped()
    for shape in ("record", "batch", "loop"):
        world = MeasuredWorld(partitions=2)
        world.broker.create_topic("out")

        async def body(record: Record[str, bytes]) -> None:
            if record.key == "bad" and record.attempt == 1:
                raise Broken
            if record.key == "hung":
                await asyncio.sleep(5)

        options: dict[str, Any] = {} if shape == "loop" else {"concurrency": 4}
        app = shaped(shape, body, retry=Retry.delays("30s", jitter=0), **options)
        app.topic("out", value=str)
        for key in ("a", "bad", "hung", "b"):
            world.send(key)
        async with world.working_with_topics(app) as working:
            await working.joined()
            await until(lambda: working.agent.processed_retried)
            scraped.scrape(working)
            await app.topics["out"].send_and_wait("x")
            await world.settled(working)
            scraped.scrape(working)
        scraped.scrape(working)
    labels = {spec.name: {frozenset(spec.labels)} for spec in CATALOGUE}
    assert dict(scraped.labels) == labels


@simulated
async def test_how_long_records_waited_and_how_old_they_were_when_settled() -> None:
    world = MeasuredWorld()

    async def body(record: Record[str, bytes]) -> None:
        await asyncio.sleep(2)

    async with world.working_with_topics(shaped("record", body, concurrency=1)) as working:
        await working.joined()
        now = round(wall() * 1000)
        for key in "abc":
            world.send(key, timestamp=now - 100_000)
        world.send("future", timestamp=now + 1_000_000)
        world.send("none", timestamp=-1)
        await world.settled(working)
        agent = working.agent
        assert buckets(agent.queue_wait) == {0.001: 1, 2.5: 1, 5.0: 1, 10.0: 2}
        assert agent.queue_wait.sum == pytest.approx(0 + 2 + 4 + 6 + 8, abs=0.2)
        assert buckets(agent.end_to_end) == {0.01: 1, 300.0: 3}
        assert agent.end_to_end.sum == pytest.approx(102 + 104 + 106, abs=0.2)
        assert agent.event_timestamp == now + 1_000_000
        assert buckets(agent.processing) == {2.5: 5}


def buckets(histogram: Histogram) -> dict[float, int]:
    bounds = (*histogram.bounds, float("inf"))
    return {bound: count for bound, count in zip(bounds, histogram.counts, strict=True) if count}


@SHAPES
@simulated
async def test_in_all_shapes_each_record_is_measured_once(shape: str) -> None:
    world = MeasuredWorld()
    stamp = round(BEGAN * 1000) - 60_000
    async with world.working_with_topics(shaped(shape, nothing)) as working:
        for number in range(50):
            world.send(f"k{number % 7}", b"12345", timestamp=stamp)
        await world.settled(working)
        agent = working.agent
        assert sum(agent.queue_wait.counts) == 50
        assert buckets(agent.end_to_end) == {300.0: 50}
        assert agent.event_timestamp == stamp
        assert agent.consumed_bytes == {"in": 50 * (2 + 5)}


@SHAPES
@simulated
async def test_a_retried_record_is_told_of_once_as_old_as_it_was_at_first_and_waited_since_it_was_due(
    shape: str,
) -> None:
    world = MeasuredWorld()

    async def body(record: Record[str, bytes]) -> None:
        if record.attempt == 1:
            raise Broken

    app = shaped(shape, body, retry=Retry.delays("40s", jitter=0))
    async with world.working_with_topics(app) as working:
        await working.joined()
        now = round(wall() * 1000)
        world.send("a", timestamp=now, headers=[("traceparent", TRACEPARENT)])
        await until(lambda: working.agent.processed_retried)
        assert working.agent.event_timestamp == 0
        await world.settled(working)
        agent = working.agent
        assert buckets(agent.end_to_end) == {60.0: 1}
        assert traces(agent.end_to_end) == {60.0: TRACE}
        assert agent.event_timestamp == now
        assert sum(agent.queue_wait.counts) == 2
        assert agent.queue_wait.sum < 0.5
        assert agent.errors == {("handle", "Broken"): 1}


@simulated
async def test_a_record_that_runs_again_in_place_waits_from_then_on() -> None:
    world = MeasuredWorld()

    async def body(record: Record[str, bytes]) -> None:
        if record.attempt < 3:
            raise Broken

    app = shaped("record", body, retry=Retry.in_place(3, "20s"))
    async with world.working_with_topics(app) as working:
        world.send("a")
        await world.settled(working)
        assert sum(working.agent.queue_wait.counts) == 3
        assert working.agent.queue_wait.sum < 0.5
        assert working.agent.errors == {("handle", "Broken"): 2}


@simulated
async def test_with_outputs_a_record_is_settled_when_they_are_acknowledged() -> None:
    world = MeasuredWorld(latency=1.0, request_timeout=8.0)
    world.broker.create_topic("out")
    app = App("test")

    @app.agent(app.topic("in", value=bytes), sink=app.topic("out", value=str))
    async def work(value: bytes) -> str:
        return "done"

    async with world.working_with_topics(app) as working:
        await working.joined()
        world.send("a", headers=[("traceparent", TRACEPARENT)])
        await world.settled(working)
        produced = working.slots.output("out")
        assert buckets(produced.duration) == {2.5: 1}
        assert produced.duration.sum == pytest.approx(2.0, abs=0.1)
        assert working.agent.end_to_end.sum == pytest.approx(2.0, abs=0.1)
        assert [exemplar.trace_id for exemplar in working.agent.end_to_end.exemplars.values()] == [TRACE]
        await until(lambda: working.agent.last_commit)
        assert buckets(working.agent.commit_duration) == {2.5: 1}
        assert working.agent.last_commit <= wall()
        assert working.agent.last_commit > BEGAN


@simulated
async def test_a_record_without_a_timestamp_leaves_no_trace_of_an_age() -> None:
    world = MeasuredWorld()

    async def body(record: Record[str, bytes]) -> None: ...

    async with world.working_with_topics(shaped("record", body)) as working:
        world.send("a", timestamp=-1, headers=[("traceparent", TRACEPARENT)])
        await world.settled(working)
        assert sum(working.agent.end_to_end.counts) == 0
        assert not working.agent.end_to_end.exemplars


TRACE = "ab" * 16
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01".encode()


@SHAPES
@simulated
async def test_in_all_shapes_the_last_traced_record_of_a_bucket_is_remembered(shape: str) -> None:
    """Of a batch, which is one run of many records, only how old they were."""
    world = MeasuredWorld()

    async def body(record: Record[str, bytes]) -> None:
        if record.key == "slow":
            await asyncio.sleep(3)

    async with world.working_with_topics(shaped(shape, body)) as working:
        await working.joined()
        world.send("untraced", headers=[("h", b"1")])
        world.send("quick", headers=[("traceparent", TRACEPARENT)])
        world.send("slow", headers=[("traceparent", TRACEPARENT.replace(b"ab", b"cd"))])
        await world.settled(working)
        agent = working.agent
        if shape == "batch":
            assert traces(agent.processing) == {}
            assert traces(agent.end_to_end) == {5.0: TRACE}  # of two at the same time, one is enough
        else:
            assert traces(agent.processing) == {0.001: TRACE, 5.0: "cd" * 16}
            assert traces(agent.end_to_end)[5.0] == "cd" * 16


def traces(histogram: Histogram) -> dict[float, str]:
    bounds = (*histogram.bounds, float("inf"))
    return {bounds[place]: exemplar.trace_id for place, exemplar in histogram.exemplars.items()}


@simulated
async def test_errors_are_counted_by_stage_and_class() -> None:
    world = MeasuredWorld()
    app = App("test")
    topic = app.topic("in", value=int)

    @app.agent(topic, dead_letter=True, sink=app.topic("out", value=str))
    async def work(record: Record[str, int]) -> Any:
        if record.key == "skip":
            raise Skip
        if record.key == "bad":
            raise Broken
        return "x" * record.value

    world.broker.create_topic("out")
    async with world.working_with_topics(app) as working:
        world.send("bad", b"1")
        world.send("bad", b"2")
        world.send("skip", b"3")
        world.send("undecodable", b"text")
        world.send("large", b"2000000")
        await world.settled(working)
        errors = working.agent.errors
    assert errors == {
        ("handle", "Broken"): 2,
        ("decode-value", "DecodeError"): 1,
        ("sink", "RecordTooLarge"): 1,
    }


@simulated
async def test_a_failure_that_stops_the_agent_is_counted_and_the_agent_is_down() -> None:
    world = MeasuredWorld()

    async def body(record: Record[str, bytes]) -> None:
        raise Broken

    world.send("a")
    working = Working(world, shaped("record", body), world.settings, wall=wall)
    await until(lambda: working.slots.agents)
    await until(lambda: working.agent.up)
    with pytest.raises(RecordFailed):
        await working.task
    assert not working.agent.up
    assert working.agent.errors == {("handle", "Broken"): 1}
    assert working.slots.state == "stopped"


@simulated
async def test_phases_of_a_rebalance_and_what_runs_again_after_it() -> None:
    world = MeasuredWorld(drain_timeout=3.0)

    async def body(record: Record[str, bytes]) -> None:
        if record.key == "hung" and len(runs) < 3:
            runs.append(record.offset)
            await asyncio.sleep(1000)

    runs: list[int] = []
    async with world.working_with_topics(shaped("record", body, concurrency=8)) as working:
        await working.joined()
        agent = working.agent
        assert [sum(agent.rebalance_durations[phase].counts) for phase in ("drain", "join", "assign")] == [0, 1, 1]
        assert agent.offset_resets == {("in", "no_offset"): 1}
        for key in ("hung", "a", "b"):
            world.send(key)
        await until(lambda: runs)
        rebalance(working)
        await until(lambda: agent.rebalances == 2)
        assert [sum(agent.rebalance_durations[phase].counts) for phase in ("drain", "join", "assign")] == [1, 2, 2]
        assert 3.0 <= agent.rebalance_durations["drain"].sum < 5.0
        assert agent.redelivery_risk == 1  # the others are committed as settled ahead
        assert agent.offset_resets == {("in", "no_offset"): 1}
        assert agent.activities["rebalance"] >= 2.5  # a poll was under way when it began
        runs += [0, 0]
        rebalance(working)
        await world.settled(working)
    assert agent.processed_cancelled >= 1
    assert agent.partitions_lost == 0


@simulated
async def test_what_was_settled_and_is_not_committed_runs_again_when_the_partition_is_lost() -> None:
    world = MeasuredWorld(partitions=2, commit_interval=1_000.0)
    async with world.working_with_topics(shaped("record", nothing)) as working:
        await working.joined()
        agent = working.agent
        world.send("first")
        await until(lambda: agent.commits_succeeded)
        for number in range(20):
            world.send(f"k{number}", partition=number % 2)
        await until(lambda: agent.processed_success == 21)
        await working.runner.membership.revoked(list(agent.assigned), lost=True)
        assert (agent.partitions_lost, agent.rebalances_lost) == (2, 1)
        assert agent.redelivery_risk == 20
        rebalance(working)


@simulated
async def test_a_log_that_lost_what_was_to_be_read_is_a_reset() -> None:
    world = MeasuredWorld()
    for number in range(10):
        world.send(f"k{number}")
    world.broker.group("test.work").offsets[TopicPartition("in", 0)] = CommittedOffset(2)
    world.broker.delete_records("in", 5)
    async with world.working_with_topics(shaped("record", nothing, on_gap="earliest")) as working:
        await world.settled(working)
        assert working.agent.offset_resets == {("in", "out_of_range"): 1}
        assert working.agent.processed_success == 5


@simulated
async def test_a_full_partition_is_closed_once_and_opened_again() -> None:
    world = MeasuredWorld(partitions=2, max_partition_unsettled=10)
    go_on = asyncio.Event()

    async def body(record: Record[str, bytes]) -> None:
        await go_on.wait()

    async with world.working_with_topics(shaped("record", body, concurrency=4)) as working:
        await working.joined()
        for number in range(30):
            world.send(f"k{number}")
        agent = working.agent
        await until(lambda: agent.partitions()[TopicPartition("in", 0)].closed == "backpressure")
        await asyncio.sleep(10)
        assert agent.partitions()[TopicPartition("in", 1)].closed == ""
        assert agent.closings == {"backpressure": 1, "breaker": 0}
        go_on.set()
        await world.settled(working)
        await until(lambda: agent.partitions()[TopicPartition("in", 0)].closed == "")


@simulated
async def test_what_fills_up_while_the_breaker_is_open_is_closed_for_that() -> None:
    world = MeasuredWorld(max_partition_unsettled=20, window=20, breaker_failures=5, breaker_keys=1)
    failing = True

    async def body(record: Record[str, bytes]) -> None:
        if failing:
            raise Broken

    app = shaped("record", body, dead_letter=True, concurrency=4)
    async with world.working_with_topics(app) as working:
        await working.joined()
        for number in range(100):
            world.send(f"k{number}")
        agent = working.agent
        await until(lambda: agent.partitions()[TopicPartition("in", 0)].closed == "breaker")
        assert agent.closings["breaker"] >= 1
        failing = False
        await world.settled(working)


@simulated
async def test_the_reading_task_spends_its_time_waiting_for_records_when_there_are_none() -> None:
    world = MeasuredWorld()
    async with world.working_with_topics(shaped("record", nothing)) as working:
        await working.joined()
        before = dict(working.agent.activities)
        await asyncio.sleep(100)
        spent = {name: seconds - before[name] for name, seconds in working.agent.activities.items()}
        assert spent["poll"] == pytest.approx(100, abs=1)
        assert sum(spent.values()) == pytest.approx(100, abs=1)
        assert working.agent.topic_partitions == {"in": 1}
        world.broker.add_partitions("in", 3)
        await until(lambda: working.agent.topic_partitions == {"in": 3})


@simulated
async def test_a_loop_that_is_blocked_shows_in_its_ticks() -> None:
    world = MeasuredWorld()

    async def body(record: Record[str, bytes]) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop.jump(3.0)

    async with world.working_with_topics(shaped("record", body)) as working:
        await working.joined()
        await asyncio.sleep(10)
        slots = working.slots
        assert (slots.loop_blocked, [*buckets(slots.loop_lag)]) == (0.0, [0.001])
        world.send("a")
        await world.settled(working)
        await asyncio.sleep(1)
        assert 2.65 <= slots.loop_blocked <= 2.9
        assert buckets(slots.loop_lag)[5.0] == 1
        assert slots.clock.since_1970 == pytest.approx(BEGAN)
        assert slots.heartbeat == pytest.approx(asyncio.get_running_loop().time(), abs=0.3)


@simulated
async def test_a_commit_that_fails_is_an_error_of_its_own_stage() -> None:
    world = MeasuredWorld()
    async with world.working_with_topics(shaped("record", nothing)) as working:
        await working.joined()
        world.broker.faults.fail_commits(1, Unreachable("no broker answered"))
        world.send("a")
        await until(lambda: world.committed() == {0: 1})
        assert working.agent.errors == {("commit", "Unreachable"): 1}


@simulated
async def test_keys_that_have_records_are_counted() -> None:
    world = MeasuredWorld()
    go_on = asyncio.Event()

    async def body(record: Record[str, bytes]) -> None:
        await go_on.wait()

    async with world.working_with_topics(shaped("record", body, concurrency=2)) as working:
        await working.joined()
        for key in "abcaa":
            world.send(key)
        await until(lambda: working.agent.in_flight() == 2)
        assert working.agent.active_keys() == 3
        assert working.agent.concurrency_limit() == 2
        go_on.set()
        await world.settled(working)
        assert working.agent.active_keys() == 0


@simulated
async def test_of_loops_as_many_may_run_as_partitions_are_assigned() -> None:
    world = MeasuredWorld(partitions=3)
    async with world.working_with_topics(shaped("loop", nothing)) as working:
        await working.joined()
        assert working.agent.concurrency_limit() == 3
        assert working.agent.active_keys() == 0
