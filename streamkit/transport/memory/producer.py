"""An idempotent producer: after one failed batch it is good for nothing more."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from streamkit.errors import TransportError
from streamkit.record import HeaderList, Headers, TopicPartition
from streamkit.settings import Settings
from streamkit.transport.base import BatchBuilder, Stored, TopicMissing
from streamkit.transport.memory.broker import MemoryBroker
from streamkit.transport.memory.log import Payload

STOP_TIMEOUT = 2.0
# Kafka's record batch, version 2: the header, and the most that a record takes besides its key, value and headers.
BATCH_OVERHEAD = 61
RECORD_OVERHEAD = 21


class MemoryBatch:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.payloads: list[Payload] = []
        self.size = BATCH_OVERHEAD

    def append(self, *, key: bytes | None, value: bytes | None, timestamp: int, headers: HeaderList) -> object | None:
        if not isinstance(headers, list):
            raise TypeError("headers must be a list")  # as aiokafka's compiled builder says
        size = self.size + _record_size(key, value, headers)
        if self.payloads and size > self._limit:
            return None
        self.size = size
        payload = Payload(key, value, timestamp, headers)
        self.payloads.append(payload)
        return payload


@dataclass(slots=True)
class _Queued:
    batch: MemoryBatch
    acknowledged: asyncio.Future[Stored]


class MemoryProducer:
    """One batch of a partition is under way, and one more may be queued behind it, as aiokafka has it."""

    def __init__(self, broker: MemoryBroker, settings: Settings) -> None:
        self._broker = broker
        self._timeout = settings.request_timeout
        self._queued: dict[TopicPartition, _Queued] = {}
        self._senders: dict[TopicPartition, asyncio.Task[None]] = {}
        self._taken = asyncio.Condition()
        self._broken: Exception | None = None

    async def start(self) -> None:
        await self._broker.travel(self._timeout)

    async def partition_count(self, topic: str) -> int:
        await self._broker.travel(self._timeout)
        count = self._broker.counts([topic])[topic]
        if not count:
            raise TopicMissing(topic)
        return count

    def batch(self, limit: int) -> BatchBuilder:
        return MemoryBatch(limit)

    async def send(self, batch: BatchBuilder, topic: str, partition: int) -> asyncio.Future[Stored]:
        assert isinstance(batch, MemoryBatch), "made by batch()"
        target = TopicPartition(topic, partition)
        self._broker.log(target)
        async with self._taken:
            await self._taken.wait_for(lambda: target not in self._queued)
        acknowledged: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        if self._broken is not None:
            acknowledged.set_exception(TransportError(f"the producer is broken since: {self._broken!r}"))
            return acknowledged
        self._queued[target] = _Queued(batch, acknowledged)
        if target not in self._senders:
            self._senders[target] = asyncio.create_task(self._send(target))
        return acknowledged

    async def stop(self) -> None:
        senders = list(self._senders.values())
        if senders:
            await asyncio.wait(senders, timeout=STOP_TIMEOUT)
        self._broken = self._broken or TransportError("it was stopped")
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        for queued in self._queued.values():
            _fail(queued, TransportError("the producer was stopped"))
        self._queued.clear()
        async with self._taken:
            self._taken.notify_all()

    async def _send(self, target: TopicPartition) -> None:
        """Send what is queued for one partition until nothing is."""
        while target in self._queued:
            queued = self._queued.pop(target)
            async with self._taken:
                self._taken.notify_all()
            await self._produce(target, queued)
        del self._senders[target]

    async def _produce(self, target: TopicPartition, queued: _Queued) -> None:
        try:
            if self._broken is not None:
                raise TransportError(f"the producer is broken since: {self._broken!r}")
            batch = queued.batch
            acknowledgement = await self._broker.produce(target, batch.payloads, batch.size, self._timeout)
        except asyncio.CancelledError:
            _fail(queued, TransportError("the producer was stopped"))
            raise
        except Exception as error:
            self._broken = self._broken or error
            _fail(queued, error)
        else:
            if not queued.acknowledged.done():
                queued.acknowledged.set_result(acknowledgement)


def _fail(queued: _Queued, error: Exception) -> None:
    if not queued.acknowledged.done():
        queued.acknowledged.set_exception(error)


def _record_size(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    size = RECORD_OVERHEAD + len(key or b"") + len(value or b"")
    return size + sum(len(name.encode()) + len(content or b"") + 10 for name, content in headers)
