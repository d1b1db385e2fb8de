"""The commands that change what became of dead letters: which ones, shown and confirmed, then done as a job."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from typing import Any, Final, NamedTuple

import click

from streamkit.cli.destination import BadRecord
from streamkit.cli.dlq.actions import ACTIONS, Action
from streamkit.cli.dlq.ids import in_one_topic
from streamkit.cli.dlq.jobs import Job, Plan, StateRecord, begun, count_reason, senseless
from streamkit.cli.dlq.options import Filters
from streamkit.cli.dlq.reading import DeadLetters, with_dead_letters
from streamkit.cli.dlq.replaying import Declared
from streamkit.cli.dlq.results import dead_letters, left, show_json
from streamkit.cli.dlq.selecting import Case, Unfit, selected
from streamkit.cli.dlq.times import shown
from streamkit.cli.dlq.watching import Watch
from streamkit.cli.dlq.where import Where
from streamkit.cli.failures import ImportFailed
from streamkit.cli.outgoing import Outgoing
from streamkit.cli.paper import clean, console, short
from streamkit.cli.sender import Sender
from streamkit.cli.signals import SIGNALLED, Stop
from streamkit.core.cases import CaseStatus, Status, case_record, run_key
from streamkit.core.selection import error_line, parse_id
from streamkit.errors import TransportError, UsageError
from streamkit.record import TopicPartition
from streamkit.runtime.waiting import unless
from streamkit.transport.base import LogRange

AT_ONCE = 500  # records
BYTES_AT_ONCE = 16 << 20
MOST_GROUP = 1_000  # characters
STEPS = 5  # a second, with --rate
LATE = 0.05  # seconds that a step may be late without making the next one late
SAMPLES = 5


@dataclass(frozen=True, kw_only=True)
class Change:
    """What the command line says."""

    command: str
    ids: tuple[str, ...]
    filters: Filters
    all: bool = False
    reason: str = ""
    yes: bool = False
    dry_run: bool = False
    as_json: bool = False
    more: Mapping[str, Any] = field(default_factory=dict[str, Any])  # the command's own, as JSON

    def __post_init__(self) -> None:
        if not (self.all or self.ids or self.filters.any):
            raise UsageError(f"{self.command} which? Give IDs, a filter such as --error or --from, or --all")
        if self.all and (self.ids or self.filters.any):
            raise UsageError("--all means all: leave out the IDs and filters, or --all")

    def plan(self, place: Where) -> Plan:
        filters = _without_nothing(vars(self.filters.as_of(time.time_ns() // 1_000_000)))
        arguments = {"group": place.group, "ids": list(self.ids), "filters": filters, **_without_nothing(self.more)}
        arguments |= Declared.by(place)
        return Plan(self.command, arguments, self.reason)


def _without_nothing(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value not in (None, ())}


@dataclass
class Done:
    """What came of it, or would."""

    counts: Counter[str] = field(default_factory=Counter[str])
    unfit: Counter[str] = field(default_factory=Counter[str])  # why some could not be
    samples: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])  # which letter, and its error
    result: str = "done"


def change(place: Where, what: Change) -> int:
    """Do it on each of the topics. The exit code: 1 if some that were meant could not be, or not all was done."""
    if what.ids:
        in_one_topic(place)
    codes: list[int] = []

    async def each(topics: Sequence[DeadLetters]) -> None:
        if not topics:
            codes.append(1 if what.ids else 0)
            return
        stop = Stop()
        sender = Sender(place.settings, topics[0].clients.transport)
        async with sender.running():
            for letters in topics:
                codes.append(await _change(place, what, letters, sender, stop))
                if stop.signal is not None:
                    return

    with_dead_letters(place, each)
    return max(codes, default=0)


async def _change(place: Where, what: Change, letters: DeadLetters, sender: Sender, stop: Stop) -> int:
    plan = what.plan(place)
    within = await letters.ranges()
    if what.dry_run or not what.yes:
        action = _action(plan, place, letters, sender)
        found = await _look(letters, plan, action, within)
        _show_before(letters.topic, what, action, found)
        if stop.signal is not None:  # which came in the middle of an earlier topic's
            return SIGNALLED + stop.signal
        if what.dry_run or not found.counts:
            return _not_begun(letters.topic, what, action, found, 1 if found.unfit else 0)
        if not confirmed():
            click.echo("nothing was changed", err=True)
            found.result = "not confirmed"
            return _not_begun(letters.topic, what, action, found, 1)
    stop.listen()
    async with begun(letters, plan, sender, within) as job:
        return await carry_out(job, place, stop, as_json=what.as_json)


async def carry_out(job: Job, place: Where, stop: Stop, *, as_json: bool) -> int:
    """The exit code. What has this job's mark already is passed over. Raises Senseless."""
    if job.plan.command == "purge":
        from streamkit.cli.dlq.purging import remove

        return await remove(job, stop, as_json=as_json)
    try:
        work = Work(job, _action(job.plan, place, job.letters, job.sender), stop)
    except ImportFailed:  # of a script: where it can be loaded the job can go on
        raise
    except (AttributeError, LookupError, TypeError, ValueError, UsageError) as error:
        raise senseless(job.letters, job.id, error) from error
    await work.run()
    for line in work.action.warnings():
        click.echo(clean(line), err=True)
    _show_after(job, work, as_json=as_json)
    if stop.signal is not None:
        return SIGNALLED + stop.signal
    return 1 if work.done.unfit or job.result != "done" else 0


