"""What is sent outside of handlers, and how `Topic.send` finds whom it belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

from streamkit.errors import TransportError
from streamkit.observe.slots import WorkerSlots
from streamkit.record import Headers, RecordMetadata
from streamkit.runtime.delivery import check_open, current
from streamkit.runtime.emitter import Emitter
from streamkit.runtime.publisher import OutputItem, Publisher, Route
from streamkit.settings import Settings
from streamkit.topic import Topic
from streamkit.transport.base import Transport


class AppOutputs:
    """What is sent outside of handlers. It belongs to the app: flushed at stop, and a failure fails the worker."""

    def __init__(
        self, transport: Transport, settings: Settings, slots: WorkerSlots, fail: Callable[[Exception], None]
    ) -> None:
        self._fail = fail
        self._settings = settings
        self.publisher = Publisher(
            transport.producer,
            settings,
            slots,
            nothing_ready=lambda: True,
            acknowledged=lambda items: None,
            rejected=self._rejected,
        )
        self.emitter = Emitter(self.publisher, None)

    async def flush(self) -> None:
        try:
            async with asyncio.timeout(self._settings.drain_timeout):
                await self.publisher.flush()
        except TimeoutError:
            limit = f"{self._settings.drain_timeout:g} s (drain_timeout)"
            self._fail(TransportError(f"what was sent outside of handlers is not acknowledged within {limit}"))

    def _rejected(self, item: OutputItem, route: Route, error: TransportError) -> None:
        self._fail(TransportError(f"a value sent to {route.topic!r} outside of handlers was refused: {error}"))


class SendToBrokers:
    """The port of `Topic.send` in a running worker."""

    def __init__(self, app: Emitter) -> None:
        self._app = app

    async def send(
        self,
        topic: Topic[Any, Any],
        value: Any,
        key: Any,
        headers: Headers,
        partition: int | None,
        timestamp: datetime | None,
    ) -> None:
        await self._send(topic, value, key, headers, partition, timestamp, None)

    async def send_and_wait(
        self,
        topic: Topic[Any, Any],
        value: Any,
        key: Any,
        headers: Headers,
        partition: int | None,
        timestamp: datetime | None,
    ) -> RecordMetadata:
        stored: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
        await self._send(topic, value, key, headers, partition, timestamp, stored)
        return await stored

    async def _send(
        self,
        topic: Topic[Any, Any],
        value: Any,
        key: Any,
        headers: Headers,
        partition: int | None,
        timestamp: datetime | None,
        stored: asyncio.Future[RecordMetadata] | None,
    ) -> None:
        owner = current.get()
        emitter = self._app if owner is None else owner.partition.emitter
        check_open(owner)
        while emitter.publisher.full:  # all who waited are woken, and one may fill it again
            await emitter.publisher.room()
            check_open(owner)
        emitter.send(topic, value, key, headers, partition, timestamp, owner, stored)
