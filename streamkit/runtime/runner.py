"""One agent at work: from the poll to the settled record."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping, Sequence
from contextvars import Context, copy_context
from typing import Any, NamedTuple

from msgspec import UNSET

from streamkit.agent import Agent
from streamkit.core.commits import CommitSchedule
from streamkit.core.flow import Flow, FlowLimits, next_fetch
from streamkit.core.lanes import Lanes
from streamkit.errors import LostRange, RecordFailed, Stage, StreamkitError, TransportError
from streamkit.observe.slots import DURATION_BUCKETS, AgentSlots, WorkerSlots
from streamkit.record import TopicPartition
from streamkit.runtime.committer import Committer
from streamkit.runtime.delivery import AssignedPartition, Delivery, Flight, current
from streamkit.runtime.emitter import Emitter
from streamkit.runtime.invoke import (
    ENDED,
    KeyUndecodable,
    SinkFailure,
    argument_decoder,
    coroutine_handler,
    record_decoder,
    resume,
)
from streamkit.runtime.membership import CANCEL_GRACE, Membership
from streamkit.runtime.publisher import OutputItem, Publisher, Route
from streamkit.settings import Settings
from streamkit.transport.base import Admin, ConsumedRecord, LogRange, OffsetOutOfRange, Transport

log = logging.getLogger(__name__)

POLL_RECORDS = 500  # more only outgrow the processor's cache
POLL_TIMEOUT = 0.2
POLL_TIMEOUT_CLOSED = 0.01  # some partition may reopen at any moment
SLICE = 0.005  # how long handlers that never wait may keep the loop
READ_AHEAD_EVERY = 0.02
WATCH_EVERY = 0.25
GONE_AFTER = 3.0  # a topic that is missing for this long is looked for; metadata may be wrong for a moment (R32)
RECORD_COST = 250  # bytes of memory that a record takes besides its key and value
FIRST_BUCKET = DURATION_BUCKETS[0]
ENOUGH_READY = 256  # records; with fewer, or too few for every task to have two, the next are polled
WHOLE_PARTITION = True  # the lane of all records under order_by="partition"


class Waiting(NamedTuple):
    """A handler that did not end at its first step."""

    delivery: Delivery
    context: Context
    coroutine: Coroutine[Any, Any, Any]
    waits_for: Any
    started: float


class Undecodable(NamedTuple):
    """Stands in for the argument of a record that could not be decoded before its turn."""

    error: Exception


class Runner:
    """Runs one agent until it is stopped or fails.

    A pool of `concurrency` tasks takes records from the lanes. A handler's first step runs at once, without a switch;
    only one that waits occupies its task. Whatever fails stops the agent in order: what runs is drained, what is
    settled is committed, the group is left; `run` then raises the first failure.
    """

    def __init__(
        self, agent: Agent[Any, Any], settings: Settings, transport: Transport, admin: Admin, slots: WorkerSlots
    ) -> None:
        self.agent = agent
        self._settings = settings
        self._admin = admin
        (self._topic,) = (topic.name for topic in agent.topics)
        self.slots: AgentSlots = slots.agent(agent.name, agent.group, (self._topic,), agent.concurrency)
        self.slots.in_flight = lambda: self._in_flight
        self._consumer = transport.consumer(agent.group)
        self._lanes: Lanes[TopicPartition, Delivery] = Lanes()
        self._flow: Flow[TopicPartition] = Flow(
            FlowLimits(settings.max_partition_unsettled, settings.window, settings.max_records, settings.max_bytes)
        )
        self.publisher = Publisher(
            transport.producer,
            settings,
            slots,
            nothing_ready=lambda: not self._lanes.ready,
            acknowledged=self._acknowledged,
            rejected=self._rejected,
        )
        self.emitter = Emitter(self.publisher, agent.sink)
        self._committer = Committer(
            self._consumer,
            CommitSchedule(settings.commit_interval, settings.commit_records),
            self.slots,
            self._to_commit,
            timeout=settings.request_timeout,
        )
        self.membership = Membership(
            agent, settings, self._consumer, admin, self._lanes, self._committer, self.emitter, self.slots
        )
        self._handler = coroutine_handler(agent, self.emitter)
        self._decode = argument_decoder(agent)
        # The shortest way for the commonest case: a value that is there, for a handler that takes values.
        self._decode_value = agent.topics[0].value_codec.decode if agent.shape == "value" else None
        self._lane_key = self._choose_lane_key(agent)
        self._enough_ready = max(ENOUGH_READY, 2 * agent.concurrency)
        self._idle: deque[asyncio.Future[None]] = deque()
        self._room = asyncio.Event()
        self._hungry = asyncio.Event()
        self._stopping = asyncio.Event()
        self._failure: Exception | None = None
        self._settles_soon = False
        self._in_flight = 0  # handlers that wait, those of closed partitions included
        self._ended = False  # a task whose handler took a cancellation for its own goes no further
        self.abandoned = 0  # handlers that ignored their cancellation

    async def run(self, partitions: int) -> None:
        """Raises the agent's failure. `partitions` of the topic are known to exist."""
        loop = asyncio.get_running_loop()
        pool: list[asyncio.Task[None]] = []
        try:
            await self._consumer.start()
            if self.agent.sink is not None:
                await self.publisher.start()
            await self.membership.look_back([TopicPartition(self._topic, number) for number in range(partitions)])
            # Not in the task group: it would wait for ever for a handler that ignores its cancellation.
            pool = [loop.create_task(self._guarded(self._work())) for _ in range(self.agent.concurrency)]
            async with asyncio.TaskGroup() as group:
                engine = [
                    group.create_task(self._guarded(work))
                    for work in (self._poll(), self._committer.run(), self.publisher.run(), self._watch())
                ]
                self._consumer.subscribe([self._topic], self.membership)
                await self._stopping.wait()
                await self.membership.leave()
                for task in engine:
                    task.cancel()
        finally:
            await self._end(pool)
            await self.publisher.stop()
            await self._consumer.stop()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Begin the ordered end of `run`."""
        self._stopping.set()

    def fail(self, error: Exception) -> None:
        """Stop because of an error; the first one counts."""
        if self._failure is None:
            self._failure = error
        elif error is not self._failure:
            log.error("agent %s: another failure while stopping: %s", self.agent.name, error)
        self.membership.halt()
        self._stopping.set()

    def settled_to(self, ranges: Mapping[TopicPartition, LogRange]) -> bool:
        """Whether everything up to these ends is settled, or nothing is assigned. Not while that changes."""
        return self.membership.gate.is_set() and all(
            mine.window.committable >= ranges[partition].end if partition in ranges else False
            for partition, mine in self.membership.partitions.items()
        )

    # Intake

    async def _poll(self) -> None:
        membership, consumer = self.membership, self._consumer
        wanted: Sequence[TopicPartition] = ()
        while not self._stopping.is_set():
            await self._until_assigned()
            # Read before anything is computed from the assignment: there may be another one at any await.
            epoch = membership.epoch
            loads = {partition: mine.load for partition, mine in membership.partitions.items()}
            wanted, at_most = next_fetch(self._flow.open(loads), POLL_RECORDS, wanted)
            if wanted and self._lanes.ready_count > self._enough_ready:
                # What is read ahead of the handlers only grows the working set; but a partition is never forgotten.
                await self._until_hungry()
            if not wanted:
                await consumer.poll((), max_records=1, timeout=0)
                await self._until_room()
                continue
            timeout = POLL_TIMEOUT if len(wanted) == len(loads) else POLL_TIMEOUT_CLOSED
            try:
                batches = await consumer.poll(wanted, max_records=at_most, timeout=timeout)
            except OffsetOutOfRange as error:
                await membership.gap(error.partition, error.offset)
                continue
            if epoch == membership.epoch:
                self._take_in(wanted, batches)
                await asyncio.sleep(0)
            else:
                await self._rewind(batches)

    def _take_in(
        self, polled: Sequence[TopicPartition], batches: Mapping[TopicPartition, Sequence[ConsumedRecord]]
    ) -> None:
        """Register and queue; nothing is awaited in between, so no rebalance can come between poll and window."""
        partitions, position = self.membership.partitions, self._consumer.position
        for partition, records in batches.items():
            self._register(partitions[partition], records)
        for partition in polled:
            window = partitions[partition].window
            read_to = position(partition)
            if read_to > window.next_offset:  # past markers and holes, which are never delivered
                window.reach(read_to)
                self._committer.settled(0)
        self._wake(1)

    def _register(self, mine: AssignedPartition, records: Sequence[ConsumedRecord]) -> None:
        sequence, seen = mine.window.register_all([record.offset for record in records])
        if seen:
            records = records[seen:]
        self.slots.consumed[self._topic] += len(records)
        if mine.skip is not None:
            self._register_unless_settled(mine, records, sequence, mine.skip)
            return
        lane_key = self._lane_key
        deliveries: list[Delivery] = []
        size = 0
        for record in records:
            key, value = record.key, record.value
            cost = RECORD_COST + (len(value) if value else 0) + (len(key) if key else 0)
            size += cost
            deliveries.append(Delivery(record, sequence, mine, cost, key))
            sequence += 1
        if lane_key is not None:
            for delivery in deliveries:
                delivery.lane = lane_key(delivery)
        self._lanes.put_all(mine.track, deliveries)
        mine.bytes += size

    def _register_unless_settled(
        self, mine: AssignedPartition, records: Sequence[ConsumedRecord], sequence: int, skip: Any
    ) -> None:
        """After a restart: what the offset map says is settled moves the window and does not run again."""
        lane_key = self._lane_key
        for record in records:
            if skip.settled(record.offset):
                mine.window.settle(sequence)
                self.slots.skipped += 1
            else:
                cost = RECORD_COST + len(record.value or b"") + len(record.key or b"")
                mine.bytes += cost
                delivery = Delivery(record, sequence, mine, cost, record.key)
                if lane_key is not None:
                    delivery.lane = lane_key(delivery)
                self._lanes.put(mine.track, delivery)
            sequence += 1
        self._committer.settled(len(records))
        if mine.window.next_offset >= skip.end:
            mine.skip = None

    async def _rewind(self, batches: Mapping[TopicPartition, Sequence[ConsumedRecord]]) -> None:
        """A rebalance came between a poll and its records: they are not taken in, and must be fetched again.

        Dropping them would lose them: the poll has moved the position after the new assignment had sought it.
        """
        await self._until_assigned()
        for partition in batches:
            mine = self.membership.partitions.get(partition)
            if mine is not None:
                self._consumer.seek(partition, mine.window.next_offset)

    async def _until_assigned(self) -> None:
        """Wait while the assignment changes. What goes wrong meanwhile is raised by a poll, and by nothing else."""
        gate = self.membership.gate
        while not gate.is_set():
            await self._consumer.poll((), max_records=1, timeout=0)
            try:
                async with asyncio.timeout(POLL_TIMEOUT):
                    await gate.wait()
            except TimeoutError:
                pass

    async def _until_hungry(self) -> None:
        self._hungry.clear()
        timer = asyncio.get_running_loop().call_later(READ_AHEAD_EVERY, self._hungry.set)
        await self._hungry.wait()
        timer.cancel()

    async def _until_room(self) -> None:
        self._room.clear()
        try:
            async with asyncio.timeout(1.0):  # and show the group that we are alive
                await self._room.wait()
        except TimeoutError:
            pass

    def _choose_lane_key(self, agent: Agent[Any, Any]) -> Callable[[Delivery], Hashable] | None:
        """None means the raw key."""
        order_by = agent.order_by
        if order_by == "key":
            return None
        if order_by == "partition":
            return lambda _delivery: WHOLE_PARTITION
        if not callable(order_by):
            return lambda _delivery: None
        decode, shape, choose = record_decoder(agent), agent.shape, order_by

        def chosen(delivery: Delivery) -> Hashable:
            try:
                record = decode(delivery.record)
                key = choose(record)
                hash(key)
            except Exception as error:
                delivery.argument = Undecodable(error)
                return delivery.record.key
            delivery.argument = record if shape == "record" else record.value
            # Not mixed up with the raw key of a record for which the function failed.
            return ("order_by", key)

        return chosen

    # Work

    async def _work(self) -> None:
        while not self._ended:
            waiting = self._sprint()
            if waiting is not None:
                self._wake(2)  # a handler that waits leaves the loop to others: more tasks join in
                await self._finish_waiting(waiting)
            elif self.publisher.full:
                await self.publisher.room()
            elif self._lanes.ready and self.leased:
                await asyncio.sleep(0)
            else:
                await self._until_ready()

    def _sprint(self) -> Waiting | None:
        """Run records one after another until a handler waits, nothing is ready, or the slice is over.

        The hot path: everything it calls for a record that does not wait is a plain function.
        """
        clock = asyncio.get_running_loop().time
        take, release, publisher = self._lanes.take, self._lanes.release, self.publisher
        handler, decode, plain = self._handler, self._decode, self._decode_value
        slots, counts = self.slots, self.slots.duration_counts
        started = begun = clock()
        # R14: what would run after the lease may be another member's already.
        until = min(begun + SLICE, self._consumer.lease)
        done = fast = 0
        try:
            while started < until and not publisher.full:
                delivery = take()
                if delivery is None:
                    self._hungry.set()
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
            self._settle()

    async def _finish_waiting(self, waiting: Waiting) -> None:
        delivery, context, coroutine, waits_for, started = waiting
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        flight = Flight(delivery, task)
        if self.agent.timeout is not None:
            flight.timer = loop.call_at(started + self.agent.timeout, flight.cancel, "timeout")
        delivery.partition.flights.add(flight)
        self._in_flight += 1
        error: BaseException | None = None
        try:
            await resume(context, coroutine, waits_for)
        except (KeyboardInterrupt, GeneratorExit):  # the latter closes the task itself
            raise
        except BaseException as caught:
            error = caught
        finally:
            delivery.partition.flights.discard(flight)
            self._in_flight -= 1
            if flight.timer is not None:
                flight.timer.cancel()
        self._observe(loop.time() - started)
        if error is not None or flight.cancelled_by:
            while task.uncancel():
                pass
        self._land(delivery, flight, error)

    def _land(self, delivery: Delivery, flight: Flight, error: BaseException | None) -> None:
        if delivery.failed:  # while it ran: an output was rejected
            self.membership.progressed()
            return
        if error is None:
            self._handled(delivery)
        elif delivery.partition.window.closed or flight.cancelled_by == "revoke":
            self._given_up(delivery, error)
        elif flight.cancelled_by == "timeout" and isinstance(error, asyncio.CancelledError):
            limit = TimeoutError(f"not done within its timeout of {self.agent.timeout:g} s")
            self._failed(delivery, "handle", limit)
        else:
            self._raised(delivery, error)

    def _handled(self, delivery: Delivery) -> None:
        """The handler has returned, its outputs are queued: the key goes on. A late result of a closed window only
        ends what blocked that key."""
        delivery.handled = True
        self._lanes.release(delivery.partition.track, delivery)
        self.slots.processed_success += 1
        if not delivery.outputs:
            mine = delivery.partition
            mine.settling.append(delivery.sequence)
            mine.bytes -= delivery.size
            self._settle_soon()
        self.membership.progressed()

    def _given_up(self, delivery: Delivery, error: BaseException) -> None:
        """Cancelled by a revoke or stop: not handled, not settled, to be run again by whoever has the partition."""
        if not isinstance(error, asyncio.CancelledError):
            log.warning("agent %s: a cancelled handler raised %r", self.agent.name, error)
        delivery.handled = True  # it sends no more
        self._lanes.release(delivery.partition.track, delivery)
        self.slots.processed_cancelled += 1
        self.membership.progressed()

    def _settle_soon(self) -> None:
        """Once for all handlers that end in this step of the loop; a commit does not wait for it."""
        if not self._settles_soon:
            self._settles_soon = True
            asyncio.get_running_loop().call_soon(self._settle)

    def _to_commit(self) -> list[AssignedPartition]:
        self._settle()
        return list(self.membership.partitions.values())

    def _settle(self) -> None:
        """Move the windows by what was noted in `settling`."""
        self._settles_soon = False
        settled = 0
        for mine in self.membership.partitions.values():
            if mine.settling:
                settled += mine.window.settle_all(mine.settling)
                mine.settling.clear()
        if settled:
            self._committer.settled(settled)
            self._room.set()
            self.membership.progressed()

    def _observe(self, seconds: float) -> None:
        self.slots.duration_counts[bisect_left(DURATION_BUCKETS, seconds)] += 1
        self.slots.duration_sum += seconds

    # Outputs

    def _acknowledged(self, items: Sequence[OutputItem]) -> None:
        for item in items:
            owner = item.owner
            if owner is None:
                continue
            mine = owner.partition
            mine.outputs -= 1
            owner.outputs -= 1
            if not owner.outputs and owner.handled and not owner.failed:
                mine.settling.append(owner.sequence)
                mine.bytes -= owner.size
        self._settle()
        self.membership.progressed()

    def _rejected(self, item: OutputItem, route: Route, error: TransportError) -> None:
        owner = item.owner
        if owner is None:
            self.fail(error)
            return
        owner.partition.outputs -= 1
        if owner.partition.window.closed:
            # The record runs again where its partition is now, and fails there if it must.
            log.warning("agent %s: an output of a record that was given back: %s", self.agent.name, error)
        elif not owner.failed:
            self._failed(owner, "sink", error)
        self.membership.progressed()

    # Failures

    def _raised(self, delivery: Delivery, error: BaseException) -> None:
        if isinstance(error, SinkFailure):
            self._failed(delivery, "sink", error.__cause__ or error)
        else:
            self._failed(delivery, "handle", error)

    def _undecodable(self, delivery: Delivery, error: Exception) -> None:
        record = delivery.record
        if isinstance(error, KeyUndecodable):
            self._failed(delivery, "decode-key", error.__cause__ or error, record.key)
        else:
            self._failed(delivery, "decode-value", error, record.value)

    def _failed(self, delivery: Delivery, stage: Stage, cause: BaseException, raw: bytes | None = None) -> None:
        """The record stays where it is: unsettled, and never released, so its key is blocked. The agent stops."""
        record = delivery.record
        delivery.handled = delivery.failed = True
        self.membership.progressed()
        self.slots.processed_error += 1
        failure = RecordFailed(
            self.agent.name,
            stage,
            record.topic,
            record.partition,
            record.offset,
            record.key,
            cause,
            group=self.agent.group,
            raw=raw,
        )
        failure.__cause__ = cause
        self.fail(failure)

    # Waiting and watching

    @property
    def leased(self) -> bool:
        """Whether the group is known to count this member in."""
        return asyncio.get_running_loop().time() < self._consumer.lease

    async def _until_ready(self) -> None:
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(ready)
        await ready

    def _wake(self, tasks: int) -> None:
        idle = self._idle
        while tasks and idle and self._lanes.ready:
            ready = idle.popleft()
            if not ready.done():
                ready.set_result(None)
                tasks -= 1

    async def _watch(self) -> None:
        """What no event tells: a lease that has run out or come back, a topic that is gone."""
        loop = asyncio.get_running_loop()
        missing_since: float | None = None
        while True:
            await asyncio.sleep(WATCH_EVERY)
            if self.leased:
                self._wake(1)
            if self._consumer.partition_count(self._topic):
                missing_since = None
            elif missing_since is None:
                missing_since = loop.time()
            elif loop.time() - missing_since >= GONE_AFTER:
                await self._check_topic()

    async def _check_topic(self) -> None:
        try:
            found = await self._admin.topics([self._topic])
        except TransportError:
            return
        if self._topic not in found:
            committable = min((mine.window.committable for mine in self.membership.partitions.values()), default=0)
            first = min((number for _, number in self.membership.partitions), default=0)
            raise LostRange(self.agent.group, self._topic, first, committed=committable, start=None, end=None)

    async def _guarded(self, work: Awaitable[None]) -> None:
        """Every failure ends the agent in order, and not by tearing down its task group."""
        try:
            await work
        except StreamkitError as error:
            self.fail(error)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._ended or (task is not None and task.cancelling()):
                raise
            # A client library's task was cancelled, not this one: a task group would take that for a quiet end.
            self.fail(TransportError("the transport's work was cancelled from within"))
        except Exception as error:
            log.exception("agent %s: unexpected error in the engine", self.agent.name)
            self.fail(error)

    async def _end(self, pool: Sequence[asyncio.Task[None]]) -> None:
        self._ended = True
        for task in pool:
            task.cancel()
        if not pool:
            return
        _, stuck = await asyncio.wait(pool, timeout=CANCEL_GRACE)
        self.abandoned = len(stuck)
        if stuck:
            log.error("agent %s: %d handlers ignore their cancellation and are abandoned", self.agent.name, len(stuck))
