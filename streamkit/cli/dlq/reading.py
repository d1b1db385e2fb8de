"""Reads a dead letter topic from a start to the end that it has now, in bounded memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import click
import orjson

from streamkit.cli.dlq.where import STATE, Where
from streamkit.cli.progress import progress
from streamkit.cli.transports import asking, transport_for
from streamkit.core.cases import CaseBook
from streamkit.core.letters import Letter, letter_of
from streamkit.errors import TransportError
from streamkit.record import TopicPartition
from streamkit.transport.base import (
    Admin,
    ConsumedRecord,
    LogRange,
    OffsetOutOfRange,
    Reader,
    TopicInfo,
)

AT_ONCE = 2_000  # records
WAIT = 0.5  # seconds, of one poll
SILENCE = 30.0  # seconds without progress
CLOCKS_DIFFER = 5 * 60_000  # ms that the clock of a worker may be ahead of the brokers'


@dataclass(frozen=True)
class Clients:
    admin: Admin
    reader: Reader


class DeadLetters:
    """One dead letter topic with the states of its cases."""

    def __init__(self, topic: str, info: TopicInfo, book: CaseBook, clients: Clients) -> None:
        self.topic = topic
        self.book = book
        self.clients = clients
        self.partitions = [TopicPartition(topic, number) for number in range(info.partitions)]
        self.read_count = 0

    async def letters(self, since: int | None = None) -> AsyncIterator[Sequence[Letter]]:
        """All letters, some at a time; with `since` (ms) those that may have failed then or later."""
        ranges = await self.clients.reader.log_ranges(self.partitions)
        starts = {partition: limits.start for partition, limits in ranges.items()}
        if since is not None:
            found = await self.clients.reader.offsets_at(self.partitions, max(since - CLOCKS_DIFFER, 0))
            starts = {each: max(found.get(each, ranges[each].end), starts[each]) for each in starts}
        async with progress(lambda: self.read_count, "read"):
            async for records in records_of(self.clients.reader, starts, ranges):
                self.read_count += len(records)
                yield [letter_of(record) for record in records]


async def records_of(
    reader: Reader, starts: Mapping[TopicPartition, int], ranges: Mapping[TopicPartition, LogRange]
) -> AsyncIterator[Sequence[ConsumedRecord]]:
    """From the starts to the ends. What retention removes meanwhile is passed over.

    Raises TransportError if nothing moves for 30 s.
    """
    left = {each: start for each, start in starts.items() if start < ranges[each].end}
    reader.assign(left)
    moved = time.monotonic()
    while left:
        lost: dict[TopicPartition, int] = {}
        polled: Mapping[TopicPartition, Sequence[ConsumedRecord]] = {}
        try:
            polled = await reader.poll(max_records=AT_ONCE, timeout=WAIT)
        except OffsetOutOfRange as error:
            limits = (await reader.log_ranges([error.partition]))[error.partition]
            lost = {error.partition: max(limits.start, error.offset + 1)}
        positions = {each: reader.position(each) for each in left} | lost
        moved = time.monotonic() if positions != left else moved
        for partition, records in polled.items():
            if wanted := [record for record in records if record.offset < ranges[partition].end]:
                yield wanted
        known, left = left, {each: offset for each, offset in positions.items() if offset < ranges[each].end}
        if lost or len(left) < len(known):
            reader.assign(left)
        if left and time.monotonic() - moved > SILENCE:
            raise TransportError(f"nothing could be read for {SILENCE:g} s, at {_places(left)}")


def _places(offsets: Mapping[TopicPartition, int]) -> str:
    return ", ".join(f"{each.topic}[{each.partition}] offset {offset}" for each, offset in offsets.items())


Job = Callable[[Sequence[DeadLetters]], Coroutine[Any, Any, None]]


def with_dead_letters(place: Where, job: Job) -> None:
    """Run it with the topics that exist; say on standard error which do not.

    Raises TransportError if no broker answers, ConfigurationError if they refuse this client.
    """
    asyncio.run(_with_dead_letters(place, job))


async def _with_dead_letters(place: Where, job: Job) -> None:
    async with connected(place) as clients:
        with asking(place.settings):
            async with asyncio.timeout(place.settings.connect_timeout):
                found, missing = await place.topics(clients.admin)
                states = await clients.admin.topics([name + STATE for name in found])
        opened = [
            DeadLetters(name, info, await _book(clients.reader, name + STATE, states), clients)
            for name, info in found.items()
        ]
        for name in missing:
            click.echo(f"no dead letters: topic {name!r} does not exist at {place.brokers}", err=True)
        await job(opened)


@asynccontextmanager
async def connected(place: Where) -> AsyncIterator[Clients]:
    """Clients that have reached the brokers within `connect_timeout`."""
    transport = transport_for(place.settings)
    clients = Clients(transport.admin(), transport.reader())
    try:
        with asking(place.settings):
            async with asyncio.timeout(place.settings.connect_timeout):
                await clients.admin.start()
                await clients.reader.start()
        yield clients
    finally:
        await clients.reader.stop()
        await clients.admin.stop()


async def _book(reader: Reader, topic: str, states: Mapping[str, TopicInfo]) -> CaseBook:
    book = CaseBook()
    if topic in states:
        partitions = [TopicPartition(topic, number) for number in range(states[topic].partitions)]
        ranges = await reader.log_ranges(partitions)
        async for records in records_of(reader, {each: limits.start for each, limits in ranges.items()}, ranges):
            for record in records:
                book.apply(record.key or b"", _json(record.value))
    return book


def _json(value: bytes | None) -> Mapping[str, Any] | None:
    """What is no JSON object is senseless, as an empty one is."""
    if value is None:
        return None
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
