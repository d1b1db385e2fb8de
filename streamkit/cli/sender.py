"""Sends records to topics, in order and with back-pressure, and knows how many the brokers have acknowledged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from streamkit.cli.destination import BadRecord
from streamkit.cli.outgoing import Outgoing
from streamkit.cli.transports import asking
from streamkit.cli.version import version
from streamkit.errors import ConfigurationError, TransportError
from streamkit.observe.slots import WorkerSlots
from streamkit.record import RecordMetadata
from streamkit.runtime.publisher import OutputItem, Publisher, Route, size_of
from streamkit.runtime.waiting import unless
from streamkit.settings import Settings
from streamkit.transport.base import RecordTooLarge, TopicInfo, Transport

HINT = "or declare it with partitions= in an app, and start that with --create-topics or by `streamkit dev`."


class Sender:
    """Sends while `running`."""

    def __init__(self, settings: Settings, transport: Transport) -> None:
        self._settings = settings
        self._failed = asyncio.Event()
        self._failure: Exception | None = None
        self.put_count = 0
        self.acknowledged = 0
        self._publisher = Publisher(
            transport.producer,
            settings,
            WorkerSlots(version()),
            nothing_ready=lambda: True,
            acknowledged=self._count,
            rejected=self._rejected,
        )

    def add(self, topic: str, info: TopicInfo) -> None:
        """Records may go to this topic."""
        if not self._publisher.knows(topic):
            self._publisher.add_route(topic, info.partitions, info.max_message_bytes)

    def check(self, topic: str, record: Outgoing) -> None:
        """Raises BadRecord for one that is too large for the topic."""
        limit, size = self._publisher.limit(topic), size_of(record.key, record.value, record.headers)
        if size > limit:
            raise BadRecord(f"a record of {size:,} bytes; {topic!r} takes {limit:,} at the most")

    def partition_count(self, topic: str) -> int:
        return self._publisher.partition_count(topic)

    async def put(self, topic: str, record: Outgoing, stored: asyncio.Future[RecordMetadata] | None = None) -> None:
        """Queue it, when there is room; `stored` is told where it is in the end, or that it was refused.

        Raises BadRecord, or TransportError for an earlier one that was refused and had nobody to tell.
        """
        while self._publisher.full:
            await self._wait(self._publisher.room)
        if self._failure is not None:
            raise self._failure
        key, value, headers, partition, timestamp = record
        moment = time.time_ns() // 1_000_000 if timestamp is None else timestamp
        try:
            self._publisher.put(topic, key, value, headers, moment, partition, None, stored)
        except (RecordTooLarge, ValueError) as error:
            raise BadRecord(str(error)) from error
        self.put_count += 1

    async def flush(self) -> None:
        """Until everything is acknowledged. Raises TransportError if it was not, in time."""
        await self._wait(self._publisher.flush)
        if self._failure is not None:
            raise self._failure

    async def store(self, records: Iterable[tuple[str, Outgoing]]) -> list[RecordMetadata | TransportError | BadRecord]:
        """Send them and wait: where each is, or why it is not. Raises TransportError if nothing is acknowledged."""
        outcomes: list[asyncio.Future[RecordMetadata] | BadRecord] = []
        for topic, record in records:
            stored: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
            try:
                await self.put(topic, record, stored)
            except BadRecord as error:
                outcomes.append(error)
            else:
                outcomes.append(stored)
        await self.flush()
        return [each if isinstance(each, BadRecord) else _outcome(each) for each in outcomes]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Sender]:
        running = asyncio.create_task(self._run())
        try:
            yield self
        finally:
            running.cancel()
            await asyncio.wait([running])

    async def _run(self) -> None:
        try:
            await self._publisher.start()
            await self._publisher.run()
        except Exception as error:
            self._fail(error)
        finally:
            await self._publisher.stop()

    async def _wait(self, wait: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """As long as the brokers acknowledge something now and then."""
        limit = self._settings.send_timeout
        while True:
            before = self.acknowledged
            try:
                async with asyncio.timeout(limit):
                    await unless(self._failed, wait())
                return
            except TimeoutError:
                if self.acknowledged == before:
                    raise TransportError(f"nothing was acknowledged for {limit:g} s (send_timeout)") from None

    def _count(self, items: Sequence[OutputItem]) -> None:
        self.acknowledged += len(items)

    def _rejected(self, item: OutputItem, route: Route, error: TransportError) -> None:
        self._fail(TransportError(f"a record with key {item.key!r} was refused by {route.topic!r}: {error}"))

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._failed.set()


def _outcome(stored: asyncio.Future[RecordMetadata]) -> RecordMetadata | TransportError:
    error = stored.exception()
    if error is None:
        return stored.result()
    return error if isinstance(error, TransportError) else TransportError(repr(error))


@asynccontextmanager
async def connected(topic: str, settings: Settings, transport: Transport, creation: str) -> AsyncIterator[Sender]:
    """A sender to a topic that exists. `creation` is the command that creates it.

    Raises TransportError if no broker answers within `connect_timeout`, ConfigurationError if the topic is missing.
    """
    info = await _look_up(topic, settings, transport, creation)
    sender = Sender(settings, transport)
    sender.add(topic, info)
    async with sender.running():
        yield sender


async def _look_up(topic: str, settings: Settings, transport: Transport, creation: str) -> TopicInfo:
    brokers, admin = ",".join(settings.brokers), transport.admin()
    try:
        with asking(settings):
            async with asyncio.timeout(settings.connect_timeout):
                await admin.start()
                found = await admin.topics([topic])
    finally:
        await admin.stop()
    if topic not in found:
        raise ConfigurationError(f"topic {topic!r} does not exist at {brokers}. Create it with\n  {creation}\n{HINT}")
    return found[topic]
