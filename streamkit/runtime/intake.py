"""The way in: polling, and from a poll to the lanes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from math import inf
from typing import Any, NamedTuple, Protocol

from streamkit.agent import Agent
from streamkit.core.copies import Origin
from streamkit.core.due import remaining
from streamkit.core.flow import Flow, FlowLimits, next_fetch
from streamkit.core.offset_map import SkipList
from streamkit.errors import TransportError
from streamkit.observe.slots import Activity, AgentSlots, Closing
from streamkit.record import ConsumedRecord, TopicPartition
from streamkit.retry import tier_topic
from streamkit.runtime.committer import Committer
from streamkit.runtime.delivery import WHOLE_PARTITION, AssignedPartition, Delivery
from streamkit.runtime.invoke import record_decoder
from streamkit.runtime.membership import Membership
from streamkit.runtime.parking import Due, Parking
from streamkit.runtime.retry_topics import Tier
from streamkit.runtime.returned import from_tier
from streamkit.settings import Settings
from streamkit.transport.base import Consumer, OffsetOutOfRange

POLL_RECORDS = 500  # more only outgrow the processor's cache
POLL_TIMEOUT = 0.2
POLL_TIMEOUT_CLOSED = 0.01  # some partition may reopen at any moment
SHOW_LIFE_EVERY = 1.0
READ_AHEAD_EVERY = 0.02
TIERS_EVERY = 0.2  # while there is work to do
RECORD_COST = 250  # bytes of memory that a record takes besides its key and value
ENOUGH_READY = 256  # records; with fewer, or too few for every task to have two, the next are polled

LaneKey = Callable[[Delivery], Hashable]


class Work(Protocol):
    """Where records wait for the handlers."""

    @property
    def enough(self) -> int:
        """With more records than these waiting, no more need be read."""
        ...

    @property
    def waiting(self) -> int:
        """Records that could run now, were there tasks enough."""
        ...

    def put(self, mine: AssignedPartition, deliveries: Sequence[Delivery], /) -> None:
        """Queue records in this partition's part of the queue: its own ones, or those of its tiers."""
        ...

    def full(self, partition: TopicPartition, /) -> None:
        """The partition gets no more records before some of those it has are settled."""
        ...

    def wake(self, tasks: int, /) -> None: ...


class Undecodable(NamedTuple):
    """Stands in for the argument of a record that could not be decoded before its turn."""

    error: Exception


