"""Reads a dead letter topic from a start to the end that it has now, some at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import click
import orjson

from streamkit.cli.dlq.where import Where
from streamkit.cli.logs import configure_logs_of_command
from streamkit.cli.progress import progress
from streamkit.cli.transports import asking, transport_for
from streamkit.core.cases import CaseBook
from streamkit.core.jobs import AUDIT_KEY, JobBook
from streamkit.core.letters import Letter, letter_of
from streamkit.errors import TransportError
from streamkit.record import ConsumedRecord, TopicPartition
from streamkit.retry import state_topic
from streamkit.transport.base import (
    Admin,
    LogRange,
    OffsetOutOfRange,
    Reader,
    TopicInfo,
    Transport,
)

AT_ONCE = 500  # records; more at a time are slower: they keep the garbage collector busy
WAIT = 0.5  # seconds, of one poll
SILENCE = 30.0  # seconds without progress
CLOCKS_DIFFER = 5 * 60_000  # ms that the clock of a worker may be ahead of the brokers'


@dataclass(frozen=True)
class Clients:
    transport: Transport
    admin: Admin
    reader: Reader


class State:
    """What the state topic says, as far as it has been read."""

    def __init__(self, topic: str, *, exists: bool, audits: bool = False) -> None:
        """Without `audits` these are passed over: nothing ever removes them, and most commands need none."""
        self.topic = topic
        self.exists = exists
        self.cases = CaseBook()
        self.jobs = JobBook()
        self.on_record: Callable[[ConsumedRecord], None] = lambda record: None
        self._audits = audits
        self._next: dict[TopicPartition, int] = {}

    async def read(self, reader: Reader) -> None:
        """Go on to where the log ends now; `reader` reads nothing else after that until it is assigned anew."""
        if not self.exists:
            return
        partition = TopicPartition(self.topic, 0)
        ranges = await reader.log_ranges([partition])
        starts = {each: max(self._next.get(each, 0), limits.start) for each, limits in ranges.items()}
        async for records in records_of(reader, starts, ranges):
            for record in records:
                key = record.key or b""
                if key.startswith(AUDIT_KEY) and not self._audits:
                    continue
                value = json_of(record.value)
                self.cases.apply(key, value)
                self.jobs.apply(key, value, record.offset, record.timestamp)
                self.on_record(record)
        self._next = {each: limits.end for each, limits in ranges.items()}


class DeadLetters:
    """One dead letter topic with the states of its cases."""

    def __init__(self, topic: str, info: TopicInfo, state: State, clients: Clients) -> None:
        self.topic = topic
        self.info = info
        self.state = state
        self.book = state.cases
        self.clients = clients
        self.partitions = [TopicPartition(topic, number) for number in range(info.partitions)]
        self.read_count = 0
        self.progress: Callable[[], int] = lambda: self.read_count
        self.doing = "read"

    async def ranges(self) -> dict[TopicPartition, LogRange]:
        """What the log holds now."""
        return await self.clients.reader.log_ranges(self.partitions)

    async def letters(
        self, since: int | None = None, within: Mapping[TopicPartition, LogRange] | None = None
    ) -> AsyncIterator[Sequence[Letter]]:
        """All letters, some at a time; with `since` (ms) those that may have failed then or later, with `within` those
        at these offsets."""
        ranges = await self.ranges()
        if within is not None:
            ranges = {each: _common(ranges[each], limits) for each, limits in within.items() if each in ranges}
        starts = {partition: limits.start for partition, limits in ranges.items()}
        if since is not None:
            found = await self.clients.reader.offsets_at(list(ranges), max(since - CLOCKS_DIFFER, 0))
            starts = {each: max(found.get(each, ranges[each].end), starts[each]) for each in starts}
        async with progress(self.progress, self.doing):
            async for records in records_of(self.clients.reader, starts, ranges):
                self.read_count += len(records)
                yield [letter_of(record) for record in records]


def _common(one: LogRange, other: LogRange) -> LogRange:
    return LogRange(max(one.start, other.start), min(one.end, other.end))


async def records_of(
    reader: Reader, starts: Mapping[TopicPartition, int], ranges: Mapping[TopicPartition, LogRange]
) -> AsyncIterator[Sequence[ConsumedRecord]]:
    """From the starts to the ends. What retention removes meanwhile is passed over.

    Raises TransportError if nothing moves for 30 s.
    """
    left = {each: start for each, start in starts.items() if start < ranges[each].end}
    assigned = len(left)
    reader.assign(left)
    moved = time.monotonic()
    while left:
        lost: dict[TopicPartition, int] = {}
        polled: Mapping[TopicPartition, Sequence[ConsumedRecord]] = {}
        try:
            polled = await reader.poll(max_records=AT_ONCE, timeout=WAIT)
        except OffsetOutOfRange as error:
            limits = (await reader.log_ranges([error.partition]))[error.partition]
            lost = {error.partition: max(limits.start, error.offset)}
            if error.offset >= limits.start:  # a new leader may not show it yet; or the log was made anew
                await asyncio.sleep(WAIT)
        positions = {each: reader.position(each) for each in left} | lost
        for partition, records in polled.items():
            end = ranges[partition].end
            if wanted := [record for record in records if record.offset < end]:
                yield wanted
        if positions != left:
            moved = time.monotonic()  # after whoever reads this has taken its time
        left = {each: offset for each, offset in positions.items() if offset < ranges[each].end}
        if lost or 2 * len(left) <= assigned:  # not at the end of each: what is fetched ahead is lost, and comes again
            assigned = len(left)
            reader.assign(left)
        if left and time.monotonic() - moved > SILENCE:
            raise TransportError(f"nothing could be read for {SILENCE:g} s, at {_places(left)}")


def _places(offsets: Mapping[TopicPartition, int]) -> str:
    return ", ".join(f"{each.topic}[{each.partition}] offset {offset}" for each, offset in offsets.items())


Use = Callable[[Sequence[DeadLetters]], Coroutine[Any, Any, None]]


def with_dead_letters(place: Where, use: Use, *, audits: bool = False) -> None:
    """Run it with the topics that exist, their states with or without audits; say on standard error which do not.

    Raises TransportError if no broker answers, ConfigurationError if they refuse this client.
    """
    asyncio.run(_with_dead_letters(place, use, audits))


async def _with_dead_letters(place: Where, use: Use, audits: bool) -> None:
    async with connected(place) as clients:
        with asking(place.settings):
            async with asyncio.timeout(place.settings.connect_timeout):
                found, missing = await place.topics(clients.admin)
                states = await clients.admin.topics([state_topic(name) for name in found])
        opened: list[DeadLetters] = []
        for name, info in found.items():
            state = State(state_topic(name), exists=state_topic(name) in states, audits=audits)
            opened.append(DeadLetters(name, info, state, clients))
        for letters in opened:
            await letters.state.read(clients.reader)
        for name in missing:
            click.echo(f"no dead letters: topic {name!r} does not exist at {place.brokers}", err=True)
        await use(opened)


@asynccontextmanager
async def connected(place: Where) -> AsyncIterator[Clients]:
    """Clients that have reached the brokers within `connect_timeout`."""
    configure_logs_of_command(place.settings)
    transport = transport_for(place.settings)
    clients = Clients(transport, transport.admin(), transport.reader())
    try:
        with asking(place.settings):
            async with asyncio.timeout(place.settings.connect_timeout):
                await clients.admin.start()
                await clients.reader.start()
        yield clients
    finally:
        await clients.reader.stop()
        await clients.admin.stop()


def json_of(value: bytes | None) -> Mapping[str, Any] | None:
    """What is no JSON object is senseless, as an empty one is."""
    if value is None:
        return None
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
