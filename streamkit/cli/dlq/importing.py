"""From the lines that `export` wrote to dead letters."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO

import click
import msgspec

from streamkit.cli.destination import BadRecord
from streamkit.cli.dlq.changing import AT_ONCE, confirmed
from streamkit.cli.dlq.jobs import Job, Plan, begun
from streamkit.cli.dlq.jsonl import bytes_of
from streamkit.cli.dlq.reading import DeadLetters, with_dead_letters
from streamkit.cli.dlq.results import dead_letters, show_json
from streamkit.cli.dlq.where import Where
from streamkit.cli.outgoing import Outgoing
from streamkit.cli.paper import clean
from streamkit.cli.progress import progress
from streamkit.cli.sender import Sender
from streamkit.cli.sending import BadLine
from streamkit.cli.signals import SIGNALLED, Stop
from streamkit.core.selection import parse_id
from streamkit.errors import ConfigurationError, TransportError, UsageError
from streamkit.record import HeaderList

COMMAND, IMPORTED = "import", "imported"


class Header(msgspec.Struct):
    name: str
    value: str | None
    encoding: str | None


class Line(msgspec.Struct):
    """Of what `export` writes, that which makes the record."""

    id: str
    topic: str
    key: str | None
    key_encoding: str | None
    value: str | None
    value_encoding: str | None
    headers: list[Header]


@dataclass(frozen=True)
class Import:
    """What the command line says. The file can be read again from its start."""

    name: str
    file: BinaryIO
    skip: int  # lines
    reason: str
    dry_run: bool
    yes: bool
    as_json: bool


@dataclass(frozen=True)
class Parsed:
    """One line's record, for the partition that it was in."""

    number: int
    topic: str
    partition: int
    record: Outgoing

    def outgoing(self, partitions: int) -> Outgoing:
        return self.record._replace(partition=self.partition % partitions)


@dataclass
class Lines:
    """What they are together."""

    count: int = 0
    records: int = 0
    digest: str = ""
    topics: Counter[str] = field(default_factory=Counter[str])


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """The file, or a copy of what can be read only once. Raises UsageError."""
    if path == "-":
        with _copied(sys.stdin.buffer) as copy:
            yield copy
        return
    with _open(path) as file:
        if file.seekable():
            yield file
        else:
            with _copied(file) as copy:
                yield copy


