"""Judges of a run: each takes what was written down and answers with the rules that were broken.

`log` is the truth about the source topic: for each partition the keys of its records by offset, from 0 without holes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from math import inf
from typing import NamedTuple

from streamkit.core.offset_map import decode
from tests.faults.ledger import Assigned, Commit, Committed, End, Event, History, Start

Log = Mapping[int, Sequence[str | None]]
RecordId = tuple[int, int]  # partition, offset
CONTEXT_SECONDS = 3.0


class Violation(NamedTuple):
    rule: str
    text: str
    partition: int
    at: float
    key: str | None = None


class Seen(NamedTuple):
    """What a reader from outside saw committed; it asked at `asked` and had the answer at `answered`."""

    asked: float
    answered: float
    partition: int
    committed: Committed


class Sent(NamedTuple):
    """An output as it lies in the sink: what it was made from."""

    partition: int
    offset: int


class Coverage:
    """What a committed offset and its map say is settled."""

    def __init__(self, committed: Committed | None, log_end: int) -> None:
        self.offset, metadata = committed or Committed(0)
        ranges = decode(metadata, self.offset, log_end) if metadata else []
        self.ahead = ranges
        self._bounds = [bound for pair in ranges for bound in pair]

    def __contains__(self, offset: int) -> bool:
        return offset < self.offset or bisect_right(self._bounds, offset) % 2 == 1

    def offsets(self) -> Iterable[int]:
        yield from range(self.offset)
        for start, end in self.ahead:
            yield from range(start, end)


def all_violations(history: History, log: Log, seen: Sequence[Seen]) -> list[Violation]:
    """Every rule that needs no sink."""
    settled = settled_at(history.ends)
    return [
        *missing(log, settled),
        *out_of_turn(history, log),
        *overlapping(history),
        *forgotten_commits(history, log),
        *committed_unsettled(seen, log, lambda record: settled.get(record, inf)),
        *regressions(seen),
        *stale_commits(history),
        *unexplained(history, seen),
    ]


def settled_at(ends: Iterable[End]) -> dict[RecordId, float]:
    """When each record's handler first returned."""
    times: dict[RecordId, float] = {}
    for end in ends:
        if end.done:
            record = end.partition, end.offset
            times[record] = min(end.at, times.get(record, inf))
    return times


def missing(log: Log, settled: Mapping[RecordId, float]) -> list[Violation]:
    """Every record was handled at least once."""
    return [
        Violation("nothing missing", f"[{partition}] offset {offset} was never handled", partition, inf, key)
        for partition, keys in log.items()
        for offset, key in enumerate(keys)
        if (partition, offset) not in settled
    ]


def out_of_turn(history: History, log: Log) -> list[Violation]:
    """Within an assignment a key's records start in log order, from the first that the commit in force did not cover,
    leaving none out and running none that it covered."""
    coverage = _coverage_of_assignments(history, log)
    expected: dict[tuple[int, int, int, str | None], list[int]] = {}
    counts: dict[tuple[int, int, int, str | None], int] = defaultdict(int)
    by_key = _offsets_by_key(log)
    found: list[Violation] = []
    for start in history.starts:
        covered = coverage.get((start.process, start.assignment, start.partition))
        if covered is None:
            found.append(_broken("only the owner starts records", start, "is of a partition that is not assigned"))
            continue
        if start.offset in covered:
            found.append(_broken("what is committed does not run again", start, "was covered by the commit in force"))
        if start.key is None:
            continue  # such records have no order
        lane = start.process, start.assignment, start.partition, start.key
        if lane not in expected:
            offsets = by_key[start.partition, start.key]
            expected[lane] = [offset for offset in offsets if offset not in covered]
        turn = counts[lane]
        counts[lane] += 1
        due = expected[lane][turn] if turn < len(expected[lane]) else None
        if start.offset != due:
            found.append(_broken("the order within a key", start, f"started when offset {due} was due"))
    return found


