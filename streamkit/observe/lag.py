"""How far every assigned partition is behind, asked of the brokers and not of the consumer.

A consumer knows the end only of partitions that it fetches just now, so its own figure stands still when the partition
is closed or the loop is blocked: when lag matters. Everything here runs in the observer's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from streamkit.core.lag import lag_records
from streamkit.observe.slots import WorkerSlots
from streamkit.record import TopicPartition
from streamkit.transport.base import Admin

logger = logging.getLogger("streamkit.observe")

# Seconds.
STALE_AFTER = 60.0
ASSIGNMENT_CHECK = 0.25
SAMPLE_TIMEOUT = 10.0
CLOSE_TIMEOUT = 2.0

Assignments = Mapping[str, frozenset[TopicPartition]]  # by group


def assignments(slots: WorkerSlots) -> Assignments:
    """What this worker has been assigned at present."""
    return {agent.group: agent.assigned for agent in list(slots.agents.values())}


class _Sample(NamedTuple):
    lag: int  # records
    taken: float  # by the table's clock


class LagTable:
    """The latest lag of each partition, as long as it is to be believed: `stale_after` seconds.

    No figure is better than an old one: a frozen lag looks healthy, an absent one can be alerted on.
    """

    def __init__(self, stale_after: float = STALE_AFTER, clock: Callable[[], float] = time.monotonic) -> None:
        self._stale_after = stale_after
        self._clock = clock
        self._samples: dict[str, dict[TopicPartition, _Sample]] = {}
        self._sampled_at: dict[str, float] = {}

    def record(self, group: str, lags: Mapping[TopicPartition, int], at: float) -> None:
        """Take in a sample of the group, begun at `at` (seconds since 1970)."""
        taken = self._clock()
        self._samples.setdefault(group, {}).update({p: _Sample(lag, taken) for p, lag in lags.items()})
        self._sampled_at[group] = at

    def current(self, group: str, assigned: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """The lags of those partitions that have a sample young enough."""
        oldest = self._clock() - self._stale_after
        samples = self._samples.get(group, {})
        return {p: s.lag for p, s in samples.items() if p in assigned and s.taken >= oldest}

    def sampled_at(self, group: str) -> float | None:
        """When the group's latest sample was begun, in seconds since 1970."""
        return self._sampled_at.get(group)

    def retain(self, assigned: Assignments) -> None:
        """Forget what is not assigned any more: should it come back, another has worked on it in between."""
        for group, samples in self._samples.items():
            kept = assigned.get(group, frozenset())
            for partition in samples.keys() - kept:
                del samples[partition]


class LagPoller:
    """Samples all assigned partitions every `interval` seconds (± 10 %), and at once when the assignment changes."""

    def __init__(
        self, slots: WorkerSlots, admin_factory: Callable[[], Admin], table: LagTable, interval: float
    ) -> None:
        self._slots = slots
        self._admin_factory = admin_factory
        self._table = table
        self._interval = interval
        self._admin: Admin | None = None
        self._sampling = asyncio.Lock()
        self._failing: set[str] = set()

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
                    await self.sample()
                    # Jitter, so that workers that started together do not ask together for ever.
                    due = loop.time() + self._interval * random.uniform(0.9, 1.1)
                await asyncio.sleep(min(ASSIGNMENT_CHECK, self._interval))
        finally:
            await self._close()

    async def sample(self) -> None:
        """Sample every group once. Never raises for what a broker does: the values at hand grow old instead."""
        async with self._sampling:
            assigned = assignments(self._slots)
            self._table.retain(assigned)
            groups = [group for group, partitions in assigned.items() if partitions]
            if not groups:
                return
            failures = await self._sample_groups({group: assigned[group] for group in groups})
            self._report(groups, failures)
            if failures:
                # A client that has lost its brokers does not always find back by itself.
                await self._close()

    async def _sample_groups(self, assigned: Assignments) -> dict[str, BaseException]:
        try:
            async with asyncio.timeout(SAMPLE_TIMEOUT):
                admin = await self._connected()
        except Exception as error:
            return dict.fromkeys(assigned, error)
        results = await asyncio.gather(
            *(self._sample_group(admin, group, partitions) for group, partitions in assigned.items()),
            return_exceptions=True,
        )
        return {group: r for group, r in zip(assigned, results, strict=True) if isinstance(r, BaseException)}

    async def _sample_group(self, admin: Admin, group: str, partitions: frozenset[TopicPartition]) -> None:
        at = time.time()
        async with asyncio.timeout(SAMPLE_TIMEOUT):
            # The commit is read before the end. Neither ever goes down, so the difference is at least the true lag of
            # every moment in between, by at most what was committed or appended meanwhile. Read the other way round, a
            # fast group would look caught up, or ahead of its log.
            committed = await admin.committed(group, partitions)
            ranges = await admin.log_ranges(partitions)
        lags = {
            partition: lag_records(log.end, committed[partition].offset if partition in committed else None, log.start)
            for partition, log in ranges.items()
        }
        self._table.record(group, lags, at)

    async def _connected(self) -> Admin:
        if self._admin is None:
            self._admin = self._admin_factory()
            try:
                await self._admin.start()
            except BaseException:
                await self._close()
                raise
        return self._admin

    async def _close(self) -> None:
        admin, self._admin = self._admin, None
        if admin is None:
            return
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await admin.stop()

    def _report(self, groups: Collection[str], failures: Mapping[str, BaseException]) -> None:
        """Log the begin and the end of an outage, not every sample of it."""
        if begun := sorted(failures.keys() - self._failing):
            logger.warning(
                "the lag of %s cannot be read: %s; trying again every %g s",
                ", ".join(begun),
                _reason(failures[begun[0]]),
                self._interval,
            )
        if ended := sorted((self._failing & set(groups)) - failures.keys()):
            logger.info("the lag of %s is read again", ", ".join(ended))
        self._failing = set(failures)


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):  # which says nothing itself
        return f"no answer within {SAMPLE_TIMEOUT:g} s"
    return f"{type(error).__qualname__}: {error}"
