"""A worker is killed between every two steps of moving a record, and started again: nothing is lost, and what is
repeated is what the kill left in doubt."""

from __future__ import annotations

import asyncio
import subprocess
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from streamkit.transport.base import NewTopic
from tests.faults.failpoints import KILLED, STEPS, Failpoint, Step, Victim, Way
from tests.faults.retry_evidence import Evidence, all_violations, copy_topics, gather, origin_of
from tests.faults.retry_program import ALWAYS, REJECTED, Case, command
from tests.faults.support import admin_of, produce, ready, tail, unique
from tests.kafka.server import ExistingKafka, GenuineKafka

PARTITIONS = 2
PASSAGE = 3  # the record at which the point kills
KILLS: list[tuple[Way, Step]] = [
    *(("source to tier", step) for step in STEPS),
    *(("tier to dead letters", step) for step in STEPS),
    # No copy is made.
    ("tier to handled", "settled"),
    ("tier to handled", "committed"),
]
MORE_KILLS: list[tuple[Way, Step]] = [("source to dead letters", step) for step in STEPS]
SENT_BEFORE: Collection[Step] = ("stored", "acknowledged", "released", "settled")  # and sent again afterwards
SECONDS = 90.0


@dataclass(frozen=True)
class Outcome:
    evidence: Evidence
    victim: Victim
    killed: int  # the process
    log: str


Outcomes = dict[tuple[Way, Step], Outcome]
Kafka = GenuineKafka | ExistingKafka


@pytest.fixture(scope="module")
def outcomes(genuine: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """All together: most of the time goes to waiting until the groups have missed their dead workers."""
    return run(genuine.brokers, tmp_path_factory.mktemp("kills"), KILLS)


@pytest.mark.parametrize(("way", "step"), KILLS, ids=[f"{way}, {step}" for way, step in KILLS])
def test_a_kill_between_two_steps_loses_nothing_and_repeats_only_what_it_left_in_doubt(
    outcomes: Outcomes, way: Way, step: Step
) -> None:
    judge(outcomes[way, step], way, step)


@pytest.mark.long
def test_a_kill_on_the_way_straight_to_the_dead_letters_loses_nothing(genuine: Kafka, tmp_path: Path) -> None:
    for (way, step), outcome in run(genuine.brokers, tmp_path, MORE_KILLS).items():
        judge(outcome, way, step)


def run(brokers: str, directory: Path, kills: list[tuple[Way, Step]]) -> Outcomes:
    cases = [case(brokers, directory, way, step) for way, step in kills]
    asyncio.run(prepare(brokers, cases))
    code = subprocess.run(command(*cases), check=False, timeout=SECONDS).returncode
    assert code == 0, "\n".join(tail(Path(case.directory)) for case in cases)
    return dict(zip(kills, asyncio.run(look(cases)), strict=True))


def judge(outcome: Outcome, way: Way, step: Step) -> None:
    evidence, victim = outcome.evidence, outcome.victim
    violations = all_violations(evidence, {outcome.killed})
    assert not violations, "\n".join([*violations[:10], outcome.log])
    tier = 0 if victim.topic == evidence.source else 1
    assert way.startswith("tier" if tier else "source")
    runs = Counter((start.partition, start.offset) for start in evidence.histories[tier].starts)
    # Before it is committed, the record in hand runs again; and only what was sent before the kill is there twice.
    assert runs[victim.partition, victim.offset] == (1 if step == "committed" else 2)
    if way != "tier to handled":
        copies = evidence.letters if way.endswith("dead letters") else evidence.logs[1]
        origin = evidence.origin(tier, (victim.partition, victim.offset))
        assert Counter(map(origin_of, copies.values()))[origin] == (2 if step in SENT_BEFORE else 1)


def case(brokers: str, parent: Path, way: Way, step: Step) -> Case:
    source = unique("kill")
    directory = parent / source
    directory.mkdir()
    point = Failpoint(step, way, PASSAGE)
    return Case(brokers, source, str(directory), ["300ms"], stop_when_idle="700ms", failpoint=point)


async def prepare(brokers: str, cases: list[Case]) -> None:
    topics: list[NewTopic] = []
    for each in cases:
        topics += copy_topics(each.source, 1, PARTITIONS)
    async with admin_of(brokers) as admin:
        await admin.create_topics(topics)
        await ready(admin, topics)
    async with asyncio.TaskGroup() as group:
        for each in cases:
            group.create_task(fill(brokers, each.source))


async def fill(brokers: str, source: str) -> None:
    """Keys without failures among others, whose records fail once, always, or for good at once."""
    for partition in range(PARTITIONS):
        records: list[tuple[bytes | None, bytes | None]] = []
        for number in range(6):
            records += [(b"good%d" % (number % 2), b"0"), (b"bad%d" % (number % 2), b"1"), (b"bad2", ALWAYS)]
            records += [(b"good2", b"0"), (b"bad3", REJECTED), (None, b"1"), (b"bad1", b"0")]
        await produce(brokers, source, records, partition)


async def look(cases: list[Case]) -> list[Outcome]:
    return [await outcome(each) for each in cases]


async def outcome(case: Case) -> Outcome:
    directory = Path(case.directory)
    evidence = await gather(case.brokers, case.source, directory, len(case.waits), PARTITIONS)
    assert (directory / KILLED).exists(), f"{case.failpoint} was never passed\n{tail(directory)}"
    victim = msgspec.json.decode((directory / KILLED).read_bytes(), type=Victim)
    first = min(evidence.histories[0].starts)
    return Outcome(evidence, victim, first.process, tail(directory))
