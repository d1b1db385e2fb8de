"""Rebalances: what is given back, what is taken over, and from where it is read on."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Any

import pytest

from streamkit import Record
from streamkit.core.lanes import Lanes
from streamkit.errors import LostRange
from streamkit.record import TopicPartition
from streamkit.transport.base import CommittedOffset, Unreachable
from tests.runtime.support import GROUP, Working, World, rebalance, recording, simulated, until

IN = TopicPartition("in", 0)


async def rebalanced(working: Working) -> None:
    before = working.agent.rebalances
    rebalance(working)
    await until(lambda: working.task.done() or working.agent.rebalances > before, "the rebalance ends")
    if working.task.done():
        working.task.result()  # which says more than that the rebalance did not end


class Deaf:
    """A handler's body that does not end before it is let go, whatever happens."""

    def __init__(self, key: str = "deaf") -> None:
        self.let_go = asyncio.Event()
        self._key = key

    async def __call__(self, record: Record[str, bytes]) -> None:
        while record.key == self._key and not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                continue


def everything_done(world: World) -> bool:
    return all(
        world.done[log.partition] >= {record.offset for record in log.records}
        for log in world.broker.topics["in"].partitions
    )


# Giving back and taking over


@simulated
async def test_a_second_worker_gets_its_share_and_the_first_takes_it_over_again() -> None:
    world = World(partitions=4)

    async def body(record: Record[str, bytes]) -> None:
        await asyncio.sleep(0.05)

    for partition in range(4):
        world.fill(list("abcdefgh" * 20), partition=partition)
    async with world.working(recording(world, body, concurrency=4, worker="1")) as first:
        await until(lambda: len(world.runs) > 100)
        async with world.working(recording(world, body, concurrency=4, worker="2")) as second:
            await until(lambda: len(first.partitions) == len(second.partitions) == 2)
            assert first.partitions | second.partitions == {0, 1, 2, 3}
            await asyncio.sleep(1)
        await until(lambda: first.partitions == {0, 1, 2, 3})
        await until(lambda: world.committed() == world.ends())
    assert len(world.runs) == 640  # what runs was drained and committed: nothing ran twice
    assert {run.worker for run in world.runs} == {"1", "2"}


@simulated
async def test_while_it_drains_a_worker_starts_nothing_more_and_commits_before_it_gives_back() -> None:
    world = World()
    world.fill(list("abcabc"))

    async def body(record: Record[str, bytes]) -> None:
        await asyncio.sleep(3)

    async with world.working(recording(world, body, concurrency=2)) as working:
        await until(lambda: len(world.runs) == 2)
        rebalance(working)
        await asyncio.sleep(2.9)
        assert len(world.runs) == 2
        await until(lambda: working.agent.rebalances == 2)
        assert world.committed() == {0: 2}
        await until(lambda: world.committed() == {0: 6})
    assert world.offsets_run == list(range(6))


@simulated
async def test_a_handler_that_outlasts_the_drain_is_cancelled_and_its_record_runs_again() -> None:
    world = World(drain_timeout=2.0)
    world.fill(["slow", "b", "c"])
    slow = [60.0, 0.1]

    async def body(record: Record[str, bytes]) -> None:
        if record.key == "slow":
            await asyncio.sleep(slow.pop(0))

    async with world.working(recording(world, body, concurrency=2)) as working:
        await until(lambda: len(world.done[IN]) == 2)
        await rebalanced(working)
        await until(lambda: world.committed() == {0: 3})
    assert world.offsets_run == [0, 1, 2, 0]
    assert working.agent.processed_cancelled == 1
    assert working.agent.processed_error == 0
    assert working.agent.skipped == 2
    assert world.revocations[-1] == pytest.approx(2.0, abs=0.1)


@simulated
async def test_what_a_cancelled_handler_raises_is_no_failure() -> None:
    world = World(drain_timeout=1.0)
    world.fill(["slow"])

    async def body(record: Record[str, bytes]) -> None:
        try:
            await asyncio.sleep(60 if len(world.runs) == 1 else 0)
        finally:
            if len(world.runs) == 1:
                raise ValueError("while cleaning up")

    async with world.working(recording(world, body)) as working:
        await until(lambda: world.runs)
        await rebalanced(working)
        await until(lambda: world.committed() == {0: 1})


