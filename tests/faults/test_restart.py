"""With one hung key in each partition, a restart after SIGKILL runs again only what was not settled."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from random import Random

from streamkit.errors import TransportError
from streamkit.record import TopicPartition
from streamkit.transport.base import NewTopic
from tests.faults import oracles
from tests.faults.chaos import PARTITIONS, new_seed
from tests.faults.ledger import Committed, LedgerReader
from tests.faults.oracles import Coverage, Log
from tests.faults.program import AT_ONCE, HANG
from tests.faults.support import admin_of, create, processes, produce, program, tail, unique, until
from tests.kafka.server import ExistingKafka, GenuineKafka

SETTLED_AHEAD = 16_800  # records of each partition
OF_HUNG_KEY = 700  # scattered among them: they wait for the one that hangs
CONCURRENCY = 64


def test_a_restart_beside_hung_keys_runs_again_only_what_was_not_settled(
    genuine: GenuineKafka | ExistingKafka, tmp_path: Path
) -> None:
    asyncio.run(restart(genuine.brokers, tmp_path))


async def restart(brokers: str, directory: Path) -> None:
    source = unique("hung")
    log = make_log(new_seed())
    await create(brokers, NewTopic(source, PARTITIONS, 1), NewTopic(f"{source}.out", PARTITIONS, 1))
    for partition, keys in log.items():
        await produce(brokers, source, [record(key) for key in keys], partition)
    ledger = LedgerReader(directory)
    with processes() as start:
        worker = start(program(brokers, source, directory, CONCURRENCY), directory)
        await until_committed(brokers, source, log)
        worker.kill()
        worker.wait()
        second = start(program(brokers, source, directory, CONCURRENCY), directory)
        for partition, keys in log.items():
            keys.append("after")
            await produce(brokers, source, [record("after")], partition)
        # What was to run again would have begun before: it lies before these in the log.
        await until(lambda: finished(ledger, "after") == PARTITIONS, 40, lambda: tail(directory))
        second.kill()
        second.wait()
    history = ledger.finish()
    again = [(start.key, start.offset) for start in history.starts if start.process == second.pid]
    ends = {partition: len(keys) - 1 for partition, keys in log.items()}
    assert sorted(again) == sorted([("hung", 0)] * PARTITIONS + [("after", end) for end in ends.values()])
    violations = [
        *oracles.out_of_turn(history, log),
        *oracles.overlapping(history),
        *oracles.forgotten_commits(history, log),
    ]
    assert not violations, oracles.report(violations, history)


def make_log(seed: int) -> dict[int, list[str | None]]:
    """A hung key at the start of each partition, and again at random places: an offset map of many runs."""
    print(f"seed {seed}")
    chance = Random(seed)
    log: dict[int, list[str | None]] = {}
    for partition in range(PARTITIONS):
        rest = ["hung"] * OF_HUNG_KEY + [f"k{n % 200}" for n in range(SETTLED_AHEAD)]
        chance.shuffle(rest)
        log[partition] = ["hung", *rest]
    return log


def record(key: str | None) -> tuple[bytes, bytes]:
    assert key is not None
    return key.encode(), HANG if key == "hung" else AT_ONCE


async def until_committed(brokers: str, source: str, log: Log) -> None:
    """Return when the group's offset maps hold all that can be settled."""
    wanted = {partition: {n for n, key in enumerate(keys) if key != "hung"} for partition, keys in log.items()}
    partitions = [TopicPartition(source, number) for number in log]
    async with admin_of(brokers) as admin, asyncio.timeout(60):
        while True:
            with contextlib.suppress(TransportError):
                committed = await admin.committed(f"{source}.group", partitions)
                found = {
                    tp.partition: set(Coverage(Committed(*offset), len(log[tp.partition])).offsets())
                    for tp, offset in committed.items()
                }
                if found == wanted:
                    return
            await asyncio.sleep(0.2)


def finished(ledger: LedgerReader, key: str) -> int:
    return sum(end.done and end.key == key for end in ledger.refresh().ends)
