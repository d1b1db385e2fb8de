"""The tasks that run the handlers."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Coroutine, Sequence
from contextvars import Context, copy_context
from typing import Any, NamedTuple

from msgspec import UNSET

from streamkit.agent import Agent
from streamkit.core.lanes import Lanes
from streamkit.observe.slots import DURATION_BUCKETS, AgentSlots
from streamkit.record import TopicPartition
from streamkit.runtime.crew import Crew
from streamkit.runtime.delivery import AssignedPartition, Delivery, current
from streamkit.runtime.emitter import Emitter
from streamkit.runtime.events import Events
from streamkit.runtime.flights import Landing, fly, give_up, note_late_error, too_late
from streamkit.runtime.intake import Undecodable
from streamkit.runtime.invoke import (
    ENDED,
    SinkFailure,
    argument_decoder,
    coroutine_handler,
    report_undecodable,
    resume,
)
from streamkit.runtime.settlement import Settlement

SLICE = 0.005  # seconds that handlers that never wait may keep the loop
FIRST_BUCKET = DURATION_BUCKETS[0]


class Waiting(NamedTuple):
    """A handler that did not end at its first step."""

    delivery: Delivery
    context: Context
    coroutine: Coroutine[Any, Any, Any]
    waits_for: Any
    started: float


class Pool:
    """`concurrency` tasks that take records from the lanes.

    A handler's first step runs at once, one record after another and without a switch of tasks; only a handler that
    waits occupies its task.
    """

    def __init__(
        self,
        agent: Agent[Any, Any],
        emitter: Emitter,
        settlement: Settlement,
        slots: AgentSlots,
        events: Events,
    ) -> None:
        self._agent = agent
        self.queue: Lanes[TopicPartition, Delivery] = Lanes()
        self._publisher = emitter.publisher
        self._settlement = settlement
        self._slots = slots
        self._events = events
        self._handler = coroutine_handler(agent, emitter)
        self._decode = argument_decoder(agent)
        # The shortest way for the commonest case: a value that is there, for a handler that takes values.
        self._decode_value = agent.topics[0].value_codec.decode if agent.shape == "value" else None
        self._crew = Crew(agent.name, events.fail)
        self.enough = 2 * agent.concurrency
        self.in_flight = 0  # handlers that wait, those of closed partitions included

    def start(self) -> None:
        self._crew.start(self._work, self._agent.concurrency)

    async def end(self) -> int:
        """Cancel everything; how many handlers ignore that, and are abandoned."""
        return await self._crew.end()

    def wake(self, tasks: int) -> None:
        if self.queue.ready:
            self._crew.wake(tasks)

    def opened(self, mine: AssignedPartition) -> None:
        pass

    def put(self, mine: AssignedPartition, deliveries: Sequence[Delivery]) -> None:
        self.queue.put_all(mine.part, deliveries)

    def full(self, partition: TopicPartition) -> None:
        pass

    @property
    def ready(self) -> bool:
        return self.queue.ready

    @property
    def waiting(self) -> int:
        return self.queue.ready_count

    async def _work(self) -> None:
        while not self._crew.ended:
            waiting = self._sprint()
            if waiting is not None:
                self.wake(2)  # a handler that waits leaves the loop to others: more tasks join in
                await self._finish_waiting(waiting)
            elif self._publisher.full:
                await self._publisher.room()
            elif self.queue.ready and asyncio.get_running_loop().time() < self._events.lease:
                await asyncio.sleep(0)
            else:
                await self._crew.until_woken()

    def _sprint(self) -> Waiting | None:
        """Run records one after another until a handler waits, nothing is ready, or the slice is over.

        The hot path: everything it calls for a record that does not wait is a plain function.
        """
        clock = asyncio.get_running_loop().time
        take, release, publisher = self.queue.take, self.queue.release, self._publisher
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
                    report_undecodable(self._events, delivery, error)
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
                release(mine.part, delivery)
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

    async def _finish_waiting(self, waiting: Waiting) -> None:
        delivery, context, coroutine, waits_for, started = waiting
        limit = self._agent.timeout
        self.in_flight += 1
        try:
            rest = resume(context, coroutine, waits_for)
            landing = await fly(delivery, rest, None if limit is None else started + limit)
        finally:
            self.in_flight -= 1
        self._observe(asyncio.get_running_loop().time() - started)
        match landing:
            case Landing("handled"):
                self._handled(delivery)
            case Landing("given up", error):
                self._given_up(delivery, error)
            case Landing("late"):
                self._events.failed(delivery, "handle", TimeoutError(too_late(limit)))
            case Landing("raised", BaseException() as error):
                self._raised(delivery, error)
            case _:
                self._events.progressed()

    def _handled(self, delivery: Delivery) -> None:
        """The handler has returned, its outputs are queued: the key goes on. A late result of a closed window only
        ends what blocked that key."""
        delivery.handled = True
        self.queue.release(delivery.partition.part, delivery)
        self._slots.processed_success += 1
        if not delivery.outputs:
            self._settlement.note(delivery)
            self._settlement.soon()
        self._events.progressed()

    def _given_up(self, delivery: Delivery, error: BaseException | None) -> None:
        """Cancelled by a revoke or stop: not handled, not settled, to be run again by whoever has the partition."""
        note_late_error(self._agent.name, error)
        give_up(delivery)
        self.queue.release(delivery.partition.part, delivery)
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