@simulated
async def test_a_late_result_of_a_closed_window_changes_nothing() -> None:
    world = World(partitions=1, drain_timeout=1.0)
    world.fill(["deaf", "b"])
    deaf = Deaf()

    async with world.working(recording(world, deaf, worker="1", concurrency=2)) as first:
        await until(lambda: world.done[IN])

        async def never(record: Record[str, bytes]) -> None:
            await asyncio.sleep(10_000)

        async with world.working(recording(world, never, worker="2")) as second:
            await until(lambda: first.partitions == {0} and second.worker.ready)
            await first.stopped()
            await until(lambda: len(world.runs) == 3)  # the record runs again, for its new owner
            deaf.let_go.set()
            await asyncio.sleep(5)
            assert world.committed() == {0: 0}
    assert first.worker.abandoned == 1
    assert world.committed() == {0: 0}


@simulated
async def test_a_key_that_still_runs_from_before_a_rebalance_waits_until_that_run_has_ended() -> None:
    world = World(drain_timeout=1.0)
    world.fill(["deaf", "deaf", "b"])
    deaf = Deaf()
    async with world.working(recording(world, deaf, concurrency=8)) as working:
        await until(lambda: len(world.runs) == 2)
        for _ in range(3):
            await rebalanced(working)
        await asyncio.sleep(10)
        assert [run.offset for run in world.runs if run.key == "deaf"] == [0]
        deaf.let_go.set()
        await until(lambda: world.committed() == {0: 3})
    assert [run.offset for run in world.runs if run.key == "deaf"] == [0, 0, 1]


@simulated
async def test_a_poll_that_straddles_a_rebalance_loses_nothing() -> None:
    world = World(partitions=2)
    async with world.working(recording(world)) as working:
        await working.joined()
        for step in range(100):
            rebalance(working)
            # The moment moves through the whole of the rebalance: some 20 ms.
            await asyncio.sleep(step * 0.0003)
            world.fill([f"k{step}"], partition=step % 2)
            await asyncio.sleep(0.1)
        await until(lambda: everything_done(world), "all records run", patience=20)
        await until(lambda: world.committed() == world.ends())
    assert len(world.runs) == 100


@pytest.mark.parametrize("seed", [1, 2])
@simulated
async def test_a_storm_of_rebalances_loses_nothing_and_keeps_the_order(seed: int) -> None:
    chance = random.Random(seed)
    world = World(partitions=6, drain_timeout=0.3, commit_interval=0.2)
    keys = [f"k{number}" for number in range(25)]

    async def body(record: Record[str, bytes]) -> None:
        if chance.random() < 0.02:
            await asyncio.sleep(2)  # longer than the drain
        elif chance.random() < 0.5:
            await asyncio.sleep(chance.random() * 0.05)

    async def feed() -> None:
        for _ in range(300):
            world.fill([chance.choice(keys) for _ in range(10)], partition=chance.randrange(6))
            await asyncio.sleep(0.2)

    feeding = asyncio.ensure_future(feed())
    async with AsyncExitStack() as stack:
        workers: list[tuple[Working, AsyncExitStack]] = []
        for number in range(30):
            if len(workers) == 3 or (workers and chance.random() < 0.3):
                _, leaving = workers.pop(chance.randrange(len(workers)))
                await leaving.aclose()
            else:
                mine = await stack.enter_async_context(AsyncExitStack())
                app = recording(world, body, concurrency=8, worker=f"{number}")
                workers.append((await mine.enter_async_context(world.working(app)), mine))
            if workers and chance.random() < 0.5:
                await asyncio.sleep(chance.random())
                if workers[0][0].worker.ready:
                    rebalance(workers[0][0])
            await asyncio.sleep(chance.random() * 3)
        if not workers:
            await stack.enter_async_context(world.working(recording(world, body, concurrency=8, worker="last")))
        await feeding
        await until(lambda: everything_done(world))
        await until(lambda: world.committed() == world.ends())
    assert len(world.runs) < 1.3 * 3000
    assert max(world.revocations) <= 0.3 + 1.0 + world.settings.request_timeout


