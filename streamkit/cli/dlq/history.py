"""What the state topic says of one dead letter: read from start to end, keeping only what is about that letter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from streamkit.cli.dlq.reading import Clients, json_of, records_of
from streamkit.cli.dlq.selecting import Case
from streamkit.core.cases import CaseBook, CaseStatus, Outcome, case_key, run_key, whole
from streamkit.core.copies import parse_case
from streamkit.core.jobs import AUDIT_KEY, JobBook
from streamkit.core.letters import LATEST_TIME, Letter
from streamkit.record import TopicPartition
from streamkit.retry import state_topic


class Run(NamedTuple):
    """How the latest run of a case that was replayed ended, as the worker has noted it."""

    outcome: Outcome
    attempt: int | None
    at: int | None  # ms since 1970
    letter: str | None  # the new dead letter


class History(NamedTuple):
    case: Case
    first: CaseStatus | None  # what was done with the letter that this one was replayed from
    run: Run | None
    audits: Sequence[Mapping[str, object]]  # of the jobs that did it


async def history_of(clients: Clients, topic: str, letter: Letter) -> History:
    """Raises TransportError if the state topic exists and cannot be read."""
    jobs = JobBook()
    latest = await _latest(clients, state_topic(topic), _keys(letter), jobs)
    book = CaseBook()
    for key, value in latest.items():
        book.apply(key, value)
    case = book.case_of(letter)
    first = None if case == letter.id else book.stored(case)
    outcome = book.outcome(case)
    run = _run(outcome, latest.get(run_key(case, str(letter.group))) or {}) if outcome is not None else None
    mine = {book.stored(id).job for id in (letter.id, case)} - {None}
    audits = [fields for fields in jobs.audits.values() if fields.get("job") in mine]
    return History(Case(letter, case, book.status(letter)), first, run, audits)


def _keys(letter: Letter) -> frozenset[bytes]:
    cases = [letter.id] if letter.case is None else [letter.id, letter.case]
    return frozenset(key for case in cases for key in (case_key(case), run_key(case, str(letter.group))))


async def _latest(
    clients: Clients, topic: str, keys: frozenset[bytes], jobs: JobBook
) -> dict[bytes, Mapping[str, Any] | None]:
    found: dict[bytes, Mapping[str, Any] | None] = {}
    known = (await clients.admin.topics([topic])).get(topic)
    if known is None:
        return found
    ranges = await clients.reader.log_ranges([TopicPartition(topic, number) for number in range(known.partitions)])
    async for records in records_of(clients.reader, {each: limits.start for each, limits in ranges.items()}, ranges):
        for record in records:
            if record.key in keys:
                found[record.key] = json_of(record.value)
            elif record.key is not None and record.key.startswith(AUDIT_KEY):
                jobs.apply(record.key, json_of(record.value), record.offset, record.timestamp)
    return found


def _run(outcome: Outcome, told: Mapping[str, Any]) -> Run:
    """What makes no sense of what is told besides is left out."""
    letter = told.get("letter")
    place = parse_case(letter.encode(errors="replace")) if isinstance(letter, str) else None
    return Run(outcome, whole(told.get("attempt"), LATEST_TIME), whole(told.get("at"), LATEST_TIME), place)
