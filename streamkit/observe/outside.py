"""Groups whose workers run elsewhere, or nowhere: what the brokers know of them, as if their agents ran here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from prometheus_client.core import Metric

from streamkit.observe.assigned import Assigned
from streamkit.observe.families import Family, with_samples
from streamkit.observe.lag import LagTable
from streamkit.observe.lag_metrics import lag_metrics
from streamkit.observe.partition_state import PartitionState
from streamkit.observe.slots import WorkerSlots
from streamkit.record import TopicPartition
from streamkit.transport.base import Admin, GroupInfo

AT_ONCE = 500  # topics that are asked for together


class WatchedGroup(NamedTuple):
    """A group, and what it reads: `tiers` are its retry topics, with their numbers. Without topics they are looked for:
    all that it has committed offsets of, or has assigned."""

    group: str
    agent: str
    topics: Sequence[str] = ()
    tiers: Mapping[str, int] = {}


class OutsideView:
    """Keeps the slots of watched groups up to date for a LagPoller and the collector."""

    def __init__(self, groups: Sequence[WatchedGroup], slots: WorkerSlots, table: LagTable) -> None:
        self._groups = groups
        self._slots = slots
        self._table = table
        self._moved: dict[tuple[str, TopicPartition], tuple[int, float]] = {}  # where it was last, and since when
        self.infos: dict[str, GroupInfo] = {}
        for each in groups:
            agent = slots.agent(each.agent, each.group, tuple(each.topics), 0)
            agent.tier_topics = each.tiers
            agent.partitions = partial(self._states, each.group)

    async def refresh(self, admin: Admin) -> None:
        """Look who has what, and for new partitions. Raises TransportError."""
        for each in self._groups:
            info = self.infos[each.group] = await admin.group(each.group)
            names = [*each.topics, *each.tiers]
            if names:
                counts = {name: found.partitions for name, found in (await admin.topics(names)).items()}
                partitions = {TopicPartition(name, number) for name in counts for number in range(counts[name])}
            else:
                partitions = await _committed(admin, each.group) | info.owners.keys()
            self._slots.agents[each.agent].assigned = frozenset(partitions)

    def _states(self, group: str) -> dict[TopicPartition, PartitionState]:
        """Nothing is in memory here, and what is committed is all that is known to be settled."""
        now, states = self._table.now(), dict[TopicPartition, PartitionState]()
        for partition, offsets in self._table.samples(group).items():
            place = offsets.start if offsets.committed is None else max(offsets.committed, offsets.start)
            known = self._moved.get((group, partition))
            if known is None or known[0] != place:
                known = self._moved[group, partition] = place, now
            states[partition] = PartitionState(
                unsettled=place,
                position=place,
                head_timestamp=None,
                head_started=None,
                head_due=None,
                head_blocked=False,
                buffered=0,
                settled_ahead=0,
                closed="",
                fetched_at=known[1],
                progressed_at=known[1],
            )
        return states


class OutsideCollector:
    """How far the groups are behind, under the names that their workers give it."""

    def __init__(self, slots: WorkerSlots, lag: LagTable) -> None:
        self._slots = slots
        self._lag = lag

    def collect(self) -> Iterator[Metric]:
        agents = list(self._slots.agents.values())
        yield from lag_metrics([Assigned.read(agent) for agent in agents], self._lag)
        partitions = Family("streamkit_topic_partitions")
        for agent in agents:
            for topic, count in sorted(Counter(partition.topic for partition in agent.assigned).items()):
                partitions.add((agent.group, topic), count)
        yield from with_samples([partitions])


async def _committed(admin: Admin, group: str) -> set[TopicPartition]:
    """All partitions of which the group has committed an offset."""
    names = sorted(await admin.all_topics())
    found: set[TopicPartition] = set()
    for first in range(0, len(names), AT_ONCE):
        infos = await admin.topics(names[first : first + AT_ONCE])
        partitions = [TopicPartition(name, number) for name in infos for number in range(infos[name].partitions)]
        found |= (await admin.committed(group, partitions)).keys()
    return found
