"""Retry topics that an earlier declaration has left behind, and that still hold records."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from streamkit.agent import Agent
from streamkit.record import TopicPartition
from streamkit.runtime.retry_topics import Tier, declared_tiers
from streamkit.transport.base import Admin, TopicInfo

_TIER = re.compile(r"(.+)\.retry-([1-9][0-9]*)")  # <topic>.<group>.retry-<n>


class TierName(NamedTuple):
    base: str  # <topic>.<group>
    number: int


class Base(NamedTuple):
    topic: str
    group: str


@dataclass(slots=True)
class Stranded:
    """By agent name, the undeclared tiers that it is to read."""

    tiers: dict[str, list[Tier]] = field(default_factory=lambda: defaultdict[str, list[Tier]](list))
    infos: dict[str, TopicInfo] = field(default_factory=dict[str, TopicInfo])
    warnings: list[str] = field(default_factory=list[str])


def parse_tier(name: str) -> TierName | None:
    match = _TIER.fullmatch(name)
    return TierName(match[1], int(match[2])) if match else None


def undeclared_tiers(
    agents: Iterable[Agent[Any, Any]], listed: Collection[str]
) -> Iterator[tuple[Agent[Any, Any], Tier]]:
    """Tiers of the agents' groups and topics that they do not declare, and that exist."""
    agents = list(agents)
    declared = {tier.topic for agent in agents for tier in declared_tiers(agent)}
    owners = {f"{topic.name}.{agent.group}": (agent, topic.name) for agent in agents for topic in agent.topics}
    for name in sorted(listed):
        tier = parse_tier(name)
        if tier is not None and name not in declared and tier.base in owners:
            agent, source = owners[tier.base]
            yield agent, _undeclared(name, source, tier.number, agent)


def orphaned_tiers(
    app: str, agents: Iterable[Agent[Any, Any]], topics: Collection[str], listed: Collection[str]
) -> dict[str, Base]:
    """Tiers of groups called `<app>.<something>` that no agent reads: by name, whose they were.

    `topics` are those that the app declares.
    """
    read = {f"{topic.name}.{agent.group}" for agent in agents for topic in agent.topics}
    known = {*listed, *topics}
    found: dict[str, Base] = {}
    for name in sorted(listed):
        tier = parse_tier(name)
        if tier is not None and tier.base not in read and (base := _base_of(tier.base, app, known)):
            found[name] = base
    return found


async def find_stranded(admin: Admin, agents: Iterable[Agent[Any, Any]], listed: Collection[str]) -> Stranded:
    """The undeclared tiers of the agents that hold records which their groups have not committed."""
    stranded = Stranded()
    candidates = {tier.topic: (agent, tier) for agent, tier in undeclared_tiers(agents, listed)}
    infos = await admin.topics(candidates)
    left = await unread(admin, {name: candidates[name][0].group for name in infos}, infos)
    for name, count in left.items():
        agent, tier = candidates[name]
        stranded.tiers[agent.name].append(tier)
        stranded.infos[name] = infos[name]
        stranded.warnings.append(_read_though_undeclared(agent, name, count))
    return stranded


async def find_orphaned(admin: Admin, orphans: Mapping[str, Base]) -> list[str]:
    """Warnings about tiers that hold records and that nobody reads."""
    infos = await admin.topics(orphans)
    left = await unread(admin, {name: orphans[name].group for name in infos}, infos)
    return [_read_by_nobody(name, orphans[name], count) for name, count in left.items()]


async def unread(admin: Admin, groups: Mapping[str, str], infos: Mapping[str, TopicInfo]) -> Counter[str]:
    """By topic, how many records its group has not committed; without those that have none. `groups` is by topic."""
    partitions = [TopicPartition(name, number) for name in groups for number in range(infos[name].partitions)]
    if not partitions:
        return Counter()
    ranges = await admin.log_ranges(partitions)
    by_group: dict[str, list[TopicPartition]] = defaultdict(list)
    for partition in partitions:
        by_group[groups[partition.topic]].append(partition)
    left: Counter[str] = Counter()
    for group, mine in by_group.items():
        committed = await admin.committed(group, mine)
        for partition in mine:
            start, end = ranges[partition]
            done = committed[partition].offset if partition in committed else start
            left[partition.topic] += max(0, end - max(start, done))
    return +left


def _undeclared(name: str, source: str, number: int, agent: Agent[Any, Any]) -> Tier:
    waits = agent.retry.tier_waits if agent.retry else ()
    jitter = agent.retry.jitter if agent.retry else 0.0
    return Tier(name, source, number, waits[-1] if waits else 0.0, False, jitter)


def _base_of(base: str, app: str, known: Collection[str]) -> Base | None:
    """The topic and the group of `<topic>.<group>`, if the group is of the app.

    All three names may hold dots: the topic is the longest one that exists. If none does, any division will do.
    """
    dots = [match.start() for match in re.finditer(r"\.", base)]
    for dot in reversed(dots):
        if base[:dot] in known:
            return _of_app(Base(base[:dot], base[dot + 1 :]), app)
    topic, found, agent = base.partition(f".{app}.")
    return Base(topic, f"{app}.{agent}") if found else None


def _of_app(base: Base, app: str) -> Base | None:
    return base if base.group.startswith(f"{app}.") else None


def _read_though_undeclared(agent: Agent[Any, Any], topic: str, count: int) -> str:
    return (
        f"{topic} still holds {_records(count)}, and agent {agent.name!r} does not declare it any more: "
        "it is read all the same. Once it is empty and its workers were started anew, it can be deleted."
    )


def _read_by_nobody(topic: str, base: Base, count: int) -> str:
    return (
        f"{topic} still holds {_records(count)}, and nothing runs them: no agent reads {base.topic!r} with "
        f"group={base.group!r}. To run them, give that group to the agent that was renamed, or declare one for them; "
        "if they are not needed any more, delete the topic."
    )


def _records(count: int) -> str:
    return "1 record" if count == 1 else f"{count:,} records"
