"""One dead letter by its ID, and the record it came from: a few fetches, however many records the topics hold."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from streamkit.checks import valid_topic_name
from streamkit.cli.dlq.reading import Clients, records_of
from streamkit.core.letters import Letter, letter_of
from streamkit.errors import StreamkitError
from streamkit.record import ConsumedRecord, TopicPartition
from streamkit.transport.base import LogRange, Reader, TopicInfo

AROUND = 100  # offsets that are read on each side of the source record
NEAR = 5  # records of its key that are shown on each side
START = 100  # bytes of their values

State = Literal[
    "kept",
    "replaced",  # another record lies at its offset: the topic was made anew
    "missing",  # within the log: compacted away
    "removed",  # before the log's start
    "beyond",  # behind the log's end: the topic was made anew, or cut short
    "no_partition",
    "no_topic",
    "unstated",  # the letter does not say where it came from
    "unreadable",
]


class NoSuchLetter(StreamkitError):
    """The topic holds no dead letter of that ID."""


class Nearby(NamedTuple):
    """A record near the source record. `timestamp` is in ms since 1970, or None; `size` in bytes and `start` are of its
    value, None if that is null."""

    offset: int
    timestamp: int | None
    key: bytes | None
    size: int | None
    start: bytes | None


@dataclass(frozen=True)
class Source:
    """What is left of the record that a letter came from, and the nearest of its key, in log order."""

    state: State
    before: Sequence[Nearby] = ()
    after: Sequence[Nearby] = ()
    error: str | None = None


async def letter_at(reader: Reader, topic: str, info: TopicInfo, place: str) -> Letter:
    """The letter of the ID. Raises NoSuchLetter, which says why there is none."""
    number, offset = map(int, place.split(":"))
    if number >= info.partitions:
        raise NoSuchLetter(f"{topic} has no partition {number}, but {_numbers(info.partitions)}")
    partition = TopicPartition(topic, number)
    limits = (await reader.log_ranges([partition]))[partition]
    where = f"{topic}[{number}]"
    if offset >= limits.end:
        end = f"the next to come is {number}:{limits.end}"
        raise NoSuchLetter(f"{where} has no offset {offset} yet: {end}")
    if offset < limits.start:
        raise NoSuchLetter(
            f"{where} holds offset {offset} no more: {_kept(number, limits)}; retention or a purge removed it"
        )
    async for record in _records(reader, partition, offset, offset + 1):
        return letter_of(record)
    raise NoSuchLetter(f"{where} holds no record at offset {offset}: it was removed, or is a mark of a transaction")


async def source_of(clients: Clients, letter: Letter) -> Source:
    """Where the letter came from. What goes wrong is part of the answer: the letter is there all the same."""
    topic, number, offset = letter.origin_topic, letter.origin_partition, letter.origin_offset
    if topic is None or number is None or offset is None:
        return Source("unstated")
    try:
        found = (await clients.admin.topics([valid_topic_name(topic)])).get(topic)
        if found is None:
            return Source("no_topic")
        if number >= found.partitions:
            return Source("no_partition")
        return await _look(clients.reader, TopicPartition(topic, number), offset, letter)
    except StreamkitError as error:
        return Source("unreadable", error=str(error))


async def _look(reader: Reader, partition: TopicPartition, offset: int, letter: Letter) -> Source:
    limits = (await reader.log_ranges([partition]))[partition]
    start, end = max(limits.start, offset - AROUND), min(limits.end, offset + AROUND + 1)
    nearby = [_nearby(record) async for record in _records(reader, partition, start, end)]
    here = next((each for each in nearby if each.offset == offset), None)
    omitted = "key" in letter.omitted
    key = (here.key if here else None) if omitted else letter.key
    alike = [] if key is None else [each for each in nearby if each.key == key]  # null keys have nothing in common
    before = [each for each in alike if each.offset < offset]
    after = [each for each in alike if each.offset > offset]
    return Source(_state(here, offset, limits, letter), before[-NEAR:], after[:NEAR])


def _state(here: Nearby | None, offset: int, limits: LogRange, letter: Letter) -> State:
    if here is not None:
        # The value proves nothing: a letter that failed again may have been edited.
        same = letter.origin_timestamp in (None, here.timestamp)
        return "kept" if same else "replaced"
    if offset < limits.start:
        return "removed"
    return "missing" if offset < limits.end else "beyond"


async def _records(reader: Reader, partition: TopicPartition, start: int, end: int) -> AsyncIterator[ConsumedRecord]:
    async for records in records_of(reader, {partition: start}, {partition: LogRange(start, end)}):
        for record in records:
            yield record


def _nearby(record: ConsumedRecord) -> Nearby:
    value = record.value
    size, start = (None, None) if value is None else (len(value), _start(value))
    timestamp = record.timestamp if record.timestamp >= 0 else None
    return Nearby(record.offset, timestamp, record.key, size, start)


def _start(value: bytes) -> bytes:
    """Not cut in the middle of a character."""
    start = value[:START]
    try:
        start.decode()
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and len(value) > START:
            return start[: error.start]
    return start


def _numbers(partitions: int) -> str:
    return "0 only" if partitions == 1 else f"0 to {partitions - 1}"


def _kept(number: int, limits: LogRange) -> str:
    return "it is empty" if limits.start == limits.end else f"the first that is kept is {number}:{limits.start}"
