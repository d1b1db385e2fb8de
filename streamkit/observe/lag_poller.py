"""Asks the brokers how far every assigned partition is behind.

Not the consumer: it knows the end only of partitions that it fetches just now, so its own figure stands still when the
partition is closed or the loop is blocked: when lag matters. Everything here runs in the observer's thread.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Mapping

from streamkit.observe.brokers import Brokers, reason_of
from streamkit.observe.first_records import read_first
from streamkit.observe.lag import Assignments, LagTable, Offsets, assignments
from streamkit.observe.slots import AgentSlots, WorkerSlots
from streamkit.record import TopicPartition
from streamkit.transport.base import Admin, Reader

logger = logging.getLogger("streamkit.observe")

# Seconds.
ASSIGNMENT_CHECK = 0.25
SAMPLE_TIMEOUT = 10.0
READ_TIMEOUT = 5.0
WATERMARK_TIMEOUT = 2.0

MOST_READS = 10  # a sample: each may cost a fetch of a MiB


class LagPoller:
    """Samples all assigned partitions every `interval` seconds (± 10 %), and at once when the assignment changes."""

    def __init__(
        self,
        slots: WorkerSlots,
        admin_factory: Callable[[], Admin],
        table: LagTable,
        interval: float,
        reader_factory: Callable[[], Reader] | None = None,
        *,
        most_reads: int = MOST_READS,
    ) -> None:
        """Without `reader_factory` nothing is read: how old a backlog is that was there before is then not known."""
        self._slots = slots
        self._brokers = Brokers(admin_factory)
        self._reader_factory = reader_factory
        self._most_reads = most_reads
        self._table = table
        self._interval = interval
        self._sampling = asyncio.Lock()
        self._failing: set[str] = set()
        self._unreadable = False
        self._unmarked: set[str] = set()  # groups whose lag is read without the watermarks

    async def run(self) -> None:
        """Sample until cancelled; close the client then."""
        loop = asyncio.get_running_loop()
        seen: Assignments = {}
        due = 0.0
        try:
            while True:
                assigned = assignments(self._slots)
                if assigned != seen or loop.time() >= due:
                    seen = assigned
                    await self._sample_or_log()
                    # Jitter, so that workers that started together do not ask together for ever.
                    due = loop.time() + self._interval * random.uniform(0.9, 1.1)
                await asyncio.sleep(min(ASSIGNMENT_CHECK, self._interval))
        finally:
            await self.close()

    async def sample(self) -> None:
        """Sample every group once. Never raises for what a broker does: the values at hand grow old instead."""
        async with self._sampling:
            self._table.retain(assignments(self._slots))
            agents = [agent for agent in list(self._slots.agents.values()) if agent.assigned]
            if not agents:
                return
            failures = await self._sample_groups(agents)
            self._report([agent.group for agent in agents], failures)
            if failures:
                await self.close()
            sampled = [agent for agent in agents if agent.group not in failures]
            await self._read_oldest(sampled)
            for agent in sampled:
                self._table.judge(agent)

    async def _sample_or_log(self) -> None:
        try:
            await self.sample()
        except Exception:
            # A fault in here must not take the observer with it, and health and all metrics with that.
            logger.exception("the lag could not be sampled; trying again every %g s", self._interval)

    async def _sample_groups(self, agents: Collection[AgentSlots]) -> dict[str, BaseException]:
        try:
            async with asyncio.timeout(SAMPLE_TIMEOUT):
                admin = await self._brokers.connected()
        except Exception as error:
            return {agent.group: error for agent in agents}
        results = await asyncio.gather(*(self._sample_group(admin, agent) for agent in agents), return_exceptions=True)
        return {a.group: result for a, result in zip(agents, results, strict=True) if isinstance(result, BaseException)}

    async def _sample_group(self, admin: Admin, agent: AgentSlots) -> None:
        partitions = agent.assigned
        # Before the stable ends: the other way round, what is written meanwhile would look like an open transaction.
        watermarks, unmarked = await self._watermarks(admin, partitions)
        at = self._table.now()
        async with asyncio.timeout(SAMPLE_TIMEOUT):
            # The commit is read before the end. Neither ever goes down, so the difference is at least the true lag of
            # every moment in between, by at most what was committed or appended meanwhile. Read the other way round, a
            # fast group would look caught up, or ahead of its log.
            committed = await admin.committed(agent.group, partitions)
            ranges = await admin.log_ranges(partitions)
        offsets = {
            partition: Offsets(
                log.start,
                log.end,
                committed[partition].offset if partition in committed else None,
                watermarks.get(partition),
            )
            for partition, log in ranges.items()
        }
        self._table.record(agent.group, offsets, at)
        self._report_watermarks(agent.group, unmarked)

    async def _watermarks(
        self, admin: Admin, partitions: Collection[TopicPartition]
    ) -> tuple[Mapping[TopicPartition, int], Exception | None]:
        """Empty, and why, if they cannot be read: that is not worth the lag."""
        try:
            async with asyncio.timeout(WATERMARK_TIMEOUT):
                return await admin.high_watermarks(partitions), None
        except Exception as error:
            return {}, error

    async def _read_oldest(self, agents: Collection[AgentSlots]) -> None:
        unread = [each for agent in agents for each in self._table.unread(agent)]
        if self._reader_factory is None or not unread:
            self._unreadable = False
            return
        # Any of them: some may belong to brokers that do not answer.
        chosen = random.sample(unread, min(len(unread), self._most_reads))
        read, failure = await read_first(self._reader_factory, chosen, READ_TIMEOUT)
        for each, found in read.items():
            self._table.note_read(each, found)
        if failure is not None and not self._unreadable:
            logger.warning(
                "the oldest records that wait cannot be read: %s; until they are, lag in seconds is too low",
                reason_of(failure, READ_TIMEOUT),
            )
        self._unreadable = failure is not None

    async def close(self) -> None:
        """Does not raise."""
        await self._brokers.close()

    def _report(self, groups: Collection[str], failures: Mapping[str, BaseException]) -> None:
        """Log the begin and the end of an outage, not every sample of it."""
        if begun := sorted(failures.keys() - self._failing):
            logger.warning(
                "the lag of %s cannot be read: %s; trying again every %g s",
                ", ".join(begun),
                reason_of(failures[begun[0]], SAMPLE_TIMEOUT),
                self._interval,
            )
        if ended := sorted((self._failing & set(groups)) - failures.keys()):
            logger.info("the lag of %s is read again", ", ".join(ended))
        self._failing = set(failures)

    def _report_watermarks(self, group: str, failure: Exception | None) -> None:
        """Of a group whose lag is read: else that is said already."""
        if failure is None:
            self._unmarked.discard(group)
        elif group not in self._unmarked:
            self._unmarked.add(group)
            reason = reason_of(failure, WATERMARK_TIMEOUT)
            logger.warning("what open transactions hold back from %s cannot be read: %s", group, reason)
