"""One member of a group. What is dangerous about aiokafka is copied, so that an engine is tested against it:

- `revoked` is awaited before the member joins again, with heartbeats going on; `assigned` is awaited without any.
- `assigned` is no barrier: the new assignment is in force before it is called, and a poll that was waiting meanwhile
  may return records of it, from wherever `assigned` has sought to so far.
- A poll waits for the end of a rebalance, whatever its timeout.
- A member that was thrown out learns it from a heartbeat or a commit, and holds its partitions until then.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Collection, Coroutine, Mapping
from typing import Any

from streamkit.record import TopicPartition
from streamkit.settings import Settings
from streamkit.transport.base import (
    NO_GENERATION,
    CommitRejected,
    CommittedOffset,
    OffsetOutOfRange,
    RebalanceListener,
    TopicMissing,
    Unreachable,
)
from streamkit.transport.memory.broker import MemoryBroker
from streamkit.transport.memory.group import Joined, StaleGeneration, UnknownMember
from streamkit.transport.memory.log import MemoryRecord, in_turn

RETRY_AFTER = 0.1
STOP_TIMEOUT = 5.0


class MemoryConsumer:
    def __init__(self, broker: MemoryBroker, settings: Settings, group: str) -> None:
        self._broker = broker
        self._settings = settings
        self._group = broker.group(group)
        self._topics: Collection[str] = ()
        self._listener: RebalanceListener
        self._member = ""
        self._joined_before = False
        self._generation = NO_GENERATION
        self._last_heartbeat = -math.inf
        self._started_at = 0.0
        self._positions: dict[TopicPartition, int | None] = {}  # of all that is assigned; None: not sought yet
        self._assigned_counts: Mapping[str, int] = {}
        self._latest_counts: Mapping[str, int] = {}
        self._rejoin = asyncio.Event()
        self._metadata_stale = asyncio.Event()
        self._in_rebalance = True  # from before `revoked` until the assignment is there
        self._in_assigned = False
        self._was_assigned = False  # once: before the first assignment there is nothing to revoke
        self._failure: BaseException | None = None
        self._stopped = False
        self._tasks: list[asyncio.Task[None]] = []
        self._heartbeats: asyncio.Task[None] | None = None

    @property
    def member(self) -> str:
        """The name that the group knows it by, for `Faults.freeze`; empty outside of the group."""
        return self._member

    @property
    def generation(self) -> int:
        return self._generation

    @property
    def lease(self) -> float:
        return self._last_heartbeat + self._settings.session_timeout

    @property
    def answered(self) -> float:
        return max(self._started_at, self._last_heartbeat)

    async def start(self) -> None:
        await self._broker.travel(self._settings.request_timeout)
        self._started_at = asyncio.get_running_loop().time()

    def subscribe(self, topics: Collection[str], listener: RebalanceListener) -> None:
        self._topics = sorted(topics)
        self._listener = listener
        self._latest_counts = self._broker.counts(self._topics)
        self._tasks = [self._background(self._membership()), self._background(self._watch_topics())]

    async def poll(
        self,
        partitions: Collection[TopicPartition],
        *,
        max_records: int,
        timeout: float,
    ) -> Mapping[TopicPartition, list[MemoryRecord]]:
        """As the protocol says; raises RuntimeError for a partition that was never sought."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        wanted = set(partitions)
        while not self._stopped:
            if self._failure is not None:
                raise self._failure
            if self._in_rebalance:
                await self._broker.news.wait(None)
                continue
            records = self._take(wanted, max_records)
            if records or loop.time() >= deadline:
                return records
            await self._broker.news.wait(deadline - loop.time())
            if loop.time() >= deadline:
                return {}
        return {}

    def position(self, partition: TopicPartition) -> int:
        """Raises RuntimeError for a partition that is not assigned, or was not sought."""
        position = self._positions.get(partition)
        if position is None:
            raise RuntimeError(f"{partition} has no position: not assigned, or not sought")
        return position

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Raises RuntimeError for a partition that is not assigned."""
        if partition not in self._positions:
            raise RuntimeError(f"{partition} is not assigned")
        self._positions[partition] = offset
        self._broker.news.notify()

    async def committed(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, CommittedOffset]:
        return await self._broker.committed(self._group.name, partitions, self._settings.request_timeout)

    async def commit(self, offsets: Mapping[TopicPartition, CommittedOffset], generation: int) -> None:
        member = self._member
        try:
            await self._broker.commit(self._group.name, member, generation, offsets, self._settings.request_timeout)
        except CommitRejected:
            # Only an answer about the present membership says anything about it.
            if member == self._member and generation == self._generation:
                self._forget_membership()
            raise

    def partition_count(self, topic: str) -> int:
        return self._latest_counts.get(topic, 0)

    async def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        await _cancelled([*self._tasks, *([self._heartbeats] if self._heartbeats else [])])
        try:
            await self._broker.travel(min(STOP_TIMEOUT, self._settings.request_timeout))
            self._group.leave(self._member)
        except Unreachable:
            pass  # its session will end
        self._forget_membership()
        self._broker.news.notify()

    def _take(self, wanted: Collection[TopicPartition], limit: int) -> dict[TopicPartition, list[MemoryRecord]]:
        if self._broker.faults.network.closed:
            return {}
        return in_turn(self._positions, [each for each in self._positions if each in wanted], limit, self._read)

    def _read(self, partition: TopicPartition, limit: int) -> list[MemoryRecord]:
        position = self._positions[partition]
        if position is None:
            if self._in_assigned:
                return []
            raise RuntimeError(f"{partition} was polled before it was sought")
        try:
            log = self._broker.log(partition)
        except TopicMissing:
            self._metadata_stale.set()
            return []
        if not log.range.start <= position <= log.range.end:
            raise OffsetOutOfRange(partition, position)
        records, self._positions[partition] = log.read(position, limit)
        return records

    def _background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._fail(task.exception())

    def _fail(self, error: BaseException | None) -> None:
        self._failure = error
        self._broker.news.notify()

    async def _membership(self) -> None:
        while True:
            await self._rebalance()
            await self._rejoin.wait()

    async def _rebalance(self) -> None:
        self._in_rebalance = True
        if self._was_assigned:
            lost = self._generation == NO_GENERATION
            await self._told(self._listener.revoked(list(self._positions), lost=lost))
        if self._heartbeats is not None:
            await _cancelled([self._heartbeats])
        self._adopt(await self._join())
        self._in_assigned = True
        self._in_rebalance = False
        self._broker.news.notify()
        await asyncio.sleep(0)  # polls may see the assignment before the listener does
        await self._told(self._listener.assigned(list(self._positions)))
        self._in_assigned = False
        self._broker.news.notify()
        self._heartbeats = self._background(self._beat())

    async def _join(self) -> Joined:
        timeout = self._settings.request_timeout
        while True:
            try:
                await self._broker.travel(timeout)
                answer = self._ask_to_join()
                # As any request; a member that has waited so long for the others asks again.
                await asyncio.wait([answer], timeout=timeout)
                await self._broker.travel(timeout)
                if answer.done():
                    return answer.result()
            except UnknownMember:
                self._forget_membership()
            except Unreachable:
                await asyncio.sleep(RETRY_AFTER)

    def _ask_to_join(self) -> asyncio.Future[Joined]:
        if not self._member:
            self._member = self._group.name_member()
        answer = self._group.join(
            self._member,
            topics=self._topics,
            session_timeout=self._settings.session_timeout,
            # A drain, the last commit, and room to join; as the Kafka transport reckons it.
            rebalance_timeout=self._settings.drain_timeout + 2 * self._settings.request_timeout,
            known=self._joined_before,
        )
        self._joined_before = True
        return answer

    def _adopt(self, joined: Joined) -> None:
        self._generation = joined.generation
        self._positions = dict.fromkeys(joined.assignment)
        self._assigned_counts = self._latest_counts = joined.counts
        self._last_heartbeat = asyncio.get_running_loop().time()
        self._was_assigned = True
        self._rejoin.clear()

    async def _told(self, listener: Awaitable[None]) -> None:
        """The rebalance goes on when the listener raises; the next poll raises it."""
        try:
            await listener
        except Exception as error:
            self._fail(error)

    async def _beat(self) -> None:
        pause = self._settings.heartbeat_interval
        while self._member:
            await asyncio.sleep(pause)
            sent = asyncio.get_running_loop().time()
            try:
                rejoin = await self._broker.heartbeat(
                    self._group.name, self._member, self._generation, self._settings.request_timeout
                )
            except Unreachable:
                pause = RETRY_AFTER
            except (UnknownMember, StaleGeneration):
                self._forget_membership()
            else:
                pause = self._settings.heartbeat_interval
                self._last_heartbeat = sent
                if rejoin:
                    self._rejoin.set()

    def _forget_membership(self) -> None:
        """Thrown out: everything assigned is lost, and the next join is a stranger's."""
        self._generation = NO_GENERATION
        self._member = ""
        self._joined_before = False
        self._last_heartbeat = -math.inf
        self._rejoin.set()

    async def _watch_topics(self) -> None:
        """Join again when a topic has appeared, grown or gone."""
        while True:
            await self._metadata_is_due()
            try:
                await self._broker.travel(self._settings.request_timeout)
            except Unreachable:
                continue
            self._latest_counts = self._broker.counts(self._topics)
            if not self._in_rebalance and self._latest_counts != self._assigned_counts:
                self._rejoin.set()

    async def _metadata_is_due(self) -> None:
        try:
            async with asyncio.timeout(self._settings.metadata_max_age):
                await self._metadata_stale.wait()
        except TimeoutError:
            pass
        else:
            await asyncio.sleep(RETRY_AFTER)
        self._metadata_stale.clear()


async def _cancelled(tasks: Collection[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
