"""What is known of how far every assigned partition is behind.

Written by the poller and read by the collector, both in the observer's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from streamkit.core.lag import NOTHING, Backlog, Found, Oldest, lag_records
from streamkit.core.lag_status import Closed, Head, Reading, StatusWindow, Verdict
from streamkit.observe.assigned import Assigned
from streamkit.observe.partition_state import PartitionState
from streamkit.observe.slots import AgentSlots, WorkerSlots
from streamkit.record import TopicPartition

# Seconds.
STALE_AFTER = 60.0
INTERVAL = 10.0
COMMIT_INTERVAL = 1.0

Assignments = Mapping[str, frozenset[TopicPartition]]  # by group


def assignments(slots: WorkerSlots) -> Assignments:
    """What this worker has been assigned at present."""
    return {agent.group: agent.assigned for agent in list(slots.agents.values())}


class Offsets(NamedTuple):
    """A sample of one partition: where its log starts and ends, and what the group has committed.

    `end` is the last stable offset, `high_watermark` where the log ends with what open transactions have written.
    """

    start: int
    end: int
    committed: int | None
    high_watermark: int | None = None  # not known

    @property
    def lag(self) -> int:
        return lag_records(self.end, self.committed, self.start)

    @property
    def lead(self) -> int | None:
        """Offsets between the start of the log and the commit."""
        return None if self.committed is None else max(0, self.committed - self.start)

    @property
    def unstable(self) -> int | None:
        """Offsets that nobody sees before a transaction ends."""
        return None if self.high_watermark is None else max(0, self.high_watermark - self.end)


class PartitionLag(NamedTuple):
    """What is known of one partition at present. None: it is not known."""

    offsets: Offsets | None = None
    oldest: Oldest | None = None  # of a tier: its times are when records are due
    seconds: float | None = None
    verdict: Verdict | None = None


class Unread(NamedTuple):
    """An offset whose record has to be read, to know since when it waits; and where the log ends."""

    group: str
    partition: TopicPartition
    offset: int
    end: int


class _Partition:
    """What is known of one partition since it was assigned."""

    __slots__ = ("backlog", "sample", "taken", "window")

    def __init__(self, window: StatusWindow) -> None:
        self.backlog = Backlog()
        self.window = window
        self.sample: Offsets | None = None
        self.taken = 0.0  # by the table's clock


class LagTable:
    """The latest sample of each partition, as long as it is to be believed, and since when its oldest record waits.

    No figure is better than an old one: a frozen lag looks healthy, an absent one can be alerted on. So samples count
    for `stale_after` seconds. But that a record waits is the engine's own knowledge: its age goes on growing while no
    broker answers. `interval` is how far samples are apart, `commit_interval` the setting. `clock` is monotonic, `wall`
    tells the seconds since 1970.
    """

    def __init__(
        self,
        stale_after: float = STALE_AFTER,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        *,
        interval: float = INTERVAL,
        commit_interval: float = COMMIT_INTERVAL,
    ) -> None:
        self._stale_after = stale_after
        self._clock = clock
        self._wall = wall
        self._interval = interval
        self._commit_interval = commit_interval
        self._groups: dict[str, dict[TopicPartition, _Partition]] = {}
        self._sampled_at: dict[str, float] = {}

    def now(self) -> float:
        """Seconds since 1970."""
        return self._wall()

    def record(self, group: str, samples: Mapping[TopicPartition, Offsets], at: float) -> None:
        """Take in a sample of the group, begun at `at` (seconds since 1970)."""
        taken, now = self._clock(), self._wall()
        for partition, sample in samples.items():
            mine = self._partition(group, partition)
            if not mine.backlog.sampled(sample.start, sample.end, now):
                mine.window = self._window()
            mine.sample, mine.taken = sample, taken
        self._sampled_at[group] = at

    def judge(self, agent: AgentSlots) -> None:
        """Bring the status of its partitions up to date, after a sample of them."""
        now = self._wall()
        for partition, state in Assigned.read(agent).states.items():
            mine = self._partition(agent.group, partition)
            sample = self._fresh(mine)
            if sample is not None:
                tier = partition.topic in agent.tier_topics
                oldest = self._oldest(mine, state, now, tier=tier)
                mine.window.note(_reading(sample, state, oldest, now, tier=tier, breaker_open=agent.breaker_open))

    def partitions(self, read: Assigned) -> dict[TopicPartition, PartitionLag]:
        """All that are assigned to the agent, sorted, and what is known of each as of now."""
        (agent, states), now = read, self._wall()
        return {
            partition: self._known(agent, partition, states.get(partition), now) for partition in sorted(agent.assigned)
        }

    def current(self, group: str, assigned: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """The lags in records of those partitions that have a sample young enough."""
        found = {p: self._fresh(mine) for p, mine in self._groups.get(group, {}).items() if p in assigned}
        return {partition: sample.lag for partition, sample in found.items() if sample is not None}

    def samples(self, group: str) -> dict[TopicPartition, Offsets]:
        """The latest of each partition that is young enough."""
        found = {partition: self._fresh(mine) for partition, mine in self._groups.get(group, {}).items()}
        return {partition: sample for partition, sample in found.items() if sample is not None}

    def unread(self, agent: AgentSlots) -> list[Unread]:
        """What is neither in memory nor younger than the samples: after a restart, and while nothing is fetched."""
        unread: list[Unread] = []
        for partition, state in Assigned.read(agent).states.items():
            mine = self._partition(agent.group, partition)
            offset = mine.backlog.to_read(
                state.unsettled,
                in_memory=state.head_timestamp is not None,
                tier=partition.topic in agent.tier_topics,
            )
            if offset is not None and mine.sample is not None:
                unread.append(Unread(agent.group, partition, offset, mine.sample.end))
        return unread

    def note_read(self, read: Unread, found: Found | None) -> None:
        """What was read there; None if it could not be read."""
        self._partition(read.group, read.partition).backlog.read(read.offset, found)

    def sampled_at(self, group: str) -> float | None:
        """When the group's latest sample was begun, in seconds since 1970."""
        return self._sampled_at.get(group)

    def retain(self, assigned: Assignments) -> None:
        """Forget what is not assigned any more: should it come back, another has worked on it in between."""
        for group, partitions in self._groups.items():
            kept = assigned.get(group, frozenset())
            for partition in partitions.keys() - kept:
                del partitions[partition]

    def _known(
        self, agent: AgentSlots, partition: TopicPartition, state: PartitionState | None, now: float
    ) -> PartitionLag:
        mine = self._partition(agent.group, partition)
        sample = self._fresh(mine)
        verdict = None if sample is None else mine.window.verdict
        if state is None:
            return PartitionLag(sample, verdict=verdict)
        oldest = self._oldest(mine, state, now, tier=partition.topic in agent.tier_topics)
        return PartitionLag(sample, oldest, None if oldest is None else oldest.age(now), verdict)

    def _oldest(self, mine: _Partition, state: PartitionState, now: float, *, tier: bool) -> Oldest | None:
        fresh = self._fresh(mine) is not None
        if tier:
            in_memory = state.head_timestamp is not None
            return mine.backlog.oldest_due(state.unsettled, state.head_due, in_memory=in_memory, fresh=fresh)
        return mine.backlog.oldest(state.unsettled, state.head_timestamp, now, fresh=fresh)

    def _fresh(self, mine: _Partition) -> Offsets | None:
        """Its sample, if it is young enough."""
        return mine.sample if mine.taken >= self._clock() - self._stale_after else None

    def _partition(self, group: str, partition: TopicPartition) -> _Partition:
        partitions = self._groups.setdefault(group, {})
        mine = partitions.get(partition)
        if mine is None:
            mine = partitions[partition] = _Partition(self._window())
        return mine

    def _window(self) -> StatusWindow:
        return StatusWindow(self._interval, self._commit_interval)


def _reading(
    sample: Offsets, state: PartitionState, oldest: Oldest | None, now: float, *, tier: bool, breaker_open: bool
) -> Reading:
    # What retention has removed is neither to be settled nor to be committed any more.
    unsettled = max(state.unsettled, sample.start)
    committed = None if sample.committed is None else max(sample.committed, sample.start)
    end = unsettled if oldest == NOTHING else sample.end  # there may be only markers before it
    head: Head = "not_fetched" if state.head_timestamp is None else "blocked" if state.head_blocked else "in_memory"
    due = oldest.since if tier and oldest is not None else None
    # An open breaker leaves partitions open, but it lets nothing start, probes excepted.
    closed: Closed = "breaker" if breaker_open else state.closed
    return Reading(now, end, unsettled, committed, head, due, closed)