def _action(plan: Plan, place: Where, letters: DeadLetters, sender: Sender) -> Action:
    return ACTIONS[plan.command](plan.arguments, place, letters.clients.admin, sender)


class Chunk(NamedTuple):
    cases: Sequence[Case]
    ends_batch: bool


class Work:
    """A job's letters, some at a time: copied, acknowledged, marked. So a crash repeats a few, and skips none."""

    def __init__(self, job: Job, action: Action, stop: Stop) -> None:
        self.job = job
        self.action = action
        self.done = Done(counts=job.counts, unfit=job.unfit)
        self.done.counts[action.done] = job.state.cases.marked_by(job.id)
        self._stop = stop
        arguments = job.plan.arguments
        self._wanted = Wanted(arguments, action)
        rate = arguments.get("rate")
        self._pace = Pace(None if rate is None else float(rate))
        self._batches: list[int] = [max(1, int(size)) for size in arguments.get("batch") or ()]
        self._wait = float(arguments.get("wait") or 60)
        self._most_failures = int(arguments.get("stop_on_failures") or 0)
        watched = self._batches or self._most_failures
        self.watch = Watch(job.state, job.reader) if watched else None

    async def run(self) -> None:
        letters = self.job.letters
        letters.progress, letters.doing = (lambda: self.done.counts[self.action.done]), self.action.done
        async with aclosing(self._chunks()) as chunks:
            while self.job.result == "done":
                chunk = await unless(self._stop.event, _next(chunks))
                if chunk is END:
                    await self._hear(ends_batch=True)
                    return
                if chunk is not None:
                    await unless(self._stop.event, self._pace.due())
                if chunk is None or self._stop.event.is_set():
                    self.job.result = "stopped by a signal"
                    return
                await self._carry_out(chunk.cases)
                await self._hear(ends_batch=chunk.ends_batch)

    async def _chunks(self) -> AsyncGenerator[Chunk]:
        most = self._pace.step(AT_ONCE)
        batches = chain(self._batches, repeat(self._batches[-1])) if self._batches else None
        left = next(batches) if batches else None
        chunk: list[Case] = []
        size = 0  # bytes
        async for case in self._wanted.cases(self.job.letters, self.job.within, self.done.unfit, self.job.id):
            chunk.append(case)
            size += len(case.letter.value or b"") + len(case.letter.key or b"")
            if len(chunk) >= (most if left is None else min(most, left)) or size >= BYTES_AT_ONCE:
                ends_batch = False
                if batches and left is not None:
                    left -= len(chunk)
                    ends_batch = not left
                    left = left or next(batches)
                yield Chunk(chunk, ends_batch)
                chunk, size = [], 0
        if chunk:
            yield Chunk(chunk, ends_batch=False)

    async def _carry_out(self, chunk: Sequence[Case]) -> None:
        self.job.check()
        copies: list[tuple[str, Outgoing]] = []
        copied: list[Case] = []
        cases: list[Case] = []
        for case in chunk:
            if self._stop.event.is_set():  # a script may take its time for each
                self.job.result = "stopped by a signal"
                break
            try:
                copy = await self.action.copy(case)
            except Unfit as error:
                count_reason(self.done.unfit, str(error))
                continue
            if copy is None:
                cases.append(case)
            else:
                copies.append(copy)
                copied.append(case)
        if copies:
            self._pace.count(len(copies))
            await self._forget_runs(copied)
            for case, outcome in zip(copied, await self.job.sender.store(copies), strict=True):
                if isinstance(outcome, BadRecord | TransportError):
                    count_reason(self.done.unfit, f"refused: {outcome}")
                else:
                    cases.append(case)
        now = time.time_ns() // 1_000_000  # one for all: what is alike takes memory once
        marks = [mark for case in cases for mark in self._marks(case, now)]
        await self.job.tell(marks)
        self.done.counts[self.action.done] += len(cases)

    async def _forget_runs(self, cases: Sequence[Case]) -> None:
        """What their workers tell from now on is of this replay. A run of an earlier one may have been told since the
        state was read."""
        book = self.job.state.cases
        runs = sorted({(case.id, group) for case in cases if (group := _group(case)) is not None})
        tombstones = [
            (run_key(*run), None) for run in runs if book.run(*run) is not None or book.stored(run[0]).replays
        ]
        await self.job.tell(tombstones)
        for key, value in tombstones:
            book.apply(key, value)
        if self.watch is not None:
            await self.watch.look()  # and is not taken for an answer
            self.watch.expect(cases)

    def _marks(self, case: Case, now: int) -> list[StateRecord]:
        """What to tell; the book knows it from now on, for the next letter may be of the same case."""
        job = self.job
        book, id = job.state.cases, case.letter.id
        replays, group = book.stored(id).replays, _group(case)
        who = job.resumed_by or job.who
        at = max(now, case.letter.appended)  # by another clock: what is said before it is not believed of it
        known = CaseStatus(self.action.status, at, who, job.plan.reason, job.id, replays, group)
        if self.action.status != "replayed":
            marks = [case_record(id, known)]
        elif case.id == id:
            marks = [case_record(id, known._replace(replays=replays + 1))]
        else:
            first = book.stored(case.id)
            marks = [case_record(id, known), case_record(case.id, first._replace(replays=first.replays + 1))]
        for key, value in marks:
            book.apply(key, value)
        return [*marks]

    async def _hear(self, *, ends_batch: bool) -> None:
        """What has become of those that were sent."""
        if self.watch is None:
            return
        await self.watch.look()
        waits = ends_batch and self._batches
        if waits and not await self.watch.answered(self._wait, self._stop.event, self.job.check):
            waiting = f"of {self.watch.pending:,} nothing was heard for {self._wait:g} s; is their worker running?"
            self.job.result = "stopped by a signal" if self._stop.event.is_set() else f"stopped: {waiting}"
        failed = self.watch.failed
        self.done.counts["failed_again"] = failed
        self.done.counts["handled"] = self.watch.handled
        if self._most_failures and failed >= self._most_failures:
            self.job.result = f"stopped: {failed} failed again"


