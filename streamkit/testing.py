"""An app at work in a test, on an in-process broker: `async with app.test() as test`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, final

from streamkit.core.partitioner import Partitioner
from streamkit.errors import DeclarationError
from streamkit.observe.slots import WorkerSlots
from streamkit.record import ConsumedRecord, Headers, Record, RecordMetadata, TopicPartition
from streamkit.runtime.invoke import record_decoder
from streamkit.runtime.worker import Worker
from streamkit.settings import Settings, SettingValue
from streamkit.topic import Topic
from streamkit.transport.base import LogRange
from streamkit.transport.memory import MemoryBroker, MemoryTransport

if TYPE_CHECKING:
    from streamkit.app import App

K = TypeVar("K")
V = TypeVar("V")

LOOK_EVERY = 0.001
ORIGIN = "sk-origin-topic"
# What has happened is to be seen soon; the app's own settings win.
QUICK: dict[str, SettingValue] = {"commit_interval": "10ms", "drain_timeout": "5s"}


class NotDrained(AssertionError):
    """Records are not settled that should be by now."""


@final
class AppUnderTest:
    """All agents and timers of an app at work on a broker that is gone with the test."""

    def __init__(self, app: App, settings: Settings) -> None:
        self._app = app
        self._broker = MemoryBroker()
        self._partitioners: dict[str, Partitioner] = {}
        copies = {name for agent in app.agents.values() for name in agent.dead_letters.values()}
        for topic in app.topics.values():
            if topic.name not in copies:
                self._broker.create_topic(topic.name, topic.partitions or 1)
        self.worker = Worker(
            app,
            settings,
            MemoryTransport(self._broker, settings),
            WorkerSlots("test"),
            create_topics=True,  # those of retries and dead letters, like those of their sources
            wait_for_retries=False,
        )
        self._running: asyncio.Task[None] | None = None
        self._told = False  # the test knows how the app has failed

    async def send(
        self,
        topic: Topic[K, V],
        value: V,
        *,
        key: K | None = None,
        headers: Headers = (),
        partition: int | None = None,
        timestamp: datetime | None = None,
    ) -> RecordMetadata:
        """Write a record to a topic, as another program would. Raises EncodeError for another type."""
        raw_key = None if key is None else topic.key_codec.encode(key)
        raw = topic.value_codec.encode(value)
        return self.send_raw(topic, raw, key=raw_key, headers=headers, partition=partition, timestamp=timestamp)

    def send_raw(
        self,
        topic: Topic[Any, Any],
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        partition: int | None = None,
        timestamp: datetime | None = None,
    ) -> RecordMetadata:
        """Write bytes to a topic: those that another program might write, and that cannot be decoded."""
        self._own(topic)
        chosen = self._partitioner(topic).choose(key, partition)
        moment = None if timestamp is None else round(timestamp.timestamp() * 1000)
        offset = self._broker.append(topic.name, value, key=key, partition=chosen, headers=headers, timestamp=moment)
        return RecordMetadata(topic.name, chosen, offset)

    async def drain(self, timeout: float = 10.0) -> None:
        """Wait until every record has been settled, and those that came of it.

        Raises the failure of the app if it has failed, RecordFailed for one, and NotDrained after `timeout` seconds.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        while not self._settled():
            if self._running is not None and self._running.done():
                self._told = True
                self._running.result()  # raises
                raise NotDrained("the worker has stopped")
            if asyncio.get_running_loop().time() > deadline:
                raise NotDrained(f"after {timeout:g} s there are still records that are not settled: {self._left()}")
            await asyncio.sleep(LOOK_EVERY)

    def sent(self, topic: Topic[Any, V]) -> list[V]:
        """The values in a topic, those of a partition in order."""
        return [record.value for record in self.records(topic)]

    def records(self, topic: Topic[K, V]) -> list[Record[K, V]]:
        """The records in a topic, those of a partition in order. Raises DecodeError for what is not of its type."""
        self._own(topic)
        decode = record_decoder(topic)
        return [decode(record) for record in self._broker.records(topic.name)]

    def dead_letters(self, topic: Topic[K, V]) -> list[Record[K | bytes, V | bytes | None]]:
        """What has failed for good of a topic, as it lies in its dead letter topic: those of a partition in order.

        A key or value that cannot be decoded is the bytes; the headers, `sk-error-class` for one, tell what happened.
        Raises DeclarationError if no agent has dead letters of the topic.
        """
        self._own(topic)
        agents = self._app.agents.values()
        names = dict.fromkeys(agent.dead_letters[topic.name] for agent in agents if topic.name in agent.dead_letters)
        if not names:
            raise DeclarationError(f"no agent has dead letters of {topic!r}; give one retry= or dead_letter=")
        found = [record for name in names for record in self._broker.records(name)]
        # Agents of other topics may have theirs in the same one.
        return [_letter(topic, record) for record in found if dict(record.headers).get(ORIGIN) == topic.name.encode()]

    def _partitioner(self, topic: Topic[Any, Any]) -> Partitioner:
        if topic.name not in self._partitioners:
            self._partitioners[topic.name] = Partitioner(len(self._broker.topics[topic.name].partitions))
        return self._partitioners[topic.name]

    def _own(self, topic: Topic[Any, Any]) -> None:
        if self._app.topics.get(topic.name) is not topic:
            raise DeclarationError(f"{topic!r} is not declared by app {self._app.name!r}, which is under test")

    def _ranges(self) -> dict[TopicPartition, LogRange]:
        return {log.partition: log.range for topic in self._broker.topics.values() for log in topic.partitions}

    def _settled(self) -> bool:
        # Looked at without an await: nothing can come in between.
        return self.worker.ready and self.worker.settled_to(self._ranges())

    def _left(self) -> str:
        left = self.worker.unsettled(self._ranges())
        listed = ", ".join(f"{agent}: {count:,} of {topic}" for (agent, topic), count in sorted(left.items()))
        return listed or "what was sent outside of handlers, or an agent has not joined its group"

    @asynccontextmanager
    async def _at_work(self) -> AsyncIterator[AppUnderTest]:
        self._running = running = asyncio.ensure_future(self.worker.run())
        try:
            while not self.worker.ready and not running.done():  # noqa: ASYNC110 -- there is no event of it
                await asyncio.sleep(LOOK_EVERY)
            if not running.done():
                yield self
            else:
                running.result()
        except BaseException:
            self.worker.stop()
            await asyncio.wait([running])
            running.exception()  # the test's own failure, or this one once, says enough
            raise
        self.worker.stop()
        await asyncio.wait([running])
        if not self._told:
            running.result()


def _letter(topic: Topic[Any, Any], record: ConsumedRecord) -> Record[Any, Any]:
    key = _as_far_as_decodable(topic.key_codec.decode, record.key)
    value = _as_far_as_decodable(topic.value_codec.decode, record.value)
    return Record(key, value, record.topic, record.partition, record.offset, record.timestamp, record.headers)


def _as_far_as_decodable(decode: Callable[[bytes], V], raw: bytes | None) -> V | bytes | None:
    if raw is None:
        return None
    try:
        return decode(raw)
    except Exception:  # those of a codec may be of any kind
        return raw


def under_test(app: App, settings: Mapping[str, SettingValue]) -> AbstractAsyncContextManager[AppUnderTest]:
    """What `App.test` returns."""
    merged = {**QUICK, **{name: value for name, value in app.given_settings.items() if value is not None}, **settings}
    merged["brokers"] = None
    return AppUnderTest(app, Settings.load({}, {}, merged))._at_work()
