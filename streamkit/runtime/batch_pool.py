"""The tasks that run the handlers of batches."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Coroutine, Sequence
from contextvars import copy_context
from typing import Any

from streamkit.agent import Agent
from streamkit.batch import BatchError
from streamkit.core.batches import Batches, Line
from streamkit.observe.slots import DURATION_BUCKETS, AgentSlots
from streamkit.record import TopicPartition
from streamkit.runtime.crew import Crew
from streamkit.runtime.delivery import AssignedPartition, Bundle, Delivery, current
from streamkit.runtime.emitter import Emitter
from streamkit.runtime.events import Events
from streamkit.runtime.flights import Landing, fly, give_up, note_late_error, too_late
from streamkit.runtime.invoke import SinkFailure, argument_decoder, batch_handler, drive, report_undecodable
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
        self.queue: Batches[TopicPartition, Delivery] = Batches(agent.batch.size, agent.batch.within)
        self.enough = 2 * agent.concurrency * agent.batch.size
        self.in_flight = 0  # records

    @property
    def waiting(self) -> int:
        return self.queue.waiting

    @property
    def ready(self) -> bool:
        return False  # what a batch sends comes at once, and need not wait for what the next one sends

    def start(self) -> None:
        self._crew.start(self._work, self._agent.concurrency)

    async def end(self) -> int:
        if self._timer is not None:
            self._timer.cancel()
        return await self._crew.end()

    def wake(self, tasks: int) -> None:
        self._crew.wake(tasks)

    def opened(self, mine: AssignedPartition) -> None:
        pass

    def put(self, mine: AssignedPartition, deliveries: Sequence[Delivery]) -> None:
        self.queue.put_all(mine.part, deliveries, asyncio.get_running_loop().time())

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
        bundle = Bundle(deliveries[: len(items)], deliveries[0].partition)
        context = copy_context()
        context.run(current.set, bundle)
        loop = asyncio.get_running_loop()
        started, limit = loop.time(), self._agent.timeout
        self.in_flight += len(items)
        try:
            rest: Coroutine[Any, Any, None] = drive(context, self._handler(items))
            landing = await fly(bundle, rest, None if limit is None else started + limit)
        finally:
            self.in_flight -= len(items)
        seconds = loop.time() - started
        self._slots.duration_counts[bisect_left(DURATION_BUCKETS, seconds)] += 1
        self._slots.duration_sum += seconds
        self._land(line, bundle, landing)

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
                    report_undecodable(self._events, delivery, error)
                break
        return items

    def _land(self, line: Line[TopicPartition, Delivery], bundle: Bundle, landing: Landing) -> None:
        match landing:
            case Landing("handled"):
                self._handled(bundle)
                self.queue.release(line)
            case Landing("given up", error):
                note_late_error(self._agent.name, error)
                give_up(bundle)
                self._slots.processed_cancelled += len(bundle.deliveries)
                self.queue.release(line)
            case Landing("late"):
                self._events.failed(bundle, "handle", TimeoutError(too_late(self._agent.timeout)))
            case Landing("raised", BatchError() as error):
                self._partly_failed(bundle, error)
            case Landing("raised", SinkFailure() as error):
                self._events.failed(bundle, "sink", error.__cause__ or error)
            case Landing("raised", BaseException() as error):
                self._events.failed(bundle, "handle", error)
        self._events.progressed()

    def _handled(self, bundle: Bundle) -> None:
        bundle.handled = True
        self._slots.processed_success += len(bundle.deliveries)
        if not bundle.outputs:
            self._settlement.note(bundle)
            self._settlement.soon()

    def _partly_failed(self, bundle: Bundle, error: BatchError) -> None:
        deliveries = bundle.deliveries
        if max(error.errors) >= len(deliveries):
            error.add_note(f"The batch had {len(deliveries)} records: there is no place {max(error.errors)}.")
            self._events.failed(bundle, "handle", error)
            return
        bundle.failed = len(error.errors) == len(deliveries)  # nothing is left that its outputs could settle or fail
        bundle.deliveries = [each for place, each in enumerate(deliveries) if place not in error.errors]
        for place, cause in error.errors.items():
            self._events.failed(deliveries[place], "handle", cause)
        self._handled(bundle)
