"""What the state topic is told of the runs of records that were replayed from dead letters, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import orjson
import pytest

from streamkit import App, Batch, BatchError, Record, Reject, Retry, Skip, Stream, Topic
from streamkit.errors import TransportError
from streamkit.record import TopicPartition
from streamkit.runtime import case_runs
from streamkit.transport.base import AccessDenied, TopicRefused
from tests.runtime.retry_support import BEGAN, DLQ, RetryWorld, flaky, header, tier, wall
from tests.runtime.support import rebalance, simulated, until

STATE = "in.dlq.state"
CASE = "4:20"
SOURCE = TopicPartition("in", 0)
TIERS = Retry.delays("10s", "1m", jitter=0)
WAITS = TIERS.tier_waits


class Broken(Exception):
    pass


class CaseWorld(RetryWorld):
    """With a state topic, as `streamkit dlq` makes it."""

    def __init__(self, state: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        if state:
            self.create_state()

    def create_state(self) -> None:
        self.broker.create_topic(STATE, 1, cleanup_policy="compact", message_timestamp_type="LogAppendTime")

    def replay(self, case: str = CASE, key: str | None = "a", value: bytes = b"{}") -> int:
        """To the origin's topic; its offset there."""
        return self.send(key, value, headers=[("h", b"1"), ("sk-dlq-id", case.encode())])

    def replay_to_tier(self, origin: int, case: str = CASE, key: str = "a") -> None:
        """As `streamkit dlq replay --to retry` does."""
        headers = [
            ("h", b"1"),
            ("sk-origin-topic", b"in"),
            ("sk-origin-partition", b"0"),
            ("sk-origin-offset", b"%d" % origin),
            ("sk-origin-timestamp", b"%d" % round(BEGAN * 1000)),
            ("sk-group", b"test.work"),
            ("sk-attempt", b"0"),
            ("sk-due", b"%d" % round(wall() * 1000)),
            ("sk-dlq-id", case.encode()),
        ]
        self.send(key, topic=tier(1), headers=headers)

    def told(self, state: str = STATE) -> list[tuple[str, dict[str, Any]]]:
        """By key, everything that the state topic has been told."""
        return [((record.key or b"").decode(), orjson.loads(record.value or b"")) for record in self.records(state)]

    def records(self, topic: str) -> list[Any]:
        return self.broker.records(topic) if topic in self.broker.topics else []

    def outcomes(self, case: str = CASE) -> list[tuple[str, int]]:
        return [(value["outcome"], value["attempt"]) for key, value in self.told() if key == f"run:{case}:test.work"]


def places(world: CaseWorld, topic: str = DLQ) -> list[str]:
    return [f"{record.partition}:{record.offset}" for record in world.records(topic)]


async def told(world: CaseWorld, runs: int = 1, state: str = STATE) -> None:
    """Until the state topic has so many, and who has told them knows: a stop would tell them again."""
    await until(lambda: len(world.told(state)) >= runs, "it is told")
    await asyncio.sleep(0.01)


Fails = Callable[[Record[str, bytes], int], BaseException | None]
Declare = Callable[[CaseWorld, App, Fails], None]


def of_records(world: CaseWorld, app: App, fails: Fails) -> None:
    @app.agent(app.topic("in", value=bytes), name="work", retry=TIERS)
    async def work(record: Record[str, bytes]) -> None:
        error = fails(record, world.note(record))
        if error is not None:
            raise error
        world.handled(record)


def of_records_that_wait(world: CaseWorld, app: App, fails: Fails) -> None:
    @app.agent(app.topic("in", value=bytes), name="work", retry=TIERS)
    async def work(record: Record[str, bytes]) -> None:
        await asyncio.sleep(0.001)
        error = fails(record, world.note(record))
        if error is not None:
            raise error
        world.handled(record)