@simulated
async def test_revoking_returns_within_its_budget_with_the_brokers_down() -> None:
    world = World(drain_timeout=2.0)
    world.fill(["hung", "b"])

    async def body(record: Record[str, bytes]) -> None:
        if record.key == "hung":
            await asyncio.sleep(60)

    async with world.working(recording(world, body, concurrency=2)) as working:
        await until(lambda: world.done[IN])
        world.broker.faults.network.close()
        rebalance(working)
        await asyncio.sleep(20)
        assert world.revocations[-1] <= 2.0 + 1.0 + world.settings.request_timeout + 0.1
        world.broker.faults.network.open()
        await until(lambda: working.agent.rebalances == 2)


@simulated
async def test_a_commit_in_flight_is_over_before_revoke_returns() -> None:
    world = World()
    world.fill(["a"] * 10)

    async def body(record: Record[str, bytes]) -> None:
        await asyncio.sleep(0.3)

    async with world.working(recording(world, body)) as working:
        await until(lambda: len(world.done[IN]) == 3)
        world.broker.faults.commits.close()
        await asyncio.sleep(1.5)
        assert sum(world.broker.in_flight.values()) == 1
        rebalance(working)
        await asyncio.sleep(1)
        world.broker.faults.commits.open()
        await until(lambda: world.committed() == {0: 10})
    assert world.offsets_run == list(range(10))


# Members that the group has thrown out


@simulated
async def test_a_zombie_starts_nothing_after_its_lease_and_commits_nothing() -> None:
    world = World(partitions=2)
    for partition in range(2):
        world.fill(["a", "b", "c"], partition=partition)

    async def slow(record: Record[str, bytes]) -> None:
        await asyncio.sleep(18)  # without a commit meanwhile, which would count as a sign of life

    async with world.working(recording(world, slow, worker="zombie"), drain_timeout=20.0) as zombie:
        await until(lambda: world.runs)
        old = zombie.consumer.member
        world.broker.faults.freeze(old)
        ends = zombie.consumer.lease
        async with world.working(recording(world, worker="heir")) as heir:
            await until(lambda: heir.partitions == {0, 1}, patience=40)
            await until(lambda: world.committed() == {0: 3, 1: 3})
            await until(lambda: zombie.agent.rebalances == 2)
            assert zombie.agent.rebalances_lost == 1
    assert len([run for run in world.runs if run.worker == "zombie"]) == 1
    assert all(run.began < ends for run in world.runs if run.worker == "zombie")
    late = [attempt for attempt in world.broker.commits if attempt.member == old and attempt.at > ends]
    assert not any(attempt.accepted for attempt in late)


@simulated
async def test_a_member_that_comes_back_after_it_was_thrown_out_takes_part_again() -> None:
    world = World()
    world.fill(["a"])
    async with world.working(recording(world)) as working:
        await until(lambda: world.committed() == {0: 1})
        member = working.consumer.member
        world.broker.faults.freeze(member)
        await asyncio.sleep(2 * world.settings.session_timeout)
        world.broker.faults.thaw(member)
        world.fill(["b"])
        await until(lambda: world.committed() == {0: 2})
        assert working.agent.rebalances_lost == 1
        assert working.consumer.member != member


@simulated
async def test_work_goes_on_when_the_lease_comes_back_without_a_rebalance() -> None:
    world = World(session_timeout=10.0)
    world.fill(["a"])
    async with world.working(recording(world)) as working:
        await until(lambda: world.committed() == {0: 1})
        working.consumer._last_heartbeat = -100.0  # a heartbeat that hangs, and the session with the group goes on
        world.fill(["b"])
        await asyncio.sleep(0.3)
        assert world.offsets_run == [0]
        await until(lambda: world.offsets_run == [0, 1], patience=3)
        assert working.agent.rebalances == 1


# Where reading begins


@simulated
async def test_a_new_group_starts_at_the_earliest_record_and_commits_that_before_the_first_one_runs() -> None:
    world = World()
    world.fill("abcdefghij")
    world.broker.delete_records("in", 4)
    stored: list[int] = []

    async def body(record: Record[str, bytes]) -> None:
        stored.append(world.committed()[0])

    async with world.working(recording(world, body)):
        await until(lambda: world.committed() == {0: 10})
    assert world.offsets_run == list(range(4, 10))
    assert stored[0] == 4


