"""Outputs when brokers are slow, refuse, or lose an answer: in order, nothing lost, nothing committed past them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from streamkit import App, Record
from streamkit.errors import RecordFailed, TransportError
from streamkit.record import TopicPartition
from streamkit.runtime import publisher as publisher_module
from streamkit.transport.base import RecordTooLarge
from tests.runtime.support import World, simulated, until

IN = TopicPartition("in", 0)


class Copying:
    """An agent that copies the offset of each record to "out", under its key. Settled is what is acknowledged."""

    def __init__(
        self,
        records: int,
        *,
        body: Callable[[Record[str, bytes]], Awaitable[None]] | None = None,
        value: Callable[[Record[str, bytes]], str] = lambda record: f"{record.offset}",
        keys: int = 3,
        out: int = 1,
        concurrency: int = 1,
        **settings: Any,
    ) -> None:
        self.world = World(**settings)
        self.world.broker.create_topic("out", out)
        self.world.fill([f"k{number % keys}" for number in range(records)])
        self.world.is_settled = lambda tp, offset: offset in self.arrived
        self.arrived: set[int] = set()
        self.records = records
        self.app = App("test")

        @self.app.agent(
            self.app.topic("in", value=bytes), sink=self.app.topic("out", value=str), concurrency=concurrency
        )
        async def work(record: Record[str, bytes]) -> str:
            with self.world.running(record):
                if body is not None:
                    await body(record)
            return value(record)

        stored = self.world.broker._produce

        def produce(partition: TopicPartition, payloads: Any, size: int) -> Any:
            acknowledgement = stored(partition, payloads, size)
            self.arrived.update(int(payload.value.split()[0]) for payload in payloads)
            return acknowledgement

        self.world.broker._produce = produce  # type: ignore[method-assign]

    def copies(self) -> dict[bytes | None, list[int]]:
        copies: dict[bytes | None, list[int]] = defaultdict(list)
        for record in self.world.broker.records("out"):
            copies[record.key].append(int((record.value or b"").split()[0]))
        return copies

    def all_committed(self) -> bool:
        return self.world.committed() == {0: self.records}


def in_order_once(copies: dict[bytes | None, list[int]]) -> bool:
    return all(offsets == sorted(set(offsets)) for offsets in copies.values())


@simulated
async def test_outputs_arrive_once_and_in_the_order_of_their_keys() -> None:
    case = Copying(500, concurrency=4, out=3)
    async with case.world.working(case.app) as working:
        await until(case.all_committed)
    assert in_order_once(case.copies())
    assert sum(map(len, case.copies().values())) == 500
    assert working.slots.produced["out"].acknowledged == 500
    assert working.slots.produced["out"].failed == 0


@simulated
async def test_a_lane_does_not_wait_for_acknowledgements_and_nothing_is_committed_before_them() -> None:
    case = Copying(100, keys=1)
    case.world.broker.faults.acknowledgements.close()
    case.world.is_settled = lambda tp, offset: not case.world.broker.faults.acknowledgements.closed
    async with case.world.working(case.app) as working:
        await until(lambda: len(case.world.runs) == 100)
        await asyncio.sleep(10)
        assert case.world.committed() == {0: 0}
        assert working.agent.in_flight() == 0
        case.world.broker.faults.acknowledgements.open()
        await until(case.all_committed)


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("times", [1, 3])
@simulated
async def test_after_a_failed_batch_everything_is_delivered_in_order(times: int, stored: bool) -> None:
    async def body(record: Record[str, bytes]) -> None:
        if record.offset in (50, 51):
            case.world.broker.faults.fail_produces(times, TransportError("lost"), stored=stored)
        await asyncio.sleep(0.001)

    case = Copying(200, body=body, out=2, concurrency=2)
    async with case.world.working(case.app) as working:
        await until(case.all_committed)
    for offsets in case.copies().values():
        if stored:  # sent again without need: once more, and in order within each sending
            offsets = list(dict.fromkeys(offsets))
        assert offsets == sorted(set(offsets))
    assert {offset for offsets in case.copies().values() for offset in offsets} == set(range(200))
    assert working.agent.processed_error == 0


@simulated
async def test_nothing_is_committed_past_an_output_whose_batch_keeps_failing() -> None:
    case = Copying(20)
    case.world.broker.faults.fail_produces(5, TransportError("lost"))
    async with case.world.working(case.app):
        await until(case.all_committed)
    assert in_order_once(case.copies())


@simulated
async def test_a_batch_without_an_answer_is_sent_again_after_its_timeout() -> None:
    case = Copying(20, send_timeout=2.0)
    case.world.broker.faults.acknowledgements.close()
    async with case.world.working(case.app):
        await until(lambda: case.world.broker.records("out"))
        await asyncio.sleep(5)
        assert case.world.committed() == {0: 0}
        case.world.broker.faults.acknowledgements.open()
        await until(case.all_committed)
    assert {offset for offsets in case.copies().values() for offset in offsets} == set(range(20))


@simulated
async def test_an_outage_in_the_middle_loses_nothing() -> None:
    async def body(record: Record[str, bytes]) -> None:
        await asyncio.sleep(0.01)

    # The group is kept through the outage: the session is longer.
    case = Copying(300, body=body, send_timeout=5.0, session_timeout=100.0)
    async with case.world.working(case.app):
        await until(lambda: len(case.world.runs) > 100)
        case.world.broker.faults.network.close()
        await asyncio.sleep(20)
        case.world.broker.faults.network.open()
        await until(case.all_committed)
    offsets = [offset for offsets in case.copies().values() for offset in offsets]
    assert set(offsets) == set(range(300))


@simulated
async def test_the_output_that_the_broker_refuses_for_its_size_fails_and_its_neighbours_arrive_once() -> None:
    async def body(record: Record[str, bytes]) -> None:
        if record.offset == 0:  # after the limit was read
            case.world.broker.topics["out"].config["max.message.bytes"] = "1000"
            await asyncio.sleep(0.1)

    case = Copying(8, body=body, keys=8, value=lambda r: f"{r.offset} {'x' * (2000 if r.offset == 5 else 1)}")
    error = await case.world.failing(case.app)
    assert isinstance(error, RecordFailed)
    assert (error.stage, error.offset) == ("sink", 5)
    assert isinstance(error.cause, RecordTooLarge)
    assert [record.key for record in case.world.broker.records("out")] == [b"k%d" % n for n in (0, 1, 2, 3, 4, 6, 7)]
    committed = case.world.broker.group("test.work").offsets[IN]
    assert committed.offset == 5
    assert committed.metadata


@simulated
async def test_a_rejected_output_of_a_running_generator_ends_it_and_fails_its_record() -> None:
    world = World()
    world.broker.create_topic("out")
    world.fill(["k", "k"])
    app = App("test")
    raised: list[str] = []

    @app.agent(app.topic("in", value=bytes), sink=app.topic("out", value=str))
    async def work(record: Record[str, bytes]) -> AsyncIterator[str]:
        with world.running(record):
            world.broker.topics["out"].config["max.message.bytes"] = "1000"
            try:
                yield "x" * 2000
                await asyncio.sleep(2)
                yield "later"
                raised.append("sent")
            finally:
                raised.append("ended")

    error = await world.failing(app)
    assert isinstance(error, RecordFailed)
    assert (error.stage, error.offset) == ("sink", 0)
    assert raised == ["ended"]
    assert world.broker.records("out") == []
    assert world.committed() == {0: 0}
    assert world.offsets_run == [0]


@simulated
async def test_when_too_much_is_unacknowledged_handlers_wait_and_go_on_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publisher_module, "MAX_OUTSTANDING_BYTES", 10_000)
    case = Copying(200, value=lambda record: f"{record.offset} {'x' * 500}", concurrency=4)
    case.world.broker.faults.acknowledgements.close()
    async with case.world.working(case.app) as working:
        await working.joined()
        await until(lambda: working.runner.publisher.full)
        await asyncio.sleep(5)
        held = len(case.world.runs)
        assert held <= 10_000 / 500 + 4
        await asyncio.sleep(30)
        assert len(case.world.runs) == held
        case.world.broker.faults.acknowledgements.open()
        await until(case.all_committed)
        assert not working.runner.publisher.full
    assert in_order_once(case.copies())


@pytest.mark.parametrize("how", ["generator", "send"])
@simulated
async def test_generators_and_sends_wait_for_room_too(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher_module, "MAX_OUTSTANDING_BYTES", 10_000)
    world = World()
    world.broker.create_topic("out")
    world.fill(["k"])
    world.broker.faults.acknowledgements.close()
    app = App("test")
    source, out = app.topic("in", value=bytes), app.topic("out", value=str)
    count = 0

    async def yields(record: Record[str, bytes]) -> AsyncIterator[str]:
        nonlocal count
        with world.running(record):
            for count in range(200):  # noqa: B007
                yield "x" * 500

    async def sends(record: Record[str, bytes]) -> None:
        nonlocal count
        with world.running(record):
            for count in range(200):  # noqa: B007
                await out.send("x" * 500)

    if how == "generator":
        app.agent(source, sink=out, name="work")(yields)
    else:
        app.agent(source, name="work")(sends)
    async with world.working(app):
        await until(lambda: count >= 15)
        await asyncio.sleep(30)
        assert count <= 20
        world.broker.faults.acknowledgements.open()
        await until(lambda: world.committed() == {0: 1})
    assert len(world.broker.records("out")) == 200


@simulated
async def test_stopping_returns_in_time_with_outputs_that_nobody_acknowledges() -> None:
    case = Copying(50)
    case.world.broker.faults.acknowledgements.close()
    async with case.world.working(case.app) as working:
        await until(lambda: case.world.broker.records("out"))
        began = asyncio.get_running_loop().time()
        await working.stopped()
        assert asyncio.get_running_loop().time() - began < case.world.settings.drain_timeout + 5
    assert case.world.committed() == {0: 0}


@simulated
async def test_outputs_linger_for_others_only_while_there_is_more_to_do() -> None:
    batches: list[int] = []

    async def body(record: Record[str, bytes]) -> None:
        await asyncio.sleep(0.001)

    case = Copying(40, body=body, keys=40, linger=0.01)
    produce = case.world.broker._produce

    def counted(partition: TopicPartition, payloads: Any, size: int) -> Any:
        batches.append(len(payloads))
        return produce(partition, payloads, size)

    case.world.broker._produce = counted  # type: ignore[method-assign]
    async with case.world.working(case.app):
        await until(lambda: case.world.broker.records("out"))
        await until(case.all_committed)
    assert max(batches) >= 5
    assert len(batches) <= 10


@simulated
async def test_the_first_batch_is_sent_even_if_its_producer_cannot_connect_at_once() -> None:
    world = World()
    world.broker.create_topic("out")
    app = App("test")
    out = app.topic("out", value=str)
    async with world.working(app, request_timeout=1.0) as working:
        await until(lambda: app.port.current is not None)
        world.broker.faults.network.close()
        await out.send("v")
        await asyncio.sleep(10)
        world.broker.faults.network.open()
        await until(lambda: world.broker.records("out"))
        await working.stopped()


@simulated
async def test_keys_are_spread_over_the_partitions_that_a_sink_gets_while_the_worker_runs() -> None:
    case = Copying(100, keys=50, out=2)
    async with case.world.working(case.app):
        await until(case.all_committed)
        case.world.broker.add_partitions("out", 6)
        await asyncio.sleep(case.world.settings.metadata_max_age + 1)
        case.world.fill([f"k{number}" for number in range(200)])
        case.records = 300
        await until(case.all_committed)
    logs = [case.world.broker.log(TopicPartition("out", number)) for number in range(6)]
    assert all(log.range.end for log in logs)
