"""The tasks that run the handlers of batches."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any

from msgspec import UNSET

from streamkit.agent import Agent
from streamkit.batch import BatchError
from streamkit.core.batches import Batches, Line
from streamkit.observe.slots import AgentSlots
from streamkit.record import TopicPartition
from streamkit.runtime.crew import Crew
from streamkit.runtime.delivery import AssignedPartition, Bundle, Delivery, Owner, current
from streamkit.runtime.emitter import Emitter
from streamkit.runtime.events import Events
from streamkit.runtime.flights import Landing, flies, fly, flying, give_up, note_late_error, too_late
from streamkit.runtime.invoke import SinkFailure, argument_decoder, batch_handler, drive, report_undecodable
from streamkit.runtime.parking import note_lateness
from streamkit.runtime.settlement import Settlement


class BatchPool:
    """`concurrency` tasks that take batches, one of a partition at a time.

    A batch is handled and settled as a whole: a record of it that were settled ahead of what the whole batch has sent
    would not run again after a crash.
    """

    def __init__(
        self, agent: Agent[Any, Any], emitter: Emitter, settlement: Settlement, slots: AgentSlots, events: Events
    ) -> None:
        assert agent.batch is not None
        self._agent = agent
        self._publisher = emitter.publisher
        self._settlement = settlement
        self._slots = slots
        self._events = events
        self._handler = batch_handler(agent, emitter)
        self._decode = argument_decoder(agent)
        self._crew = Crew(agent.name, events.fail)
        self._timer: asyncio.TimerHandle | None = None
        self._unresolved: Counter[Line[TopicPartition, Delivery]] = Counter()  # records of the batch taken last
        self._repeated: dict[Line[TopicPartition, Delivery], list[Delivery]] = {}  # those of them that run again
        self.queue: Batches[TopicPartition, Delivery] = Batches(agent.batch.size, agent.batch.within)
        self.enough = 2 * agent.concurrency * agent.batch.size
        self.in_flight = 0  # records

    @property
    def waiting(self) -> int:
        return self.queue.waiting

    @property
    def ready(self) -> bool:
        return False  # what a batch sends comes at once, and need not wait for what the next one sends

    @property
    def plenty(self) -> bool:
        return False  # a batch that has failed keeps its whole partition waiting

    def start(self) -> None:
        self._crew.start(self._work, self._agent.concurrency)

    async def end(self) -> int:
        if self._timer is not None:
            self._timer.cancel()
        return await self._crew.end()

    def wake(self, tasks: int) -> None:
        self._crew.wake(tasks)

    def opened(self, mine: AssignedPartition) -> None:
        mine.part.on_halt = lambda: self._forget_fates(mine.part)

    @property
    def keys(self) -> int:
        """Partitions that have records. From any thread."""
        return self.queue.lines

    def running(self, partitions: Collection[AssignedPartition]) -> Iterator[tuple[Delivery, float]]:
        """Records of batches that run, and the loop time when they began. From any thread."""
        return flying(partitions)

    def put(self, mine: AssignedPartition, deliveries: Sequence[Delivery]) -> None:
        self.queue.put_all(mine.part, deliveries, asyncio.get_running_loop().time())

    def runs(self, owner: Owner) -> bool:
        return flies(owner)

    @property
    def startable(self) -> bool:
        return self.queue.wait(asyncio.get_running_loop().time()) == 0

    def again(self, deliveries: Sequence[Delivery]) -> None:
        lines: dict[Line[TopicPartition, Delivery], list[Delivery]] = {}
        for delivery in deliveries:
            lines.setdefault(delivery.part, []).append(delivery)
        for line, repeated in lines.items():
            self._repeated.setdefault(line, []).extend(repeated)
            self._resolved(line, len(repeated))

    def rejoin(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.queue.put_all(delivery.part, [delivery], asyncio.get_running_loop().time())
        self.wake(1)

    def finished(self, delivery: Delivery) -> None:
        self._resolved(delivery.part, 1)

    def _resolved(self, line: Line[TopicPartition, Delivery], count: int) -> None:
        """When all of the batch are: what runs again does so, and else the line goes on."""
        self._unresolved[line] -= count
        if self._unresolved[line] > 0:
            return
        del self._unresolved[line]
        repeated = self._repeated.pop(line, None)
        if repeated:
            self.queue.again(line, sorted(repeated, key=lambda delivery: delivery.sequence))
        else:
            self.queue.release(line)
        self.wake(1)

    def _forget_fates(self, line: Line[TopicPartition, Delivery]) -> None:
        """A batch whose handler has ended runs no more in a line that is halted, and must not hold up the next one."""
        if self._unresolved.pop(line, 0):
            self._repeated.pop(line, None)
            self.queue.release(line)

    def full(self, partition: TopicPartition) -> None:
        if self.queue.hurry(partition):
            self.wake(1)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._crew.ended:
            while self._publisher.full:
                await self._publisher.room()
            now = loop.time()
            # R14: what would run after the lease may be another member's already.
            if now >= self._events.lease:
                await self._crew.until_woken()  # by who watches the lease: a batch may be complete all the while
                continue
            if self._events.tripped and self.queue.wait(now) == 0 and not self._events.permit():
                await self._crew.until_woken()
                continue
            taken = self.queue.take(now)
            if taken is None:
                self._events.starved()
                self._wake_when_complete(now)
                await self._crew.until_woken()
                continue
            self.wake(1)  # another batch may be complete too
            await self._run(*taken)
            await asyncio.sleep(0)

    def _wake_when_complete(self, now: float) -> None:
        """One timer serves all tasks: every change of what waits wakes one, which sets it anew."""
        if self._timer is not None:
            self._timer.cancel()
        wait = self.queue.wait(now)
        self._timer = None if wait is None else asyncio.get_running_loop().call_later(wait, self.wake, 1)

    async def _run(self, line: Line[TopicPartition, Delivery], deliveries: list[Delivery]) -> None:
        items = self._decoded(line, deliveries)
        if not items:
            return
        bundle = Bundle(deliveries[: len(items)], deliveries[0].partition, probe=self._events.tripped)
        for delivery in bundle.deliveries:
            delivery.probe = bundle.probe
        context = copy_context()
        context.run(current.set, bundle)
        loop = asyncio.get_running_loop()
        started, limit = loop.time(), self._agent.timeout
        arrivals = sorted(delivery.ready_since for delivery in bundle.deliveries)
        self._slots.queue_wait.observe_ages(arrivals, started)
        self.in_flight += len(items)
        try:
            rest: Coroutine[Any, Any, None] = drive(context, self._handler(items))
            landing = await fly(bundle, rest, started, limit)
        finally:
            self.in_flight -= len(items)
        ended = loop.time()
        self._slots.processing.observe(ended - started)
        self._land(line, bundle, landing, started, ended)

    def _decoded(self, line: Line[TopicPartition, Delivery], deliveries: Sequence[Delivery]) -> list[Any]:
        """What the handler gets: everything up to a record that cannot be decoded, which then begins the next batch,
        and as its first has failed."""
        items: list[Any] = []
        decode = self._decode
        for delivery in deliveries:
            try:
                items.append(decode(delivery.record))
            except Exception as error:
                if items:
                    self.queue.put_back(line, deliveries[len(items) :])
                else:
                    self.queue.put_back(line, deliveries[1:])
                    self._unresolved[line] = 1
                    report_undecodable(self._events, delivery, error)
                break
            if delivery.argument is not UNSET:
                note_lateness(self._slots, delivery, asyncio.get_running_loop().time())
        return items

    def _land(
        self, line: Line[TopicPartition, Delivery], bundle: Bundle, landing: Landing, began: float, now: float
    ) -> None:
        failed = partial(self._events.failed_batch, began=began)
        match landing:
            case Landing("handled"):
                self._handled(bundle)
                self._events.returned(len(bundle.deliveries), now)
                if not bundle.outputs:
                    for delivery in bundle.deliveries if self._events.failing else ():
                        self._events.failing.pop(delivery.record.key, None)
                    self._events.succeeded(len(bundle.deliveries), now, probe=bundle.probe)
                self.queue.release(line)
            case Landing("given up", error):
                note_late_error(self._agent.name, bundle, error)
                if not bundle.failed or bundle.rejection is not None:  # else counted already
                    self._slots.processed_cancelled += len(bundle.deliveries)
                give_up(bundle)
                self.queue.release(line)
            case Landing("late"):
                late = TimeoutError(too_late(self._agent.timeout))
                self._settle_fates(line, bundle, partial(failed, bundle, late, "handle", late=True))
            case Landing("raised", BatchError() as error):
                errors = _named(bundle, error)
                self._settle_fates(line, bundle, partial(failed, bundle, errors, "handle"))
            case Landing("raised", SinkFailure() as error):
                cause = error.__cause__ or error
                self._settle_fates(line, bundle, partial(failed, bundle, cause, "sink"))
            case Landing("raised", BaseException() as error):
                self._settle_fates(line, bundle, partial(failed, bundle, error, "handle"))
            case _:
                self._settle_fates(line, bundle, partial(self._events.failed_before, bundle))
        self._events.progressed()

    def _settle_fates(self, line: Line[TopicPartition, Delivery], bundle: Bundle, decide: Callable[[], None]) -> None:
        """What the decision leaves in the batch is handled; the line goes on when the fate of the others is settled."""
        self._unresolved[line] = len(bundle.deliveries)
        decide()
        if bundle.deliveries and not bundle.failed:
            self._handled(bundle)
            self._resolved(line, len(bundle.deliveries))
        if line.halted:
            self._forget_fates(line)

    def _handled(self, bundle: Bundle) -> None:
        bundle.handled = True
        for delivery in bundle.deliveries:
            delivery.handled = True
        self._slots.processed_success += len(bundle.deliveries)
        if not bundle.outputs:
            self._settlement.note(bundle)
            self._settlement.soon()


def _named(bundle: Bundle, error: BatchError) -> Mapping[int, BaseException] | BaseException:
    """The records that have failed, by place; the error itself if there is no such place."""
    places, last = len(bundle.deliveries), max(error.errors)
    if last < places:
        return error.errors
    error.add_note(f"The batch had {places} records: there is no place {last}.")
    return error
