"""Groups whose workers run elsewhere, or nowhere: what the brokers know of them, as if their agents ran here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from prometheus_client.core import Metric

from streamkit.observe.assigned import Assigned
from streamkit.observe.brokers import Brokers, reason_of
from streamkit.observe.families import Family, with_samples
from streamkit.observe.lag import COMMIT_INTERVAL, INTERVAL, LagTable, PartitionLag
from streamkit.observe.lag_metrics import lag_metrics
from streamkit.observe.partition_state import PartitionState
from streamkit.observe.slots import WorkerSlots
from streamkit.record import TopicPartition
from streamkit.transport.base import Admin, GroupInfo, Refused

logger = logging.getLogger("streamkit.observe")

AT_ONCE = 500  # topics that are asked for together
PARTITIONS_AT_ONCE = 10_000


class WatchedGroup(NamedTuple):
    """A group, and what it reads: `tiers` are its retry topics, with their numbers. Without topics they are looked for:
    all that it has committed offsets of, or has assigned."""

    group: str
    agent: str
    topics: Sequence[str] = ()
    tiers: Mapping[str, int] = {}


class Failure(NamedTuple):
    """What keeps a group from being looked at, and when it last was, in seconds since 1970; None: never."""

    error: Exception
    last_seen: float | None


class OutsideTable(LagTable):
    """Of groups that are looked at from outside: whether a worker fetches is not seen, but whether there is one."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        *,
        interval: float = INTERVAL,
        commit_interval: float = COMMIT_INTERVAL,
    ) -> None:
        super().__init__(clock=clock, wall=wall, interval=interval, commit_interval=commit_interval)
        self.infos: dict[str, GroupInfo] = {}  # of those that could be looked at

    def partitions(self, read: Assigned) -> dict[TopicPartition, PartitionLag]:
        info = self.infos.get(read.agent.group)
        found = super().partitions(read)
        for partition, known in found.items():
            if known.verdict is not None and known.verdict.reason == "not_fetching":
                nobody = info is not None and partition not in info.owners
                verdict = known.verdict._replace(reason="no_owner" if nobody else "")
                found[partition] = known._replace(verdict=verdict)
        return found


