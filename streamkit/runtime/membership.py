"""An agent's part in its group: which partitions it has, from where it reads them, and how it gives them back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from math import inf
from typing import Any, Protocol

from streamkit.agent import Agent
from streamkit.core.offset_map import SkipList, decode
from streamkit.errors import LostRange, TransportError
from streamkit.observe.slots import AgentSlots, Phase
from streamkit.record import TopicPartition
from streamkit.runtime.committer import Committer
from streamkit.runtime.delivery import AssignedPartition, Delivery, running_in
from streamkit.runtime.emitter import Emitter
from streamkit.runtime.retry_topics import Tier
from streamkit.settings import Settings
from streamkit.transport.base import (
    Admin,
    CommitRejected,
    CommittedOffset,
    Consumer,
    LogRange,
    Refused,
    TopicMissing,
    Unreachable,
)

log = logging.getLogger(__name__)

RETRY_EVERY = 0.5
CANCEL_GRACE = 1.0  # for cancelled handlers to end


class Queue(Protocol):
    """Where the records of the assigned partitions wait: lanes, or batches."""

    def open(self, partition: TopicPartition, /) -> Any:
        """The partition's part of it."""
        ...

    def halt(self, part: Any, running: Iterable[Any], /) -> None: ...
    def close(self, part: Any, running: Iterable[Any], /) -> None: ...


