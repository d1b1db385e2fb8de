"""Outputs on their way to their topics: built into batches, sent in order, and sent again when a producer breaks."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count

import msgspec

from streamkit.core.partitioner import Partitioner
from streamkit.errors import TransportError
from streamkit.observe.slots import ProducedSlots, WorkerSlots
from streamkit.record import HeaderList, RecordMetadata
from streamkit.runtime.delivery import Owner
from streamkit.settings import Settings
from streamkit.transport.base import (
    BatchBuilder,
    Producer,
    RecordTooLarge,
    Refused,
    Stored,
    TopicMissing,
    TopicRefused,
)

log = logging.getLogger(__name__)

MAX_OUTSTANDING_BYTES = 32 * 1024 * 1024
IN_FLIGHT_PER_PARTITION = 2  # one on the wire, one ready to follow it
RECORD_OVERHEAD = 70  # bytes: a batch's header, and a record's lengths and deltas at their largest
FIRST_BACKOFF, LAST_BACKOFF = 0.1, 5.0
OUTCOME_TIMEOUT = 5.0  # for the other batches of a broken producer, once it is broken


def size_of(key: bytes | None, value: bytes | None, headers: HeaderList) -> int:
    """What `Publisher.put`, where it stands in line, counts a record as: bytes, at the most."""
    names = sum(len(name) + len(text or b"") + 10 for name, text in headers)
    return len(key or b"") + len(value or b"") + names + RECORD_OVERHEAD


class OutputItem(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One output. A Struct, because one is made for every output, and out of the collector's sight: no cycle goes
    through it."""

    key: bytes | None
    value: bytes | None
    headers: HeaderList
    timestamp: int
    owner: Owner | None
    size: int
    stored: asyncio.Future[RecordMetadata] | None  # for a sender that waits


class Route:
    """A topic that outputs go to."""

    __slots__ = ("limit", "partitions", "pipes", "slots", "topic")

    def __init__(self, topic: str, partitions: int, limit: int, slots: ProducedSlots) -> None:
        self.topic = topic
        self.partitions = Partitioner(partitions)
        self.pipes = [Pipe(self, number) for number in range(partitions)]
        self.limit = limit  # bytes of a batch, and so of a record
        self.slots = slots

    def grow(self, partitions: int) -> None:
        """The topic has this many partitions now; keys go where every other client sends them."""
        if partitions > len(self.pipes):
            self.pipes += [Pipe(self, number) for number in range(len(self.pipes), partitions)]
            self.partitions = Partitioner(partitions)


class Pipe:
    """One partition of an output topic: the batches that wait to be sent, the last of them being filled."""

    __slots__ = ("in_flight", "partition", "route", "waiting")

    def __init__(self, route: Route, partition: int) -> None:
        self.route = route
        self.partition = partition
        self.waiting: deque[OutputBatch] = deque()
        self.in_flight = 0


class OutputBatch:
    """Outputs to one partition that are sent together."""

    __slots__ = ("append", "awaited", "builder", "full", "items", "number", "opened", "pipe", "sent", "size")

    def __init__(self, pipe: Pipe, builder: BatchBuilder, number: int, opened: float) -> None:
        self.pipe = pipe
        self.builder = builder
        self.append = builder.append
        self.number = number  # in the order of their first outputs
        self.opened = opened  # loop time
        self.sent = 0.0  # loop time
        self.items: list[OutputItem] = []
        self.size = 0
        self.full = False
        self.awaited = False  # somebody waits for it, so it does not wait for others