def with_outputs(world: CaseWorld, app: App, fails: Fails) -> None:
    world.broker.create_topic("out", 1)

    @app.agent(app.topic("in", value=bytes), sink=app.topic("out", value=bytes), name="work", retry=TIERS)
    async def work(record: Record[str, bytes]) -> bytes:
        error = fails(record, world.note(record))
        if error is not None:
            raise error
        world.handled(record)
        return record.value


def of_parts_of_batches(world: CaseWorld, app: App, fails: Fails) -> None:
    @app.agent(app.topic("in", value=bytes), name="work", batch=Batch(3, within="1s"), retry=TIERS)
    async def work(batch: list[Record[str, bytes]]) -> None:
        found = [fails(record, world.note(record)) for record in batch]
        errors = {place: error for place, error in enumerate(found) if error is not None}
        for place, record in enumerate(batch):
            if place not in errors:
                world.handled(record)
        if errors:
            raise BatchError(errors)


def of_whole_batches(world: CaseWorld, app: App, fails: Fails) -> None:
    @app.agent(app.topic("in", value=bytes), name="work", batch=Batch(1, within="1s"), retry=TIERS)
    async def work(batch: list[Record[str, bytes]]) -> None:
        error = fails(batch[0], world.note(batch[0]))
        if error is not None:
            raise error
        world.handled(batch[0])


def of_loops(world: CaseWorld, app: App, fails: Fails) -> None:
    @app.agent(app.topic("in", value=bytes), name="work", retry=TIERS)
    async def work(stream: Stream[Record[str, bytes]]) -> None:
        async for record in stream:
            error = fails(record, world.note(record))
            if error is not None:
                raise error
            world.handled(record)


SHAPES = pytest.mark.parametrize(
    "declare", [of_records, of_records_that_wait, with_outputs, of_parts_of_batches, of_whole_batches, of_loops]
)


def bad(record: Record[str, bytes]) -> bool:
    return record.value == b"bad"


# Outcomes


@SHAPES
@simulated
async def test_in_all_shapes_a_replayed_record_that_succeeds_is_told_to_be_handled(declare: Declare) -> None:
    world, app = CaseWorld(), App("test")
    declare(world, app, lambda record, number: None)
    world.send("a")
    world.replay()
    world.send("b")
    async with world.working_with_topics(app) as working:
        await world.settled(working)
        await told(world)
    ((key, value),) = world.told()
    assert key == f"run:{CASE}:test.work"
    assert value.items() >= {"group": "test.work", "outcome": "handled", "attempt": 1}.items()
    assert value.keys() == {"group", "outcome", "attempt", "at"}
    assert BEGAN * 1000 <= value["at"] <= wall() * 1000


@SHAPES
@simulated
async def test_in_all_shapes_each_tier_and_the_end_among_the_dead_letters_is_told(declare: Declare) -> None:
    world, app = CaseWorld(), App("test")
    declare(world, app, lambda record, number: Broken() if bad(record) else None)
    world.send("a")
    world.replay(value=b"bad")
    world.send("b")
    async with world.working_with_topics(app) as working:
        await world.settled(working)
        await told(world, 3)
    assert world.outcomes() == [("retried", 1), ("retried", 2), ("dead", 3)]
    assert [value.get("letter") for _, value in world.told()] == [None, None, *places(world)]
    (letter,) = world.dead_letters()
    assert header(letter, "sk-dlq-id") == CASE


@SHAPES
@simulated
async def test_in_all_shapes_what_succeeds_in_a_tier_is_told_to_be_handled_after_that(declare: Declare) -> None:
    world, app = CaseWorld(), App("test")
    declare(world, app, lambda record, number: Broken() if bad(record) and number == 1 else None)
    world.replay(value=b"bad")
    async with world.working_with_topics(app) as working:
        await world.settled(working)
        await told(world, 2)
    assert world.outcomes() == [("retried", 1), ("handled", 2)]


