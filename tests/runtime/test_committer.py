"""What is committed, when, and in whose name."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from streamkit import Record
from streamkit.core.commits import CommitSchedule
from streamkit.core.lanes import Track
from streamkit.core.offset_map import decode
from streamkit.errors import TransportError
from streamkit.observe.slots import AgentSlots
from streamkit.record import TopicPartition
from streamkit.runtime.committer import METADATA_LIMIT, Committer
from streamkit.runtime.delivery import AssignedPartition
from streamkit.transport.base import (
    CommitRejected,
    CommittedOffset,
    Consumer,
    MetadataTooLarge,
    Refused,
    Unreachable,
)
from tests.runtime.support import GROUP, Working, World, recording, simulated, until

IN = TopicPartition("in", 0)


@dataclass
class CommitLog:
    """Stands in for a consumer. Each answer is awaited before the commit is noted; an exception is raised instead."""

    commits: list[tuple[dict[TopicPartition, CommittedOffset], int]] = field(
        default_factory=list[tuple[dict[TopicPartition, CommittedOffset], int]]
    )
    failures: list[Exception] = field(default_factory=list[Exception])
    generation: int = 1
    metadata_limit: int = 100_000
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: int = 0

    def __post_init__(self) -> None:
        self.answers.set()

    async def commit(self, offsets: Mapping[TopicPartition, CommittedOffset], generation: int) -> None:
        self.at_once += 1
        assert self.at_once == 1, "two commits in flight"
        try:
            await self.answers.wait()
            await asyncio.sleep(0.1)
            if self.failures:
                raise self.failures.pop(0)
            if any(len(committed.metadata) > self.metadata_limit for committed in offsets.values()):
                raise MetadataTooLarge
            self.commits.append((dict(offsets), generation))
        finally:
            self.at_once -= 1


class Case:
    def __init__(self, *, partitions: int = 1, every_s: float = 1.0, records: int = 100) -> None:
        self.log = CommitLog()
        self.refused: list[Exception] = []
        self.slots = AgentSlots("work", GROUP, ("in",), 1)
        self.partitions = [
            AssignedPartition(tp, Track(tp), CommittedOffset(0), None, cast(Any, None))
            for tp in (TopicPartition("in", number) for number in range(partitions))
        ]
        self.committer = Committer(
            cast(Consumer, self.log),
            CommitSchedule(every_s, records),
            self.slots,
            lambda: self.partitions,
            timeout=3.0,
            refused=self.refused.append,
        )
        self.committer.generation = 1
        self.task = asyncio.ensure_future(self.committer.run())

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])

    def settle(self, *offsets: int, partition: int = 0, read: int = 0) -> None:
        """Settle these; `read` more records are taken in before."""
        window = self.partitions[partition].window
        window.register_all(range(window.next_offset, window.next_offset + read))
        self.committer.settled(window.settle_all(offsets))

    @property
    def offsets(self) -> list[int]:
        return [offsets[IN].offset for offsets, _ in self.log.commits if IN in offsets]


@simulated
async def test_what_settles_within_an_interval_is_one_commit() -> None:
    case = Case()
    case.settle(0, read=50)
    await asyncio.sleep(0.5)
    assert case.offsets == [1]  # nothing was committed before: at once
    for offset in range(1, 40):
        case.settle(offset)
        await asyncio.sleep(0.01)
    await asyncio.sleep(2)
    assert case.offsets == [1, 40]
    await case.end()


@simulated
async def test_a_commit_is_due_early_when_enough_records_have_settled() -> None:
    case = Case(every_s=60.0, records=100)
    case.settle(0, read=300)
    await asyncio.sleep(0.5)
    case.settle(*range(1, 100))
    await asyncio.sleep(5)
    assert case.offsets == [1]
    case.settle(100)
    await asyncio.sleep(0.5)
    assert case.offsets == [1, 101]
    await case.end()


@simulated
async def test_nothing_is_committed_while_nothing_changes() -> None:
    case = Case()
    case.settle(0, read=1)
    await asyncio.sleep(100)
    assert case.offsets == [1]
    assert case.slots.commits_succeeded == 1
    await case.end()


@simulated
async def test_only_partitions_that_changed_are_committed() -> None:
    case = Case(partitions=3)
    case.settle(0, partition=1, read=2)
    await asyncio.sleep(5)
    ((offsets, _),) = case.log.commits
    assert offsets == {TopicPartition("in", 1): CommittedOffset(1)}
    await case.end()


@simulated
async def test_markers_at_the_end_are_committed_without_a_record() -> None:
    case = Case()
    case.partitions[0].window.reach(7)
    case.committer.settled(0)
    await asyncio.sleep(5)
    assert case.offsets == [7]
    await case.end()


@simulated
async def test_what_is_settled_ahead_is_in_the_metadata_even_if_the_offset_stands_still() -> None:
    case = Case()
    case.settle(1, 2, read=10)
    await asyncio.sleep(2)
    case.settle(5)
    await asyncio.sleep(2)
    maps = [decode(offsets[IN].metadata, 0, 10) for offsets, _ in case.log.commits]
    assert maps == [[(1, 3)], [(1, 3), (5, 6)]]
    assert case.offsets == [0, 0]
    await case.end()


@simulated
async def test_what_settles_while_a_commit_is_in_flight_comes_with_the_next() -> None:
    case = Case()
    case.log.answers.clear()
    case.settle(0, read=5)
    await asyncio.sleep(0.5)
    case.settle(1)
    case.log.answers.set()
    await asyncio.sleep(0.2)
    assert case.offsets == [1]
    await asyncio.sleep(2)
    assert case.offsets == [1, 2]
    await case.end()


@pytest.mark.parametrize("failure", [CommitRejected("rebalance"), Unreachable("down"), TransportError("what")])
@simulated
async def test_a_commit_that_fails_stays_to_be_done_and_is_repeated_with_what_has_settled_since(
    failure: Exception,
) -> None:
    case = Case()
    case.log.failures = [failure] * 3
    case.settle(0, read=5)
    await asyncio.sleep(2.5)
    assert not case.log.commits
    case.settle(1)
    await asyncio.sleep(2.5)
    assert case.offsets == [2]
    assert (case.slots.commits_failed, case.slots.commits_succeeded) == (3, 1)
    await case.end()


@simulated
async def test_a_commit_without_an_answer_is_given_up_and_repeated() -> None:
    case = Case()
    case.log.answers.clear()
    case.settle(0, read=5)
    await asyncio.sleep(3.5)
    assert case.slots.commits_failed == 1
    case.log.answers.set()
    await asyncio.sleep(3)
    assert case.offsets == [1]
    await case.end()


@simulated
async def test_a_commit_on_demand_waits_for_the_one_in_flight_and_says_whether_all_is_committed() -> None:
    case = Case()
    case.log.answers.clear()
    case.settle(0, read=5)
    await asyncio.sleep(0.5)
    case.settle(1)
    demanded = asyncio.ensure_future(case.committer.commit(3.0))
    await asyncio.sleep(0.5)
    case.log.answers.set()
    assert await demanded is True
    assert case.offsets == [1, 2]
    case.settle(2)
    case.log.failures = [Unreachable()]
    assert await case.committer.commit(3.0) is False
    await case.end()


@simulated
async def test_a_commit_on_demand_keeps_to_its_timeout() -> None:
    case = Case()
    case.log.answers.clear()
    case.settle(0, read=5)
    began = asyncio.get_running_loop().time()
    assert await case.committer.commit(1.0) is False
    assert asyncio.get_running_loop().time() - began == pytest.approx(1.0)
    await case.end()


@simulated
async def test_a_commit_goes_with_the_generation_that_settled_it_and_not_with_the_consumers_present_one() -> None:
    case = Case()
    case.log.generation = 2  # the group has rebalanced; this member's windows are still of generation 1
    case.settle(0, read=5)
    await asyncio.sleep(0.5)
    assert [generation for _, generation in case.log.commits] == [1]
    await case.end()


def scattered() -> list[int]:
    """So irregular that their map is long."""
    chance = random.Random(1)
    return [offset for offset in range(1, 20_000) if chance.random() < 0.5]


@simulated
async def test_metadata_that_the_broker_refuses_is_shortened_until_it_fits_and_keeps_a_prefix() -> None:
    case = Case()
    case.log.metadata_limit = 600
    offsets = scattered()
    case.settle(*offsets, read=20_000)
    await asyncio.sleep(10)
    ((committed,),) = [found.values() for found, _ in case.log.commits]
    assert 400 < len(committed.metadata) <= 512
    settled = [offset for start, end in decode(committed.metadata, 0, 20_000) for offset in range(start, end)]
    assert len(settled) > 500
    assert settled == offsets[: len(settled)]
    assert case.slots.commits_failed == 3  # 4096, 2048, 1024
    await case.end()


@simulated
async def test_metadata_that_is_refused_at_any_length_is_left_out() -> None:
    case = Case()
    case.log.metadata_limit = 0
    case.settle(*scattered(), read=20_000)
    await asyncio.sleep(20)
    case.settle(0)
    await asyncio.sleep(2)
    assert case.log.commits[-1][0][IN].metadata == ""
    assert case.offsets[-1] > 0
    await case.end()


# With the broker


@simulated
async def test_a_restart_runs_only_what_was_not_settled() -> None:
    world = World(partitions=2)
    for partition in range(2):
        world.fill(["hung", *"abcdefghij" * 30], partition=partition)

    async def hangs(record: Record[str, bytes]) -> None:
        if record.key == "hung":
            await asyncio.sleep(10_000)

    async with world.working(recording(world, hangs, concurrency=8), drain_timeout=0.0):
        await until(lambda: sum(map(len, world.done.values())) == 600)
    assert world.committed() == {0: 0, 1: 0}
    before = len(world.runs)
    async with world.working(recording(world, concurrency=8)) as working:
        await until(lambda: world.committed() == {0: 301, 1: 301})
    assert [(run.partition, run.offset) for run in world.runs[before:]] == [(0, 0), (1, 0)]
    assert working.agent.skipped == 600


@simulated
async def test_after_a_crash_only_what_the_last_commit_does_not_cover_runs_again() -> None:
    world = World(commit_interval=1.0)
    world.fill(list("abcdefghij" * 20))

    async def body(record: Record[str, bytes]) -> None:
        await asyncio.sleep(0.1 if record.key != "a" else 0.3)

    working = Working(world, recording(world, body, concurrency=5), world.settings)
    await until(lambda: len(world.done[IN]) >= 80)
    world.broker.faults.network.close()  # nothing more gets through before the process is gone
    working.task.cancel()
    await asyncio.wait([working.task])
    world.broker.faults.network.open()
    stored = world.broker.group(GROUP).offsets[IN]
    covered = {offset for start, end in decode(stored.metadata, stored.offset, 200) for offset in range(start, end)}
    covered.update(range(stored.offset))
    before = len(world.runs)
    async with world.working(recording(world, body, concurrency=5, worker="second")):
        await until(lambda: world.committed() == {0: 200})
    assert len(covered) > 30
    assert sorted(world.offsets_run[before:]) == sorted(set(range(200)) - covered)


@simulated
async def test_a_map_that_was_made_for_another_offset_is_not_believed() -> None:
    world = World()
    world.fill(list("abcde"))
    case = Case()
    case.settle(1, 2, 3, read=5)
    await asyncio.sleep(2)
    await case.end()
    metadata = case.log.commits[-1][0][IN].metadata
    world.broker.group(GROUP).offsets[IN] = CommittedOffset(1, metadata)  # moved by a tool
    async with world.working(recording(world)):
        await until(lambda: world.committed() == {0: 5})
    assert world.offsets_run == [1, 2, 3, 4]


@simulated
async def test_an_idle_worker_commits_nothing() -> None:
    world = World()
    world.fill(["a", "b"])
    async with world.working(recording(world)):
        await until(lambda: world.committed() == {0: 2})
        before = len(world.broker.commits)
        await asyncio.sleep(200)
        assert len(world.broker.commits) == before
    assert len(world.broker.commits) == before


@pytest.mark.parametrize("stored", [False, True])
@simulated
async def test_commits_that_fail_at_the_broker_are_made_up_for(stored: bool) -> None:
    world = World()
    world.fill(["a"] * 50)

    async def fail_commits_once(record: Record[str, bytes]) -> None:
        if record.offset == 0:  # after the commit of where the group begins
            world.broker.faults.fail_commits(3, Unreachable("coordinator"), stored=stored)

    async with world.working(recording(world, fail_commits_once)) as working:
        await until(lambda: world.committed() == {0: 50})
        await until(lambda: working.agent.commits_succeeded)
    assert working.agent.commits_failed == 3
    assert len(world.runs) == 50


def test_the_limit_is_that_of_kafka() -> None:
    assert METADATA_LIMIT == 4096


@simulated
async def test_commits_that_the_broker_will_not_take_at_all_are_told_and_other_failures_are_not() -> None:
    case = Case()
    case.log.failures = [TransportError("later"), Refused("not authorised")]
    case.settle(0, read=1)
    await asyncio.sleep(5)
    assert [str(error) for error in case.refused] == ["not authorised"]
    await case.end()
