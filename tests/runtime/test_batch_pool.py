"""Handlers of batches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from streamkit import App, Batch, BatchError, Output, Record, RecordFailed
from streamkit.record import TopicPartition
from tests.runtime.support import World, rebalance, simulated, until

IN = TopicPartition("in", 0)
Batched = list[Record[str, bytes]]


class Batching:
    """An app whose agent "work" takes batches; what came is in `batches`."""

    def __init__(self, world: World, *, size: int = 4, within: str = "1s", **options: Any) -> None:
        self.world = world
        self.batches: list[list[int]] = []
        self.times: list[float] = []
        self.app = App("test")
        topic = self.app.topic("in", value=bytes)

        @self.app.agent(topic, batch=Batch(size, within=within), **options)  # type: ignore[untyped-decorator]
        async def work(batch: Sequence[Record[str, bytes]]) -> Any:
            self.batches.append([record.offset for record in batch])
            self.times.append(asyncio.get_running_loop().time())
            with ExitStack() as stack:
                for first in {record.key: record for record in reversed(batch)}.values():
                    stack.enter_context(world.running(first))
                result = await self.handle(list(batch))
                for record in batch:
                    world.done[TopicPartition(record.topic, record.partition)].add(record.offset)
                return result

    async def handle(self, batch: Batched) -> Any:
        await asyncio.sleep(0.01)


@simulated
async def test_batches_are_consecutive_full_when_there_is_enough_and_else_sent_on_in_time() -> None:
    world = World()
    world.fill(["a", "b", "a", "a", "b", "c"])
    batching = Batching(world)
    async with world.working(batching.app) as working:
        await until(lambda: world.committed() == {0: 6})
    assert batching.batches == [[0, 1, 2, 3], [4, 5]]
    assert 1.0 <= batching.times[1] - batching.times[0] < 1.1
    assert working.agent.processed_success == 6
    assert sum(working.agent.processing.counts) == 2


@simulated
async def test_a_first_record_waits_no_longer_than_within_for_others() -> None:
    world = World()
    batching = Batching(world, within="200ms")
    async with world.working(batching.app) as working:
        await working.joined()
        world.fill(["a"])
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(0.15)
        world.fill(["b"])
        await until(lambda: batching.batches)
    assert batching.batches == [[0, 1]]
    assert 0.2 <= batching.times[0] - began < 0.35  # a poll comes before


@simulated
async def test_concurrency_counts_batches_and_a_partition_has_one_at_a_time() -> None:
    world = World(partitions=3)
    for partition in range(3):
        world.fill("abcdefgh", partition=partition)
    batching = Batching(world, size=2, concurrency=2)
    running: list[int] = []

    async def handle(batch: Batched) -> None:
        assert batch[0].partition not in running
        running.append(batch[0].partition)
        assert len(running) <= 2
        most.append(len(running))
        await asyncio.sleep(1)
        running.remove(batch[0].partition)

    most: list[int] = []
    batching.handle = handle  # type: ignore[method-assign]
    async with world.working(batching.app) as working:
        await until(lambda: world.committed() == {0: 8, 1: 8, 2: 8})
        assert working.agent.in_flight() == 0
    assert max(most) == 2


@simulated
async def test_values_are_decoded_for_handlers_of_values() -> None:
    world = World()
    world.broker.append("in", b'{"n": 1}', key=b"a", partition=0)
    world.broker.append("in", b'{"n": 2}', key=b"a", partition=0)
    seen: list[object] = []
    app = App("test")

    @app.agent(app.topic("in", value=dict[str, int]), batch=Batch(2, within="1s"))
    async def work(batch: list[dict[str, int]]) -> None:
        world.done[IN] |= {0, 1}
        seen.append(batch)

    async with world.working(app):
        await until(lambda: world.committed() == {0: 2})
    assert seen == [[{"n": 1}, {"n": 2}]]


@simulated
async def test_a_raising_handler_fails_the_whole_batch_and_nothing_of_it_is_committed() -> None:
    world = World()
    world.fill(["a", "b", "c", "d"])
    batching = Batching(world, size=2)

    async def handle(batch: Batched) -> None:
        if batch[0].offset == 2:
            raise ValueError("no")

    batching.handle = handle  # type: ignore[method-assign]
    error = await world.failing(batching.app)
    assert isinstance(error, RecordFailed)
    assert (error.stage, error.offset, error.batch) == ("handle", 2, 2)
    assert "a batch of 2 records from in[0] offset 2 on: ValueError: no" in str(error)
    assert "raise BatchError({place: error})" in str(error)
    assert world.committed() == {0: 2}


@simulated
async def test_of_a_batch_error_the_good_records_are_settled_and_the_first_error_stops_the_worker() -> None:
    world = World()
    world.fill(["a", "b", "c", "d"])
    batching = Batching(world)
    world.is_settled = lambda partition, offset: offset in (0, 2)

    async def handle(batch: Batched) -> None:
        raise BatchError({3: ValueError("three"), 1: KeyError("one")})

    batching.handle = handle  # type: ignore[method-assign]
    error = await world.failing(batching.app)
    assert isinstance(error, RecordFailed)
    assert (error.offset, error.key, error.batch, type(error.cause)) == (1, b"b", 0, KeyError)
    assert world.committed() == {0: 1}
    assert world.broker.group("test.work").offsets[IN].metadata  # which says that 2 is settled


@simulated
async def test_what_a_batch_error_left_runs_again_and_nothing_else() -> None:
    world = World()
    world.fill(["a", "b", "c", "d"])
    batching = Batching(world)
    world.is_settled = lambda partition, offset: True

    async def fail(batch: Batched) -> None:
        raise BatchError({1: ValueError()})

    batching.handle = fail  # type: ignore[method-assign]
    await world.failing(batching.app)
    again = Batching(world)
    async with world.working(again.app):
        await until(lambda: world.committed() == {0: 4})
    assert again.batches == [[1]]


@simulated
async def test_a_place_that_the_batch_does_not_have_fails_all_of_it() -> None:
    world = World()
    world.fill(["a", "b"])
    batching = Batching(world)

    async def handle(batch: Batched) -> None:
        raise BatchError({2: ValueError("no")})

    batching.handle = handle  # type: ignore[method-assign]
    error = await world.failing(batching.app)
    assert isinstance(error, RecordFailed)
    assert error.batch == 2
    assert "The batch had 2 records: there is no place 2." in str(error)
    assert world.committed() == {0: 0}


@simulated
async def test_a_record_that_cannot_be_decoded_fails_alone_after_those_before_it() -> None:
    world = World()
    for value in (b"{}", b"{}", b"no", b"{}"):
        world.broker.append("in", value, key=b"a", partition=0)
    seen: list[int] = []
    app = App("test")

    @app.agent(app.topic("in", value=dict[str, Any]), batch=Batch(4, within="1s"))
    async def work(batch: list[dict[str, Any]]) -> None:
        world.done[IN] |= {0, 1}
        seen.append(len(batch))

    error = await world.failing(app)
    assert isinstance(error, RecordFailed)
    assert (error.stage, error.offset, error.batch, error.raw) == ("decode-value", 2, 0, b"no")
    assert seen == [2]
    assert world.committed() == {0: 2}


@simulated
async def test_a_batch_over_its_timeout_is_cancelled_and_has_failed() -> None:
    world = World()
    world.fill(["a", "b"])
    batching = Batching(world, timeout="1s")

    async def handle(batch: Batched) -> None:
        await asyncio.sleep(60)

    batching.handle = handle  # type: ignore[method-assign]
    error = await world.failing(batching.app)
    assert isinstance(error, RecordFailed)
    assert "TimeoutError: not done within its timeout of 1 s" in str(error)


@simulated
async def test_a_stop_drains_the_batch_that_runs_and_drops_what_waits() -> None:
    world = World()
    world.fill(["a", "b", "c"])
    batching = Batching(world, size=2, within="60s")

    async def handle(batch: Batched) -> None:
        await asyncio.sleep(2)

    batching.handle = handle  # type: ignore[method-assign]
    async with world.working(batching.app) as working:
        await until(lambda: batching.batches)
        await working.stopped()
    assert batching.batches == [[0, 1]]
    assert world.committed() == {0: 2}


@simulated
async def test_a_batch_that_does_not_end_within_the_drain_is_cancelled_and_runs_again() -> None:
    world = World()
    world.fill(["a", "b"])
    batching = Batching(world, size=2)

    async def handle(batch: Batched) -> None:
        if len(batching.batches) == 1:
            await asyncio.sleep(60)

    batching.handle = handle  # type: ignore[method-assign]
    async with world.working(batching.app) as working:
        await until(lambda: batching.batches)
        await working.stopped()
        assert working.agent.processed_cancelled == 2
    assert world.committed() == {0: 0}
    async with world.working(batching.app):
        await until(lambda: world.committed() == {0: 2})


@simulated
async def test_a_partition_without_room_for_a_full_batch_does_not_wait_for_it() -> None:
    world = World()
    world.fill(["a"] * 25)
    batching = Batching(world, size=20, within="1h")
    async with world.working(batching.app, max_partition_unsettled=10, window=10):
        await until(lambda: world.committed() == {0: 20})
    assert [len(batch) for batch in batching.batches] == [10, 10]


@simulated
async def test_outputs_go_under_the_keys_they_state_and_all_of_the_batch_waits_for_them() -> None:
    world = World()
    world.broker.create_topic("out", 1)
    world.fill(["a", "b", "c"])
    app = App("test")
    out = app.topic("out", value=bytes)
    other = app.topic("other", value=str, key=int)
    world.broker.create_topic("other", 1)
    world.broker.faults.acknowledgements.close()

    @app.agent(app.topic("in", value=bytes), batch=Batch(3, within="1s"), sink=out)
    async def work(batch: list[Record[str, bytes]]) -> list[Output[bytes]]:
        await out.send(b"sent", key="s")
        world.done[IN] |= {record.offset for record in batch}
        return [*(Output(b"x", key=record.key) for record in batch), Output("y", topic=other, key=7)]

    async with world.working(app):
        await until(lambda: len(world.broker.records("out")) == 4)
        await asyncio.sleep(5)
        assert world.committed() == {0: 0}
        world.broker.faults.acknowledgements.open()
        await until(lambda: world.committed() == {0: 3})
    assert [record.key for record in world.broker.records("out")] == [b"s", b"a", b"b", b"c"]
    assert [(record.key, record.value) for record in world.broker.records("other")] == [(b"7", b"y")]


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (lambda: [b"plain"], "belongs to no single record has no key to go under: make it an Output(value, key=...)"),
        (lambda: [Output(b"x")], "must state its key; key=None is the null key"),
        (lambda: 5, "a batch handler returns an iterable of Output, or None; not int"),
        (lambda: [Output("text", key="k")], "expected bytes, got str"),
    ],
    ids=["a plain value", "without a key", "no iterable", "another type"],
)
@simulated
async def test_outputs_that_cannot_be_fail_the_batch_at_stage_sink(result: Any, says: str) -> None:
    world = World()
    world.broker.create_topic("out", 1)
    world.fill(["a", "b"])
    app = App("test")

    @app.agent(app.topic("in", value=bytes), batch=Batch(2, within="1s"), sink=app.topic("out", value=bytes))
    async def work(batch: list[bytes]) -> Any:
        return result()

    error = await world.failing(app)
    assert isinstance(error, RecordFailed)
    assert (error.stage, error.batch) == ("sink", 2)
    assert says in str(error)
    assert world.committed() == {0: 0}


@simulated
async def test_a_batch_with_a_refused_output_is_not_settled_and_the_next_is() -> None:
    world = World()
    world.broker.create_topic("out", 1, max_message_bytes="1000")
    world.fill(["a", "b", "c", "d"])
    world.is_settled = lambda partition, offset: offset >= 2
    app = App("test", max_request_size=100_000)
    out = app.topic("out", value=bytes)

    @app.agent(app.topic("in", value=bytes), batch=Batch(2, within="1s"), sink=out)
    async def work(batch: list[Record[str, bytes]]) -> list[Output[bytes]]:
        return [Output(bytes(5_000 if record.offset == 1 else 5), key=record.key) for record in batch]

    error = await world.failing(app)
    assert isinstance(error, RecordFailed)
    assert (error.stage, error.offset, error.batch) == ("sink", 0, 2)
    assert world.committed() == {0: 0}


@simulated
async def test_a_batch_that_ignores_its_cancellation_blocks_its_partition_when_that_comes_back() -> None:
    world = World()
    world.fill(["a", "b"])
    batching = Batching(world, size=2)
    deaf = asyncio.Event()

    async def handle(batch: Batched) -> None:
        while len(batching.batches) == 1 and not deaf.is_set():
            try:
                await deaf.wait()
            except asyncio.CancelledError:
                continue

    batching.handle = handle  # type: ignore[method-assign]
    async with world.working(batching.app, drain_timeout=1.0) as working:
        await until(lambda: batching.batches)
        rebalance(working)
        await until(lambda: working.agent.rebalances == 2)
        await asyncio.sleep(5)
        assert batching.batches == [[0, 1]]
        deaf.set()
        await until(lambda: world.committed() == {0: 2})
    assert batching.batches == [[0, 1], [0, 1]]


@simulated
async def test_a_complete_batch_waits_for_the_lease_without_keeping_the_loop_busy() -> None:
    world = World()
    world.fill("a")
    batching = Batching(world, size=1)
    looks: list[int] = []

    def looked() -> None:
        looks.append(len(looks))
        assert len(looks) < 100, "it looks again and again"

    async with world.working(batching.app) as working:
        await until(lambda: world.committed() == {0: 1})
        working.runner.starved = looked  # type: ignore[method-assign]
        working.consumer._last_heartbeat = -100.0  # a heartbeat that hangs
        world.fill("b")
        await asyncio.sleep(0.3)
        assert batching.batches == [[0]]
        await until(lambda: batching.batches == [[0], [1]], patience=3)


@simulated
async def test_a_batch_that_nothing_can_be_added_to_runs_at_once_and_the_next_may_wait_again() -> None:
    world = World()
    world.fill(["a"] * 4)
    batching = Batching(world, size=5, within="10s")
    async with world.working(batching.app, max_partition_unsettled=4, window=4) as working:
        await working.joined()
        began = asyncio.get_running_loop().time()
        await until(lambda: batching.batches)
        assert batching.times[0] - began < 0.1
        await until(lambda: world.committed() == {0: 4})
        world.fill("a")
        await asyncio.sleep(1)
        world.fill("a")
        await until(lambda: world.committed() == {0: 6})
    assert batching.batches == [[0, 1, 2, 3], [4, 5]]


@simulated
async def test_a_refused_output_of_a_batch_of_which_every_record_has_failed_is_no_failure_of_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    world.broker.create_topic("out", 1, max_message_bytes="1000")
    world.fill(["a", "b"])
    app = App("test", max_request_size=100_000)
    out = app.topic("out", value=bytes)

    @app.agent(app.topic("in", value=bytes), batch=Batch(2, within="1s"))
    async def work(batch: list[bytes]) -> None:
        world.broker.topics["out"].config["max.message.bytes"] = "100"
        await out.send(bytes(500))
        raise BatchError({0: ValueError("zero"), 1: ValueError("one")})

    error = await world.failing(app)
    assert isinstance(error, RecordFailed)
    assert (error.stage, error.offset) == ("handle", 0)
    assert "outside of a record" not in caplog.text
    assert world.committed() == {0: 0}