@SHAPES
@simulated
async def test_in_all_shapes_what_is_rejected_is_dead_and_what_is_skipped_is_handled(declare: Declare) -> None:
    world, app = CaseWorld(), App("test")
    errors = {b"reject": Reject("never"), b"skip": Skip()}
    declare(world, app, lambda record, number: errors[record.value])
    world.send("other", b"reject")
    world.replay("0:1", "a", b"reject")
    world.passed_over.add((SOURCE, world.replay("0:2", "b", b"skip")))
    async with world.working_with_topics(app) as working:
        await world.settled(working)
        await told(world, 2)
    runs = dict(world.told())
    assert (runs["run:0:1:test.work"]["outcome"], runs["run:0:1:test.work"]["letter"]) == ("dead", places(world)[1])
    assert runs["run:0:2:test.work"]["outcome"] == "handled"


@simulated
async def test_what_cannot_be_decoded_is_dead() -> None:
    world, app = CaseWorld(), App("test")

    @app.agent(app.topic("in", value=dict), name="work", dead_letter=True)
    async def work(value: dict[str, object]) -> None:
        raise AssertionError

    world.replay(value=b"\xff")
    async with world.working_with_topics(app) as working:
        await world.settled(working)
        await told(world)
    assert world.outcomes() == [("dead", 1)]


@simulated
async def test_runs_in_place_are_not_told_and_counted_in_the_end() -> None:
    world = CaseWorld()
    retry = Retry.delays("10s", jitter=0, in_place=2, in_place_wait="1s")
    app = flaky(world, lambda record, number: Broken() if number < 5 else None, retry=retry)
    world.replay()
    async with world.working_with_topics(app) as working:
        await world.settled(working)
        await told(world, 2)
    assert world.outcomes() == [("retried", 3), ("handled", 5)]


@simulated
async def test_what_an_open_breaker_holds_is_not_told_before_it_has_run_well() -> None:
    world = CaseWorld(breaker_failures=3, breaker_keys=1)
    broken = True
    app = flaky(world, lambda record, number: Broken() if broken else None, dead_letter=True, concurrency=1)
    for number in range(3):
        world.send(f"k{number}")
    world.replay(key="k3")
    world.send("k4")
    async with world.working_with_topics(app) as working:
        await working.joined()
        await until(lambda: working.agent.breaker_open, "it opens")
        await until(lambda: world.tries_of(3), "the replayed record is tried")
        await asyncio.sleep(60)
        assert len(world.tries_of(3)) > 1
        assert not world.told()
        broken = False
        await world.settled(working)
        await told(world)
    assert world.outcomes() == [("handled", 1)]


@simulated
async def test_an_output_that_is_refused_after_the_handler_has_returned_makes_no_handled_run() -> None:
    world, app = CaseWorld(), App("test")
    world.broker.create_topic("out", 1)

    @app.agent(app.topic("in", value=bytes), sink=app.topic("out", value=bytes), name="work", dead_letter=True)
    async def work(value: bytes) -> bytes:
        return value

    world.broker.faults.refuse("out")
    world.replay()
    async with world.working_with_topics(app) as working:
        await world.settled(working)
        await told(world)
    assert world.outcomes() == [("dead", 1)]


@simulated
async def test_it_is_not_handled_before_what_it_has_sent_is_acknowledged() -> None:
    world, app = CaseWorld(), App("test")
    with_outputs(world, app, lambda record, number: None)
    world.broker.faults.refuse("out", TransportError("not now"))
    world.replay()
    async with world.working_with_topics(app):
        await until(lambda: world.tries, "it runs")
        await asyncio.sleep(5)
        assert not world.told()
        world.broker.faults.accept("out")
        await told(world)
    assert world.outcomes() == [("handled", 1)]


@simulated
async def test_each_source_has_the_state_topic_of_its_own_dead_letters() -> None:
    world, app = CaseWorld(), App("test")
    world.broker.create_topic("more", 1)
    world.create_copies("set-aside")
    world.broker.create_topic("set-aside.state", 1)
    aside: Topic[str, bytes] = app.topic("set-aside", value=bytes)

    @app.agent(app.topic("more", value=bytes), name="work", dead_letter=aside)
    async def work(record: Record[str, bytes]) -> None:
        pass

    world.is_settled = lambda partition, offset: True
    world.send("a", topic="more", headers=[("sk-dlq-id", b"0:7")])
    async with world.working_with_topics(app):
        await told(world, state="set-aside.state")
    assert [key for key, _ in world.told("set-aside.state")] == ["run:0:7:test.work"]
    assert not world.told()