def overlapping(history: History) -> list[Violation]:
    """In one process a key's record starts when the one before has ended, across assignments too."""
    found: list[Violation] = []
    for events in history.in_order.values():
        running: dict[tuple[int, str], int] = {}
        for event in events:
            if event.key is None:
                continue
            lane = event.partition, event.key
            if isinstance(event, End):
                running.pop(lane, None)
            else:
                other = running.get(lane)
                if other is not None:
                    found.append(_broken("one at a time within a key", event, f"started while {other} was running"))
                running[lane] = event.offset
    return found


def forgotten_commits(history: History, log: Log) -> list[Violation]:
    """What an assignment reads as committed covers all that the last commit acknowledged before it covered."""
    found: list[Violation] = []
    accepted = sorted(
        (commit for commit in history.commits if commit.accepted and commit.answered is not None),
        key=lambda commit: commit.answered or 0,
    )
    for assigned in history.assigned:
        for partition in assigned.partitions:
            before = [
                commit.offsets[partition]
                for commit in accepted
                if partition in commit.offsets and (commit.answered or inf) < assigned.found_from
            ]
            if not before:
                continue
            end = len(log[partition])
            read = Coverage(assigned.found.get(partition), end)
            lost = next((offset for offset in Coverage(before[-1], end).offsets() if offset not in read), None)
            if lost is not None:
                text = (
                    f"process {assigned.process} read [{partition}] at {read.offset}, without the acknowledged {lost}"
                )
                found.append(Violation("no acknowledged commit is forgotten", text, partition, assigned.at))
    return found


def committed_unsettled(
    seen: Iterable[Seen], log: Log, settled: Callable[[RecordId], float], slack: float = 0.0
) -> list[Violation]:
    """Whatever is seen committed, by the offset or by its map, was settled before it was seen."""
    found: list[Violation] = []
    latest = {
        partition: list(accumulate((settled((partition, offset)) for offset in range(len(keys))), max))
        for partition, keys in log.items()
    }
    first_seen: dict[tuple[int, Committed], Seen] = {}
    for one in seen:
        first_seen.setdefault((one.partition, one.committed), one)
    for (partition, committed), one in first_seen.items():
        until = one.answered + slack
        covered = Coverage(committed, len(log[partition]))
        below = committed.offset and latest[partition][committed.offset - 1] > until
        ahead = next(
            (o for start, end in covered.ahead for o in range(start, end) if settled((partition, o)) > until), None
        )
        if below or ahead is not None:
            offset = ahead if not below else _first_after(settled, partition, committed.offset, until)
            text = f"[{partition}] {committed.offset} was committed, and with it {offset}, which was not settled"
            key = log[partition][offset] if offset is not None else None
            found.append(Violation("committed <= settled", text, partition, one.answered, key))
    return found


def regressions(seen: Iterable[Seen]) -> list[Violation]:
    """A group's committed offset never goes down."""
    found: list[Violation] = []
    highest: dict[int, int] = {}
    for one in seen:
        before = highest.get(one.partition, 0)
        if one.committed.offset < before:
            text = f"[{one.partition}] was committed at {before} and then at {one.committed.offset}"
            found.append(Violation("commits only go up", text, one.partition, one.answered))
        highest[one.partition] = max(before, one.committed.offset)
    return found


def stale_commits(history: History) -> list[Violation]:
    """No commit is accepted that was sent as a member of a generation after a later one had begun."""
    found: list[Violation] = []
    begun = sorted((assigned.at, assigned.generation) for assigned in history.assigned)
    times = [at for at, _ in begun]
    newest = list(accumulate((generation for _, generation in begun), max))
    for commit in history.commits:
        at = bisect_right(times, commit.sent)
        if commit.accepted and at and commit.generation < newest[at - 1]:
            text = (
                f"process {commit.process} committed as of generation {commit.generation} during {newest[at - 1]}: "
                f"{ {partition: committed.offset for partition, committed in commit.offsets.items()} }"
            )
            found.append(Violation("a resumed zombie commits nothing", text, min(commit.offsets), commit.sent))
    return found