class OutsideView:
    """Keeps the slots of watched groups up to date for a LagPoller and the collector.

    Each group is looked at on its own. One that cannot be has an entry in `failures` instead of one in `infos`, and
    nothing is told of its topics. Its partitions stay, for the poller to try: what it samples grows old by itself.

    Of a group without declared topics, all partitions count of which it has committed an offset, or that it has. One
    that has been seen stays while its topic exists and the group is not known to have left the topic. It has left when
    nobody knows the group any more, or when it is stable and has nothing of that topic; not while it rebalances or is
    empty: then nobody has anything, and that is when lag matters.
    """

    def __init__(
        self,
        groups: Sequence[WatchedGroup],
        slots: WorkerSlots,
        table: OutsideTable,
        admin_factory: Callable[[], Admin],
        timeout: float,
    ) -> None:
        """A look may take `timeout` seconds. `admin_factory` is called anew after each outage."""
        self._groups = groups
        self._slots = slots
        self._table = table
        self._brokers = Brokers(admin_factory)
        self._timeout = timeout
        self._moved: dict[tuple[str, TopicPartition], tuple[int, float]] = {}  # where it was last, and since when
        self._seen: dict[str, float] = {}  # when last
        self.infos = table.infos
        self.failures: dict[str, Failure] = {}
        for each in groups:
            agent = slots.agent(each.agent, each.group, tuple(each.topics), 0)
            agent.tier_topics = each.tiers
            agent.partitions = partial(self._states, each.group)

    @property
    def silence(self) -> str:
        """Why nothing is known of any group; empty if something is."""
        if any(each.group not in self.failures for each in self._groups):
            return ""
        return next((self.reason(failure) for failure in self.failures.values()), "")

    def reason(self, failure: Failure) -> str:
        """For people."""
        return reason_of(failure.error, self._timeout)

    async def start(self) -> None:
        """Look for the first time. Raises what keeps all groups from being looked at."""
        await self._look_at_all()
        if self.silence:
            raise next(iter(self.failures.values())).error
        self._report({})

    async def refresh(self) -> None:
        """Look who has what, and for new partitions. Never raises for what a broker does: see `failures`."""
        before = self.failures
        await self._look_at_all()
        self._report(before)

    async def close(self) -> None:
        """Does not raise."""
        await self._brokers.close()

    async def _look_at_all(self) -> None:
        at, deadline = self._table.now(), asyncio.get_running_loop().time() + self._timeout
        try:
            async with asyncio.timeout_at(deadline):
                admin = await self._brokers.connected()
        except Exception as error:
            found: list[Exception | None] = [error] * len(self._groups)
        else:
            found = await asyncio.gather(*(self._look(admin, each, deadline) for each in self._groups))
        self.failures = {}
        for each, failed in zip(self._groups, found, strict=True):
            if failed is None:
                self._seen[each.group] = at
                continue
            self.failures[each.group] = Failure(failed, self._seen.get(each.group))
            self.infos.pop(each.group, None)
            self._slots.agents[each.agent].topic_partitions = {}
        if self.silence or not all(isinstance(failure.error, Refused) for failure in self.failures.values()):
            await self.close()

    async def _look(self, admin: Admin, watched: WatchedGroup, deadline: float) -> Exception | None:
        """What has gone wrong."""
        try:
            async with asyncio.timeout_at(deadline):
                info = await admin.group(watched.group)
                declared = [*watched.topics, *watched.tiers]
                counts = await _counts(admin, declared or sorted(await admin.all_topics()))
                existing = {TopicPartition(name, number) for name in counts for number in range(counts[name])}
                agent = self._slots.agents[watched.agent]
                if declared:
                    assigned = existing
                else:
                    committed = await _committed(admin, watched.group, existing)
                    assigned = committed | info.owners.keys() | (_not_left(agent.assigned, info) & existing)
        except Exception as error:
            return error
        topics = {partition.topic for partition in assigned}
        self.infos[watched.group] = info
        agent.assigned = frozenset(assigned)
        agent.topic_partitions = {name: count for name, count in counts.items() if name in topics}
        return None

    def _report(self, before: Mapping[str, Failure]) -> None:
        """Log the begin and the end of what is wrong with a group, not every look at it."""
        begun: dict[str, list[str]] = defaultdict(list)
        for group, failure in self.failures.items():
            if group not in before or type(before[group].error) is not type(failure.error):
                begun[self.reason(failure)].append(group)
        for reason, groups in begun.items():
            logger.warning("the brokers tell nothing of %s: %s; trying again", ", ".join(sorted(groups)), reason)
        if ended := sorted(before.keys() - self.failures.keys()):
            logger.info("the brokers tell of %s again", ", ".join(ended))

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
            for topic, count in sorted(agent.topic_partitions.items()):
                partitions.add((agent.group, topic), count)
        yield from with_samples([partitions])


def _not_left(seen: Collection[TopicPartition], info: GroupInfo) -> set[TopicPartition]:
    """Those of topics that the group, as far as is known, goes on with."""
    if info.state == "Dead":
        return set()
    if info.state != "Stable":
        return set(seen)
    topics = {partition.topic for partition in info.owners}
    return {partition for partition in seen if partition.topic in topics}


async def _counts(admin: Admin, names: Sequence[str]) -> dict[str, int]:
    """How many partitions the topics have; without those that do not exist."""
    counts: dict[str, int] = {}
    for first in range(0, len(names), AT_ONCE):
        infos = await admin.topics(names[first : first + AT_ONCE])
        counts |= {name: info.partitions for name, info in infos.items()}
    return counts


async def _committed(admin: Admin, group: str, partitions: Collection[TopicPartition]) -> set[TopicPartition]:
    """Those of which the group has committed an offset."""
    asked, found = sorted(partitions), set[TopicPartition]()
    for first in range(0, len(asked), PARTITIONS_AT_ONCE):
        found |= (await admin.committed(group, asked[first : first + PARTITIONS_AT_ONCE])).keys()
    return found
