"""The tasks that run the handlers."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Coroutine
from contextvars import Context, copy_context
from typing import Any, NamedTuple, Protocol

from msgspec import UNSET

from streamkit.agent import Agent
from streamkit.core.lanes import Lanes
from streamkit.errors import Stage
from streamkit.observe.slots import DURATION_BUCKETS, AgentSlots
from streamkit.record import TopicPartition
from streamkit.runtime.delivery import Delivery, Flight, current
from streamkit.runtime.emitter import Emitter
from streamkit.runtime.intake import Undecodable
from streamkit.runtime.invoke import (
    ENDED,
    KeyUndecodable,
    SinkFailure,
    argument_decoder,
    coroutine_handler,
    resume,
)
from streamkit.runtime.membership import CANCEL_GRACE
from streamkit.runtime.settlement import Settlement

log = logging.getLogger(__name__)

SLICE = 0.005  # seconds that handlers that never wait may keep the loop
FIRST_BUCKET = DURATION_BUCKETS[0]


class Waiting(NamedTuple):
    """A handler that did not end at its first step."""

    delivery: Delivery
    context: Context
    coroutine: Coroutine[Any, Any, Any]
    waits_for: Any
    started: float


class Events(Protocol):
    """Who is told what happens in the pool."""

    @property
    def lease(self) -> float:
        """Loop time until which records may be started."""
        ...

    def failed(self, delivery: Delivery, stage: Stage, cause: BaseException, raw: bytes | None = None, /) -> None:
        """The record is not handled and is never released; `raw` is what could not be decoded."""
        ...

    def fail(self, error: Exception, /) -> None:
        """A task of the pool has died."""
        ...

    def progressed(self) -> None:
        """A handler that had to wait has ended."""
        ...

    def starved(self) -> None:
        """Nothing is ready to run."""
        ...


class Pool:
    """`concurrency` tasks that take records from the lanes.

    A handler's first step runs at once, one record after another and without a switch of tasks; only a handler that
    waits occupies its task.
    """

    def __init__(
        self,
        agent: Agent[Any, Any],
        lanes: Lanes[TopicPartition, Delivery],
        emitter: Emitter,
        settlement: Settlement,
        slots: AgentSlots,
        events: Events,
    ) -> None:
        self._agent = agent
        self._lanes = lanes
        self._publisher = emitter.publisher
        self._settlement = settlement
        self._slots = slots
        self._events = events
        self._handler = coroutine_handler(agent, emitter)
        self._decode = argument_decoder(agent)
        # The shortest way for the commonest case: a value that is there, for a handler that takes values.
        self._decode_value = agent.topics[0].value_codec.decode if agent.shape == "value" else None
        self._idle: deque[asyncio.Future[None]] = deque()
        self._tasks: list[asyncio.Task[None]] = []
        self._ended = False  # a task whose handler took a cancellation for its own goes no further
        self.in_flight = 0  # handlers that wait, those of closed partitions included

    def start(self) -> None:
        # Not in a task group: it would wait for ever for a handler that ignores its cancellation.
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._guarded()) for _ in range(self._agent.concurrency)]

    async def end(self) -> int:
        """Cancel everything; how many handlers ignore that, and are abandoned."""
        self._ended = True
        for task in self._tasks:
            task.cancel()
        if not self._tasks:
            return 0
        _, stuck = await asyncio.wait(self._tasks, timeout=CANCEL_GRACE)
        if stuck:
            log.error("agent %s: %d handlers ignore their cancellation and are abandoned", self._agent.name, len(stuck))
        return len(stuck)

    def wake(self, tasks: int) -> None:
        idle = self._idle
        while tasks and idle and self._lanes.ready:
            ready = idle.popleft()
            if not ready.done():
                ready.set_result(None)
                tasks -= 1

    async def _guarded(self) -> None:
        try:
            await self._work()
        except asyncio.CancelledError:
            if self._ended:
                raise
            self._events.fail(RuntimeError("a handler has cancelled the task that runs it, and ended before that"))
        except Exception as error:
            log.exception("agent %s: unexpected error in the engine", self._agent.name)
            self._events.fail(error)

    async def _work(self) -> None:
        while not self._ended:
            waiting = self._sprint()
            if waiting is not None:
                self.wake(2)  # a handler that waits leaves the loop to others: more tasks join in
                await self._finish_waiting(waiting)
            elif self._publisher.full:
                await self._publisher.room()
            elif self._lanes.ready and asyncio.get_running_loop().time() < self._events.lease:
                await asyncio.sleep(0)
            else:
                await self._until_ready()

    def _sprint(self) -> Waiting | None:
        """Run records one after another until a handler waits, nothing is ready, or the slice is over.

        The hot path: everything it calls for a record that does not wait is a plain function.
        """
        clock = asyncio.get_running_loop().time
        take, release, publisher = self._lanes.take, self._lanes.release, self._publisher
        handler, decode, plain = self._handler, self._decode, self._decode_value
        slots, counts = self._slots, self._slots.duration_counts
        started = begun = clock()
        # R14: what would run after the lease may be another member's already.
        until = min(begun + SLICE, self._events.lease)
        done = fast = 0
        try:
            while started < until and not publisher.full:
                delivery = take()
                if delivery is None:
                    self._events.starved()
                    publisher.hurry()
                    return None
                try:
                    argument = delivery.argument
                    if argument is UNSET:
                        value = delivery.record.value
                        argument = decode(delivery.record) if plain is None or value is None else plain(value)
                    elif type(argument) is Undecodable:
                        raise argument.error
                except Exception as error:
                    self._undecodable(delivery, error)
                    return None
                current.set(delivery)
                context = copy_context()
                coroutine = handler(argument)
                try:
                    # With `next` and a default, a coroutine that ends costs no exception: half of all the rest.
                    waits_for = context.run(next, coroutine.__await__(), ENDED)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # SystemExit too: a task that died of it would hold its lane
                    self._raised(delivery, error)
                    return None
                if waits_for is not ENDED:
                    return Waiting(delivery, context, coroutine, waits_for, started)
                done += 1
                delivery.handled = True
                mine = delivery.partition
                release(mine.track, delivery)
                if not delivery.outputs:
                    mine.settling.append(delivery.sequence)
                    mine.bytes -= delivery.size
                ended = clock()
                if ended - started <= FIRST_BUCKET:
                    fast += 1
                else:
                    counts[bisect_left(DURATION_BUCKETS, ended - started)] += 1
                started = ended
            return None
        finally:
            counts[0] += fast
            slots.processed_success += done
            slots.duration_sum += started - begun
            self._settlement.settle()

    async def _until_ready(self) -> None:
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(ready)
        await ready

    async def _finish_waiting(self, waiting: Waiting) -> None:
        delivery, context, coroutine, waits_for, started = waiting
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        flight = Flight(delivery, task)
        if self._agent.timeout is not None:
            flight.timer = loop.call_at(started + self._agent.timeout, flight.cancel, "timeout")
        delivery.partition.flights.add(flight)
        self.in_flight += 1
        error: BaseException | None = None
        try:
            await resume(context, coroutine, waits_for)
        except (KeyboardInterrupt, GeneratorExit):  # the latter closes the task itself
            raise
        except BaseException as caught:
            error = caught
        finally:
            delivery.partition.flights.discard(flight)
            self.in_flight -= 1
            if flight.timer is not None:
                flight.timer.cancel()
        self._observe(loop.time() - started)
        if error is not None or flight.cancelled_by:
            while task.uncancel():
                pass
        self._land(delivery, flight, error)

    def _land(self, delivery: Delivery, flight: Flight, error: BaseException | None) -> None:
        if delivery.failed:  # while it ran: an output was rejected
            self._events.progressed()
            return
        if error is None:
            self._handled(delivery)
        elif delivery.partition.window.closed or flight.cancelled_by == "revoke":
            self._given_up(delivery, error)
        elif flight.cancelled_by == "timeout" and isinstance(error, asyncio.CancelledError):
            limit = TimeoutError(f"not done within its timeout of {self._agent.timeout:g} s")
            self._events.failed(delivery, "handle", limit)
        else:
            self._raised(delivery, error)

    def _handled(self, delivery: Delivery) -> None:
        """The handler has returned, its outputs are queued: the key goes on. A late result of a closed window only
        ends what blocked that key."""
        delivery.handled = True
        self._lanes.release(delivery.partition.track, delivery)
        self._slots.processed_success += 1
        if not delivery.outputs:
            self._settlement.note(delivery)
            self._settlement.soon()
        self._events.progressed()

    def _given_up(self, delivery: Delivery, error: BaseException) -> None:
        """Cancelled by a revoke or stop: not handled, not settled, to be run again by whoever has the partition."""
        if not isinstance(error, asyncio.CancelledError):
            log.warning("agent %s: a cancelled handler raised %r", self._agent.name, error)
        delivery.handled = True  # it sends no more
        self._lanes.release(delivery.partition.track, delivery)
        self._slots.processed_cancelled += 1
        self._events.progressed()

    def _observe(self, seconds: float) -> None:
        self._slots.duration_counts[bisect_left(DURATION_BUCKETS, seconds)] += 1
        self._slots.duration_sum += seconds

    def _raised(self, delivery: Delivery, error: BaseException) -> None:
        if isinstance(error, SinkFailure):
            self._events.failed(delivery, "sink", error.__cause__ or error)
        else:
            self._events.failed(delivery, "handle", error)

    def _undecodable(self, delivery: Delivery, error: Exception) -> None:
        record = delivery.record
        if isinstance(error, KeyUndecodable):
            self._events.failed(delivery, "decode-key", error.__cause__ or error, record.key)
        else:
            self._events.failed(delivery, "decode-value", error, record.value)
