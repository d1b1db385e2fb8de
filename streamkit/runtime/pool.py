"""The tasks that run the handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Iterator, Sequence
from contextvars import Context, copy_context
from itertools import pairwise
from math import inf
from typing import Any, NamedTuple

from msgspec import UNSET

from streamkit.agent import Agent
from streamkit.core.lanes import Lanes
from streamkit.observe.slots import AgentSlots
from streamkit.record import TopicPartition
from streamkit.runtime.crew import Crew
from streamkit.runtime.delivery import AssignedPartition, Delivery, Owner, current
from streamkit.runtime.emitter import Emitter
from streamkit.runtime.events import Events
from streamkit.runtime.flights import Landing, flies, fly, flying, give_up, note_late_error, too_late
from streamkit.runtime.intake import Undecodable
from streamkit.runtime.invoke import (
    ENDED,
    SinkFailure,
    argument_decoder,
    coroutine_handler,
    report_undecodable,
    resume,
)
from streamkit.runtime.parking import Due, note_lateness
from streamkit.runtime.settlement import Settlement

SLICE = 0.005  # seconds that handlers that never wait may keep the loop


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
        self._processing, self._queue_wait = slots.processing, slots.queue_wait
        self._events = events
        self._failing = events.failing
        self._handler = coroutine_handler(agent, emitter)
        self._decode = argument_decoder(agent)
        # The shortest way for the commonest case: a value that is there, for a handler that takes values.
        self._decode_value = agent.topics[0].value_codec.decode if agent.shape == "value" else None
        self._crew = Crew(agent.name, events.fail)
        self.enough = 2 * agent.concurrency
        self._stumbled = False  # the last sprint ended with a record that failed
        self._waiting = 0  # handlers that wait, those of closed partitions included
        # For other threads, while a handler keeps this one: what has its first step, and when each had it so far.
        self._stepping: Delivery | None = None
        self._turns = [0.0]

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

    @property
    def keys(self) -> int:
        """That have records. From any thread."""
        return self.queue.keys

    @property
    def in_flight(self) -> int:
        """Records whose handler runs. From any thread."""
        return self._waiting + (self._stepping is not None)

    def running(self, partitions: Collection[AssignedPartition]) -> Iterator[tuple[Delivery, float]]:
        """Records whose handlers run, and the loop time when they began. From any thread."""
        yield from flying(partitions)
        stepping, turns = self._stepping, self._turns
        if stepping is not None and stepping.partition in partitions:
            yield stepping, turns[-1]

    def put(self, mine: AssignedPartition, deliveries: Sequence[Delivery]) -> None:
        self.queue.put_all(mine.part, deliveries)

    def runs(self, owner: Owner) -> bool:
        return flies(owner)

    @property
    def startable(self) -> bool:
        return self.queue.ready

    def again(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.queue.again(delivery.part, delivery)
        self.wake(len(deliveries))

    def rejoin(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.queue.put(delivery.part, delivery)
        self.wake(len(deliveries))

    def finished(self, delivery: Delivery) -> None:
        self.queue.release(delivery.part, delivery)
        self.wake(1)

    def full(self, partition: TopicPartition) -> None:
        pass

    @property
    def ready(self) -> bool:
        return self.queue.ready

    @property
    def plenty(self) -> bool:
        return self.queue.ready_count > self.enough

    @property
    def waiting(self) -> int:
        return self.queue.ready_count

    async def _work(self) -> None:
        while not self._crew.ended:
            tripped = self._events.tripped
            if tripped and not (self.queue.ready and self._events.permit()):
                await self._crew.until_woken()
                continue
            waiting = self._sprint(once=tripped)
            if self._stumbled:
                waiting = self._sprint_on()
            if waiting is not None:
                self.wake(2)  # a handler that waits leaves the loop to others: more tasks join in
                await self._finish_waiting(waiting)
            elif self._publisher.full:
                await self._publisher.room()
            elif self.queue.ready and asyncio.get_running_loop().time() < self._events.lease:
                await asyncio.sleep(0)
            else:
                await self._crew.until_woken()

    def _sprint_on(self) -> Waiting | None:
        """After a record that failed: a turn of the loop for each would cost as much as many that do not fail."""
        clock, waiting = asyncio.get_running_loop().time, None
        until = clock() + SLICE
        while self._stumbled and not self._events.tripped and clock() < until:
            waiting = self._sprint(once=False)
        return waiting

    def _sprint(self, once: bool) -> Waiting | None:
        """Run records one after another until a handler waits, nothing is ready, or the slice is over; or only one.

        The hot path: everything it calls for a record that does not wait is a plain function.
        """
        clock = asyncio.get_running_loop().time
        take, release, publisher = self.queue.take, self.queue.release, self._publisher
        handler, decode, plain = self._handler, self._decode, self._decode_value
        slots, failing = self._slots, self._failing
        started = clock()
        # R14: what would run after the lease may be another member's already.
        until = min(started + SLICE, self._events.lease)
        turns = self._turns = [started]  # when each record was begun, and the one before it ended
        # Those that came together follow each other for the most part: how long they waited is told of all at once.
        came = -inf
        arrivals: list[tuple[int, float]] = []
        silent = 0
        undecodable: tuple[Delivery, Exception] | None = None
        raised: tuple[Delivery, BaseException] | None = None
        waiting: Waiting | None = None
        try:
            while started < until and not publisher.full:
                delivery = take()
                if delivery is None:
                    self._events.starved()
                    publisher.hurry()
                    return None
                if once:  # also of one that ran before, and was held
                    delivery.probe = True
                try:
                    argument = delivery.argument
                    if argument is UNSET:
                        value = delivery.record.value
                        argument = decode(delivery.record) if plain is None or value is None else plain(value)
                    else:
                        argument = self._prepared(delivery, argument)
                except Exception as error:
                    undecodable = delivery, error
                    return None
                if delivery.ready_since is not came:
                    came = delivery.ready_since
                    arrivals.append((len(turns) - 1, came))
                current.set(delivery)
                self._stepping = delivery
                context = copy_context()
                coroutine = handler(argument)
                try:
                    # With `next` and a default, a coroutine that ends costs no exception: half of all the rest.
                    waits_for = context.run(next, coroutine.__await__(), ENDED)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # SystemExit too: a task that died of it would hold its lane
                    raised = delivery, error
                    return None
                if waits_for is not ENDED:
                    waiting = Waiting(delivery, context, coroutine, waits_for, started)
                    return waiting
                delivery.handled = True
                mine = delivery.partition
                release(delivery.part, delivery)
                if not delivery.outputs:
                    silent += 1
                    if failing:
                        failing.pop(delivery.record.key, None)
                    mine.settling.append(delivery.sequence)
                    mine.bytes -= delivery.size
                ended = clock()
                turns.append(ended)
                if delivery.record.headers:
                    self._trace(delivery, ended - started, ended)
                started = ended
                if once:
                    return None
            return None
        finally:
            self._stepping = None
            done = len(turns) - 1
            slots.processed_success += done
            if done:
                self._processing.observe_gaps(turns)
                arrivals.append((done + (waiting is not None or raised is not None), inf))
                for (first, came), (end, _) in pairwise(arrivals):
                    self._queue_wait.observe_since(came, turns[first:end])
            elif arrivals:  # of one record: handlers that wait are on the hot path too
                self._queue_wait.observe(max(0.0, started - came))
            self._settlement.settle()
            self._events.returned(done, started)
            self._events.succeeded(silent, started, probe=once)  # the others when their outputs are acknowledged
            self._stumbled = undecodable is not None or raised is not None
            # After what came before it.
            if undecodable is not None:
                report_undecodable(self._events, *undecodable)
            elif raised is not None:
                self._raised(*raised)
            # Their tracebacks hold this frame: a cycle would keep all of it until the next collection.
            undecodable = raised = None

    def _prepared(self, delivery: Delivery, argument: object) -> object:
        """The argument of a record that is not as it was read. Raises what its decoder has raised, or raises."""
        if type(argument) is Due:
            note_lateness(self._slots, delivery, asyncio.get_running_loop().time())
            argument = delivery.argument
        if type(argument) is Undecodable:
            raise argument.error
        return self._decode(delivery.record) if argument is UNSET else argument

    async def _finish_waiting(self, waiting: Waiting) -> None:
        delivery, context, coroutine, waits_for, started = waiting
        limit = self._agent.timeout
        self._waiting += 1
        try:
            rest = resume(context, coroutine, waits_for)
            landing = await fly(delivery, rest, started, limit)
        finally:
            self._waiting -= 1
        ended = asyncio.get_running_loop().time()
        self._processing.observe(ended - started)
        if delivery.record.headers:
            self._processing.trace(ended - started, delivery.record.headers, self._slots.clock.since_1970 + ended)
        match landing:
            case Landing("handled"):
                self._handled(delivery, ended)
            case Landing("given up", error):
                self._given_up(delivery, error)
            case Landing("late"):
                self._events.failed(delivery, "handle", TimeoutError(too_late(limit)), late=True, began=started)
            case Landing("raised", BaseException() as error):
                self._raised(delivery, error, started)
            case _:
                self._events.failed_before(delivery)
        self._events.progressed()

    def _handled(self, delivery: Delivery, now: float) -> None:
        """The handler has returned, its outputs are queued: the key goes on. A late result of a closed window only
        ends what blocked that key."""
        delivery.handled = True
        self.queue.release(delivery.part, delivery)
        self._slots.processed_success += 1
        self._events.returned(1, now)
        if not delivery.outputs:
            self._settlement.note(delivery)
            self._settlement.soon()
            self._failing.pop(delivery.record.key, None)
            self._events.succeeded(1, now, probe=delivery.probe)

    def _given_up(self, delivery: Delivery, error: BaseException | None) -> None:
        """Cancelled by a revoke or stop: not handled, not settled, to be run again by whoever has the partition."""
        note_late_error(self._agent.name, delivery, error)
        if not delivery.failed or delivery.rejection is not None:  # else counted already
            self._slots.processed_cancelled += 1
        give_up(delivery)
        self.queue.release(delivery.part, delivery)

    def _trace(self, delivery: Delivery, seconds: float, now: float) -> None:
        """Of a record that has headers."""
        if not delivery.outputs:
            delivery.partition.traced.append(delivery.record)
        self._processing.trace(seconds, delivery.record.headers, self._slots.clock.since_1970 + now)

    def _raised(self, delivery: Delivery, error: BaseException, began: float = inf) -> None:
        if isinstance(error, SinkFailure):
            self._events.failed(delivery, "sink", error.__cause__ or error, began=began)
        else:
            self._events.failed(delivery, "handle", error, began=began)