class Publisher:
    """The one task of an agent that sends.

    `put` never waits: it adds to the open batch of the output's partition. A batch goes out when it is full, when it
    has lingered, or when no lane is ready to add to it. aiokafka holds one batch of a partition at a time, so a second
    sender could barge in between two of them (R31); `run` is the only one.

    A producer with a failed batch is broken (R4). Then the fate of its other batches is awaited, it is replaced, and
    what was not acknowledged is sent again in order, in ever smaller batches where the broker refuses a size, so that
    only the output at fault is rejected.
    """

    def __init__(
        self,
        make_producer: Callable[[], Producer],
        settings: Settings,
        slots: WorkerSlots,
        *,
        nothing_ready: Callable[[], bool],
        acknowledged: Callable[[Sequence[OutputItem]], None],
        rejected: Callable[[OutputItem, Route, TransportError], None],
        placed: Callable[[Sequence[OutputItem], int, int], None] | None = None,
    ) -> None:
        """`placed` is told, before `acknowledged`, in which partition outputs are, and from which offset on."""
        self._make_producer = make_producer
        self._settings = settings
        self._slots = slots
        self._nothing_ready = nothing_ready
        self._acknowledged = acknowledged
        self._rejected = rejected
        self._placed = placed
        self._producer: Producer = make_producer()  # it makes batches before it is connected, too
        self._connected = False
        self._numbers = count()
        self._routes: dict[str, Route] = {}
        self._busy: dict[Pipe, None] = {}  # those with waiting batches, in the order in which they got the first
        self._sent: dict[asyncio.Future[Stored], OutputBatch] = {}  # in the order of sending
        self._failed: list[OutputBatch] = []
        self._broken: TransportError | None = None
        self._outstanding = 0  # bytes
        self._batches = 0  # not acknowledged
        self._awaited: set[asyncio.Future[RecordMetadata]] = set()  # of outputs that somebody waits for
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self.full = False

    async def start(self) -> None:
        """Connect; raises TransportError."""
        await self._producer.start()
        self._connected = True

    def knows(self, topic: str) -> bool:
        return topic in self._routes

    def add_route(self, topic: str, partitions: int, max_message_bytes: int | None, largest: int | None = None) -> None:
        """Let outputs go to a topic. `max_message_bytes` is the topic's own limit, if the broker told it; `largest` is
        this side's, `max_request_size` unless given."""
        largest = largest or self._settings.max_request_size
        limit = min(largest, max_message_bytes or largest)
        self._routes[topic] = Route(topic, partitions, limit, self._slots.output(topic))

    def limit(self, topic: str) -> int:
        """Bytes that a record for it may have, as `size_of` counts them. Raises KeyError for an unknown topic."""
        return self._routes[topic].limit

    def partition_count(self, topic: str) -> int:
        """Raises KeyError for an unknown topic."""
        return len(self._routes[topic].pipes)

    async def look_for_growth(self) -> None:
        """Take in the partitions that the topics in use have got since."""
        for route in self._routes.values():
            if route.slots.acknowledged and self._connected:
                with suppress(TransportError):
                    route.grow(await self._producer.partition_count(route.topic))

    def put(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: HeaderList,
        timestamp: int,
        partition: int | None,
        owner: Owner | None,
        stored: asyncio.Future[RecordMetadata] | None = None,
    ) -> None:
        """Queue one output; `stored` is told what becomes of it.

        Raises RecordTooLarge, KeyError for an unknown topic, ValueError for no such partition.
        """
        route = self._routes[topic]
        size = (len(key) if key else 0) + (len(value) if value else 0) + RECORD_OVERHEAD
        if headers:
            for name, text in headers:
                size += len(name) + 10 if text is None else len(name) + len(text) + 10
        # R4: refused by the broker, it would cost every other output of this producer a second sending.
        if size > route.limit:
            raise RecordTooLarge(f"an output of {size:,} bytes; {topic!r} takes {route.limit:,} at the most")
        pipe = route.pipes[route.partitions.choose(key, partition)]
        waiting = pipe.waiting
        batch = waiting[-1] if waiting and not waiting[-1].full else self._new_batch(pipe)
        if batch.append(key=key, value=value, timestamp=timestamp, headers=headers) is None:
            batch.full = True
            self._wake.set()
            batch = self._new_batch(pipe)
            batch.append(key=key, value=value, timestamp=timestamp, headers=headers)
        batch.items.append(OutputItem(key, value, headers, timestamp, owner, size, stored))
        batch.size += size
        if stored is not None:
            self._awaited.add(stored)
            batch.awaited = True
            self._wake.set()
        if owner is not None:
            owner.outputs += 1
            owner.partition.outputs += 1
        self._outstanding += size
        if self._outstanding >= MAX_OUTSTANDING_BYTES:
            self.full = True
            self._room.clear()

    def hurry(self) -> None:
        """Nothing is running that could add to the open batches: send them."""
        if self._busy:
            self._wake.set()

    @property
    def empty(self) -> bool:
        """Whether everything that was put is acknowledged or rejected."""
        return not self._batches

    async def room(self) -> None:
        """Wait until outputs may be put again."""
        await self._room.wait()

    async def flush(self) -> None:
        """Wait until everything that was put is acknowledged or rejected."""
        self._wake.set()
        await self._empty.wait()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if self._broken is not None:
                await self._recover()
                continue
            if self._batches and not self._connected:
                await self._replace_producer()
            self._wake.clear()
            waits = await self._send_ready(loop.time())
            if self._broken is None and not self._wake.is_set():
                timer = None if waits is None else loop.call_later(waits, self._wake.set)
                await self._wake.wait()
                if timer is not None:
                    timer.cancel()

    async def stop(self) -> None:
        """Close the producer; what is not acknowledged stays so, and who waits for it is told."""
        await self._disconnect()
        for stored in self._awaited:
            if not stored.done():
                stored.set_exception(TransportError("the worker has stopped before the value was acknowledged"))
                stored.exception()  # it is no fault if nobody waits any more

    async def _disconnect(self) -> None:
        self._connected = False
        await self._producer.stop()

    def _new_batch(self, pipe: Pipe) -> OutputBatch:
        builder = self._producer.batch(min(pipe.route.limit, self._settings.batch_size))
        batch = OutputBatch(pipe, builder, next(self._numbers), asyncio.get_running_loop().time())
        pipe.waiting.append(batch)
        self._busy[pipe] = None
        self._batches += 1
        self._empty.clear()
        self._wake.set()
        return batch

    async def _send_ready(self, now: float) -> float | None:
        """Send the batches whose time has come; how long until the next one's, None if only an event can tell."""
        waits: float | None = None
        hurry = self._nothing_ready()
        for pipe in list(self._busy):
            while pipe.waiting and pipe.in_flight < IN_FLIGHT_PER_PARTITION and self._broken is None:
                batch = pipe.waiting[0]
                left = batch.opened + self._settings.linger - now
                if not (batch.full or batch.awaited or hurry or left <= 0):
                    waits = left if waits is None else min(waits, left)
                    break
                pipe.waiting.popleft()
                if not pipe.waiting:
                    del self._busy[pipe]
                await self._send(pipe, batch)
        return waits

    async def _send(self, pipe: Pipe, batch: OutputBatch) -> None:
        pipe.in_flight += 1
        batch.sent = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._settings.send_timeout):
                future = await self._producer.send(batch.builder, pipe.route.topic, pipe.partition)
        except (TransportError, TimeoutError) as error:
            pipe.in_flight -= 1
            self._failed.append(batch)
            self._break(error if isinstance(error, TransportError) else TransportError("the batch could not be sent"))
            return
        self._sent[future] = batch
        # R20: an idempotent producer never gives a batch up by itself.
        deadline = asyncio.get_running_loop().call_later(self._settings.send_timeout, self._overdue, future)
        future.add_done_callback(lambda done: self._answered(done, pipe, deadline))

    def _overdue(self, future: asyncio.Future[Stored]) -> None:
        if not future.done():
            future.set_exception(TransportError(f"not acknowledged within {self._settings.send_timeout:g} s"))

    def _answered(self, future: asyncio.Future[Stored], pipe: Pipe, deadline: asyncio.TimerHandle) -> None:
        deadline.cancel()
        batch = self._sent.pop(future, None)
        if batch is None:
            return
        pipe.in_flight -= 1
        error = None if not future.cancelled() else TransportError("the producer was closed")
        error = error or future.exception()  # type: ignore[assignment]
        if error is None:
            pipe.route.slots.duration.observe(asyncio.get_running_loop().time() - batch.sent)
            self._acknowledge(batch.items, pipe.route, pipe.partition, batch.size, future.result())
            self._close_batch()
        else:
            self._failed.append(batch)
            self._break(error if isinstance(error, TransportError) else TransportError(repr(error)))
        self._wake.set()

    def _acknowledge(
        self, items: Sequence[OutputItem], route: Route, partition: int, size: int, stored: Stored
    ) -> None:
        route.slots.acknowledged += len(items)
        self._forget(size)
        if self._awaited:
            self._tell(items, route.topic, partition, stored.offset)
        if self._placed is not None and stored.offset >= 0:
            self._placed(items, partition, stored.offset)
        self._acknowledged(items)

    def _tell(self, items: Sequence[OutputItem], topic: str, partition: int, first: int) -> None:
        """Those who wait for their outputs learn where they are."""
        for place, item in enumerate(items):
            if item.stored is not None:
                self._awaited.discard(item.stored)
                if not item.stored.done():
                    item.stored.set_result(RecordMetadata(topic, partition, first + place if first >= 0 else first))

    def _forget(self, size: int) -> None:
        self._outstanding -= size
        if self.full and self._outstanding <= MAX_OUTSTANDING_BYTES // 2:
            self.full = False
            self._room.set()

    def _close_batch(self) -> None:
        self._batches -= 1
        if not self._batches:
            self._empty.set()

    def _break(self, error: TransportError) -> None:
        if self._broken is None:
            self._broken = error
        self._wake.set()

    async def _recover(self) -> None:
        """Replace the producer and send again what it did not deliver, before anything newer."""
        log.warning(
            "a batch for %s was not delivered: %s; the producer is replaced and the batch sent again",
            self._failed[0].pipe.route.topic,
            self._broken,
        )
        if self._sent:
            await asyncio.wait(self._sent, timeout=OUTCOME_TIMEOUT)
        unsure = list(self._sent.values())
        for future in list(self._sent):
            self._sent.pop(future)
            future.cancel()
        undelivered = sorted(self._failed + unsure, key=lambda batch: batch.number)
        self._failed = []
        for batch in undelivered:
            batch.pipe.in_flight = 0
        await self._replace_producer()
        for batch in undelivered:
            await self._send_again(batch.pipe.route, batch.pipe.partition, batch.items)
            self._close_batch()
        self._broken = None

    async def _send_again(self, route: Route, partition: int, items: Sequence[OutputItem]) -> None:
        """Deliver or reject all of them, in order."""
        backoff = FIRST_BACKOFF
        while items:
            stored, error = await self._attempt(route, partition, items)
            if stored is not None:
                self._acknowledge(items, route, partition, sum(item.size for item in items), stored)
                return
            await self._replace_producer()
            if isinstance(error, TopicMissing | TopicRefused):
                for item in items:
                    self._reject(item, route, error)
                return
            if not isinstance(error, RecordTooLarge | Refused):
                log.warning("sending to %s[%d] again: %s", route.topic, partition, error)
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, LAST_BACKOFF)
            elif len(items) > 1:
                middle = len(items) // 2
                await self._send_again(route, partition, items[:middle])
                items = items[middle:]
            else:
                self._reject(items[0], route, error)
                return

    async def _attempt(
        self, route: Route, partition: int, items: Sequence[OutputItem]
    ) -> tuple[Stored, None] | tuple[None, TransportError]:
        builder = self._producer.batch(max(route.limit, self._settings.batch_size) + RECORD_OVERHEAD)
        for item in items:
            added = builder.append(key=item.key, value=item.value, timestamp=item.timestamp, headers=item.headers)
            if added is None:
                return None, RecordTooLarge("does not fit into a batch")
        clock = asyncio.get_running_loop().time
        sent = clock()
        try:
            async with asyncio.timeout(self._settings.send_timeout):
                stored = await (await self._producer.send(builder, route.topic, partition))
            route.slots.duration.observe(clock() - sent)
            return stored, None
        except TransportError as error:
            return None, error
        except TimeoutError:
            return None, TransportError(f"not acknowledged within {self._settings.send_timeout:g} s")

    def _reject(self, item: OutputItem, route: Route, error: TransportError) -> None:
        route.slots.failed += 1
        self._forget(item.size)
        if item.stored is not None:
            self._awaited.discard(item.stored)
            if not item.stored.done():
                item.stored.set_exception(error)
                if item.owner is None or not item.owner.handled:
                    # Who waits for it answers for it: as far as its record goes, this output is over.
                    self._acknowledged((item,))
                    return
        self._rejected(item, route, error)

    async def _replace_producer(self) -> None:
        """Make another producer, however long it takes."""
        backoff = FIRST_BACKOFF
        await self._disconnect()
        while not self._connected:
            self._producer = self._make_producer()
            try:
                await self.start()
            except TransportError as error:
                log.warning("a producer cannot be connected: %s; trying again", error)
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, LAST_BACKOFF)