@simulated
async def test_start_from_latest_passes_over_what_is_there_once_and_stays_where_it_began() -> None:
    world = World(partitions=2)
    world.fill(["a"] * 3)
    async with world.working(recording(world, start_from="latest")) as working:
        await working.joined()
        assert world.committed() == {0: 3, 1: 0}
        world.fill(["b"], partition=1)
        await until(lambda: world.committed() == {0: 3, 1: 1})
    world.fill(["c"])
    async with world.working(recording(world, start_from="latest")):
        await until(lambda: world.committed() == {0: 4, 1: 1})
    assert [(run.partition, run.offset) for run in world.runs] == [(1, 0), (0, 3)]


@simulated
async def test_start_from_latest_holds_for_the_partitions_of_a_second_member_that_joins_at_once() -> None:
    world = World(partitions=4)
    for partition in range(4):
        world.fill(["old"] * 3, partition=partition)
    apps = [recording(world, worker=name, start_from="latest") for name in "12"]
    async with world.working(apps[0]) as first, world.working(apps[1]) as second:
        await until(lambda: len(first.partitions) == len(second.partitions) == 2)
        for partition in range(4):
            world.fill(["new"], partition=partition)
        await until(lambda: world.committed() == dict.fromkeys(range(4), 4))
    assert {run.key for run in world.runs} == {"new"}
    assert len(world.runs) == 4


@simulated
async def test_partitions_that_are_added_later_start_at_the_earliest_record() -> None:
    world = World(partitions=1)
    world.fill(["old"])
    async with world.working(recording(world, start_from="latest")) as working:
        await working.joined()
        world.broker.add_partitions("in", 3)
        for partition in (1, 2):
            world.fill(["new"], partition=partition)
        await until(lambda: working.partitions == {0, 1, 2})
        await until(lambda: world.committed() == {0: 1, 1: 1, 2: 1})
    assert {(run.partition, run.offset) for run in world.runs} == {(1, 0), (2, 0)}


@simulated
async def test_partitions_that_were_added_while_the_worker_was_away_start_at_the_earliest_record() -> None:
    world = World(partitions=1)
    async with world.working(recording(world, start_from="latest")) as working:
        await working.joined()
    world.broker.add_partitions("in", 2)
    world.fill(["new"], partition=1)
    async with world.working(recording(world, start_from="latest")):
        await until(lambda: world.committed() == {0: 0, 1: 1})
    assert len(world.runs) == 1


@simulated
async def test_records_lost_before_the_start_stop_the_worker_and_name_the_range() -> None:
    world = World()
    world.fill(["a"] * 10)
    world.broker.group(GROUP).offsets[IN] = CommittedOffset(2)
    world.broker.delete_records("in", 5)
    error = await world.failing(recording(world))
    assert isinstance(error, LostRange)
    assert (error.group, error.topic, error.partition) == (GROUP, "in", 0)
    assert (error.committed, error.start, error.end) == (2, 5, 10)
    assert "offsets 2 to 4 (3) fell to retention unread" in str(error)
    assert world.committed() == {0: 2}
    assert not world.runs


@pytest.mark.parametrize(("on_gap", "runs"), [("earliest", range(5, 11)), ("latest", [10])])
@simulated
async def test_on_gap_says_where_to_go_on_after_lost_records(on_gap: str, runs: Any) -> None:
    world = World()
    world.fill(["a"] * 10)
    world.broker.group(GROUP).offsets[IN] = CommittedOffset(2)
    world.broker.delete_records("in", 5)
    async with world.working(recording(world, on_gap=on_gap)) as working:
        world.done[IN].update(range(10) if on_gap == "latest" else range(5))
        await working.joined()
        world.fill(["b"])
        await until(lambda: world.committed() == {0: 11})
    assert world.offsets_run == list(runs)


@simulated
async def test_records_lost_while_running_stop_the_worker() -> None:
    world = World(max_partition_unsettled=2, window=2)
    world.fill(["a"] * 10)
    release = asyncio.Event()

    async def body(record: Record[str, bytes]) -> None:
        await release.wait()

    app = recording(world, body)
    failing = asyncio.ensure_future(world.failing(app))
    await until(lambda: world.runs)
    world.broker.delete_records("in", 7)
    release.set()
    error = await failing
    assert isinstance(error, LostRange)
    assert (error.committed, error.start) == (2, 7)
    assert world.committed() == {0: 2}


