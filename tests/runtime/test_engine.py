"""Results, refusals and failures that come at the wrong moment."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest

from streamkit import App, Record
from streamkit.errors import RecordFailed, TransportError
from streamkit.record import TopicPartition
from streamkit.runtime import publisher as publisher_module
from streamkit.transport.base import MetadataTooLarge, OffsetOutOfRange, RecordTooLarge, TopicMissing, Unreachable
from tests.runtime.support import GROUP, World, recording, simulated, until
from tests.runtime.test_membership import rebalanced

IN = TopicPartition("in", 0)


def copying(world: World, **options: Any) -> App:
    app = App("test")
    world.is_settled = lambda _partition, _offset: True

    @app.agent(app.topic("in", value=bytes), sink=app.topic("out", value=bytes), **options)  # type: ignore[untyped-decorator]
    async def work(value: bytes) -> bytes:
        return value

    return app


@simulated
async def test_handlers_that_outlive_their_partition_are_still_in_flight() -> None:
    world = World(drain_timeout=1.0)
    world.fill(["deaf"])
    let_go = asyncio.Event()

    async def deaf(record: Record[str, bytes]) -> None:
        while not let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await let_go.wait()

    async with world.working(recording(world, deaf)) as working:
        await until(lambda: world.runs)
        await rebalanced(working)
        assert working.agent.in_flight() == 1
        let_go.set()
        await until(lambda: world.committed() == {0: 1})
        assert working.agent.in_flight() == 0


@simulated
async def test_an_output_that_is_refused_after_its_partition_was_given_back_does_not_stop_the_agent() -> None:
    world = World(drain_timeout=1.0)
    world.broker.create_topic("out", 1)
    world.broker.faults.acknowledgements.close()
    world.fill(["a"])
    async with world.working(copying(world)) as working:
        await until(lambda: world.broker.records("out"))
        ((batch,),) = [working.runner.publisher._sent.values()]
        await rebalanced(working)
        (item,) = batch.items
        assert item.owner is not None and item.owner.partition.window.closed
        working.runner._rejected(item, batch.pipe.route, RecordTooLarge("late"))
        item.owner.partition.outputs += 1  # it is acknowledged as well
        world.broker.faults.acknowledgements.open()
        await until(lambda: world.committed() == {0: 1})
    assert item.owner.partition.quiet


@simulated
async def test_an_outage_while_a_gap_is_looked_at_does_not_stop_the_worker() -> None:
    world = World()
    world.fill(["a"])
    async with world.working(recording(world, on_gap="earliest")) as working:
        await until(lambda: world.committed() == {0: 1})
        world.fill("bc")
        world.broker.delete_records("in", 2)
        log_ranges, failures = working.runner._admin.log_ranges, [Unreachable("down")] * 3

        async def failing(partitions: Any) -> Any:
            if failures:
                raise failures.pop()
            return await log_ranges(partitions)

        working.runner.membership._admin.log_ranges = failing  # type: ignore[method-assign]
        poll, told = working.consumer.poll, [OffsetOutOfRange(IN, 1)] * 4

        async def polled(*args: Any, **options: Any) -> Any:
            if told:
                raise told.pop()
            return await poll(*args, **options)

        working.consumer.poll = polled  # type: ignore[method-assign]
        await until(lambda: world.committed() == {0: 3})
        assert not failures


@simulated
async def test_a_poll_that_is_cancelled_from_within_ends_the_agent_instead_of_standing_still() -> None:
    world = World()
    world.fill(["a"])

    with pytest.raises(TransportError, match="cancelled from within"):
        async with world.working(recording(world)) as working:
            await until(lambda: world.committed() == {0: 1})

            async def polled(*_: Any, **__: Any) -> Any:
                raise asyncio.CancelledError

            working.consumer.poll = polled  # type: ignore[method-assign]
            await asyncio.wait([working.task], timeout=60)
            assert working.task.done()


@simulated
async def test_when_there_is_room_again_those_who_waited_do_not_all_send_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    world.broker.create_topic("out", 1)
    app = App("test")
    out = app.topic("out", value=bytes)
    world.is_settled = lambda _partition, _offset: True
    monkeypatch.setattr(publisher_module, "MAX_OUTSTANDING_BYTES", 300_000)
    world.fill([None] * 100)

    @app.agent(app.topic("in", value=bytes), concurrency=100)
    async def work(value: bytes) -> None:
        await asyncio.sleep(0.1)
        await out.send(b"x" * 100_000)

    async with world.working(app) as working:
        await working.joined()
        publisher, most = working.runner.publisher, 0
        put = publisher.put

        def noted(*output: Any) -> None:
            nonlocal most
            put(*output)
            most = max(most, publisher._outstanding)

        publisher.put = noted  # type: ignore[method-assign, assignment]
        await until(lambda: len(world.broker.records("out")) == 100)
    assert 300_000 < most < 420_000


@simulated
async def test_a_sink_that_is_deleted_ends_the_agent_at_stage_sink() -> None:
    world = World()
    world.broker.create_topic("out", 1)
    app = copying(world)
    with pytest.raises(RecordFailed) as failed:
        async with world.working(app) as working:
            await working.joined()
            world.broker.delete_topic("out")
            world.fill(["a", "b"])
            await asyncio.wait([working.task], timeout=60)
            assert working.task.done()
    assert isinstance(failed.value.__cause__, TopicMissing)
    assert world.committed() == {0: 0}


@simulated
async def test_the_last_commit_of_a_stop_is_made_even_if_the_broker_wants_shorter_metadata() -> None:
    world = World(drain_timeout=1.0)
    chance = random.Random(1)
    keys = ["hung" if number == 0 else None for number in range(2_000)]
    world.fill(keys)
    refused = 0
    commit = world.broker._commit

    def strict(group: str, member: str, generation: int, offsets: Any) -> None:
        nonlocal refused
        if group == GROUP and any(len(committed.metadata) > 100 for committed in offsets.values()):
            refused += 1
            raise MetadataTooLarge("offset.metadata.max.bytes")
        commit(group, member, generation, offsets)

    world.broker._commit = strict  # type: ignore[method-assign]

    async def body(record: Record[str, bytes]) -> None:
        if record.key == "hung":
            await asyncio.sleep(10_000)
        if chance.random() < 0.5:
            await asyncio.sleep(100)

    async with world.working(recording(world, body, concurrency=2_000), commit_interval=1_000.0) as working:
        await until(lambda: len(world.done[IN]) > 300)
        await working.stopped()
    assert refused
    assert 50 < len(world.broker.group(GROUP).offsets[IN].metadata) <= 100


@simulated
async def test_what_is_sent_after_the_last_flush_is_refused_and_not_lost() -> None:
    world = World()
    world.broker.create_topic("out", 1)
    app = App("test")
    app.topic("in", value=bytes)
    out = app.topic("out", value=bytes)
    async with world.working(app) as working:
        await until(lambda: app.port.current is not None)
        sent: list[bytes] = []

        async def sending() -> None:
            with pytest.raises(RuntimeError):
                while True:
                    value = str(len(sent)).encode()
                    await out.send(value)
                    sent.append(value)
                    await asyncio.sleep(0.0005)

        task = asyncio.create_task(sending())
        await asyncio.sleep(1)
        working.worker.stop()
        await working.task
        await task
    assert sorted(record.value or b"" for record in world.broker.records("out")) == sorted(sent)


@simulated
async def test_a_worker_that_the_group_may_have_given_up_is_not_ready_until_it_is_in_touch_again() -> None:
    world = World()
    async with world.working(recording(world)) as working:
        await until(lambda: working.slots.state == "running")
        world.broker.faults.network.close()
        await until(lambda: working.slots.unready == "out of touch with the group of work", patience=20)
        world.broker.faults.network.open()
        await until(lambda: working.slots.unready == "", patience=20)


@simulated
async def test_a_record_with_several_refused_outputs_has_failed_once() -> None:
    world = World()
    world.broker.create_topic("out", 1)
    world.fill(["a"])
    app = App("test")
    out = app.topic("out", value=bytes)

    @app.agent(app.topic("in", value=bytes))
    async def work(value: bytes) -> None:
        world.broker.topics["out"].config["max.message.bytes"] = "100"
        for _ in range(3):
            await out.send(b"x" * 200)

    with pytest.raises(RecordFailed):
        async with world.working(app) as working:
            await asyncio.wait([working.task], timeout=60)
            assert working.agent.processed_error == 1