@pytest.mark.parametrize("headers", [[], [("h", b"1")], [("sk-dlq-id", b"no case")], [("sk-dlq-id", None)]])
@simulated
async def test_nothing_is_told_or_connected_for_records_that_are_no_cases(headers: list[tuple[str, bytes]]) -> None:
    world = CaseWorld(state=False)
    app = flaky(world, lambda record, number: Broken() if number == 1 else None, retry=TIERS)
    world.send("a", headers=headers)
    async with world.working_with_topics(app) as working:
        await world.settled(working)
        await asyncio.sleep(5)
        runs = working.runner._case_runs
        assert runs._producer is None and not runs.lost


@simulated
async def test_an_agent_without_dead_letters_tells_nothing() -> None:
    world = CaseWorld()
    app = flaky(world, lambda record, number: Broken() if number == 1 else None, retry=Retry.in_place(2, "1s"))
    world.replay()
    async with world.working_with_topics(app) as working:
        await world.settled(working)
        await asyncio.sleep(5)
    assert not world.told()


# Replays into the first tier


@SHAPES
@simulated
async def test_a_replay_into_the_first_tier_runs_at_once_and_begins_its_attempts_anew(declare: Declare) -> None:
    world, app = CaseWorld(), App("test")
    origin = world.send("a", b"{}")
    declare(world, app, lambda record, number: Broken("still") if number > 1 else None)
    async with world.working_with_topics(app) as working:
        await world.settled(working)
        sent = asyncio.get_running_loop().time()
        world.replay_to_tier(origin)
        await until(lambda: len(world.tries) == 2, "it runs")
        assert world.tries[1].began - sent < 2.5  # a fetch, and the time in which a batch fills
        await world.settled(working)
        await told(world, 3)
    runs = world.tries[1:]
    assert [(each.offset, each.attempt) for each in runs] == [(origin, 1), (origin, 2), (origin, 3)]
    assert WAITS[0] <= runs[1].began - runs[0].began < WAITS[0] + 2.5
    assert WAITS[1] <= runs[2].began - runs[1].began < WAITS[1] + 2.5
    assert [len(world.records(tier(number))) for number in (1, 2)] == [2, 1]  # the replay itself is in the first
    assert world.outcomes() == [("retried", 1), ("retried", 2), ("dead", 3)]
    (letter,) = world.dead_letters()
    assert (header(letter, "sk-attempt"), header(letter, "sk-dlq-id")) == ("3", CASE)
    assert header(letter, "sk-origin-offset") == str(origin)
    first, last = (int(header(letter, f"sk-{name}") or 0) for name in ("first-failed-at", "failed-at"))
    assert 1000 * sum(WAITS) <= last - first < 1000 * sum(WAITS) + 5_000
    assert letter.headers[0] == ("h", b"1")
    assert sum(working.agent.lateness[1].counts) == 2
    assert working.agent.lateness[1].sum < 2.2  # a batch waits for others for that long


@simulated
async def test_a_replay_into_the_first_tier_runs_at_once_after_a_rebalance_or_a_restart_too() -> None:
    world = CaseWorld()
    app = flaky(world, lambda record, number: None, retry=TIERS)
    origin = world.send("a")
    async with world.working_with_topics(app) as working:
        await world.settled(working)
        rebalance(working)
        world.replay_to_tier(origin)
        await until(lambda: len(world.tries) == 2, "it runs", 3)
    world.replay_to_tier(origin)
    async with world.working_with_topics(app) as working:
        await until(lambda: len(world.tries) == 3, "it runs", 3)
        assert [each.attempt for each in world.tries] == [1, 1, 1]
        await world.settled(working)
    assert world.outcomes() == [("handled", 1), ("handled", 1)]


