"""The only caller of commit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from streamkit.core.commits import CommitSchedule
from streamkit.core.offset_map import encode
from streamkit.errors import TransportError
from streamkit.observe.slots import AgentSlots
from streamkit.record import TopicPartition
from streamkit.runtime.delivery import AssignedPartition
from streamkit.transport.base import NO_GENERATION, CommittedOffset, Consumer, MetadataTooLarge, Refused

log = logging.getLogger(__name__)

METADATA_LIMIT = 4096  # Kafka's default of offset.metadata.max.bytes
SMALLEST_METADATA = 64


class Committer:
    """Commits what is settled: in batches, one commit in flight, each as a member of the generation it settled in."""

    def __init__(
        self,
        consumer: Consumer,
        schedule: CommitSchedule,
        slots: AgentSlots,
        assigned: Callable[[], Iterable[AssignedPartition]],
        *,
        timeout: float,
        refused: Callable[[Exception], None],
    ) -> None:
        """`refused` is told when the broker will not take commits at all: the work would run again for ever."""
        self._consumer = consumer
        self._schedule = schedule
        self._slots = slots
        self._assigned = assigned
        self._timeout = timeout
        self._refused = refused
        self._lock = asyncio.Lock()
        self._metadata_limit = METADATA_LIMIT
        self._changed = asyncio.Event()
        self._asleep = False  # nothing is to be committed
        self.generation = NO_GENERATION

    def settled(self, records: int) -> None:
        """Records have settled, or with 0 a committable offset has moved past markers."""
        if records:
            self._schedule.settled(records)
        else:
            self._schedule.touch()
        # Not at every record: waking a task costs more than settling one.
        if self._asleep or self._schedule.full:
            self._changed.set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            wait = self._schedule.wait(loop.time())
            if wait is None:
                self._changed.clear()
                self._asleep = True
                await self._changed.wait()
                self._asleep = False
            elif wait:
                await self._due_early(wait)
            else:
                await self.commit(self._timeout)

    async def commit(self, timeout: float) -> bool:
        """Commit what changed, waiting for a commit in flight first; whether all of it is committed.

        Never raises for a refusal or an outage: what was not acknowledged stays to be committed.
        """
        try:
            async with asyncio.timeout(timeout), self._lock:
                return await self._with_shorter_metadata()
        except TimeoutError as error:
            self._failed(error, "no answer")
        except Refused as error:
            self._failed(error)
            self._refused(error)
        except TransportError as error:
            self._failed(error)
        return False

    async def _with_shorter_metadata(self) -> bool:
        """As short as the broker wants it, at once: the commit of a revoke or a stop is not repeated."""
        while True:
            try:
                return await self._attempt()
            except MetadataTooLarge as error:
                if not self._metadata_limit:
                    raise
                self._shorten_metadata()
                self._failed(error)

    async def _attempt(self) -> bool:
        started = self._schedule.begin(asyncio.get_running_loop().time())
        # Snapshot before the await, applied after: what settles meanwhile is not taken for committed.
        snapshot = {p: self._committable(p) for p in self._assigned()}
        settled = {p: p.window.settled for p in snapshot}
        changed = {p: offset for p, offset in snapshot.items() if offset != p.committed}
        if changed:
            offsets: dict[TopicPartition, CommittedOffset] = {p.partition: offset for p, offset in changed.items()}
            clock = asyncio.get_running_loop().time
            sent = clock()
            await self._consumer.commit(offsets, self.generation)
            self._slots.commit_duration.observe(clock() - sent)
            self._slots.last_commit = self._slots.clock.since_1970 + clock()
            for partition, offset in changed.items():
                partition.committed = offset
            self._slots.commits_succeeded += 1
        for partition, records in settled.items():
            partition.kept = records
        self._schedule.committed(started)
        return True

    def _committable(self, partition: AssignedPartition) -> CommittedOffset:
        window = partition.window
        metadata = encode(window, self._metadata_limit) if window.ahead else ""
        return CommittedOffset(window.committable, metadata)

    def _shorten_metadata(self) -> None:
        shorter = self._metadata_limit // 2
        self._metadata_limit = shorter if shorter >= SMALLEST_METADATA else 0

    def _failed(self, error: Exception, reason: str = "") -> None:
        self._slots.commits_failed += 1
        self._slots.note_error("commit", error)
        log.warning(
            "agent %s: commit failed: %s; what it held stays to be committed", self._slots.agent, reason or error
        )

    async def _due_early(self, wait: float) -> None:
        """Wait, but not longer than until enough records have settled."""
        loop = asyncio.get_running_loop()
        over = False

        def end() -> None:
            nonlocal over
            over = True
            self._changed.set()

        # The timer itself tells that it has fired: it may do so a little before the clock shows its time.
        timer = loop.call_later(wait, end)
        try:
            while not over and not self._schedule.due(loop.time()):
                self._changed.clear()
                await self._changed.wait()
        finally:
            timer.cancel()
