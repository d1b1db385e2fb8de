"""Order, concurrency, failures and bounds of one agent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from streamkit import App, Record
from streamkit.errors import RecordFailed
from streamkit.record import TopicPartition
from streamkit.runtime.pool import SLICE
from tests.runtime.support import World, recording, simulated, until
from tests.transport.virtual_time import VirtualTimeLoop

IN = TopicPartition("in", 0)


async def nothing(record: Record[str, bytes]) -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize("concurrency", [1, 8, 64])
@simulated
async def test_records_of_a_key_run_in_order_one_at_a_time_and_concurrency_is_reached(concurrency: int) -> None:
    chance = random.Random(concurrency)
    world = World(partitions=3)
    for partition in range(3):
        world.fill([chance.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(200)], partition=partition)

    async def body(record: Record[str, bytes]) -> None:
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(chance.random() * 0.01)

    async with world.working(recording(world, body, concurrency=concurrency)) as working:
        await until(lambda: sum(map(len, world.done.values())) == 600)
    assert len(world.runs) == 600
    assert world.committed() == {0: 200, 1: 200, 2: 200}
    assert world.most_at_once == concurrency
    assert working.agent.processed_success == 600
    assert sum(working.agent.processing.counts) == 600


@simulated
async def test_new_work_is_taken_up_by_all_tasks_while_others_are_busy() -> None:
    world = World()
    world.fill(["a"])
    release = asyncio.Event()

    async def body(record: Record[str, bytes]) -> None:
        await release.wait()

    async with world.working(recording(world, body, concurrency=5)) as working:
        await until(lambda: world.runs)
        world.fill(["b", "c", "d", "e", "f", "g"])
        await until(lambda: len(world.runs) == 5)
        assert working.agent.in_flight() == 5
        release.set()
        await until(lambda: len(world.done[IN]) == 7)
        assert working.agent.in_flight() == 0


@simulated
async def test_records_without_a_key_are_each_a_lane_of_their_own() -> None:
    world = World()
    world.fill([None] * 8)

    async def body(record: Record[str, bytes]) -> None:
        await asyncio.sleep(1)

    async with world.working(recording(world, body, concurrency=8)):
        await until(lambda: len(world.done[IN]) == 8)
    assert world.most_at_once == 8


@pytest.mark.parametrize(("order_by", "at_once"), [("partition", 2), ("none", 8)])
@simulated
async def test_order_by_partition_or_none(order_by: str, at_once: int) -> None:
    world = World(partitions=2)
    for partition in range(2):
        world.fill(list("abcdefgh"), partition=partition)

    async def body(record: Record[str, bytes]) -> None:
        await asyncio.sleep(1)

    async with world.working(recording(world, body, concurrency=8, order_by=order_by)):
        await until(lambda: sum(map(len, world.done.values())) == 16)
    assert world.most_at_once == at_once
    if order_by == "partition":
        for partition in range(2):
            assert [run.offset for run in world.runs if run.partition == partition] == list(range(8))


@simulated
async def test_order_by_a_function_of_the_record() -> None:
    world = World()
    world.fill(["a1", "b1", "a2", "b2", "a3"])
    running: list[str] = []

    def letter(record: Record[str, bytes]) -> str:
        assert record.key is not None
        return record.key[0]

    async def body(record: Record[str, bytes]) -> None:
        assert letter(record) not in running
        running.append(letter(record))
        await asyncio.sleep(1)
        running.remove(letter(record))

    async with world.working(recording(world, body, concurrency=8, order_by=letter)):
        await until(lambda: len(world.done[IN]) == 5)
    assert world.most_at_once == 2
    assert [run.offset for run in world.runs if run.key and run.key[0] == "a"] == [0, 2, 4]


@pytest.mark.parametrize("wrong", [lambda record: 1 // 0, lambda record: []], ids=["raises", "not hashable"])
@simulated
async def test_a_record_whose_order_by_fails_has_failed_at_decode_value_in_the_lane_of_its_raw_key(
    wrong: Callable[[Record[str, bytes]], object],
) -> None:
    world = World()
    world.fill(["a", "bad", "bad", "b"], value=b"bytes")

    def choose(record: Record[str, bytes]) -> object:
        return wrong(record) if record.key == "bad" else record.key

    error = await world.failing(recording(world, nothing, order_by=choose))
    assert isinstance(error, RecordFailed)
    assert (error.stage, error.offset, error.key, error.raw) == ("decode-value", 1, b"bad", b"bytes")
    assert world.offsets_run == [0]


# Failures


@simulated
async def test_a_failing_record_blocks_its_key_and_what_runs_beside_it_is_drained_and_committed() -> None:
    world = World()
    world.fill(["a", "b", "bad", "bad", "c"])
    failed = asyncio.Event()

    async def body(record: Record[str, bytes]) -> None:
        if record.key == "bad":
            await asyncio.sleep(0.5)
            failed.set()
            raise ValueError("bad luck")
        await failed.wait()
        await asyncio.sleep(1)

    error = await world.failing(recording(world, body, concurrency=4))
    assert isinstance(error, RecordFailed)
    assert (error.agent, error.stage, error.topic, error.partition, error.offset, error.key) == (
        "work",
        "handle",
        "in",
        0,
        2,
        b"bad",
    )
    assert isinstance(error.__cause__, ValueError)
    assert world.offsets_run == [0, 1, 2, 4]
    assert world.done[IN] == {0, 1, 4}
    committed = world.broker.group("test.work").offsets[IN]
    assert committed.offset == 2
    assert committed.metadata  # 4 is settled ahead


@simulated
async def test_after_a_failure_the_next_start_runs_the_failed_record_again_and_none_that_is_settled() -> None:
    world = World()
    world.fill(["a", "bad", "bad", "b", "c"])

    async def fails(record: Record[str, bytes]) -> None:
        await asyncio.sleep(0.1)
        if record.key == "bad":
            raise ValueError

    await world.failing(recording(world, fails, concurrency=5))
    before = len(world.runs)
    async with world.working(recording(world, nothing, concurrency=5)) as working:
        await until(lambda: world.committed() == {0: 5})
    assert world.offsets_run[before:] == [1, 2]
    assert working.agent.skipped == 2


class Boom(BaseException):
    pass


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize(
    "raised", [ValueError, TimeoutError, asyncio.CancelledError, StopIteration, StopAsyncIteration, Boom]
)
@simulated
async def test_whatever_a_handler_raises_is_its_failure(raised: type[BaseException], waits: bool) -> None:
    world = World()
    world.fill(["bad", "b"])

    async def body(record: Record[str, bytes]) -> None:
        if waits:
            await asyncio.sleep(0.1)
        if record.key == "bad":
            raise raised("own")

    error = await world.failing(recording(world, body))
    assert isinstance(error, RecordFailed)
    assert (error.stage, error.offset) == ("handle", 0)
    assert isinstance(error.cause, RuntimeError if raised is StopIteration else raised)
    assert world.committed() == {0: 0}


@simulated
async def test_a_handler_over_its_timeout_is_cancelled_and_has_failed() -> None:
    world = World()
    world.fill(["quick", "slow"])
    ended: list[float] = []

    async def body(record: Record[str, bytes]) -> None:
        if record.key == "slow":
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(3)  # keeps its lane until it has ended
                ended.append(asyncio.get_running_loop().time() - world.runs[-1].began)

    error = await world.failing(recording(world, body, timeout="2s"))
    assert isinstance(error, RecordFailed)
    assert (error.stage, error.offset) == ("handle", 1)
    assert "not done within its timeout of 2 s" in str(error)
    assert isinstance(error.cause, TimeoutError)
    assert ended == pytest.approx([5.0])
    assert world.committed() == {0: 1}


@simulated
async def test_a_handler_that_makes_use_of_its_cancellation_at_the_timeout_has_succeeded() -> None:
    world = World()
    world.fill(["a", "b"])

    async def body(record: Record[str, bytes]) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)

    async with world.working(recording(world, body, timeout="2s")):
        await until(lambda: len(world.done[IN]) == 2)


@simulated
async def test_what_is_raised_while_being_timed_out_is_the_failure() -> None:
    world = World()
    world.fill(["a"])

    async def body(record: Record[str, bytes]) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ValueError("instead") from None

    error = await world.failing(recording(world, body, timeout="2s"))
    assert isinstance(error, RecordFailed)
    assert isinstance(error.cause, ValueError)


@simulated
async def test_an_undecodable_value_fails_with_its_raw_bytes_before_the_handler() -> None:
    world = World()
    world.fill(["a"])
    world.fill(["b"], value=b"\xff{")
    app = App("test")

    @app.agent(app.topic("in", value=dict[str, str]))
    async def work(value: dict[str, str]) -> None:
        world.done[IN].add(0)

    error = await world.failing(app)
    assert isinstance(error, RecordFailed)
    assert (error.stage, error.offset, error.key, error.raw) == ("decode-value", 1, b"b", b"\xff{")
    assert "ff 7b" in str(error)
    assert world.committed() == {0: 1}


@simulated
async def test_an_undecodable_key_fails_with_its_raw_bytes_if_the_handler_is_shown_keys() -> None:
    world = World()
    world.broker.append("in", b"value", key=b"\xff")
    error = await world.failing(recording(world))
    assert isinstance(error, RecordFailed)
    assert (error.stage, error.offset, error.key, error.raw) == ("decode-key", 0, b"\xff", b"\xff")
    assert not world.runs


@simulated
async def test_a_tombstone_is_undecodable_unless_the_value_type_allows_none() -> None:
    world = World()
    world.broker.append("in", None, key=b"a")
    error = await world.failing(recording(world))
    assert isinstance(error, RecordFailed)
    assert (error.stage, error.raw) == ("decode-value", None)


@simulated
async def test_only_the_first_failure_is_raised() -> None:
    world = World()
    world.fill(["a", "b"])

    async def body(record: Record[str, bytes]) -> None:
        await asyncio.sleep(1 + record.offset)
        raise ValueError(f"offset {record.offset}")

    error = await world.failing(recording(world, body, concurrency=2))
    assert isinstance(error, RecordFailed)
    assert error.offset == 0


# Stopping


@simulated
async def test_stopping_finishes_what_has_started_and_starts_nothing_more() -> None:
    world = World()
    world.fill(["a", "b", "a", "b", "c"])

    async def body(record: Record[str, bytes]) -> None:
        await asyncio.sleep(2)

    async with world.working(recording(world, body, concurrency=2)) as working:
        await until(lambda: len(world.runs) == 2)
        await working.stopped()
    assert world.offsets_run == [0, 1]
    assert world.committed() == {0: 2}
    assert working.agent.processed_cancelled == 0


@simulated
async def test_a_handler_that_is_not_done_at_the_deadline_is_cancelled_and_its_record_not_committed() -> None:
    world = World()
    world.fill(["hung", "b", "c"])

    async def body(record: Record[str, bytes]) -> None:
        if record.key == "hung":
            await asyncio.sleep(1000)

    async with world.working(recording(world, body, concurrency=2)) as working:
        await until(lambda: len(world.done[IN]) == 2)
    assert working.agent.processed_cancelled == 1
    assert working.agent.processed_error == 0
    assert working.worker.abandoned == 0
    assert world.committed() == {0: 0}


@pytest.mark.parametrize("network", ["open", "closed"])
@simulated
async def test_stopping_returns_in_time_with_a_hung_handler_and_with_the_brokers_down(network: str) -> None:
    world = World()
    world.fill(["hung", "b"])

    async def body(record: Record[str, bytes]) -> None:
        if record.key == "hung":
            await asyncio.sleep(10_000)

    settings = world.settings
    async with world.working(recording(world, body, concurrency=2)) as working:
        await until(lambda: len(world.runs) == 2)
        if network == "closed":
            world.broker.faults.network.close()
        began = asyncio.get_running_loop().time()
        await working.stopped()
        took = asyncio.get_running_loop().time() - began
    budget = settings.drain_timeout + settings.request_timeout + 1.0  # one second for cancelled handlers
    assert took <= budget + (0.2 if network == "open" else 5.2)  # closing a client may take 5 s


@simulated
async def test_a_handler_that_ignores_its_cancellation_does_not_hold_up_the_stop_and_is_counted() -> None:
    world = World()
    world.fill(["deaf", "b"])
    let_go = asyncio.Event()

    async def body(record: Record[str, bytes]) -> None:
        while record.key == "deaf" and not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    async with world.working(recording(world, body, concurrency=2)) as working:
        await until(lambda: len(world.runs) == 2)
        began = asyncio.get_running_loop().time()
        await working.stopped()
        assert asyncio.get_running_loop().time() - began < world.settings.drain_timeout + 3
    assert working.worker.abandoned == 1
    assert world.committed() == {0: 0}
    let_go.set()  # its late result changes nothing
    await asyncio.sleep(1)
    assert world.committed() == {0: 0}


@simulated
async def test_a_handler_that_ends_at_its_second_cancellation_is_not_counted_as_abandoned() -> None:
    world = World()
    world.fill(["stubborn"])

    async def body(record: Record[str, bytes]) -> None:
        try:
            await asyncio.sleep(10_000)
        finally:
            await asyncio.sleep(10_000)

    async with world.working(recording(world, body)) as working:
        await until(lambda: world.runs)
    assert working.worker.abandoned == 0


# Bounds


@simulated
async def test_one_hung_key_fills_its_partition_up_to_the_window_and_it_reopens_at_half() -> None:
    world = World(partitions=2, max_partition_unsettled=50, window=100)
    world.fill(["hung", *"abcdefghij" * 50], partition=0)
    world.fill(list("abcdefghij" * 50), partition=1)
    release = asyncio.Event()

    async def body(record: Record[str, bytes]) -> None:
        if record.key == "hung":
            await release.wait()

    async with world.working(recording(world, body, concurrency=4)) as working:
        await until(lambda: len(world.done[TopicPartition("in", 1)]) == 500)
        await asyncio.sleep(10)
        window = working.runner.membership.partitions[IN].window
        assert window.size == 100
        assert working.agent.consumed["in"] == 600
        assert len(world.done[IN]) == 99
        release.set()
        await until(lambda: len(world.done[IN]) == 501)
    assert world.committed() == {0: 501, 1: 500}


@simulated
async def test_a_slow_key_lets_no_more_than_the_bound_into_memory_and_takes_more_in_at_half() -> None:
    world = World(max_partition_unsettled=40, window=1000)
    world.fill(["slow"] * 200)
    pending: list[int] = []

    async def body(record: Record[str, bytes]) -> None:
        await asyncio.sleep(0.5)
        pending.append(working.runner.membership.partitions[IN].window.pending)

    async with world.working(recording(world, body)) as working:
        await until(lambda: len(world.done[IN]) == 200)
    assert max(pending) <= 40
    grew = [before for before, after in pairwise(pending) if after > before]
    assert grew
    assert all(before <= 21 for before in grew)


@simulated
async def test_bytes_are_bounded_as_well_and_given_back() -> None:
    world = World(max_bytes=20_000)
    for _ in range(50):
        world.fill(["k"], value=b"x" * 1000)
    most = 0

    async def body(record: Record[str, bytes]) -> None:
        nonlocal most
        await asyncio.sleep(0.1)
        most = max(most, working.runner.membership.partitions[IN].bytes)

    async with world.working(recording(world, body)) as working:
        await until(lambda: len(world.done[IN]) == 50)
        assert working.runner.membership.partitions[IN].bytes == 0
    assert most


@simulated
async def test_a_hung_partition_does_not_starve_the_others_of_the_total() -> None:
    world = World(partitions=3, max_records=60)
    for partition in range(3):
        world.fill(["k"] * 100, partition=partition)

    async def body(record: Record[str, bytes]) -> None:
        if record.partition == 0:
            await asyncio.sleep(10_000)

    async with world.working(recording(world, body, concurrency=4)):
        await until(lambda: all(len(world.done[TopicPartition("in", number)]) == 100 for number in (1, 2)))


@simulated
async def test_a_member_whose_partitions_are_all_full_stays_in_the_group() -> None:
    world = World(max_partition_unsettled=5, window=5)
    world.fill(["hung"] * 20)

    async def body(record: Record[str, bytes]) -> None:
        await asyncio.sleep(10 * world.settings.session_timeout)

    async with world.working(recording(world, body), drain_timeout=0.0) as working:
        await until(lambda: world.runs)
        await asyncio.sleep(5 * world.settings.session_timeout)
        assert working.agent.rebalances == 1
        assert working.agent.rebalances_lost == 0


@simulated
async def test_a_log_that_ends_in_markers_is_committed_to_its_end() -> None:
    world = World()
    world.fill(["a", "b"])
    world.broker.append_marker("in")
    world.broker.append_marker("in")
    async with world.working(recording(world)):
        await until(lambda: world.committed() == {0: 4})
        world.fill(["c"])
        world.broker.append_marker("in")
        await until(lambda: world.committed() == {0: 6})
    assert world.offsets_run == [0, 1, 4]


@simulated
async def test_handlers_that_never_wait_leave_the_loop_to_others() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    world = World()
    world.fill(["a"] * 1000)
    gaps: list[float] = []
    finished = asyncio.Event()

    async def body(record: Record[str, bytes]) -> None:
        loop.jump(0.001)  # of computing
        if record.offset == 999:
            finished.set()

    async def others() -> None:
        while True:
            before = loop.time()
            await asyncio.sleep(0)
            gaps.append(loop.time() - before)

    async with world.working(recording(world, body)) as working:
        await working.joined()
        task = asyncio.ensure_future(others())
        await finished.wait()
        task.cancel()
    assert 0.001 < max(gaps) <= SLICE + 0.0011
