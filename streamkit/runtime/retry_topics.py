"""The topics that retries and dead letters need, and what they are to be like.

Pure: told by what is declared, and by what the brokers say of the sources.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from streamkit.agent import Agent
from streamkit.retry import tier_topic
from streamkit.topic import Topic
from streamkit.transport.base import NewTopic, TopicInfo

DAY_MS = 86_400_000
KEPT_MS = 30 * DAY_MS
HEADROOM = 64 * 1024  # for the headers that a copy has and the record had not
LARGEST = 2**31 - 1  # of the numbers that max.message.bytes may be
APPEND_TIME = "LogAppendTime"
IN_SYNC = "min.insync.replicas"


class Tier(NamedTuple):
    """One retry topic of an agent. Times are in seconds."""

    topic: str
    source: str
    number: int
    wait: float
    declared: bool  # False: left behind by an earlier declaration, and read until it is empty
    jitter: float


@dataclass(frozen=True, slots=True)
class AgentTopics:
    """Where an agent's copies come from and go to, by topic name."""

    tiers: Mapping[str, Tier]  # to read: those declared, and undeclared ones that still hold records
    routes: Mapping[str, TopicInfo]  # to write: declared tiers and dead letter topics


@dataclass(frozen=True, slots=True)
class Wanted:
    """A topic for copies, as it is created. Those that exist have to fit it."""

    new: NewTopic
    source: str  # the one with the most partitions, if it has several
    own_partitions: bool  # stated by its declaration, and not taken over from the source
    kept_ms: int | None  # how long a record must be kept; None: that is the user's affair
    max_message_bytes: int | None  # None: the brokers do not say what the source takes


def declared_tiers(agent: Agent[Any, Any]) -> list[Tier]:
    if agent.retry is None:
        return []
    jitter = agent.retry.jitter
    return [
        Tier(tier_topic(topic.name, agent.group, number), topic.name, number, wait, True, jitter)
        for topic in agent.topics
        for number, wait in enumerate(agent.retry.tier_waits, 1)
    ]


def copies_of(agents: Iterable[Agent[Any, Any]]) -> list[str]:
    """The names of all topics that the agents' copies go to."""
    names = dict.fromkeys(name for agent in agents for name in _copies(agent))
    return list(names)


def wanted_topics(
    agents: Iterable[Agent[Any, Any]], declared: Mapping[str, Topic[Any, Any]], known: Mapping[str, TopicInfo]
) -> list[Wanted]:
    """Tiers and dead letter topics of the sources that are known. `declared` holds the topics given as dead_letter=."""
    sources: dict[str, dict[str, TopicInfo]] = defaultdict(dict)
    tiers: dict[str, Tier] = {}
    for agent in agents:
        tiers |= {tier.topic: tier for tier in declared_tiers(agent)}
        for name, source in _copies(agent).items():
            sources[name] |= {one: known[one] for one in source if one in known}
    return [_wanted(name, infos, tiers.get(name), declared.get(name)) for name, infos in sources.items() if infos]


def collisions(new: Collection[str], existing: Collection[str]) -> list[tuple[str, str]]:
    """Names that Kafka will not create, each with the existing one that it takes for the same in names of metrics."""
    taken = {_in_metrics(name): name for name in existing}
    clashes = [(name, taken.get(_in_metrics(name), name)) for name in new]
    return [(name, other) for name, other in clashes if other != name]


def settings_of(topic: Topic[Any, Any]) -> dict[str, str]:
    """Those that its declaration states."""
    retention = {} if topic.retention is None else {"retention.ms": str(round(topic.retention * 1000))}
    return retention | dict(topic.config)


def _copies(agent: Agent[Any, Any]) -> dict[str, list[str]]:
    """By topic that copies go to, the sources that they come from."""
    copies: dict[str, list[str]] = defaultdict(list)
    for tier in declared_tiers(agent):
        copies[tier.topic].append(tier.source)
    for source, name in agent.dead_letters.items():
        copies[name].append(source)
    return copies


def _wanted(name: str, sources: Mapping[str, TopicInfo], tier: Tier | None, own: Topic[Any, Any] | None) -> Wanted:
    widest = max(sources, key=lambda source: sources[source].partitions)
    partitions, replication = (own.partitions, own.replication) if own else (None, None)
    replicas = replication or max((info.replication for info in sources.values() if info.replication), default=None)
    kept_ms = _kept_ms(tier) if tier else None
    limit = _limit(sources.values())
    config = {"cleanup.policy": "delete", "retention.ms": str(kept_ms or KEPT_MS)}
    if limit is not None:
        config["max.message.bytes"] = str(limit)
    if replication is None:  # fewer replicas of its own could not fulfil what the source asks of its many
        config |= _in_sync(sources.values())
    config |= settings_of(own) if own else {}
    config["message.timestamp.type"] = APPEND_TIME
    new = NewTopic(name, partitions or sources[widest].partitions, replicas, config)
    return Wanted(new, widest, partitions is not None, kept_ms, limit)


def _kept_ms(tier: Tier) -> int:
    return max(KEPT_MS, round(2_000 * tier.wait * (1 + tier.jitter)))


def _in_sync(sources: Iterable[TopicInfo]) -> dict[str, str]:
    known = [int(info.config[IN_SYNC]) for info in sources if IN_SYNC in info.config]
    return {IN_SYNC: str(max(known))} if known else {}


def _limit(sources: Collection[TopicInfo]) -> int | None:
    limits = [info.max_message_bytes for info in sources if info.max_message_bytes is not None]
    return min(max(limits) + HEADROOM, LARGEST) if len(limits) == len(sources) else None


def _in_metrics(name: str) -> str:
    return name.replace(".", "_")
