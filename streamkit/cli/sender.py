"""Sends records to one topic, in order and with back-pressure, and knows how many the brokers have acknowledged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from streamkit.cli.destination import BadRecord
from streamkit.cli.outgoing import Outgoing
from streamkit.cli.transports import asking
from streamkit.cli.version import version
from streamkit.errors import ConfigurationError, TransportError
from streamkit.observe.slots import WorkerSlots
from streamkit.runtime.publisher import OutputItem, Publisher, Route
from streamkit.runtime.waiting import unless
from streamkit.settings import Settings
from streamkit.transport.base import RecordTooLarge, TopicInfo, Transport

HINT = "or declare it with partitions= in an app, and start that with --create-topics or by `streamkit dev`."


class Sender:
    """Made by `connected`."""

    def __init__(self, topic: str, info: TopicInfo, settings: Settings, transport: Transport) -> None:
        self._topic = topic
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
        self._publisher.add_route(topic, info.partitions, info.max_message_bytes)

    async def put(self, record: Outgoing) -> None:
        """Queue it, when there is room. Raises BadRecord, or TransportError for an earlier one that was refused."""
        while self._publisher.full:
            await self._wait(self._publisher.room)
        if self._failure is not None:
            raise self._failure
        key, value, headers, partition, timestamp = record
        moment = time.time_ns() // 1_000_000 if timestamp is None else timestamp
        try:
            self._publisher.put(self._topic, key, value, headers, moment, partition, None)
        except (RecordTooLarge, ValueError) as error:
            raise BadRecord(str(error)) from error
        self.put_count += 1

    async def flush(self) -> None:
        """Until everything is acknowledged. Raises TransportError if it was not, in time."""
        await self._wait(self._publisher.flush)
        if self._failure is not None:
            raise self._failure

    async def run(self) -> None:
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


@asynccontextmanager
async def connected(topic: str, settings: Settings, transport: Transport, creation: str) -> AsyncIterator[Sender]:
    """A sender to a topic that exists. `creation` is the command that creates it.

    Raises TransportError if no broker answers within `connect_timeout`, ConfigurationError if the topic is missing.
    """
    sender = Sender(topic, await _look_up(topic, settings, transport, creation), settings, transport)
    running = asyncio.create_task(sender.run())
    try:
        yield sender
    finally:
        running.cancel()
        await asyncio.wait([running])


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
