"""A whole worker: its start, its states, its end, and several agents in one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from streamkit import App, Record
from streamkit.errors import ConfigurationError, LostRange, MissingTopic, RecordFailed, TransportError
from streamkit.observe.health import not_live, not_ready
from streamkit.observe.vitals import STARTUP_LIMIT
from streamkit.record import TopicPartition
from streamkit.runtime.committer import Committer
from streamkit.runtime.runner import GONE_AFTER, Runner
from streamkit.transport.base import Refused, Unreachable
from streamkit.transport.memory.admin import MemoryAdmin
from tests.runtime.support import GROUP, Working, World, recording, simulated, until

IN = TopicPartition("in", 0)


async def ended(working: Working) -> BaseException | None:
    """How it ended by itself."""
    await asyncio.wait([working.task], timeout=100)
    assert working.task.done(), "the worker goes on"
    return working.task.exception()


# Start


@simulated
async def test_a_worker_says_what_it_waits_for_until_it_runs() -> None:
    world = World(latency=0.3)  # longer than it takes to look
    states: list[tuple[str, str]] = []
    working = Working(world, recording(world), world.settings)

    async def watch() -> None:
        while not working.task.done():
            state = working.slots.state, working.slots.unready
            if not states or states[-1] != state:
                states.append(state)
            await asyncio.sleep(0.005)

    watching = asyncio.ensure_future(watch())
    await until(lambda: working.slots.state == "running")
    await asyncio.sleep(1)
    working.worker.stop()
    assert (working.slots.state, working.slots.unready) == ("draining", "stopping")
    await working.task
    await watching
    assert [state for state, _ in states] == ["starting", "starting", "running", "draining"]
    assert states[0][1]
    assert states[1][1] == "joining the groups"
    assert working.slots.state == "stopped"


@simulated
async def test_brokers_that_cannot_be_reached_are_tried_again_until_they_can() -> None:
    world = World(connect_timeout=1.0)
    world.fill(["a"])
    world.broker.faults.network.close()
    async with world.working(recording(world)) as working:
        await asyncio.sleep(60)
        assert working.slots.state == "starting"
        assert working.slots.unready == "cannot reach the brokers at localhost:9092"
        world.broker.faults.network.open()
        await until(lambda: world.committed() == {0: 1}, patience=10)
        await until(lambda: working.slots.state == "running", patience=0.5)
        assert working.slots.unready == ""


def why_not_live(working: Working) -> str:
    return not_live(working.slots, asyncio.get_running_loop().time())


@simulated
async def test_a_start_that_waits_for_brokers_is_never_too_long() -> None:
    world = World(connect_timeout=1.0)
    world.broker.faults.network.close()
    async with world.working(recording(world)) as working:
        await asyncio.sleep(3 * STARTUP_LIMIT)
        assert (working.slots.state, why_not_live(working)) == ("starting", "")
        world.broker.faults.network.open()
        await until(lambda: working.slots.vitals.joined)


@simulated
async def test_a_start_at_which_the_apps_own_code_hangs_is_too_long_after_its_limit() -> None:
    world = World()

    @asynccontextmanager
    async def hanging(app: App) -> AsyncIterator[None]:
        await asyncio.sleep(10 * STARTUP_LIMIT)
        yield

    app = App("test", lifespan=hanging)
    app.topic("in", value=str)
    async with world.working(app, startup_limit=20.0) as working:
        await asyncio.sleep(19)
        assert why_not_live(working) == ""
        await asyncio.sleep(3)
        assert why_not_live(working).startswith("starting: beginning the app's lifespan for 2")
        assert not working.slots.vitals.joined


@simulated
async def test_a_worker_hears_from_brokers_and_reads_as_long_as_it_runs() -> None:
    world = World()
    loop = asyncio.get_running_loop()
    async with world.working(recording(world)) as working:
        await until(lambda: working.slots.vitals.joined)
        for _ in range(5):
            await asyncio.sleep(100)
            assert loop.time() - working.slots.vitals.answered < 2
            (agent,) = working.slots.agents.values()
            assert loop.time() - agent.read_at < 2
            assert why_not_live(working) == not_ready(working.slots, loop.time()) == ""


@simulated
async def test_a_worker_whose_brokers_are_away_is_live_and_not_ready_and_is_ready_again_when_they_are_back() -> None:
    world = World()
    loop = asyncio.get_running_loop()
    async with world.working(recording(world)) as working:
        await until(lambda: working.slots.vitals.joined)
        world.broker.faults.network.close()
        await asyncio.sleep(1_000)
        assert why_not_live(working) == ""
        assert not_ready(working.slots, loop.time()).startswith("no broker has answered for ")
        world.broker.faults.network.open()
        await until(lambda: not_ready(working.slots, loop.time()) == "")


@simulated
async def test_an_agent_that_ends_by_itself_is_an_error_and_not_live(monkeypatch: pytest.MonkeyPatch) -> None:
    async def done(*_: object) -> None: ...

    monkeypatch.setattr(Runner, "run", done)
    world = World()
    working = Working(world, recording(world), world.settings)
    error = await ended(working)
    assert str(error) == "agent 'work' has ended by itself: an error in streamkit"
    assert why_not_live(working) == "agent 'work' has ended, and must not"


@simulated
async def test_a_part_of_an_agent_that_ends_by_itself_ends_the_worker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def done(*_: object) -> None: ...

    monkeypatch.setattr(Committer, "run", done)
    world = World()
    working = Working(world, recording(world), world.settings)
    assert "must go on" in str(await ended(working))
    assert why_not_live(working) == "a part of agent 'work' has ended, and must not"
    assert "unexpected error in the engine" in caplog.text


@simulated
async def test_a_worker_that_never_reached_a_broker_can_be_stopped() -> None:
    world = World()
    world.broker.faults.network.close()
    async with world.working(recording(world)) as working:
        await asyncio.sleep(3.3)
        began = asyncio.get_running_loop().time()
        await working.stopped()
        assert asyncio.get_running_loop().time() - began < 1


def stop_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stop(admin: MemoryAdmin) -> None:
        raise OSError("the socket is gone")

    monkeypatch.setattr(MemoryAdmin, "stop", stop)


def test_an_admin_client_that_cannot_be_closed_changes_no_clean_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stop_fails(monkeypatch)

    @simulated
    async def case() -> None:
        world = World()
        world.fill(["a"])
        async with world.working(recording(world)) as working:
            await until(lambda: world.committed() == {0: 1})
        assert working.slots.state == "stopped"

    case()
    assert "a client of the brokers could not be closed in order" in caplog.text
    assert "the socket is gone" in caplog.text


def test_an_admin_client_that_cannot_be_closed_hides_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    stop_fails(monkeypatch)

    @simulated
    async def case() -> None:
        world = World()
        app = recording(world)
        app.topic("other", value=str)
        assert isinstance(await world.failing(app), MissingTopic)

    case()


def test_an_admin_client_that_cannot_be_closed_keeps_no_worker_from_trying_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop_fails(monkeypatch)

    @simulated
    async def case() -> None:
        world = World(connect_timeout=1.0)
        world.broker.faults.network.close()
        async with world.working(recording(world)) as working:
            await asyncio.sleep(10)
            world.broker.faults.network.open()
            await until(lambda: working.slots.state == "running")

    case()


@simulated
async def test_brokers_that_refuse_the_client_are_a_matter_of_configuration() -> None:
    world = World()

    async def travel(within: float) -> None:
        raise Refused("authentication failed")

    world.broker.travel = travel  # type: ignore[method-assign]
    error = await world.failing(recording(world))
    assert isinstance(error, ConfigurationError)
    assert "localhost:9092 refuse this client: authentication failed" in str(error)


@simulated
async def test_a_missing_topic_ends_the_worker_and_names_the_command_that_creates_it() -> None:
    world = World()
    app = recording(world)
    app.topic("other", value=str, partitions=4)
    app.topic("another", value=str)
    error = await world.failing(app)
    assert isinstance(error, MissingTopic)
    assert set(error.topics) == {"other", "another"}
    assert "--create --topic other --partitions 4" in str(error)
    assert set(world.broker.topics) == {"in"}


@simulated
async def test_missing_topics_are_created_as_declared_if_asked_for() -> None:
    world = World()
    app = recording(world)
    app.topic("other", value=str, partitions=4, retention="1h", config={"cleanup.policy": "delete"})
    working = Working(world, app, world.settings, create_topics=True)
    await working.joined()
    await working.stopped()
    created = world.broker.topics["other"]
    assert len(created.partitions) == 4
    assert created.config == {"retention.ms": "3600000", "cleanup.policy": "delete"}


@simulated
async def test_a_missing_topic_without_partitions_is_not_created_and_nothing_else_either() -> None:
    world = World()
    app = recording(world)
    app.topic("other", value=str, partitions=4)
    app.topic("another", value=str)
    working = Working(world, app, world.settings, create_topics=True)
    assert isinstance(await ended(working), MissingTopic)
    assert set(world.broker.topics) == {"in"}


# Idle


@simulated
async def test_a_worker_that_is_to_stop_when_idle_stops_when_everything_has_been_settled_for_that_long() -> None:
    world = World(partitions=2)
    world.fill(["a"] * 5)
    world.broker.append_marker("in")

    async def body(record: Record[str, bytes]) -> None:
        await asyncio.sleep(10)

    working = Working(world, recording(world, body), _idle_after(world, 3.0))
    assert await ended(working) is None
    assert world.committed() == {0: 6, 1: 0}
    assert 53 <= asyncio.get_running_loop().time() <= 60


def _idle_after(world: World, seconds: float) -> Any:
    return replace(world.settings, stop_when_idle=seconds)


@simulated
async def test_records_that_arrive_start_the_patience_anew() -> None:
    world = World()
    working = Working(world, recording(world), _idle_after(world, 3.0))
    for number in range(5):
        await asyncio.sleep(2)
        world.fill([f"{number}"])
    assert await ended(working) is None
    assert world.committed() == {0: 5}
    assert 13 <= asyncio.get_running_loop().time() < 16


@simulated
async def test_no_partition_at_all_counts_as_settled() -> None:
    world = World(partitions=1)

    async def body(record: Record[str, bytes]) -> None:
        await asyncio.sleep(20)

    async with world.working(recording(world, body, worker="1")):
        world.fill(["a"])
        await until(lambda: world.runs)
        second = Working(world, recording(world, worker="2"), _idle_after(world, 3.0))
        assert await ended(second) is None
        assert second.agent.consumed["in"] == 0


@simulated
async def test_a_worker_is_not_idle_while_the_group_rebalances() -> None:
    world = World()
    async with world.working(recording(world), stop_when_idle=1.0) as working:
        await working.joined()
        loop = asyncio.get_running_loop()
        other = world.broker.group(GROUP).join(
            "other", topics=["in"], session_timeout=20, rebalance_timeout=20, known=False
        )
        await until(other.done)
        began = loop.time()
        working.consumer._rejoin.set()  # the other never answers this, until it is thrown out
        world.fill(["a"])
        await asyncio.sleep(8)
        assert not working.task.done()
        await until(lambda: world.committed() == {0: 1})
        assert loop.time() - began > 8


@simulated
async def test_a_worker_is_not_idle_while_it_cannot_ask_how_long_the_log_is() -> None:
    world = World(session_timeout=100.0)
    async with world.working(recording(world), stop_when_idle=1.0) as working:
        await working.joined()
        world.broker.faults.network.close()
        await asyncio.sleep(20)
        assert not working.task.done()
        world.broker.faults.network.open()
        assert await ended(working) is None


# Several agents


def two_agents(world: World, first: Any, second: Any) -> App:
    app = App("test")
    topic = app.topic("in", value=bytes)
    done: set[tuple[str, int]] = set()
    world.is_settled = lambda tp, offset: ("work", offset) in done

    def declare(name: str, body: Any) -> None:
        @app.agent(topic, name=name)
        async def handle(record: Record[str, bytes]) -> None:
            await body(record)
            done.add((name, record.offset))

    declare("work", first)
    declare("other", second)
    return app


@simulated
async def test_each_agent_reads_everything_in_its_own_group() -> None:
    world = World()
    world.fill(list("abc"))
    seen: list[tuple[str, int]] = []

    async def first(record: Record[str, bytes]) -> None:
        seen.append(("work", record.offset))

    async def second(record: Record[str, bytes]) -> None:
        seen.append(("other", record.offset))

    async with world.working(two_agents(world, first, second)) as working:
        await until(lambda: world.committed() == world.committed("test.other") == {0: 3})
    assert sorted(seen) == [(name, offset) for name in ("other", "work") for offset in range(3)]
    assert {slots.processed_success for slots in working.slots.agents.values()} == {3}


@simulated
async def test_when_an_agent_fails_the_others_drain_and_commit_and_its_failure_is_raised() -> None:
    world = World()
    world.fill(list("abc"))

    async def slow(record: Record[str, bytes]) -> None:
        await asyncio.sleep(3)

    async def fails(record: Record[str, bytes]) -> None:
        await asyncio.sleep(4)
        raise ValueError

    error = await world.failing(two_agents(world, slow, fails))
    assert isinstance(error, RecordFailed)
    assert error.agent == "other"
    assert world.committed() == {0: 2}
    assert world.committed("test.other") == {0: 0}


@simulated
async def test_sends_outside_of_handlers_use_the_partitions_that_a_topic_gets() -> None:
    world = World()
    app = App("test")
    topic = app.topic("in", value=str)
    async with world.working(app):
        await until(lambda: app.port.current is not None)
        await topic.send("v", key="first")
        await until(lambda: world.broker.records("in"))
        world.broker.add_partitions("in", 3)
        await asyncio.sleep(world.settings.metadata_max_age + 1)
        for number in range(30):
            await topic.send("v", key=f"k{number}")
        await until(lambda: len(world.broker.records("in")) == 31)
    assert all(world.ends().values())


@simulated
async def test_a_worker_without_agents_only_sends() -> None:
    world = World()
    app = App("test")
    topic = app.topic("in", value=str)
    async with world.working(app) as working:
        await until(lambda: app.port.current is not None)
        await topic.send("v")
        await until(lambda: world.broker.records("in"))
    assert working.slots.produced["in"].acknowledged == 1


# While it runs


@simulated
async def test_the_loop_shows_that_it_is_alive() -> None:
    world = World()
    async with world.working(recording(world)) as working:
        for _ in range(20):
            await asyncio.sleep(1)
            assert asyncio.get_running_loop().time() - working.slots.heartbeat <= 0.3


@simulated
async def test_a_topic_that_is_deleted_while_it_is_read_stops_the_worker() -> None:
    world = World()
    world.fill(["a"])
    async with world.working(recording(world)) as working:
        await until(lambda: world.committed() == {0: 1})
        world.broker.delete_topic("in")
        error = await ended(working)
        assert isinstance(error, LostRange)
        assert error.topic == "in"
        assert "the topic is gone" in str(error)
        working.task = asyncio.ensure_future(asyncio.sleep(0))


@simulated
async def test_a_topic_that_is_deleted_and_made_anew_is_read_on_if_on_gap_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    world.fill(["a"])
    async with world.working(recording(world, on_gap="earliest")):
        await until(lambda: world.committed() == {0: 1})
        world.broker.delete_topic("in")
        await asyncio.sleep(100)
        told = [message for message in caplog.messages if "the topic is gone" in message]
        assert 1 < len(told) <= 100 / GONE_AFTER
        world.broker.create_topic("in", partitions=1)
        world.fill(["b"])
        await until(lambda: world.committed() == {0: 1})
    assert world.offsets_run == [0, 0]


@simulated
async def test_topics_that_are_missing_for_a_moment_only_do_not_stop_the_worker() -> None:
    world = World()
    async with world.working(recording(world)) as working:
        await working.joined()
        count = working.consumer.partition_count
        working.consumer.partition_count = lambda topic: 0  # type: ignore[method-assign]
        await asyncio.sleep(2)
        working.consumer.partition_count = count  # type: ignore[method-assign]
        await asyncio.sleep(10)
        working.consumer.partition_count = lambda topic: 0  # type: ignore[method-assign]
        await asyncio.sleep(10)  # metadata that are wrong for long: the topic itself is there
        assert not working.task.done()


@simulated
async def test_a_broker_that_goes_away_between_the_check_and_the_first_connection_fails_the_worker() -> None:
    world = World()
    checked = world.broker.counts

    async def connect(within: float) -> None:
        if working.slots.agents:
            raise Unreachable("gone")
        await asyncio.sleep(0)

    world.broker.travel = connect  # type: ignore[method-assign]
    working = Working(world, recording(world), world.settings)
    assert isinstance(await ended(working), TransportError)
    assert checked(["in"]) == {"in": 1}


@simulated
async def test_everything_is_counted() -> None:
    world = World(drain_timeout=1.0)
    world.fill(["a", "b", "hung", "c"])

    async def body(record: Record[str, bytes]) -> None:
        await asyncio.sleep(1000 if record.key == "hung" and len(world.runs) < 5 else 0.02)

    async with world.working(recording(world, body, concurrency=4)) as working:
        await until(lambda: len(world.done[IN]) == 3)
        slots = working.agent
        assert (slots.in_flight(), slots.consumed, slots.concurrency) == (1, {"in": 4}, 4)
        working.consumer._rejoin.set()
        await until(lambda: world.committed() == {0: 4})
        assert slots.in_flight() == 0
    assert (slots.processed_success, slots.processed_error, slots.processed_cancelled) == (4, 0, 1)
    assert (slots.consumed, slots.skipped) == ({"in": 6}, 1)
    assert (slots.rebalances, slots.rebalances_lost) == (2, 0)
    assert slots.assigned == frozenset()
    assert slots.processing.counts[4] == 4  # up to 25 ms
    assert sum(slots.processing.counts) == 5
    assert slots.commits_succeeded >= 2
    assert slots.commits_failed == 0


@simulated
async def test_a_handler_that_cancels_the_task_that_runs_it_and_goes_on_stops_the_agent() -> None:
    world = World()
    world.fill(["a"] * 3)

    async def body(record: Record[str, bytes]) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    working = Working(world, recording(world, body), world.settings)
    assert await ended(working) is not None


@simulated
async def test_a_stop_does_not_wait_for_the_look_back(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    looking = asyncio.Event()

    async def hangs(*_: object) -> None:
        looking.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(MemoryAdmin, "committed", hangs)
    working = Working(world, recording(world, start_from="latest"), world.settings)
    await looking.wait()
    started = asyncio.get_running_loop().time()
    working.worker.stop()
    assert await ended(working) is None
    assert asyncio.get_running_loop().time() - started < 2