class Membership:
    """Told by the group of every change.

    On revoke: the gate closes; what has not started is dropped; what has is drained, and cancelled at the deadline;
    then comes the last commit; and only then are the windows closed. Closing them first would throw away what was
    drained, committing after the callback would write over the next owner's offset.
    """

    def __init__(
        self,
        agent: Agent[Any, Any],
        settings: Settings,
        consumer: Consumer,
        admin: Admin,
        queue: Queue,
        committer: Committer,
        emitter: Emitter,
        slots: AgentSlots,
        *,
        tiers: Mapping[str, Tier],
        opened: Callable[[AssignedPartition], None],
        halted: Callable[[], None],
        running: Callable[[Collection[AssignedPartition]], Iterable[tuple[Delivery, float]]],
    ) -> None:
        """`tiers` is by topic name. `opened` is told of each assigned partition, and `halted` when nothing more of what
        has been assigned so far may start. `running` tells whose handlers run in these."""
        self._agent = agent
        self._settings = settings
        self._consumer = consumer
        self._admin = admin
        self._queue = queue
        self._tiers = tiers
        self._opened = opened
        self._halted = halted
        self._running = running
        self._phase_since = 0.0  # loop time
        self._draining = False
        self._committer = committer
        self._emitter = emitter
        self._slots = slots
        self._from_latest: frozenset[TopicPartition] = frozenset()
        self._progress = asyncio.Event()
        self._leaving = False
        self._left: dict[TopicPartition, int] = {}  # committable offsets when last given back
        self.partitions: dict[TopicPartition, AssignedPartition] = {}
        self.epoch = 0  # grows with every change: what a poll returns counts only if it stood still meanwhile
        self.gate = asyncio.Event()  # closed while the assignment changes
        self.joined = False

    async def look_back(self, partitions: Collection[TopicPartition]) -> None:
        """Before joining: does the group begin here?

        `start_from` counts for the partitions that exist while nothing at all is committed. After the join this could
        not be told: another member may have committed its part of the same first assignment already.
        """
        self._phase_since = asyncio.get_running_loop().time()
        if self._agent.start_from == "earliest":
            return
        deadline = asyncio.get_running_loop().time() + self._settings.start_timeout
        while True:
            try:
                committed = await self._admin.committed(self._agent.group, partitions)
                break
            except TransportError as error:
                if isinstance(error, Refused) or asyncio.get_running_loop().time() > deadline:
                    raise
                log.info("agent %s: looking for committed offsets: %s; trying again", self._agent.name, error)
                await asyncio.sleep(RETRY_EVERY)
        if not committed:
            self._from_latest = frozenset(partitions)

    async def revoked(self, partitions: Collection[TopicPartition], *, lost: bool) -> None:
        self.halt()
        mine = list(self.partitions.values())  # the eager protocol takes all of them
        if lost:
            self._slots.rebalances_lost += 1
            self._slots.partitions_lost += len(mine)
            log.warning("agent %s: the group has thrown this member out; what runs is cancelled", self._agent.name)
            self._cancel(mine)
        else:
            await self._drain(mine)
            await self._committer.commit(self._settings.request_timeout)
        self._close(mine)

    async def assigned(self, partitions: Collection[TopicPartition]) -> None:
        self._note_phase("join")
        generation = self._consumer.generation
        starts = await self._starts(partitions, generation)
        if self._leaving or starts is None:
            return
        self._committer.generation = generation
        for partition, (start, skip) in starts.items():
            self._consumer.seek(partition, start.offset)
            self._open(partition, start, skip)
        self._slots.assigned = frozenset(self.partitions)
        self._slots.rebalances += 1
        self.joined = True
        self.epoch += 1
        self._slots.read_at = asyncio.get_running_loop().time()
        self.gate.set()
        self._note_phase("assign")
        log.info("agent %s: assigned %s", self._agent.name, _listed(partitions))

    def halt(self) -> None:
        """Start nothing more, and take nothing more in."""
        self.epoch += 1
        self._slots.read_at = inf  # a poll may now wait as long as the group does
        self.gate.clear()
        if not self._draining:
            self._draining = True
            self._phase_since = asyncio.get_running_loop().time()
        self._halt(self.partitions.values())
        self._halted()

    async def leave(self) -> None:
        """Give everything back, for good."""
        self._leaving = True
        self.halt()
        mine = list(self.partitions.values())
        await self._drain(mine)
        await self._committer.commit(self._settings.request_timeout)
        self._close(mine)

    def reached(self) -> dict[TopicPartition, int]:
        """The committable offsets of what is assigned, or else of what was last."""
        return {tp: mine.window.committable for tp, mine in self.partitions.items()} or dict(self._left)

    def progressed(self) -> None:
        """A record was handled, or an output acknowledged."""
        self._progress.set()

    async def gap(self, partition: TopicPartition, offset: int) -> None:
        """The log does not hold the offset that is to be read next. Raises LostRange unless `on_gap` allows it."""
        epoch = self.epoch
        try:
            bounds = (await self._admin.log_ranges([partition])).get(partition)
        except (Refused, TopicMissing):
            raise
        except TransportError as error:  # the next poll will bring us here again
            log.warning("agent %s: looking for the log's bounds: %s; trying again", self._agent.name, error)
            await asyncio.sleep(RETRY_EVERY)
            return
        mine = self.partitions.get(partition)
        if mine is None or epoch != self.epoch or not self.gate.is_set():
            return  # polls of the new assignment will tell
        start = self._after_gap(partition, offset, bounds)
        self._slots.note_reset(partition.topic, "out_of_range")
        if start >= mine.window.next_offset:
            mine.window.reach(start)
            self._consumer.seek(partition, start)
        else:
            self._begin_anew(mine, start)
        self._committer.settled(0)

    async def _starts(
        self, partitions: Collection[TopicPartition], generation: int
    ) -> dict[TopicPartition, tuple[CommittedOffset, SkipList | None]] | None:
        """Where to read on; what was not committed like that is now. None if the assignment is over already."""
        deadline = asyncio.get_running_loop().time() + self._settings.session_timeout
        while True:
            try:
                async with asyncio.timeout(self._settings.request_timeout):
                    return await self._look_up(partitions, generation)
            except (LostRange, Refused):
                raise
            except CommitRejected:
                return None
            except (TransportError, TimeoutError) as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                reason = str(error) or "no answer"
                log.warning("agent %s: looking up where to start: %s; trying again", self._agent.name, reason)
                await asyncio.sleep(RETRY_EVERY)

    async def _look_up(
        self, partitions: Collection[TopicPartition], generation: int
    ) -> dict[TopicPartition, tuple[CommittedOffset, SkipList | None]]:
        committed = await self._consumer.committed(partitions) if partitions else {}
        ranges = await self._log_ranges(partitions)
        starts: dict[TopicPartition, tuple[CommittedOffset, SkipList | None]] = {}
        fresh: dict[TopicPartition, CommittedOffset] = {}
        for partition in partitions:
            known, bounds = committed.get(partition), ranges.get(partition)
            start = self._start(partition, known, bounds)
            if start != known:
                fresh[partition] = start
            # Without the log's end the map cannot be checked: what it says is settled runs again.
            settled = decode(start.metadata, start.offset, bounds.end) if start.metadata and bounds else []
            starts[partition] = start, SkipList(settled) if settled else None
        if fresh:
            # Before the first record runs: or a crash now, and "latest" would be another place the next time.
            await self._consumer.commit(fresh, generation)
        for partition in fresh:
            self._slots.note_reset(partition.topic, "out_of_range" if partition in committed else "no_offset")
        return starts

    async def _log_ranges(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, LogRange]:
        """Those that can be had soon: one partition without a leader must not keep the others from being read."""
        # Twice at the most, and then a commit: no heartbeat is sent before this assignment is complete.
        patience = min(self._settings.request_timeout, self._settings.session_timeout) / 4
        try:
            async with asyncio.timeout(patience):
                return await self._admin.log_ranges(partitions)
        except (Refused, TopicMissing):
            raise
        except (TransportError, TimeoutError):
            log.warning("agent %s: not every partition has a leader that answers", self._agent.name)
        async with asyncio.timeout(2 * patience):
            each = await asyncio.gather(*(self._log_range(partition, patience) for partition in partitions))
        return {partition: bounds for partition, bounds in zip(partitions, each, strict=True) if bounds is not None}

    async def _log_range(self, partition: TopicPartition, patience: float) -> LogRange | None:
        try:
            async with asyncio.timeout(patience):
                return (await self._admin.log_ranges([partition]))[partition]
        except (TransportError, TimeoutError):
            return None

    def _start(
        self, partition: TopicPartition, known: CommittedOffset | None, bounds: LogRange | None
    ) -> CommittedOffset:
        if known is None:
            if bounds is None:
                raise Unreachable(f"{partition.topic}[{partition.partition}] has no leader that says where it begins")
            return CommittedOffset(bounds.end if partition in self._from_latest else bounds.start)
        if bounds is not None and known.offset < bounds.start:
            return CommittedOffset(self._after_gap(partition, known.offset, bounds))
        return known  # beyond the end: the fetch will tell, this end may only be that of an open transaction

    def _after_gap(self, partition: TopicPartition, offset: int, bounds: LogRange | None) -> int:
        lost = LostRange(
            self._agent.group,
            *partition,
            committed=offset,
            start=bounds.start if bounds else None,
            end=bounds.end if bounds else None,
        )
        if self._agent.on_gap == "stop" or bounds is None:
            raise lost
        log.warning("%s", lost)
        return bounds.start if self._agent.on_gap == "earliest" else bounds.end

    def _open(self, partition: TopicPartition, start: CommittedOffset, skip: SkipList | None) -> AssignedPartition:
        part = self._queue.open(partition)
        tier = self._tiers.get(partition.topic)
        now = self._slots.clock.since_1970 + asyncio.get_running_loop().time()
        mine = AssignedPartition(partition, part, start, skip, self._emitter, tier, now)
        self.partitions[partition] = mine
        self._opened(mine)
        return mine

    def _begin_anew(self, old: AssignedPartition, start: int) -> None:
        """The log was made anew or cut short: its offsets name other records, which the old window has seen.

        Where records wait for a retry, all partitions begin anew, the others from where they are: a record of a tier
        waits in the lanes of its source, and those of a batch wait for each other.
        """
        partitions = [old]
        if self._tiers or self._agent.retry or self._agent.dead_letters:
            partitions = list(self.partitions.values())
            self._halted()
        for mine in partitions:
            mine.window.settle_all(mine.settling)
        self._cancel(partitions)
        self._close(partitions)
        for mine in partitions:
            window = mine.window
            ahead = [] if mine is old else window.settled_ranges()
            skip = mine.skip if mine is not old and mine.skip else SkipList(ahead) if ahead else None
            begin = CommittedOffset(start if mine is old else window.committable)
            self._open(mine.partition, begin, skip).committed = mine.committed
            self._consumer.seek(mine.partition, begin.offset)
        self._slots.assigned = frozenset(self.partitions)

    def _halt(self, partitions: Iterable[AssignedPartition]) -> None:
        for mine in partitions:
            mine.halted = True
            if not mine.window.closed:
                self._queue.halt(mine.part, running_in(mine.part, self.partitions.values()))

    async def _drain(self, partitions: Collection[AssignedPartition]) -> None:
        if await self._until_quiet(partitions, self._settings.drain_timeout):
            return
        cancelled = self._cancel(partitions)
        log.warning(
            "agent %s: %d handlers did not end within %g s and are cancelled; their records run again",
            self._agent.name,
            cancelled,
            self._settings.drain_timeout,
        )
        await self._until_quiet(partitions, CANCEL_GRACE)

    async def _until_quiet(self, partitions: Collection[AssignedPartition], timeout: float) -> bool:
        try:
            async with asyncio.timeout(timeout):
                while not all(mine.quiet for mine in partitions):
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            return False
        return True

    def _close(self, partitions: Iterable[AssignedPartition]) -> None:
        assigned = list(self.partitions.values())
        for mine in partitions:
            mine.halted = True
            if not mine.window.closed:
                mine.window.closed = True
                self._left[mine.partition] = mine.window.committable
                self._queue.close(mine.part, running_in(mine.part, assigned))
                del self.partitions[mine.partition]
                self._slots.redelivery_risk += mine.window.settled - mine.kept
        self._slots.assigned = frozenset(self.partitions)
        if self._draining:
            self._draining = False
            self._note_phase("drain")

    def _cancel(self, partitions: Collection[AssignedPartition]) -> int:
        cut_off = set(partitions)
        self._slots.redelivery_risk += sum(delivery.partition in cut_off for delivery, _ in self._running(partitions))
        flights = [flight for mine in partitions for flight in mine.flights]
        for flight in flights:
            flight.cancel("revoke")
        return len(flights)

    def _note_phase(self, phase: Phase) -> None:
        """One of a rebalance is over, and the next one begins."""
        now = asyncio.get_running_loop().time()
        self._slots.rebalance_durations[phase].observe(now - self._phase_since)
        self._phase_since = now


def _listed(partitions: Collection[TopicPartition]) -> str:
    return ", ".join(f"{topic}[{number}]" for topic, number in sorted(partitions)) or "nothing"
