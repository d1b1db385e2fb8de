"""Workers are killed, paused and replaced on a genuine Kafka, and every promise is kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.chaos import Chaos, Load, new_seed
from tests.kafka.server import ExistingKafka, GenuineKafka

SHORT = Load(records=10_000, keys=300, concurrency=20)
BY_PARTITION = {shape: Load(records=4_000, keys=300, concurrency=4, shape=shape) for shape in ("batch", "loop")}
LONG = Load(records=50_000, keys=500, concurrency=50, per_second=250)
LONG_KILLS = 6


def test_nothing_is_lost_or_overtakes_when_workers_are_killed_and_paused(
    genuine: GenuineKafka | ExistingKafka, tmp_path: Path
) -> None:
    asyncio.run(short(genuine.brokers, tmp_path))


@pytest.mark.parametrize("shape", BY_PARTITION)
def test_nothing_is_lost_or_overtakes_when_workers_with_batches_or_loops_are_killed(
    genuine: GenuineKafka | ExistingKafka, tmp_path: Path, shape: str
) -> None:
    asyncio.run(by_partition(genuine.brokers, tmp_path, BY_PARTITION[shape]))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_nothing_is_lost_or_overtakes_in_a_long_run_with_many_faults(
    genuine: GenuineKafka | ExistingKafka, tmp_path: Path
) -> None:
    asyncio.run(long(genuine.brokers, tmp_path))


async def short(brokers: str, directory: Path) -> None:
    chaos = begin(brokers, directory, SHORT)
    async with chaos.running(workers=2):
        await chaos.kill_and_restart()
        await chaos.pause_beyond_the_session()
        await chaos.kill_and_restart()
    await judge(chaos)


async def by_partition(brokers: str, directory: Path, load: Load) -> None:
    chaos = begin(brokers, directory, load)
    async with chaos.running(workers=2):
        await chaos.kill_and_restart()
    await judge(chaos)


async def long(brokers: str, directory: Path) -> None:
    chaos = begin(brokers, directory, LONG)
    async with chaos.running(workers=3):
        for _ in range(LONG_KILLS // 2):
            await chaos.kill_and_restart()
        fourth = await chaos.join()
        await chaos.pause_beyond_the_session()
        await chaos.leave(fourth)
        for _ in range(LONG_KILLS // 2):
            await chaos.kill_and_restart()
        await chaos.pause_beyond_the_session()
    await judge(chaos)


def begin(brokers: str, directory: Path, load: Load) -> Chaos:
    chaos = Chaos(brokers, directory, load, new_seed())
    print(f"seed {chaos.seed}")
    return chaos


async def judge(chaos: Chaos) -> None:
    evidence = await chaos.evidence()
    violations = evidence.violations()
    handled = sum(end.done for end in evidence.history.ends)
    refused = sum(commit.accepted is False for commit in evidence.history.commits)
    outputs = sum(map(len, evidence.sink))
    print(f"{handled} handled of {chaos.load.records}, {outputs} outputs, {len(evidence.seen)} commits seen, ", end="")
    print(f"{refused} refused, {len(evidence.history.assigned)} assignments")
    assert not violations and not chaos.deaths, chaos.failed(violations)