@simulated
async def test_a_replay_into_the_first_tier_for_a_partition_that_is_another_workers_is_told_too() -> None:
    world = CaseWorld(partitions=2)
    world.create_copies(tier(1), 1)  # fewer than the source: partition 1's copies come back beside it
    app = flaky(world, lambda record, number: None, retry=Retry.delays("10s"))
    async with world.working_with_topics(app) as working:
        await working.joined()
        world.replay_to_tier(0)
        await told(world)
    assert world.outcomes() == [("handled", 1)]


# What may go wrong


@simulated
async def test_a_missing_state_topic_is_warned_of_once_and_told_when_it_is_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = CaseWorld(state=False)
    app = flaky(world, lambda record, number: None, retry=TIERS)
    async with world.working_with_topics(app) as working:
        for number in range(5):
            world.replay(f"0:{number}")
            await world.settled(working)
            await asyncio.sleep(40)
        assert working.runner._case_runs.lost == 5
        (warning,) = [record.getMessage() for record in caplog.records if STATE in record.getMessage()]
        assert warning.startswith("agent work: in.dlq.state is not told how replayed records have fared: topic")
        world.create_state()
        await asyncio.sleep(case_runs.AGAIN_AFTER)
        world.replay("0:5")
        await told(world)
    assert world.outcomes("0:5") == [("handled", 1)]
    assert len(world.tries) == 6