def unexplained(history: History, seen: Iterable[Seen]) -> list[Violation]:
    """Whatever is seen committed was sent before by a worker whose commit was not refused."""
    sent: dict[tuple[int, Committed], float] = {}
    for commit in history.commits:
        if commit.accepted is not False:
            for partition, committed in commit.offsets.items():
                value = partition, committed
                sent[value] = min(commit.sent, sent.get(value, inf))
    return [
        Violation(
            "only accepted commits show",
            f"[{one.partition}] shows {one.committed}, which no accepted commit wrote",
            one.partition,
            one.answered,
        )
        for one in seen
        if sent.get((one.partition, one.committed), inf) > one.answered
    ]


def output_violations(log: Log, sink: Iterable[Sequence[Sent]]) -> list[Violation]:
    """Every record's output arrived, and the first ones of a key in its order. `sink`: its partitions, in log order."""
    arrived: set[RecordId] = set()
    last: dict[tuple[int, str], int] = {}
    found: list[Violation] = []
    for outputs in sink:
        for sent in outputs:
            record = sent.partition, sent.offset
            key = log[sent.partition][sent.offset]
            if record in arrived:
                continue
            arrived.add(record)
            if key is None:
                continue
            before = last.get((sent.partition, key), -1)
            if sent.offset < before:
                text = f"the output of {record} first arrived after that of offset {before}, key {key!r}"
                found.append(Violation("the order of outputs", text, sent.partition, inf, key))
            last[sent.partition, key] = max(before, sent.offset)
    for partition, keys in log.items():
        for offset, key in enumerate(keys):
            if (partition, offset) not in arrived:
                text = f"the output of [{partition}] offset {offset} never arrived"
                found.append(Violation("no output missing", text, partition, inf, key))
    return found


def report(violations: Sequence[Violation], history: History, most: int = 5) -> str:
    """The first violations, each with what its partition and key did around it."""
    rules: dict[str, int] = defaultdict(int)
    for violation in violations:
        rules[violation.rule] += 1
    lines = [f"{count} × {rule}" for rule, count in rules.items()]
    events: list[Event] = [*history.assigned, *history.revoked, *history.commits, *history.starts, *history.ends]
    for violation in violations[:most]:
        lines += ["", f"{violation.rule}: {violation.text}"]
        near = [event for event in events if _concerns(event, violation)]
        lines += [f"  {_shown(event)}" for event in sorted(near, key=_time)[-60:]]
    return "\n".join(lines)


def _coverage_of_assignments(history: History, log: Log) -> dict[tuple[int, int, int], Coverage]:
    return {
        (assigned.process, assigned.assignment, partition): Coverage(assigned.found.get(partition), len(log[partition]))
        for assigned in history.assigned
        for partition in assigned.partitions
    }


def _offsets_by_key(log: Log) -> dict[tuple[int, str | None], list[int]]:
    offsets: dict[tuple[int, str | None], list[int]] = defaultdict(list)
    for partition, keys in log.items():
        for offset, key in enumerate(keys):
            offsets[partition, key].append(offset)
    return offsets


def _first_after(settled: Callable[[RecordId], float], partition: int, end: int, until: float) -> int | None:
    return next((offset for offset in range(end) if settled((partition, offset)) > until), None)


def _broken(rule: str, start: Start, text: str) -> Violation:
    where = f"process {start.process}, assignment {start.assignment}, [{start.partition}] offset {start.offset}"
    return Violation(rule, f"{where}, key {start.key!r} {text}", start.partition, start.at, start.key)


def _concerns(event: Event, violation: Violation) -> bool:
    near = violation.at == inf or abs(_time(event) - violation.at) <= CONTEXT_SECONDS
    match event:
        case Start() | End():
            same_key = violation.key is None or event.key == violation.key
            return same_key and near and event.partition == violation.partition
        case Commit():
            return near and violation.partition in event.offsets
        case Assigned():
            return violation.partition in event.partitions
        case _:
            return near


def _time(event: Event) -> float:
    return event.sent if isinstance(event, Commit) else event.at


def _shown(event: Event) -> str:
    fields = ", ".join(f"{name}={value!r}" for name, value in event._asdict().items())
    return f"{type(event).__name__}({fields})"