def _open(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise UsageError(f"--file {path}: {error.strerror}") from error


@contextmanager
def _copied(file: BinaryIO) -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(file, copy)
        yield copy


def run_import(place: Where, what: Import) -> int:
    """The exit code. Raises BadLine for one that is no dead letter, before anything is sent."""
    codes: list[int] = []

    async def each(topics: Sequence[DeadLetters]) -> None:
        if not topics:
            raise ConfigurationError(
                f"nothing to import into; streamkit worker --create-topics makes {place.names[0]!r}"
            )
        (letters,) = topics
        sender = Sender(place.settings, letters.clients.transport)
        sender.add(letters.topic, letters.info)
        async with sender.running():
            codes.append(await _import(what, letters, sender))

    with_dead_letters(place, each)
    return max(codes, default=0)


async def _import(what: Import, letters: DeadLetters, sender: Sender) -> int:
    lines = _checked(what, letters.topic, sender)
    if what.dry_run or not what.yes:
        click.echo(f"{dead_letters(lines.records)} would be put into {letters.topic}", err=True)
        for topic, count in lines.topics.items():
            if topic != letters.topic:
                click.echo(clean(f"{count:,} of them come from {topic}"), err=True)
        if what.dry_run or not lines.records:
            return _not_begun(what, letters.topic, lines, "dry run", 0)
        if not confirmed():
            click.echo("nothing was changed", err=True)
            return _not_begun(what, letters.topic, lines, "not confirmed", 1)
    stop = Stop()
    stop.listen()
    arguments: dict[str, Any] = {"file": what.name, "sha256": lines.digest, "lines": lines.count}
    plan = Plan(COMMAND, {**arguments, "skip": what.skip, "done": what.skip}, what.reason)
    async with begun(letters, plan, sender, await letters.ranges()) as job:
        await _put(what, lines.count, job, stop)
    _show(job, as_json=what.as_json)
    if stop.signal is not None:
        return SIGNALLED + stop.signal
    return 0 if job.result == "done" else 1


def _not_begun(what: Import, topic: str, lines: Lines, result: str, code: int) -> int:
    if what.as_json:
        show_json(topic, None, COMMAND, result, {IMPORTED: lines.records}, {})
    return code


def _checked(what: Import, topic: str, sender: Sender) -> Lines:
    lines = Lines()
    digest = hashlib.sha256()
    what.file.seek(0)
    for line in what.file:
        lines.count += 1
        digest.update(line)
    lines.digest = digest.hexdigest()
    try:
        for found in _found(what, lines.count):
            _check(what, found, topic, sender)
            lines.records += 1
            lines.topics[found.topic] += 1
    except BadLine as error:
        raise BadLine(f"{error}. Nothing was sent") from error
    return lines


def _check(what: Import, found: Parsed, topic: str, sender: Sender) -> None:
    try:
        sender.check(topic, found.record)
    except BadRecord as error:
        raise _bad(what, found.number, error) from error


async def _put(what: Import, lines: int, job: Job, stop: Stop) -> None:
    """Some at a time; how far it has come is noted with the job after each."""
    topic, partitions = job.letters.topic, len(job.letters.partitions)
    found = _found(what, lines)
    async with progress(lambda: job.counts[IMPORTED], IMPORTED):
        while chunk := list(islice(found, AT_ONCE)):
            job.check()
            outcomes = await job.sender.store([(topic, each.outgoing(partitions)) for each in chunk])
            refused = [
                (each.number, outcome)
                for each, outcome in zip(chunk, outcomes, strict=True)
                if isinstance(outcome, BadRecord | TransportError)
            ]
            job.counts[IMPORTED] += len(chunk) - len(refused)
            job.plan.arguments["done"] = chunk[-1].number
            await job.tell([job.record()])
            if refused:
                numbers = ", ".join(str(number) for number, _ in refused)
                job.result = f"stopped after line {chunk[-1].number}; refused were the lines {numbers}: {refused[0][1]}"
                return
            if stop.event.is_set():
                job.result = f"stopped by a signal after line {chunk[-1].number}"
                return


def _found(what: Import, lines: int) -> Iterator[Parsed]:
    """The records of so many lines but those that are left out. Raises BadLine, of one that is left out, too."""
    what.file.seek(0)
    for number, line in enumerate(islice(what.file, lines), 1):
        if line.isspace():
            continue
        try:
            found = _parsed(number, line)
        except (ValueError, RecursionError) as error:  # msgspec's are ValueErrors, too
            raise _bad(what, number, error) from error
        if number > what.skip:
            yield found


def _parsed(number: int, text: bytes) -> Parsed:
    """Raises ValueError."""
    line = _lines.decode(text)
    partition = int(parse_id(line.id).partition(":")[0])
    headers: HeaderList = [(each.name, bytes_of(each.value, each.encoding)) for each in line.headers]
    key, value = bytes_of(line.key, line.key_encoding), bytes_of(line.value, line.value_encoding)
    return Parsed(number, line.topic, partition, Outgoing(key, value, headers, None, None))


_lines = msgspec.json.Decoder(Line)


def _bad(what: Import, number: int, error: Exception) -> BadLine:
    return BadLine(f"{what.name}:{number}: {error}")


def _show(job: Job, *, as_json: bool) -> None:
    topic, count = job.letters.topic, job.counts[IMPORTED]
    if as_json:
        show_json(topic, job.id, COMMAND, job.result, job.counts, {})
        return
    click.echo(f"{IMPORTED} {dead_letters(count)} into {topic} (job {job.id})")
    if job.result != "done":
        click.echo(clean(job.result))