@pytest.mark.parametrize(
    "error",
    [TopicRefused("not allowed"), AccessDenied("no such user"), TransportError("no leader"), RuntimeError("a bug")],
    ids=["refused", "denied", "no leader", "bug"],
)
@simulated
async def test_a_state_topic_that_takes_nothing_for_a_while_holds_up_no_record_and_is_told_later(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    world = CaseWorld()
    world.broker.faults.refuse(STATE, error)
    app = flaky(world, lambda record, number: None, retry=TIERS)
    async with world.working_with_topics(app) as working:
        world.replay("0:1")
        await world.settled(working, 5)
        await asyncio.sleep(10)
        world.replay("0:2")
        await world.settled(working, 5)
        await asyncio.sleep(120)
        assert len([record for record in caplog.records if STATE in record.getMessage()]) == 1
        assert working.runner._case_runs.lost == 2
        world.broker.faults.accept(STATE)
        world.replay("0:3")
        await told(world)
    assert [key for key, _ in world.told()] == ["run:0:3:test.work"]
    assert working.task.exception() is None


@simulated
async def test_what_could_not_be_told_at_once_is_told_when_the_topic_is_well_again_and_nothing_of_it_twice() -> None:
    world = CaseWorld()
    world.broker.faults.refuse(STATE, TransportError("no leader"))
    app = flaky(world, lambda record, number: Broken() if number == 1 else None, retry=TIERS)
    world.replay()
    world.replay("0:1", "b")
    async with world.working_with_topics(app) as working:
        await world.settled(working)
        world.broker.faults.accept(STATE)
        await told(world)
        await asyncio.sleep(20)
    assert world.outcomes() == world.outcomes("0:1") == [("handled", 2)]  # the last counts


@pytest.mark.parametrize("fault", [asyncio.CancelledError(), OSError("a socket")], ids=["cancelled", "error"])
@simulated
async def test_a_client_that_cannot_be_closed_ends_neither_the_telling_nor_the_agent(fault: BaseException) -> None:
    world = CaseWorld()
    world.broker.faults.refuse(STATE, TransportError("no leader"))
    app = flaky(world, lambda record, number: None, dead_letter=True)
    async with world.working_with_topics(app) as working:
        await working.joined()
        make, runs = working.transport.producer, working.runner._case_runs

        def broken() -> Any:
            producer = make()

            async def stop() -> None:
                raise fault

            producer.stop = stop
            return producer

        runs._make_producer = broken
        world.replay()
        await world.settled(working)
        await asyncio.sleep(1)
        world.broker.faults.accept(STATE)
        await told(world)


@simulated
async def test_a_cancellation_from_within_the_client_ends_neither_the_telling_nor_the_agent() -> None:
    world = CaseWorld()
    app = flaky(world, lambda record, number: None, dead_letter=True)
    async with world.working_with_topics(app) as working:
        await working.joined()
        make, runs = working.transport.producer, working.runner._case_runs

        def broken() -> Any:
            producer = make()

            async def start() -> None:
                raise asyncio.CancelledError

            producer.start = start
            return producer

        runs._make_producer = broken
        world.replay()
        await world.settled(working)
        await asyncio.sleep(1)
        assert not world.told()
        runs._make_producer = make
        await told(world)


@simulated
async def test_only_so_many_wait_and_the_oldest_are_forgotten(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(case_runs, "MOST_WAITING", 10)
    monkeypatch.setattr(case_runs, "REMEMBERED", 5)
    world = CaseWorld()
    world.broker.faults.refuse(STATE, TransportError("no leader"))
    app = flaky(world, lambda record, number: None, dead_letter=True)
    async with world.working_with_topics(app) as working:
        for number in range(30):
            world.replay(f"0:{number}")
        await world.settled(working)
        runs = working.runner._case_runs
        assert (len(runs._waiting), len(runs._told), runs.lost) == (10, 5, 20)
        world.broker.faults.accept(STATE)
        await told(world)
    assert [key for key, _ in world.told()] == [f"run:0:{number}:test.work" for number in range(20, 30)]
    assert len([record for record in caplog.records if "more than 10 wait" in record.getMessage()]) == 1


@simulated
async def test_more_than_fits_into_a_batch_is_told_in_several() -> None:
    world = CaseWorld(batch_size=1_000)
    app = flaky(world, lambda record, number: None, dead_letter=True, concurrency=100)
    for number in range(300):
        world.replay(f"0:{number}", key=f"k{number}")
    async with world.working_with_topics(app):
        await told(world, 300)
    assert len({key for key, _ in world.told()}) == 300


@simulated
async def test_an_acknowledgement_that_comes_after_the_copy_has_run_does_not_hide_what_has_come_of_it() -> None:
    world = CaseWorld()
    app = flaky(world, lambda record, number: Broken() if number == 1 else None, retry=Retry.delays("1s", jitter=0))
    async with world.working_with_topics(app) as working:
        await working.joined()
        world.broker.faults.acknowledgements.close()
        world.replay(key=None)  # a copy with a key waits in its lane
        await until(lambda: len(world.tries) == 2, "the copy runs")
        await asyncio.sleep(1)
        world.broker.faults.acknowledgements.open()
        await world.settled(working)
        await asyncio.sleep(5)
    assert world.outcomes()[-1] == ("handled", 2)


# Records that run again elsewhere


@simulated
async def test_a_handler_that_returns_after_its_member_was_thrown_out_is_not_told_to_have_handled_it() -> None:
    world = CaseWorld()
    returns = asyncio.Event()

    async def stubborn(record: Record[str, bytes], number: int) -> None:
        if number > 1:
            raise Reject("the second time")
        while not returns.is_set():
            with suppress(asyncio.CancelledError):
                await returns.wait()

    app = doing(world, stubborn)
    world.replay()
    async with world.working_with_topics(app) as working:
        await until(lambda: world.tries, "it runs")
        world.broker.faults.freeze(member := working.consumer.member)
        await asyncio.sleep(2 * world.settings.session_timeout)
        world.broker.faults.thaw(member)
        await until(lambda: working.agent.rebalances_lost, "it is thrown out")
        returns.set()
        await world.settled(working)
        await told(world)
        await asyncio.sleep(5)
    assert world.outcomes() == [("dead", 1)]


@simulated
async def test_what_is_acknowledged_after_its_partition_was_given_back_is_not_told() -> None:
    world, app = CaseWorld(drain_timeout=1.0), App("test")
    with_outputs(world, app, lambda record, number: Reject("the second time") if number > 1 else None)
    world.replay()
    world.broker.faults.acknowledgements.close()
    async with world.working_with_topics(app) as working:
        await until(lambda: world.records("out"), "it has run")
        rebalance(working)
        await until(lambda: len(world.tries) == 2, "it runs again")
        world.broker.faults.acknowledgements.open()
        await world.settled(working)
        await told(world)
        await asyncio.sleep(5)
    assert world.outcomes() == [("dead", 1)]


@simulated
async def test_a_copy_that_is_acknowledged_after_its_partition_was_given_back_is_not_told() -> None:
    world = CaseWorld(drain_timeout=1.0)
    ends = asyncio.Event()

    async def once(record: Record[str, bytes], number: int) -> None:
        if number == 1:
            raise Reject("once")
        await ends.wait()
        world.handled(record)

    world.replay()
    world.broker.faults.acknowledgements.close()
    async with world.working_with_topics(doing(world, once)) as working:
        await until(world.dead_letters, "it has run")
        rebalance(working)
        await until(lambda: len(world.tries) == 2, "it runs again")
        world.broker.faults.acknowledgements.open()
        await until(lambda: working.agent.processed_dead_lettered, "the copy is acknowledged")
        await asyncio.sleep(5)
        assert not world.told()
        ends.set()
        await told(world)
    assert world.outcomes() == [("handled", 1)]


@simulated
async def test_what_was_cancelled_by_the_stop_is_not_told() -> None:
    world = CaseWorld(drain_timeout=1.0)

    async def for_ever(record: Record[str, bytes], number: int) -> None:
        await asyncio.Event().wait()

    world.replay()
    async with world.working_with_topics(doing(world, for_ever)) as working:
        await until(lambda: world.tries, "it runs")
        await working.stopped()
    assert world.committed() == {0: 0}
    assert not world.told()


@simulated
async def test_what_the_offset_map_has_settled_is_not_told_again() -> None:
    world = CaseWorld(drain_timeout=1.0)

    async def first_waits(record: Record[str, bytes], number: int) -> None:
        if record.offset == 0 and number == 1:
            await asyncio.Event().wait()
        world.handled(record)

    app = doing(world, first_waits, concurrency=2)
    world.send("a")
    world.replay(key="b")
    async with world.working_with_topics(app) as working:
        await told(world)
        await working.stopped()
    assert world.committed() == {0: 0}
    async with world.working_with_topics(app) as working:
        await world.settled(working)
        await asyncio.sleep(5)
        assert not working.runner.membership.partitions[SOURCE].cases
    assert len(world.tries_of(1)) == 1
    assert world.outcomes() == [("handled", 1)]


# The end


@simulated
async def test_a_stop_tells_what_waits() -> None:
    world = CaseWorld()
    app = flaky(world, lambda record, number: None, dead_letter=True)
    for number in range(20):
        world.replay(f"0:{number}")
    async with world.working_with_topics(app) as working:
        await until(lambda: len(world.tries) == 20, "all have run")
        await working.stopped()
        assert len(world.told()) == 20
        assert working.runner._case_runs._producer is None


@simulated
async def test_a_stop_waits_two_seconds_at_the_most_for_a_state_topic_that_takes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = CaseWorld()
    world.broker.faults.refuse(STATE, TransportError("no leader"))
    app = flaky(world, lambda record, number: None, dead_letter=True)
    world.replay()
    async with world.working_with_topics(app) as working:
        await world.settled(working)
        left = asyncio.get_running_loop().time()
        await working.stopped()
        assert asyncio.get_running_loop().time() - left < 2.5
    assert world.committed() == {0: 1}
    assert len([record for record in caplog.records if "the agent has stopped" in record.getMessage()]) == 1


def doing(world: CaseWorld, body: Callable[[Record[str, bytes], int], Awaitable[None]], **options: Any) -> App:
    app = App("test")

    @app.agent(app.topic("in", value=bytes), name="work", dead_letter=True, **options)  # type: ignore[untyped-decorator]
    async def work(record: Record[str, bytes]) -> None:
        await body(record, world.note(record))

    return app
