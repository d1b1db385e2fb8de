"""What an app does besides its agents: lifespan, timers, reports of errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from streamkit import App, Record, RecordFailed, UserCodeFailed
from streamkit.errors import StreamkitError, TransportError
from streamkit.record import TopicPartition
from tests.runtime.support import Working, World, simulated, until

IN = TopicPartition("in", 0)


def now() -> float:
    return asyncio.get_running_loop().time()


class Living:
    """An app with a lifespan that notes when it is entered and left, and an agent that notes the state it sees."""

    def __init__(self, world: World, **settings: Any) -> None:
        self.events: list[object] = []
        self.app = App("test", lifespan=self._lifespan, **settings)
        topic = self.app.topic("in", value=bytes)

        @self.app.agent(topic)
        async def work(record: Record[str, bytes]) -> None:
            self.events.append(self.app.state)
            world.done[IN].add(record.offset)

    @asynccontextmanager
    async def _lifespan(self, app: App) -> AsyncIterator[str]:
        assert app is self.app
        await self.begin()
        self.events.append("entered")
        yield "state"
        self.events.append("leaving")
        await self.end()
        self.events.append("left")

    async def begin(self) -> None:
        await asyncio.sleep(1)

    async def end(self) -> None:
        await asyncio.sleep(1)


# Lifespan


@simulated
async def test_the_lifespan_is_around_the_work_and_what_it_yields_is_the_state() -> None:
    world = World()
    world.fill("a")
    living = Living(world)
    with pytest.raises(RuntimeError, match="app 'test' has no state: no worker of it is running"):
        assert living.app.state
    async with world.working(living.app) as working:
        await asyncio.sleep(0.5)
        assert (working.slots.state, working.slots.unready) == ("starting", "beginning the app's lifespan")
        await until(lambda: world.committed() == {0: 1})
    assert living.events == ["entered", "state", "leaving", "left"]
    with pytest.raises(RuntimeError):
        assert living.app.state


@simulated
async def test_without_a_lifespan_the_state_is_none_while_a_worker_runs() -> None:
    world = World()
    app = App("test")
    app.topic("in", value=bytes)
    async with world.working(app) as working:
        await working.joined()
        assert app.state is None


@simulated
async def test_a_worker_without_agents_tells_that_its_lifespan_begins_too() -> None:
    world = World()
    living = Living(World())
    app = App("test", lifespan=lambda app: living._lifespan(living.app))
    app.topic("in", value=bytes)
    async with world.working(app) as working:
        await asyncio.sleep(0.5)
        assert (working.slots.state, working.slots.unready) == ("starting", "beginning the app's lifespan")
        await until(lambda: (working.slots.state, working.slots.unready) == ("running", ""))


@simulated
async def test_a_lifespan_may_send_at_its_beginning_and_at_its_end() -> None:
    world = World()
    app = App("test", lifespan=lambda app: lifespan())
    topic = app.topic("in", value=bytes)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        stored = await topic.send_and_wait(b"first", key="k")
        assert stored == ("in", 0, 0)
        yield
        await topic.send(b"last", key="k")

    async with world.working(app) as working:
        await working.joined()
    assert [record.value for record in world.broker.records("in")] == [b"first", b"last"]


@simulated
async def test_a_lifespan_that_fails_at_its_beginning_ends_the_worker_before_any_agent_begins() -> None:
    world = World()
    world.fill("a")
    living = Living(world)

    async def begin() -> None:
        raise ValueError("no database")

    living.begin = begin  # type: ignore[method-assign]
    error = await world.failing(living.app)
    assert isinstance(error, UserCodeFailed)
    assert str(error) == "the lifespan of the app raised ValueError: no database"
    assert (living.events, world.broker.group("test.work").members) == ([], {})


@simulated
async def test_a_lifespan_that_fails_at_its_end_fails_the_worker_after_everything_is_committed() -> None:
    world = World()
    world.fill("a")
    living = Living(world)

    async def end() -> None:
        raise ValueError("still open")

    living.end = end  # type: ignore[method-assign]
    with pytest.raises(UserCodeFailed, match="still open"):
        async with world.working(living.app):
            await until(lambda: world.done[IN])
    assert world.committed() == {0: 1}


@simulated
async def test_a_worker_that_is_stopped_while_its_lifespan_begins_waits_for_nothing() -> None:
    world = World()
    living = Living(world)

    async def begin() -> None:
        await asyncio.sleep(60)

    living.begin = begin  # type: ignore[method-assign]
    async with world.working(living.app) as working:
        await asyncio.sleep(1)
        before = now()
        await working.stopped()
        assert now() - before < 1
    assert living.events == []


@simulated
async def test_a_lifespan_that_does_not_end_in_time_is_cancelled_and_the_worker_has_failed() -> None:
    world = World()
    living = Living(world)

    async def end() -> None:
        await asyncio.sleep(600)

    living.end = end  # type: ignore[method-assign]
    with pytest.raises(StreamkitError, match=r"the lifespan of the app did not end within 5 s \(drain_timeout\)"):
        async with world.working(living.app) as working:
            await working.joined()
    assert living.events == ["entered", "leaving"]


@simulated
async def test_a_lifespan_that_ignores_its_cancellation_is_abandoned() -> None:
    world = World()
    living = Living(world)
    let_go = asyncio.Event()

    async def end() -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    living.end = end  # type: ignore[method-assign]
    working = Working(world, living.app, world.settings)
    await working.joined()
    with pytest.raises(StreamkitError, match="the lifespan of the app did not end within"):
        await working.stopped()
    assert working.worker.abandoned == 1
    let_go.set()


@simulated
async def test_a_worker_that_is_cancelled_leaves_its_lifespan() -> None:
    world = World()
    living = Living(world)
    working = Working(world, living.app, world.settings)
    await working.joined()
    working.task.cancel()
    await asyncio.wait([working.task])
    assert living.events == ["entered", "leaving", "left"]


# Timers


class Ticking:
    """An app with a timer of 10 s; `ticks` are the times of its calls."""

    def __init__(self) -> None:
        self.ticks: list[float] = []
        self.ended = 0
        self.app = App("test")
        self.topic = self.app.topic("in", value=bytes)

        @self.app.timer("10s")
        async def tick() -> None:
            self.ticks.append(now())
            await self.body()
            self.ended += 1

    async def body(self) -> None:
        pass


@simulated
async def test_a_timer_is_called_every_so_often_for_the_first_time_after_its_interval() -> None:
    world, ticking = World(), Ticking()
    async with world.working(ticking.app) as working:
        await working.joined()
        began = now()
        await asyncio.sleep(35)
    assert [round(tick - began) for tick in ticking.ticks] == [10, 20, 30]


@simulated
async def test_a_timer_never_overlaps_and_what_comes_due_meanwhile_is_one_call() -> None:
    world, ticking = World(), Ticking()

    async def body() -> None:
        await asyncio.sleep(25 if len(ticking.ticks) == 1 else 0)

    ticking.body = body  # type: ignore[method-assign]
    async with world.working(ticking.app) as working:
        await working.joined()
        began = now()
        await asyncio.sleep(55)
    assert [round(tick - began) for tick in ticking.ticks] == [10, 40, 50]


@simulated
async def test_a_raising_timer_stops_the_worker() -> None:
    world, ticking = World(), Ticking()

    async def body() -> None:
        raise ValueError("no")

    ticking.body = body  # type: ignore[method-assign]
    error = await world.failing(ticking.app)
    assert isinstance(error, UserCodeFailed)
    assert str(error) == "timer 'tick' raised ValueError: no"


@simulated
async def test_a_timers_own_cancellation_is_a_failure() -> None:
    world, ticking = World(), Ticking()

    async def body() -> None:
        raise asyncio.CancelledError

    ticking.body = body  # type: ignore[method-assign]
    assert "timer 'tick' raised CancelledError" in str(await world.failing(ticking.app))


@simulated
async def test_what_a_timer_sends_belongs_to_the_app_and_leaves_before_the_end() -> None:
    world, ticking = World(), Ticking()

    async def body() -> None:
        await asyncio.sleep(2)
        await ticking.topic.send(b"tick", key="t")

    ticking.body = body  # type: ignore[method-assign]
    async with world.working(ticking.app):
        await until(lambda: ticking.ticks)
    assert ticking.ended == 1
    assert [record.value for record in world.broker.records("in")] == [b"tick"]


@simulated
async def test_a_timer_that_does_not_end_is_cancelled_after_the_drain() -> None:
    world, ticking = World(), Ticking()

    async def body() -> None:
        await asyncio.sleep(600)

    ticking.body = body  # type: ignore[method-assign]
    async with world.working(ticking.app) as working:
        await until(lambda: ticking.ticks)
        before = now()
        await working.stopped()
        assert 5 <= now() - before < 6.5
    assert ticking.ended == 0


@simulated
async def test_each_call_of_a_timer_has_its_own_context() -> None:
    world, ticking = World(), Ticking()
    variable: ContextVar[int] = ContextVar("variable", default=0)
    seen: list[int] = []

    async def body() -> None:
        seen.append(variable.get())
        variable.set(1)

    ticking.body = body  # type: ignore[method-assign]
    async with world.working(ticking.app):
        await until(lambda: len(seen) == 2)
    assert seen == [0, 0]


@simulated
async def test_a_timer_that_ignores_its_cancellation_is_abandoned() -> None:
    world, ticking = World(), Ticking()
    let_go = asyncio.Event()

    async def body() -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    ticking.body = body  # type: ignore[method-assign]
    async with world.working(ticking.app) as working:
        await until(lambda: ticking.ticks)
        working.worker.stop()
        await asyncio.wait([working.task], timeout=60)
        ended, abandoned = working.task.done(), working.worker.abandoned
        let_go.set()
        assert (ended, abandoned) == (True, 1)


@pytest.mark.parametrize("where", ["timer", "lifespan's beginning", "lifespan's end"])
@simulated
async def test_an_exit_in_a_timer_or_lifespan_is_a_failure_and_the_work_ends_in_order(where: str) -> None:
    world = World()
    world.fill("a")
    living = Living(world)

    async def leave() -> None:
        raise SystemExit(3)

    match where:
        case "timer":
            living.app.timer("1s")(leave)
        case "lifespan's beginning":
            living.begin = leave  # type: ignore[method-assign]
        case _:
            living.end = leave  # type: ignore[method-assign]
    working = Working(world, living.app, world.settings)
    await asyncio.wait([working.task], timeout=5)
    working.worker.stop()
    await asyncio.wait([working.task])
    assert str(working.task.exception()).endswith("raised SystemExit: 3")
    assert world.committed() == ({} if where == "lifespan's beginning" else {0: 1})


# Reports


@simulated
async def test_errors_are_reported_with_their_record() -> None:
    world = World()
    world.broker.append("in", b"5", key=b"a", partition=0)
    reports: list[tuple[BaseException, Record[Any, Any] | None]] = []
    app = App("test", on_error=lambda error, record: reports.append((error, record)))

    @app.agent(app.topic("in", value=int))
    async def work(value: int) -> None:
        raise ValueError("no")

    error = await world.failing(app)
    assert isinstance(error, RecordFailed)
    ((cause, record),) = reports
    assert cause is error.cause
    assert record is not None
    assert (record.key, record.value, record.offset) == ("a", 5, 0)


@simulated
async def test_of_a_record_that_cannot_be_decoded_the_bytes_are_reported() -> None:
    world = World()
    world.broker.append("in", b"no", key=b"a", partition=0)
    reports: list[Record[Any, Any] | None] = []
    app = App("test", on_error=lambda error, record: reports.append(record))

    @app.agent(app.topic("in", value=int))
    async def work(value: int) -> None: ...

    await world.failing(app)
    (record,) = reports
    assert record is not None
    assert (record.key, record.value) == (b"a", b"no")


@simulated
async def test_errors_without_a_record_are_reported_too() -> None:
    world = World()
    reports: list[tuple[BaseException, object]] = []
    app = App("test", on_error=lambda error, record: reports.append((error, record)))

    @app.timer("1s")
    async def tick() -> None:
        raise KeyError("no")

    await world.failing(app)
    assert [(type(error), record) for error, record in reports] == [(KeyError, None)]


@simulated
async def test_a_report_that_raises_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.fill("a")

    def report(error: BaseException, record: object) -> None:
        raise OSError("the reporter is down")

    app = App("test", on_error=report)

    @app.agent(app.topic("in", value=bytes))
    async def work(value: bytes) -> None:
        raise ValueError("no")

    error = await world.failing(app)
    assert isinstance(error, RecordFailed)
    assert "on_error raised while it was told of ValueError('no')" in caplog.text
    assert "the reporter is down" in caplog.text


# send_and_wait


@simulated
async def test_send_and_wait_tells_where_each_of_a_batch_is_stored() -> None:
    world = World()
    world.broker.create_topic("out", 2)
    app = App("test")
    out = app.topic("out", value=bytes)
    async with world.working(app) as working:
        await working.joined()
        sent = [out.send_and_wait(b"%d" % number, partition=number % 2) for number in range(6)]
        stored = await asyncio.gather(*sent)
    assert [(topic, partition, offset) for topic, partition, offset in stored] == [
        ("out", number % 2, number // 2) for number in range(6)
    ]


def shrink(world: World) -> None:
    """The topic takes less than the worker was told at its start."""
    world.broker.topics["out"].config["max.message.bytes"] = "1000"


@simulated
async def test_a_refused_value_is_raised_to_who_waits_for_it_and_fails_nothing_else() -> None:
    world = World()
    world.broker.create_topic("out", 1)
    world.fill("a")
    app = App("test", max_request_size=100_000)
    out = app.topic("out", value=bytes)
    refused: list[BaseException] = []

    @app.agent(app.topic("in", value=bytes))
    async def work(record: Record[str, bytes]) -> None:
        await out.send(b"before")
        shrink(world)
        try:
            await out.send_and_wait(bytes(5_000))
        except TransportError as error:
            refused.append(error)
        await out.send(b"after")
        world.done[IN].add(record.offset)

    async with world.working(app):
        await until(lambda: world.committed() == {0: 1})
    assert len(refused) == 1
    assert [record.value for record in world.broker.records("out")] == [b"before", b"after"]


@simulated
async def test_an_uncaught_refusal_fails_the_record() -> None:
    world = World()
    world.broker.create_topic("out", 1)
    world.fill("a")
    app = App("test", max_request_size=100_000)
    out = app.topic("out", value=bytes)

    @app.agent(app.topic("in", value=bytes))
    async def work(value: bytes) -> None:
        shrink(world)
        await out.send_and_wait(bytes(5_000))

    error = await world.failing(app)
    assert isinstance(error, RecordFailed)
    assert (error.stage, world.committed()) == ("handle", {0: 0})


@simulated
async def test_who_no_longer_waits_leaves_the_refusal_to_the_record() -> None:
    world = World()
    world.broker.create_topic("out", 1)
    world.fill("a")
    app = App("test", max_request_size=100_000)
    out = app.topic("out", value=bytes)

    @app.agent(app.topic("in", value=bytes))
    async def work(value: bytes) -> None:
        shrink(world)
        waiting = asyncio.ensure_future(out.send_and_wait(bytes(5_000)))
        await asyncio.sleep(0)
        waiting.cancel()

    error = await world.failing(app)
    assert isinstance(error, RecordFailed)
    assert (error.stage, world.committed()) == ("sink", {0: 0})


@simulated
async def test_a_refusal_that_comes_after_the_handler_has_ended_fails_the_record() -> None:
    world = World()
    world.broker.create_topic("out", 1)
    world.fill("a")
    app = App("test", max_request_size=100_000)
    out = app.topic("out", value=bytes)
    waiting: list[asyncio.Task[Any]] = []

    @app.agent(app.topic("in", value=bytes))
    async def work(value: bytes) -> None:
        shrink(world)
        waiting.append(asyncio.create_task(out.send_and_wait(bytes(5_000))))
        await asyncio.sleep(0)

    error = await world.failing(app)
    assert isinstance(error, RecordFailed)
    assert (error.stage, world.committed()) == ("sink", {0: 0})
    assert isinstance(waiting[0].exception(), TransportError)


@simulated
async def test_who_waits_for_a_value_that_is_still_unacknowledged_at_the_end_is_told() -> None:
    world = World()
    world.broker.create_topic("out", 1)
    app = App("test")
    out = app.topic("out", value=bytes)
    world.broker.faults.acknowledgements.close()
    working = Working(world, app, world.settings)
    await working.joined()
    waiting = asyncio.create_task(out.send_and_wait(b"x"))
    await asyncio.sleep(1)
    with pytest.raises(TransportError, match="not acknowledged within"):
        await working.stopped()
    await asyncio.wait([waiting], timeout=60)
    assert waiting.done(), "it waits for ever"
    assert "the worker has stopped before" in str(waiting.exception())


@simulated
async def test_who_waits_for_a_value_does_not_wait_for_others_to_linger() -> None:
    world = World(linger=1.0)
    world.broker.create_topic("out", 1)
    world.fill([None] * 5)
    app = App("test")
    out = app.topic("out", value=bytes)
    took: list[float] = []

    @app.agent(app.topic("in", value=bytes))
    async def work(record: Record[str, bytes]) -> None:
        began = now()
        await out.send(b"x")
        await asyncio.sleep(0.01)
        await out.send_and_wait(b"y")
        took.append(now() - began)
        world.done[IN].add(record.offset)

    async with world.working(app):
        await until(lambda: world.committed() == {0: 5})
    assert max(took) < 0.1


# Several topics


@simulated
async def test_an_agent_of_several_topics_reads_them_all_in_one_group() -> None:
    world = World(partitions=2)
    world.broker.create_topic("too", 3)
    world.fill("abc")
    for partition in range(3):
        world.broker.append("too", b"t", key=b"k", partition=partition)
    world.is_settled = lambda partition, offset: True
    seen: set[tuple[str, int]] = set()
    app = App("test")

    @app.agent(app.topic("in", value=bytes), app.topic("too", value=bytes), concurrency=4)
    async def work(record: Record[str, bytes]) -> None:
        seen.add((record.topic, record.partition))

    working = Working(world, app, world.settings)
    await until(lambda: len(seen) == 4)
    await until(lambda: len(world.broker.group("test.work").offsets) == 5)
    assert {tp.topic for tp in working.agent.assigned} == {"in", "too"}
    assert working.agent.consumed == {"in": 3, "too": 3}
    await working.stopped()


@simulated
async def test_of_several_topics_the_one_that_vanishes_is_named() -> None:
    world = World()
    world.broker.create_topic("too", 1)
    app = App("test")

    @app.agent(app.topic("in", value=bytes), app.topic("too", value=bytes))
    async def work(value: bytes) -> None: ...

    working = Working(world, app, world.settings)
    await working.joined()
    world.broker.delete_topic("too")
    await asyncio.wait([working.task], timeout=100)
    assert "group 'test.work' is to go on with too[0] at offset 0, but the topic is gone" in str(
        working.task.exception()
    )