@pytest.mark.parametrize("on_gap", ["earliest", "latest"])
@simulated
async def test_records_lost_while_running_are_passed_over_if_on_gap_says_so(on_gap: str) -> None:
    world = World(max_partition_unsettled=2, window=2)
    world.fill(["a"] * 10)
    release = asyncio.Event()

    async def body(record: Record[str, bytes]) -> None:
        await release.wait()

    async with world.working(recording(world, body, on_gap=on_gap)):
        await until(lambda: world.runs)
        world.broker.delete_records("in", 7)
        world.done[IN].update(range(2, 7) if on_gap == "earliest" else range(2, 10))
        release.set()
        await until(lambda: world.committed() == {0: 10})
        world.fill(["b"])
        await until(lambda: world.committed() == {0: 11})
    assert world.offsets_run == [0, 1, *(range(7, 11) if on_gap == "earliest" else [10])]


@simulated
async def test_an_offset_beyond_the_log_stops_the_worker() -> None:
    world = World()
    world.fill(["a"] * 10)
    world.broker.group(GROUP).offsets[IN] = CommittedOffset(100)
    error = await world.failing(recording(world))
    assert isinstance(error, LostRange)
    assert (error.committed, error.start, error.end) == (100, 0, 10)
    assert "the log ends at 10" in str(error)


@pytest.mark.parametrize(("on_gap", "runs"), [("earliest", range(11)), ("latest", [10])])
@simulated
async def test_a_log_that_was_made_anew_is_read_on_from_where_on_gap_says(on_gap: str, runs: Any) -> None:
    world = World()
    world.fill(["a"] * 10)
    world.broker.group(GROUP).offsets[IN] = CommittedOffset(100)
    async with world.working(recording(world, on_gap=on_gap)):
        await until(lambda: world.committed()[0] < 100)
        world.done[IN].update(range(10) if on_gap == "latest" else ())
        world.fill(["b"])
        await until(lambda: world.committed() == {0: 11})
        # That the committed offset goes down is the meaning of it.
        assert all("after 100" in fault for fault in world.faults)
        world.faults.clear()
    assert world.offsets_run == list(runs)


@simulated
async def test_an_outage_while_offsets_are_looked_up_delays_the_start_and_resets_nothing() -> None:
    world = World()
    world.fill(["a"] * 10)
    world.broker.group(GROUP).offsets[IN] = CommittedOffset(4)
    world.done[IN].update(range(4))
    asked = world.broker.committed
    failures = [Unreachable("coordinator")] * 3

    async def committed(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return await asked(*arguments)

    world.broker.committed = committed  # type: ignore[method-assign, assignment]
    async with world.working(recording(world)):
        await until(lambda: world.committed() == {0: 10})
    assert world.offsets_run == list(range(4, 10))
    assert not failures


@simulated
async def test_an_outage_that_outlasts_the_session_while_offsets_are_looked_up_ends_the_worker() -> None:
    world = World()

    async def committed(*arguments: Any) -> Any:
        raise Unreachable("coordinator")

    world.broker.committed = committed  # type: ignore[method-assign, assignment]
    assert isinstance(await world.failing(recording(world)), Unreachable)


# Leaks


@simulated
async def test_nothing_is_left_of_10000_rebalances() -> None:
    world = World(partitions=2, drain_timeout=0.05, latency=0.0)
    deaf = Deaf("k3")
    async with world.working(recording(world, deaf, concurrency=4), commit_interval=0.05) as working:
        await working.joined()
        tasks: list[int] = []
        for number in range(10_000):
            world.fill([f"k{number % 7}"], partition=number % 2)
            await rebalanced(working)
            tasks.append(len(asyncio.all_tasks()))
            if number == 100:
                deaf.let_go.set()
        await until(lambda: everything_done(world))
        await until(lambda: world.committed() == world.ends())
        lanes = working.runner._pool.queue
        assert isinstance(lanes, Lanes)
        assert (lanes.orphans, lanes.ready_count, len(lanes._tracks), lanes._blocked) == (0, 0, 2, {})
        assert all(not track.tails for track in lanes._tracks.values())
        assert len(working.runner.membership.partitions) == 2
    assert max(tasks) - min(tasks) <= 3
    assert working.agent.rebalances == 10_001