class Intake:
    """Reads as far ahead as the bounds of memory and the appetite of the handlers allow."""

    def __init__(
        self,
        agent: Agent[Any, Any],
        settings: Settings,
        consumer: Consumer,
        membership: Membership,
        work: Work,
        committer: Committer,
        slots: AgentSlots,
        *,
        note_cases: Callable[[AssignedPartition, Sequence[Delivery]], None] | None,
        tripped: Callable[[], bool],
        wait_for_retries: bool,
        wall: Callable[[], float],
    ) -> None:
        """`note_cases` is shown the records that have headers and are to run, unless it is None."""
        self._consumer = consumer
        self._membership = membership
        self._work = work
        self._committer = committer
        self._slots = slots
        self._flow: Flow[TopicPartition] = Flow(
            FlowLimits(settings.max_partition_unsettled, settings.window, settings.max_records, settings.max_bytes)
        )
        self._lane_key = lane_key(agent)
        self._note_cases = note_cases
        self._tripped = tripped
        self._group = agent.group
        self._wait_for_retries = wait_for_retries
        self._wall = wall
        self.returning = Parking(self._due, wall)
        self._enough_ready = max(ENOUGH_READY, work.enough)
        self._tiers_read_at = -inf  # loop time
        self._any_closed = False
        self._counted_to = 0.0  # loop time up to which it is known what was done
        self.room = asyncio.Event()  # something has settled
        self.hungry = asyncio.Event()  # nothing is ready to run

    async def run(self) -> None:
        membership, consumer = self._membership, self._consumer
        wanted: Sequence[TopicPartition] = ()
        self._counted_to = asyncio.get_running_loop().time()
        while True:
            await self._until_assigned()
            self._spent("rebalance")
            self._slots.read_at = asyncio.get_running_loop().time()
            # Read before anything is computed from the assignment: there may be another one at any await.
            epoch = membership.epoch
            loads = {partition: mine.load for partition, mine in membership.partitions.items()}
            # An open breaker may need records that lie beyond those that fail, to see that others succeed.
            rooms = self._flow.open(loads, windows=2 if self._tripped() else 1)
            self._note_closed(loads.keys() - rooms.keys() if len(rooms) < len(loads) else ())
            rooms, before = self._without_tiers(rooms), wanted
            wanted, at_most = next_fetch(rooms, POLL_RECORDS, before)
            self._note_turns(rooms, before, wanted)
            if wanted and self._work.waiting > self._enough_ready:
                # What is read ahead of the handlers only grows the working set; but a partition is never forgotten.
                await self._until_hungry()
                self._spent("backpressure")
            if not wanted:
                await consumer.poll((), max_records=1, timeout=0)
                await self._until_room()
                self._spent("backpressure")
                continue
            timeout = POLL_TIMEOUT if len(wanted) == len(loads) else POLL_TIMEOUT_CLOSED
            try:
                batches = await consumer.poll(wanted, max_records=at_most, timeout=timeout)
            except OffsetOutOfRange as error:
                self._slots.note_error("fetch", error)
                await membership.gap(error.partition, error.offset)
                continue
            except TransportError as error:
                self._slots.note_error("fetch", error)
                raise
            self._spent("poll")
            if epoch == membership.epoch:
                self._take_in(wanted, batches)
                self._spent("dispatch")
                await asyncio.sleep(0)
                self._spent("backpressure")  # the handlers had their turn
            else:
                await self._rewind(batches)

    def _spent(self, activity: Activity) -> None:
        """What the time since the last call was spent on."""
        now = asyncio.get_running_loop().time()
        self._slots.activities[activity] += now - self._counted_to
        self._counted_to = now

    def _note_closed(self, closed: Collection[TopicPartition]) -> None:
        """What is read no further for now."""
        for partition in closed:
            self._work.full(partition)
        if not closed and not self._any_closed:
            return
        self._any_closed = bool(closed)
        reason: Closing = "breaker" if self._tripped() else "backpressure"
        for partition, mine in self._membership.partitions.items():
            if partition in closed and not mine.closed:
                self._slots.closings[reason] += 1
            mine.closed = reason if partition in closed else ""

    def _without_tiers(self, rooms: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Copies come a few at a time, and a fetch for each few would cost more than their records: while there is work
        to do, they are read ahead in stretches."""
        if self._work.waiting and asyncio.get_running_loop().time() < self._tiers_read_at + TIERS_EVERY:
            sources = {partition: room for partition, room in rooms.items() if not self._is_tier(partition)}
            return sources or rooms
        return rooms

    def _note_turns(
        self,
        rooms: Mapping[TopicPartition, int],
        before: Sequence[TopicPartition],
        wanted: Sequence[TopicPartition],
    ) -> None:
        """Not before each has had its turn: a fetch leaves out those with less room, and only the next one makes up for
        that."""
        if any(map(self._is_tier, wanted)) and rooms.keys() <= {*before, *wanted}:
            self._tiers_read_at = asyncio.get_running_loop().time()

    def _is_tier(self, partition: TopicPartition) -> bool:
        return self._membership.partitions[partition].tier is not None

    def _take_in(
        self, polled: Sequence[TopicPartition], batches: Mapping[TopicPartition, Sequence[ConsumedRecord]]
    ) -> None:
        """Register and queue; nothing is awaited in between, so no rebalance can come between poll and window."""
        partitions, position = self._membership.partitions, self._consumer.position
        now = asyncio.get_running_loop().time()
        wall = self._slots.clock.since_1970 + now
        for partition, records in batches.items():
            mine = partitions[partition]
            mine.fetched_at = wall
            self._register(mine, records, now)
        for partition in polled:
            mine = partitions[partition]
            window = mine.window
            read_to = position(partition)
            if read_to > window.next_offset:  # past markers and holes, which are never delivered
                if not window.size:
                    mine.progressed_at = wall
                mine.fetched_at = wall
                window.reach(read_to)
                self._committer.settled(0)
        self._work.wake(1)

    def _register(self, mine: AssignedPartition, records: Sequence[ConsumedRecord], now: float) -> None:
        sequence, seen = mine.window.register_all([record.offset for record in records])
        if seen:
            records = records[seen:]
        mine.stamps.extend([record.timestamp for record in records])
        lane_key, part, note_cases = self._lane_key, mine.part, self._note_cases
        deliveries: list[Delivery] = []
        with_headers: list[Delivery] = []
        size = 0
        for record in records:
            key, value = record.key, record.value
            cost = RECORD_COST + (len(value) if value else 0) + (len(key) if key else 0)
            size += cost
            deliveries.append(Delivery(record, sequence, mine, part, cost, key, now))
            if note_cases is not None and record.headers:  # here, while it is in the processor's cache
                with_headers.append(deliveries[-1])
            sequence += 1
        mine.bytes += size
        self._slots.consumed[mine.partition.topic] += len(records)
        self._slots.consumed_bytes[mine.partition.topic] += size - RECORD_COST * len(records)
        if mine.dues is not None:
            mine.dues.extend([0] * len(records))
        if mine.skip is not None:
            deliveries = self._without_settled(mine, deliveries, mine.skip)
            with_headers = [delivery for delivery in deliveries if delivery.record.headers]
        if with_headers and note_cases is not None:
            note_cases(mine, with_headers)
        if mine.tier is not None:
            self._park(mine, mine.tier, deliveries)
            return
        if lane_key is not None:
            for delivery in deliveries:
                delivery.lane = lane_key(delivery)
        self._work.put(mine, deliveries)

    def _without_settled(
        self, mine: AssignedPartition, deliveries: Sequence[Delivery], skip: SkipList
    ) -> list[Delivery]:
        """After a restart: what the offset map says is settled moves the window and does not run again."""
        left: list[Delivery] = []
        for delivery in deliveries:
            if skip.settled(delivery.record.offset):
                mine.window.settle(delivery.sequence)
                mine.bytes -= delivery.size
            else:
                left.append(delivery)
        if mine.window.head != mine.head:
            mine.head, mine.progressed_at = mine.window.head, mine.fetched_at
        self._slots.skipped += len(deliveries) - len(left)
        self._committer.settled(len(deliveries))
        if mine.window.next_offset >= skip.end:
            mine.skip = None
        return left

    def _park(self, mine: AssignedPartition, tier: Tier, deliveries: Sequence[Delivery]) -> None:
        """A tier's records join the others when they are due."""
        lane_key, wall = self._lane_key, int(self._wall() * 1000)  # rounded up, it would let them run early
        now = asyncio.get_running_loop().time()
        waiting: list[tuple[float, Delivery]] = []
        for delivery in deliveries:
            appended = delivery.record.timestamp
            record = delivery.record = from_tier(delivery.record, tier)
            if lane_key is not None:
                delivery.lane = lane_key(delivery)
            due = now
            origin = record.origin
            if self._wait_for_retries and not origin.fresh:
                due += remaining(wall, appended, origin.due, origin.failed, _longest_wait(tier, origin))
            delivery.ready_since = due
            mine.stamps.put(delivery.sequence, record.timestamp)
            if mine.dues is not None:
                mine.dues.put(delivery.sequence, round((self._slots.clock.since_1970 + due) * 1000))
            delivery.argument = Due(due, delivery.argument)
            waiting.append((due, delivery))
        self.returning.put(tier.number, waiting)

    def _due(self, deliveries: Sequence[Delivery]) -> None:
        """Their time has come: each joins its key's lane, which is that of its source's partition if that is here."""
        partitions = self._membership.partitions
        joining: dict[AssignedPartition, list[Delivery]] = {}
        for delivery in deliveries:
            mine = delivery.partition
            if not mine.halted:
                source = TopicPartition(delivery.record.topic, delivery.record.partition)
                joining.setdefault(partitions.get(source) or self._first_tier(mine), []).append(delivery)
        for target, joined in joining.items():
            for delivery in joined:
                delivery.part = target.part
            self._work.put(target, joined)
            self._work.wake(len(joined))

    def _first_tier(self, mine: AssignedPartition) -> AssignedPartition:
        """Where the source's partition is another worker's, records of one key may come from several tiers: they share
        the lanes of one of them."""
        assert mine.tier is not None
        first = tier_topic(mine.tier.source, self._group, 1)
        return self._membership.partitions.get(TopicPartition(first, mine.partition.partition), mine)

    async def _rewind(self, batches: Mapping[TopicPartition, Sequence[ConsumedRecord]]) -> None:
        """A rebalance came between a poll and its records: they are not taken in, and must be fetched again.

        Dropping them would lose them: the poll has moved the position after the new assignment had sought it.
        """
        await self._until_assigned()
        for partition in batches:
            mine = self._membership.partitions.get(partition)
            if mine is not None:
                self._consumer.seek(partition, mine.window.next_offset)

    async def _until_assigned(self) -> None:
        """Wait while the assignment changes. What goes wrong meanwhile is raised by a poll, and by nothing else."""
        gate = self._membership.gate
        while not gate.is_set():
            await self._consumer.poll((), max_records=1, timeout=0)
            try:
                async with asyncio.timeout(POLL_TIMEOUT):
                    await gate.wait()
            except TimeoutError:
                pass

    async def _until_hungry(self) -> None:
        self.hungry.clear()
        timer = asyncio.get_running_loop().call_later(READ_AHEAD_EVERY, self.hungry.set)
        await self.hungry.wait()
        timer.cancel()

    async def _until_room(self) -> None:
        self.room.clear()
        try:
            async with asyncio.timeout(SHOW_LIFE_EVERY):  # and show the group that we are alive
                await self.room.wait()
        except TimeoutError:
            pass


def _longest_wait(tier: Tier, origin: Origin) -> float:
    """Seconds. Of a tier that is not declared here, another worker may still know how long it waits."""
    longest = tier.wait * (1 + tier.jitter)
    if tier.declared or origin.due is None or origin.failed is None:
        return longest
    return max(longest, (origin.due - origin.failed) / 1000)


def lane_key(agent: Agent[Any, Any]) -> LaneKey | None:
    """How the lane of a record is chosen; None means by its raw key."""
    order_by = agent.order_by
    if order_by == "key":
        return None
    if order_by == "partition":
        return lambda _delivery: WHOLE_PARTITION
    if not callable(order_by):
        return lambda _delivery: None
    decode, item, choose = record_decoder(agent.topics[0]), agent.item, order_by

    def chosen(delivery: Delivery) -> Hashable:
        try:
            record = decode(delivery.record)
            key = choose(record)
            hash(key)
        except Exception as error:
            delivery.argument = Undecodable(error)
            return delivery.record.key
        delivery.argument = record if item == "record" else record.value
        # Not mixed up with the raw key of a record for which the function failed.
        return ("order_by", key)

    return chosen