def _group(case: Case) -> str | None:
    """Not what is nobody's name, and would make the record too large."""
    group = case.letter.group
    return None if group is not None and len(group) > MOST_GROUP else group


END: Final = Chunk((), ends_batch=True)


async def _next(chunks: AsyncGenerator[Chunk]) -> Chunk:
    try:
        return await anext(chunks)
    except StopAsyncIteration:  # the default of anext must be no tuple in Python 3.11
        return END


class Pace:
    """At most `rate` records a second, also after it had to wait for something else."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._due: float | None = None  # monotonic: the next step

    def step(self, most: int) -> int:
        """How many to send at once."""
        return most if self._rate is None else min(most, max(1, round(self._rate / STEPS)))

    async def due(self) -> None:
        """Wait until more may be sent."""
        if self._due is not None:
            await asyncio.sleep(max(0.0, self._due - time.monotonic()))

    def count(self, number: int) -> None:
        """So many are sent now."""
        if self._rate is not None:
            now = time.monotonic()
            self._due = (now if self._due is None else max(self._due, now - LATE)) + number / self._rate


async def _look(letters: DeadLetters, plan: Plan, action: Action, within: Mapping[TopicPartition, LogRange]) -> Done:
    """What it would come to."""
    found = Done(result="dry run")
    async for case in Wanted(plan.arguments, action).cases(letters, within, found.unfit):
        try:
            await action.copy(case)
        except Unfit as error:
            count_reason(found.unfit, str(error))
            continue
        found.counts[action.done] += 1
        if len(found.samples) < SAMPLES:
            letter = case.letter
            start = f"  {letter.id:<9} {shown(letter.when)} "
            found.samples.append((start, error_line(letter) or "(no error stated)"))
    return found


class Wanted:
    """Which letters an action is about, by the arguments of its job. Raises what senseless ones lead to."""

    def __init__(self, arguments: Mapping[str, Any], action: Action) -> None:
        self._ids = [parse_id(each) for each in arguments["ids"]]
        self._selection = Filters.of_json(arguments["filters"]).selection(arguments["group"], ids=self._ids)
        self._of = self._selection.statuses or action.of

    async def cases(
        self,
        letters: DeadLetters,
        within: Mapping[TopicPartition, LogRange],
        unfit: Counter[str],
        job: str | None = None,
    ) -> AsyncIterator[Case]:
        """Those at these offsets, without those that the job has marked already. What was named by its ID and is not
        among them is counted, with the reason."""
        ids = self._ids
        of = frozenset[Status]() if ids or job is not None else self._of
        left = set(ids)
        where = spans(letters, ids) if ids else within
        async for case in selected(letters, replace(self._selection, statuses=of), where):
            left.discard(case.letter.id)
            if job is not None and case.status.job == job:
                continue
            if case.status.status in self._of:
                yield case
            elif ids:
                status = case.status.status
                hint = f" (--status {status} takes it)" if status in ("replayed", "handled") else ""
                count_reason(unfit, f"{case.letter.id} is {status}{hint}")
        for id in sorted(left):
            count_reason(unfit, f"{id} is not there, or does not fit")


def spans(letters: DeadLetters, ids: Sequence[str]) -> dict[TopicPartition, LogRange]:
    """The offsets from the first to the last of them, in each partition."""
    found: dict[TopicPartition, LogRange] = {}
    for id in ids:
        partition, offset = map(int, id.split(":"))
        place = TopicPartition(letters.topic, partition)
        known = found.get(place, LogRange(offset, offset + 1))
        found[place] = LogRange(min(known.start, offset), max(known.end, offset + 1))
    return found


def confirmed() -> bool:
    """Whether whoever is there wants to go on."""
    # Python's own handler: the loop's would only cancel this task, and wait for the answer.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return click.confirm("Go on?", err=True)
    except click.Abort:  # by Ctrl-C, or there is nobody to ask
        click.echo("" if sys.stdin.isatty() else "\nno answer; --yes goes on without asking", err=True)
        return False
    finally:
        signal.signal(signal.SIGINT, handler)


def _show_before(topic: str, what: Change, action: Action, found: Done) -> None:
    paper = console(err=True)
    count = found.counts[action.done]
    paper.print(f"{dead_letters(count)} of {topic} would be {action.done}", soft_wrap=True)
    for start, error in found.samples:
        paper.print(start + short(error, paper.width - len(start)))
    if count > len(found.samples):
        paper.print(f"  and {count - len(found.samples):,} more")
    for line in (*action.notes(), *_why_not(found)) if count else _why_not(found):
        paper.print(clean(line))


def _why_not(done: Done) -> list[str]:
    lines = [left(count, why) for why, count in done.unfit.most_common(SAMPLES)]
    others = len(done.unfit) - SAMPLES
    return [*lines, f"and {others:,} more reasons"] if others > 0 else lines


def _not_begun(topic: str, what: Change, action: Action, found: Done, code: int) -> int:
    if what.as_json:
        counts = {action.done: found.counts[action.done]}
        show_json(topic, None, what.command, found.result, counts, found.unfit)
    return code


def _show_after(job: Job, work: Work, *, as_json: bool) -> None:
    done, topic = work.done, job.letters.topic
    if as_json:
        show_json(topic, job.id, job.plan.command, job.result, done.counts, done.unfit)
        return
    paper = console()
    number = done.counts[work.action.done]
    paper.print(f"{work.action.done} {dead_letters(number)} of {topic} (job {job.id})", soft_wrap=True)
    if work.watch is not None:
        paper.print(
            f"{work.watch.handled:,} handled, {work.watch.failed:,} failed again, {work.watch.pending:,} not heard of"
        )
    for line in _why_not(done):
        paper.print(clean(line))
    if job.result != "done":
        paper.print(clean(job.result))
