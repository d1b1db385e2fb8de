"""What a run with retries leaves behind, and the judges of it: each answers with the rules that were broken."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from aiokafka.structs import ConsumerRecord

from streamkit.transport.base import NewTopic
from tests.faults import oracles
from tests.faults.ledger import History, LedgerReader
from tests.faults.oracles import RecordId
from tests.faults.retry_program import ALWAYS, REJECTED, group_of, tier_names
from tests.faults.support import read_all

COMMON = (
    "origin-topic origin-partition origin-offset origin-timestamp group attempt first-failed-at failed-at stage "
    "error-class error-message"
)
TIER_HEADERS = {f"sk-{name}" for name in [*COMMON.split(), "due"]}
LETTER_HEADERS = {f"sk-{name}" for name in [*COMMON.split(), "error-stack"]}

Records = dict[RecordId, ConsumerRecord]


@dataclass(frozen=True)
class Evidence:
    """`histories` and `logs` are by tier, 0 for the source topic."""

    source: str
    logs: list[Records]
    letters: Records
    histories: list[History]

    @property
    def tiers(self) -> int:
        return len(self.logs) - 1

    def origin(self, tier: int, place: RecordId) -> RecordId:
        return place if tier == 0 else origin_of(self.logs[tier][place])

    def keys(self, tier: int) -> dict[int, list[str | None]]:
        keys: dict[int, list[str | None]] = defaultdict(list)
        for (partition, _), record in sorted(self.logs[tier].items(), key=lambda pair: pair[0]):
            keys[partition].append(None if record.key is None else record.key.decode())
        return keys


def copy_topics(source: str, tiers: int, partitions: int, **config: str) -> list[NewTopic]:
    """The source, its tiers and its dead letters, which may differ from the source in their number of partitions."""
    fits = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": "2000000", "retention.ms": "-1", **config}
    names = [*tier_names(source, tiers), f"{source}.dlq"]
    return [NewTopic(source, partitions, 1), *(NewTopic(name, partitions, 1, fits) for name in names)]


async def gather(
    brokers: str, source: str, directory: Path, tiers: int, partitions: int, of_copies: int | None = None
) -> Evidence:
    """Of a run whose processes have ended."""
    names = [source, *tier_names(source, tiers)]
    logs = [by_place(await read_all(brokers, source, partitions))]
    logs += [by_place(await read_all(brokers, name, of_copies or partitions)) for name in names[1:]]
    letters = by_place(await read_all(brokers, f"{source}.dlq", of_copies or partitions))
    return Evidence(source, logs, letters, [LedgerReader(directory / name).finish() for name in names])


def by_place(found: dict[int, list[ConsumerRecord]]) -> Records:
    return {(record.partition, record.offset): record for records in found.values() for record in records}


def header(record: ConsumerRecord, name: str) -> str:
    (value,) = [value for each, value in record.headers if each == name]
    return str(value, "utf-8")


def origin_of(copy: ConsumerRecord) -> RecordId:
    return int(header(copy, "sk-origin-partition")), int(header(copy, "sk-origin-offset"))


def all_violations(evidence: Evidence, killed: Collection[int]) -> list[str]:
    """`killed` are the processes that were."""
    return [
        *fates(evidence),
        *false_copies(evidence),
        *copies_without_a_run(evidence),
        *unexplained_runs(evidence, killed),
        *order_and_commits(evidence),
    ]


def fates(evidence: Evidence) -> Iterator[str]:
    """Every record has the one kind of outcome that it asked for, and has it once unless it ran again."""
    handled: Counter[RecordId] = Counter()
    for tier, history in enumerate(evidence.histories):
        handled.update(evidence.origin(tier, (end.partition, end.offset)) for end in history.ends if end.done)
    dead = Counter(map(origin_of, evidence.letters.values()))
    for place, record in evidence.logs[0].items():
        asked = (0, 1) if record.value in (ALWAYS, REJECTED) else (1, 0)
        found = (min(handled[place], 1), min(dead[place], 1))
        if found != asked:
            yield f"{place} {record.value!r}: handled {handled[place]} times, dead letters {dead[place]}"


def false_copies(evidence: Evidence) -> Iterator[str]:
    """A copy has the bytes, the attempts and the origin of its record, and each header once."""
    for tier, copies in enumerate([*evidence.logs[1:], evidence.letters], 1):
        dead = tier > evidence.tiers
        for place, copy in copies.items():
            names = Counter(name for name, _ in copy.headers if name.startswith("sk-"))
            if set(names) != (LETTER_HEADERS if dead else TIER_HEADERS) or max(names.values()) > 1:
                yield f"copy {place} in {copy.topic} has the headers {dict(names)}"
                continue
            record = evidence.logs[0][origin_of(copy)]
            rejected = record.value == REJECTED
            told = {
                "sk-origin-topic": evidence.source,
                "sk-origin-timestamp": str(record.timestamp),
                "sk-group": group_of(evidence.source),
                "sk-attempt": "1" if rejected else str(tier),
                "sk-stage": "handle",
                "sk-error-message": "as asked" if rejected else f"attempt {tier}",
            }
            wrong = {name: header(copy, name) for name in told if header(copy, name) != told[name]}
            own = [pair for pair in copy.headers if not pair[0].startswith("sk-")]
            if wrong or (copy.key, copy.value, own) != (record.key, record.value, list(record.headers)):
                yield f"copy {place} in {copy.topic} of {record.value!r}: {wrong or 'other bytes'}"


def copies_without_a_run(evidence: Evidence) -> Iterator[str]:
    """Each run that fails makes one copy at the most."""
    for tier, copies in enumerate([*evidence.logs[1:], evidence.letters]):
        runs = _runs(evidence, tier)
        if tier == evidence.tiers:  # dead letters may come from the source at once
            runs += _runs(evidence, 0) if evidence.tiers else Counter()
        for origin, count in Counter(map(origin_of, copies.values())).items():
            if count > runs[origin]:
                yield f"{origin}: {count} copies behind tier {tier}, of {runs[origin]} runs"


def unexplained_runs(evidence: Evidence, killed: Collection[int]) -> Iterator[str]:
    """What runs again ran last in a process that was killed, or had not ended where its partition was given back."""
    for tier, history in enumerate(evidence.histories):
        runs: dict[RecordId, list[int]] = defaultdict(list)
        for start in sorted(history.starts):
            runs[start.partition, start.offset].append(start.process)
        for place, processes in runs.items():
            if any(process not in killed for process in processes[:-1]):
                yield f"{place} of tier {tier} ran in {processes}, of which only {sorted(killed)} were killed"


def order_and_commits(evidence: Evidence) -> Iterator[str]:
    """In the source every key keeps its order until a record leaves its lane; nothing committed runs again anywhere."""
    for tier, history in enumerate(evidence.histories):
        keys = evidence.keys(tier)
        if tier:  # there each record has a time of its own
            history = _without_keys(history)
            keys = {partition: [None] * len(log) for partition, log in keys.items()}
        for violation in (
            *oracles.out_of_turn(history, keys),
            *oracles.overlapping(history),
            *oracles.forgotten_commits(history, keys),
            *oracles.stale_commits(history),
        ):
            yield f"tier {tier}: {violation.rule}: {violation.text}"


def _runs(evidence: Evidence, tier: int) -> Counter[RecordId]:
    starts = evidence.histories[tier].starts
    return Counter(evidence.origin(tier, (start.partition, start.offset)) for start in starts)


def _without_keys(history: History) -> History:
    plain = History(assigned=history.assigned, revoked=history.revoked, commits=history.commits)
    for start in history.starts:
        plain.add(start._replace(key=None))
    for end in history.ends:
        plain.add(end._replace(key=None))
    return plain
