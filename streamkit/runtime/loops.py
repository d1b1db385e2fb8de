"""The loop shape: a handler that asks for record after record, one loop a partition."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextvars import Context, copy_context
from typing import Any

from msgspec import UNSET

from streamkit.agent import Agent
from streamkit.core.batches import Batches, Line
from streamkit.errors import UserCodeFailed
from streamkit.observe.slots import AgentSlots
from streamkit.record import TopicPartition
from streamkit.runtime.crew import Crew
from streamkit.runtime.delivery import AssignedPartition, Bundle, Delivery, Flight, Owner, current
from streamkit.runtime.emitter import Emitter
from streamkit.runtime.events import Events
from streamkit.runtime.flights import give_up, landing, note_late_error, too_late
from streamkit.runtime.invoke import CurrentOwner, SinkFailure, argument_decoder, loop_handler, report_undecodable
from streamkit.runtime.parking import note_lateness
from streamkit.runtime.pool import SLICE
from streamkit.runtime.settlement import Settlement
from streamkit.stream import Stream

RUN = 500  # records that a loop takes at a time, to hand them out one by one
ENOUGH = 1_000


class Loops:
    """One loop for each assigned partition, each in a task of its own."""

    def __init__(
        self, agent: Agent[Any, Any], emitter: Emitter, settlement: Settlement, slots: AgentSlots, events: Events
    ) -> None:
        self._agent = agent
        self._emitter = emitter
        self._settlement = settlement
        self._slots = slots
        self._events = events
        self._decode = argument_decoder(agent)
        self._handler = loop_handler(agent, emitter)
        self._crew = Crew(agent.name, events.fail)
        self._loops: dict[Line[TopicPartition, Delivery], Loop] = {}  # the latest of each line, though it has failed
        self._context = copy_context()
        self.queue: Batches[TopicPartition, Delivery] = Batches(RUN, 0.0)
        self.enough = ENOUGH

    @property
    def in_flight(self) -> int:
        return sum(loop.busy for loop in list(self._loops.values()))

    @property
    def waiting(self) -> int:
        return self.queue.waiting

    @property
    def ready(self) -> bool:
        return any(loop.has_more for loop in self._loops.values())

    @property
    def plenty(self) -> bool:
        return False  # a record that has failed keeps its whole partition waiting

    def start(self) -> None:
        self._context = copy_context()

    async def end(self) -> int:
        return await self._crew.end()

    def wake(self, _tasks: int) -> None:
        for loop in list(self._loops.values()):
            if loop.has_more:
                loop.wake()

    def opened(self, mine: AssignedPartition) -> None:
        """Begin the loop of an assigned partition; of a tier's only when it is needed."""
        if mine.tier is None:
            self._begin(mine)

    def _begin(self, mine: AssignedPartition) -> None:
        loop = Loop(
            self._agent,
            mine,
            self.queue,
            self._decode,
            self._emitter,
            self._settlement,
            self._slots,
            self._events,
            self._context.copy(),
        )
        self._loops[mine.part] = loop
        mine.part.on_halt = lambda: self._halted(loop)

        async def work() -> None:
            try:
                await loop.run(self._handler)
            finally:
                if mine.halted:
                    self._forget(loop)
                self.wake(0)  # its partition's next loop may have waited for its end

        self._crew.start(work, context=loop.context)

    def _halted(self, loop: Loop) -> None:
        if loop.ended:
            self._forget(loop)
        loop.wake()

    def _forget(self, loop: Loop) -> None:
        """A loop that has ended with its record runs no more, and must not hold up that of the next assignment."""
        self._loops.pop(loop.mine.part, None)
        self.queue.release(loop.mine.part)

    @property
    def keys(self) -> int:
        """Partitions that have records. From any thread."""
        return self.queue.lines

    def running(self, _partitions: Collection[AssignedPartition]) -> Iterator[tuple[Delivery, float]]:
        """Records that loops have, and the loop time since when. From any thread."""
        for loop in list(self._loops.values()):
            delivery = loop.delivery
            if delivery is not None:
                yield delivery, loop.started

    def put(self, mine: AssignedPartition, deliveries: Sequence[Delivery]) -> None:
        self.queue.put_all(mine.part, deliveries, 0.0)
        if mine.part not in self._loops:
            self._begin(mine)  # of a tier whose source's partition is another worker's

    def runs(self, owner: Owner) -> bool:
        loop = self._loops.get(owner.part)
        return loop is not None and loop.has(owner)

    @property
    def startable(self) -> bool:
        return any(loop.startable for loop in self._loops.values())

    def again(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.queue.put_back(delivery.part, [delivery])
            self._go_on(delivery)

    def rejoin(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.queue.put_all(delivery.part, [delivery], 0.0)
        self.wake(0)

    def finished(self, delivery: Delivery) -> None:
        self._go_on(delivery)

    def _go_on(self, delivery: Delivery) -> None:
        """Its loop waits for the record's fate, or has ended with it and begins anew."""
        loop = self._loops.get(delivery.part)
        if loop is None:
            return
        if loop.ended:
            self._begin(loop.mine)
        else:
            loop.go_on()

    def full(self, partition: TopicPartition) -> None:
        pass


class Loop:
    """The loop of one partition, and what its stream iterates over.

    Asking for the next record states that the one before is handled. When the partition is given back, the stream ends,
    and what the handler does after its loop is drained like any other handler.
    """

    def __init__(
        self,
        agent: Agent[Any, Any],
        mine: AssignedPartition,
        queue: Batches[TopicPartition, Delivery],
        decode: Callable[[Any], Any],
        emitter: Emitter,
        settlement: Settlement,
        slots: AgentSlots,
        events: Events,
        context: Context,
    ) -> None:
        self._agent = agent
        self.mine = mine
        self._line: Line[TopicPartition, Delivery] = mine.part
        self._queue = queue
        self._decode = decode
        self._publisher = emitter.publisher
        self._settlement = settlement
        self._slots = slots
        self._queue_wait = slots.queue_wait
        self._events = events
        self._counted = events.counted
        self._clock = asyncio.get_running_loop().time
        self.context = context  # of its task
        self._run: list[Delivery] = []  # taken from the queue, the next one last
        self._outside = Bundle((), mine)  # what the handler sends before its first record and after its last
        self._delivery: Delivery | None = None  # the record that the handler has
        self._started = 0.0
        self._until = 0.0  # when others get the loop, or when the lease is over
        self._woken: asyncio.Future[None] | None = None
        self._asked = False
        self._stuck = False  # until the fate of a record that could not be decoded is settled
        self._flight: Flight
        self.ended = False

    @property
    def busy(self) -> bool:
        return self._delivery is not None

    @property
    def delivery(self) -> Delivery | None:
        """What the handler has."""
        return self._delivery

    @property
    def started(self) -> float:
        """Loop time when it got that."""
        return self._started

    @property
    def has_more(self) -> bool:
        return bool(self._run or self._line.items)

    @property
    def startable(self) -> bool:
        """Whether it waits for leave to hand out a record."""
        return not (self.ended or self._stuck or self.busy) and self.has_more

    def has(self, owner: Owner) -> bool:
        return not self.ended and (owner is self._delivery or owner is self._outside)

    def go_on(self) -> None:
        self._stuck = False
        self.wake()

    def wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def run(self, handler: Callable[[Stream[Any], CurrentOwner], Any]) -> None:
        """To its end, which is judged here."""
        task = asyncio.current_task()
        assert task is not None
        self._flight = flight = Flight(self._outside, task)
        self.mine.flights.add(flight)
        current.set(self._outside)
        error: BaseException | None = None
        try:
            await handler(Stream(self), self._owner)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as caught:
            error = caught
        finally:
            self.mine.flights.discard(flight)
            self._disarm()
            self.ended = self._outside.handled = True
        while task.uncancel():
            pass
        try:
            self._end(error)
        finally:
            error = None  # whose traceback holds this frame: a cycle would keep all of it until the next collection
        self._events.progressed()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        """The hot path: while it need not wait, a record costs one coroutine and one look at the clock."""
        if self._asked:
            raise RuntimeError("the stream is asked for its next record by two tasks at a time")
        self._asked = True
        try:
            if self._flight.cancelled_by and self._delivery is not None:
                await self._let_cancellation_through()
            now = self._clock()
            if self._delivery is not None:
                self._handled(self._delivery, now)
            while not self._line.halted:
                if self._publisher.full:
                    await self._publisher.room()
                elif self._stuck:
                    await self._until_woken()
                elif now >= self._until:
                    await self._others_first()
                elif not self._run:
                    await self._refill(now)
                elif self._events.tripped and not self._events.permit():
                    await self._until_woken()
                else:
                    delivery = self._run.pop()
                    try:
                        item = self._decode(delivery.record)
                    except Exception as error:
                        self._stuck = True
                        self._put_back_run()
                        report_undecodable(self._events, delivery, error)
                        continue
                    if delivery.argument is not UNSET:
                        note_lateness(self._slots, delivery, now)
                    self._delivery = delivery
                    delivery.probe = self._events.tripped
                    self._started = now
                    waited = now - delivery.ready_since
                    self._queue_wait.counts[bisect_left(self._queue_wait.bounds, waited)] += 1
                    self._queue_wait.sum += waited if waited > 0 else 0.0
                    self._speak_for(delivery)
                    if self._agent.timeout is not None:
                        self._arm(now + self._agent.timeout)
                    return item
                now = self._clock()
            self._run.clear()
            self._speak_for(self._outside)
            raise StopAsyncIteration
        finally:
            self._asked = False

    def _put_back_run(self) -> None:
        """So that what comes before it again does so."""
        self._queue.put_back(self._line, self._run[::-1])
        self._run.clear()

    def _speak_for(self, owner: Delivery | Bundle) -> None:
        """What is sent from here on belongs to it: by the loop, and by who asks for its record, should that be another
        task."""
        current.set(owner)
        if asyncio.current_task() is not self._flight.task:
            self.context.run(current.set, owner)

    async def _others_first(self) -> None:
        await asyncio.sleep(0)
        now, lease = self._clock(), self._events.lease
        if now < lease:
            self._until = min(now + SLICE, lease)
        elif not self._line.halted:  # R14: what would run now may be another member's already
            await self._until_woken()

    async def _refill(self, now: float) -> None:
        self._queue.release(self._line)
        self._run = self._queue.take_from(self._line, now)
        self._run.reverse()
        if not self._run:
            self._events.starved()
            self._publisher.hurry()
            await self._until_woken()

    async def _until_woken(self) -> None:
        self._woken = asyncio.get_running_loop().create_future()
        try:
            await self._woken
        finally:
            self._woken = None

    def _owner(self) -> Delivery | Bundle:
        return self._outside if self._delivery is None else self._delivery

    def _handled(self, delivery: Delivery, now: float) -> None:
        self._delivery = None
        if self._flight.timer is not None:
            self._disarm()
        seconds = now - self._started
        slots, mine, processing = self._slots, delivery.partition, self._slots.processing
        bounds = processing.bounds
        processing.counts[0 if seconds <= bounds[0] else bisect_left(bounds, seconds)] += 1
        processing.sum += seconds
        if delivery.record.headers:
            processing.trace(seconds, delivery.record.headers, slots.clock.since_1970 + now)
        if delivery.failed:  # while it ran: an output was rejected
            delivery.left = True
            self._events.failed_before(delivery)
            return
        delivery.handled = True
        slots.processed_success += 1
        if self._counted:
            self._events.returned(1, now)
        if not delivery.outputs:
            if self._counted:
                self._events.failing.pop(delivery.record.key, None)
                self._events.succeeded(1, now, probe=delivery.probe)
            mine.settling.append(delivery.sequence)
            mine.bytes -= delivery.size
            if delivery.record.headers:
                mine.traced.append(delivery.record)
            self._settlement.soon()

    def _arm(self, when: float) -> None:
        self._flight.timer = asyncio.get_running_loop().call_at(when, self._flight.cancel, "timeout")

    def _disarm(self) -> None:
        if self._flight.timer is not None:
            self._flight.timer.cancel()
            self._flight.timer = None

    async def _let_cancellation_through(self) -> None:
        """It hits here while the record is still the handler's; else the handler has taken it for its own."""
        await asyncio.sleep(0)
        if self._flight.cancelled_by == "timeout":
            self._flight.cancelled_by = ""
            self._flight.task.uncancel()

    def _end(self, error: BaseException | None) -> None:
        delivery = self._delivery
        self._delivery = None
        how = landing(self._outside if delivery is None else delivery, self._flight, error)
        if how == "failed before":
            if delivery is not None:
                self._put_back_run()
                self._events.failed_before(delivery)
            return
        if how == "handled" and not self._line.halted:
            early = RuntimeError("the loop ended before its stream did: `async for` must go on until the stream ends")
            how, error = "raised", early
        match how:
            case "handled" | "given up":
                self._given_back(delivery, error)
            case "late" if delivery is not None:
                self._put_back_run()
                late = TimeoutError(too_late(self._agent.timeout))
                self._events.failed(delivery, "handle", late, late=True)
            case _:
                assert error is not None
                self._raised(delivery, error)

    def _given_back(self, delivery: Delivery | None, error: BaseException | None) -> None:
        note_late_error(self._agent.name, delivery or self._outside, error)
        if delivery is not None:  # the handler has not asked for the next one
            if not delivery.failed or delivery.rejection is not None:  # else counted already
                self._slots.processed_cancelled += 1
            give_up(delivery)
        self._queue.release(self._line)

    def _raised(self, delivery: Delivery | None, error: BaseException) -> None:
        topic, number = self.mine.partition
        self._put_back_run()
        if delivery is None:
            what = f"the loop of agent {self._agent.name!r} on {topic}[{number}], outside of a record,"
            cause = error.__cause__ if isinstance(error, SinkFailure) else None
            self._slots.note_error("handle" if cause is None else "sink", cause or error)
            self._events.fail(UserCodeFailed(what, cause or error))
        elif isinstance(error, SinkFailure):
            self._events.failed(delivery, "sink", error.__cause__ or error)
        else:
            self._events.failed(delivery, "handle", error)
