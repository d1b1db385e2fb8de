"""Records fail by the thousand while workers are killed: each has one kind of outcome, and no key loses its order."""

from __future__ import annotations

import asyncio
import random
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.faults.chaos import new_seed
from tests.faults.ledger import LedgerReader
from tests.faults.retry_evidence import Evidence, all_violations, copy_topics, gather
from tests.faults.retry_program import ALWAYS, Case, command
from tests.faults.settled import settled
from tests.faults.support import create, processes, produce, tail, unique, until
from tests.kafka.server import ExistingKafka, GenuineKafka

PARTITIONS = 6
WORKERS = 3
TWICE, FOR_EVER = 0.05, 0.01  # of the records
NULL_KEYS = 0.02


@dataclass(frozen=True)
class Load:
    records: int
    keys: int
    waits: tuple[str, ...]
    kills: tuple[float, ...] = (0.2, 0.4)  # when so much of the source has run
    seconds: float = 60.0  # until everything is settled


SHORT = Load(10_000, 300, ("500ms", "1s"), kills=(0.2, 0.25))
LONG = Load(100_000, 1_000, ("1s", "5s"), seconds=300)


def test_every_record_has_one_kind_of_outcome_when_workers_are_killed_while_records_fail(
    genuine: GenuineKafka | ExistingKafka, tmp_path: Path
) -> None:
    asyncio.run(chaos(genuine.brokers, tmp_path, SHORT))


@pytest.mark.long
def test_every_record_of_100_000_has_one_kind_of_outcome_when_workers_are_killed(
    genuine: GenuineKafka | ExistingKafka, tmp_path: Path
) -> None:
    asyncio.run(chaos(genuine.brokers, tmp_path, LONG))


async def chaos(brokers: str, directory: Path, load: Load) -> None:
    seed = new_seed()
    print(f"seed {seed}")
    source, began = unique("unlucky"), time.monotonic()
    await create(brokers, *copy_topics(source, len(load.waits), PARTITIONS))
    for partition, records in make_records(load, seed).items():
        await produce(brokers, source, records, partition)
    print(f"{load.records} records there after {time.monotonic() - began:.1f} s")
    case = Case(brokers, source, str(directory), list(load.waits), concurrency=50)
    ledger = LedgerReader(directory / source)
    killed: set[int] = set()
    with processes() as start:
        workers = [start(command(case), directory) for _ in range(WORKERS)]
        for share in load.kills:
            await until(partial(ended, ledger, share * load.records), 40, lambda: tail(directory))
            victim = busiest(ledger, workers)
            victim.kill()
            victim.wait()
            killed.add(victim.pid)
            print(f"killed {victim.pid} after {time.monotonic() - began:.1f} s")
            workers[workers.index(victim)] = start(command(case), directory)
        await settled(brokers, source, len(load.waits), load.seconds, directory, workers, PARTITIONS)
        print(f"settled after {time.monotonic() - began:.1f} s")
        for worker in workers:
            worker.terminate()
        codes = [await asyncio.to_thread(worker.wait, 30) for worker in workers]
    assert codes == [0] * WORKERS, tail(directory)
    evidence = await gather(brokers, source, directory, len(load.waits), PARTITIONS)
    tell(evidence)
    violations = all_violations(evidence, killed)
    print(f"judged after {time.monotonic() - began:.1f} s")
    assert not violations, "\n".join([f"seed {seed}, {len(violations)} violations", *violations[:20], tail(directory)])


def make_records(load: Load, seed: int) -> dict[int, list[tuple[bytes | None, bytes | None]]]:
    """By partition. A tenth of the keys has no failures, and of the other records so many more."""
    chance = random.Random(seed)
    records: dict[int, list[tuple[bytes | None, bytes | None]]] = {number: [] for number in range(PARTITIONS)}
    for _ in range(load.records):
        number = chance.randrange(load.keys)
        key = None if chance.random() < NULL_KEYS else b"k%d" % number
        luck = 0.9 * chance.random() if number % 10 else 1.0
        value = ALWAYS if luck < FOR_EVER else b"2" if luck < FOR_EVER + TWICE else b"0"
        records[number % PARTITIONS].append((key, value))
    return records


def ended(ledger: LedgerReader, runs: float) -> bool:
    return len(ledger.refresh().ends) >= runs


def busiest(ledger: LedgerReader, workers: list[subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """Who has done the most lately."""
    lately = Counter(end.process for end in ledger.history.ends[-500:])
    return max(workers, key=lambda worker: lately[worker.pid])


def tell(evidence: Evidence) -> None:
    runs = [len(history.starts) for history in evidence.histories]
    copies = [len(log) for log in evidence.logs[1:]]
    print(f"{len(evidence.logs[0])} records, {runs} runs, {copies} copies, {len(evidence.letters)} dead letters")
    rebalances = len({(each.process, each.assignment) for each in evidence.histories[0].assigned})
    print(
        f"{rebalances} assignments, {sum(commit.accepted is False for commit in evidence.histories[0].commits)} refused"
    )
