"""From what a handler returns or sends to an output in the publisher."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from streamkit.record import UNSET, HeaderList, Headers, Output, RecordMetadata
from streamkit.runtime.delivery import Bundle, Delivery, Owner, check_open
from streamkit.runtime.invoke import SinkFailure
from streamkit.runtime.publisher import Publisher
from streamkit.topic import Topic
from streamkit.transport.base import TopicMissing

NO_HEADERS: HeaderList = []
PROPAGATED = frozenset(("traceparent", "correlation-id"))


class Emitter:
    """Encodes outputs and queues them on behalf of a record, or of the app."""

    def __init__(
        self,
        publisher: Publisher,
        sink: Topic[Any, Any] | None,
        wall: Callable[[], float] = time.time,
        *,
        agent: str = "",
        group: str = "",
        log_payloads: bool = False,
    ) -> None:
        self.publisher = publisher
        # For log lines about its records.
        self.agent, self.group, self.log_payloads = agent, group, log_payloads
        self._put = publisher.put
        self._sink = sink
        self._encode = None if sink is None else sink.value_codec.encode
        self._sink_name = "" if sink is None else sink.name
        self._wall = wall

    def now(self, owner: Owner, output: object) -> None:
        """Queue what a handler returned, under the record's raw key unless it says otherwise. Raises SinkFailure."""
        if owner.partition.window.closed:
            return  # a late result: the record runs again where its partition is now
        try:
            if type(output) is Output:
                self._emit_output(owner, output)
                return
            if self._encode is None:
                raise TypeError(f"the agent has no sink for the {type(output).__qualname__} it returned")
            if type(owner) is Bundle:
                raise TypeError(
                    f"a {type(output).__qualname__} that belongs to no single record has no key to go under: "
                    "make it an Output(value, key=...)"
                )
            record = owner.record
            headers = _propagated(record.headers) if record.headers else NO_HEADERS
            moment = int(self._wall() * 1000)
            self._put(self._sink_name, record.key, self._encode(output), headers, moment, None, owner)
        except Exception as error:
            raise SinkFailure from error

    async def patiently(self, owner: Owner, output: object) -> None:
        """Queue one of many outputs, when there is room. Raises SinkFailure, or RuntimeError if too late."""
        while self.publisher.full:  # all who waited are woken, and one may fill it again
            await self.publisher.room()
        check_open(owner)
        self.now(owner, output)

    def send(
        self,
        topic: Topic[Any, Any],
        value: object,
        key: object,
        headers: Headers,
        partition: int | None,
        timestamp: datetime | None,
        owner: Owner | None,
        stored: asyncio.Future[RecordMetadata] | None = None,
    ) -> None:
        """Queue what `Topic.send` was given. Raises EncodeError, RecordTooLarge, TopicMissing."""
        raw_key = None if key is None else topic.key_codec.encode(key)
        self._queue(topic, raw_key, value, headers, partition, timestamp, owner, stored)

    def _emit_output(self, owner: Owner, output: Output[Any]) -> None:
        topic = output.topic or self._sink
        if topic is None:
            raise TypeError("the agent has no sink, and the Output it returned names no topic")
        if output.key is not UNSET:
            key = None if output.key is None else topic.key_codec.encode(output.key)
        elif type(owner) is Delivery:
            key = owner.record.key
        else:
            raise TypeError("an Output that belongs to no single record must state its key; key=None is the null key")
        self._queue(topic, key, output.value, output.headers, None, None, owner)

    def _queue(
        self,
        topic: Topic[Any, Any],
        key: bytes | None,
        value: object,
        headers: Headers,
        partition: int | None,
        timestamp: datetime | None,
        owner: Owner | None,
        stored: asyncio.Future[RecordMetadata] | None = None,
    ) -> None:
        if not self.publisher.knows(topic.name):
            raise TopicMissing(topic.name)
        raw = topic.value_codec.encode(value)
        stated = list(headers)
        if owner is not None and owner.headers:
            stated += _propagated(owner.headers, headers)
        moment = int((self._wall() if timestamp is None else timestamp.timestamp()) * 1000)
        self.publisher.put(topic.name, key, raw, stated, moment, partition, owner, stored)


def _propagated(incoming: Headers, given: Headers = ()) -> HeaderList:
    """The headers that follow a record to its outputs, but those that the output states itself."""
    stated = {name for name, _ in given}
    return [pair for pair in incoming if pair[0] in PROPAGATED and pair[0] not in stated]
