"""What a worker makes of its topics at start: looks them up, creates or misses some, checks those of copies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamkit.agent import Agent
from streamkit.errors import ConfigurationError, MissingTopic, TransportError
from streamkit.runtime.copy_checks import misfits, too_few_partitions, unfit
from streamkit.runtime.retry_topics import (
    AgentTopics,
    Wanted,
    collisions,
    copies_of,
    declared_tiers,
    settings_of,
    wanted_topics,
)
from streamkit.runtime.stranded_tiers import Stranded, find_orphaned, find_stranded, orphaned_tiers
from streamkit.topic import Topic
from streamkit.transport.base import Admin, NewTopic, Refused, TopicInfo

log = logging.getLogger(__name__)

CREATED_WITHIN = 10.0  # until every broker knows of a new topic
CONFIG_WITHIN = 2.0  # until every broker tells its settings, if it tells them at all


@dataclass(frozen=True, slots=True)
class Started:
    """The topics of a worker, as they are."""

    found: Mapping[str, TopicInfo]  # all that are read or written, copies included
    agents: Mapping[str, AgentTopics]  # by the agent's name

    def of(self, agent: Agent[Any, Any]) -> AgentTopics:
        return self.agents[agent.name]


class StartTopics:
    """`agents` are those that run, `all_agents` those of the app; `topics` must exist."""

    def __init__(
        self,
        app: str,
        agents: Collection[Agent[Any, Any]],
        all_agents: Collection[Agent[Any, Any]],
        topics: Mapping[str, Topic[Any, Any]],
        *,
        brokers: str,
        create: bool,
    ) -> None:
        self._app = app
        self._agents = agents
        self._all_agents = list({agent.name: agent for agent in (*all_agents, *agents)}.values())
        self._topics = topics
        self._copies = copies_of(self._all_agents)
        # A topic given as dead_letter= is created as one of copies.
        self._plain = {name: topic for name, topic in topics.items() if name not in set(self._copies)}
        self._brokers = brokers
        self._create = create

    async def look_up(self, admin: Admin) -> Started:
        """Raises ConfigurationError, MissingTopic among them, and TransportError."""
        listed = await self._list(admin)
        found = await self._complete(admin, await admin.topics([*self._plain, *self._copies]), listed)
        wanted = [topic for topic in self._wanted(found) if topic.new.name in found]
        self._check(wanted, found)
        stranded = await self._stranded(admin, listed)
        warnings = [too_few_partitions(topic, found[topic.new.name], self._brokers) for topic in wanted]
        for warning in (*filter(None, warnings), *stranded.warnings):
            log.warning("%s", warning)
        agents = {agent.name: _agent_topics(agent, found, stranded) for agent in self._agents}
        return Started({**found, **stranded.infos}, agents)

    def _wanted(self, known: Mapping[str, TopicInfo]) -> list[Wanted]:
        return wanted_topics(self._all_agents, self._topics, known)

    async def _list(self, admin: Admin) -> frozenset[str]:
        try:
            return await admin.all_topics()
        except Refused as error:
            log.warning("the brokers do not list their topics, so tiers that are left behind are not found: %s", error)
            return frozenset()

    # What is missing

    async def _complete(
        self, admin: Admin, found: Mapping[str, TopicInfo], listed: Collection[str]
    ) -> Mapping[str, TopicInfo]:
        plain = [topic for name, topic in self._plain.items() if name not in found]
        declared = [as_new(topic) for topic in plain if topic.partitions is not None]
        copies = self._missing_copies({**_expected(declared), **found}, found)
        if not plain and not copies:
            return found
        self._refuse_collisions([*(topic.name for topic in plain), *(new.name for new in copies)], {*listed, *found})
        if not self._create or any(topic.partitions is None for topic in plain):
            raise self._missing(plain, copies)
        found = {**found, **await self._created(admin, declared)}
        # Looked for once more: what their sources are like is known by now.
        return {**found, **await self._created(admin, self._missing_copies(found, found))}

    def _missing_copies(self, known: Mapping[str, TopicInfo], found: Mapping[str, TopicInfo]) -> list[NewTopic]:
        missing: dict[str, NewTopic] = {}
        # An agent may read the dead letters of another, and have copies of its own.
        while new := [
            topic.new
            for topic in self._wanted({**_expected(missing.values()), **known})
            if topic.new.name not in {*found, *missing}
        ]:
            missing |= {topic.name: topic for topic in new}
        return list(missing.values())

    def _missing(self, plain: Iterable[Topic[Any, Any]], copies: Sequence[NewTopic]) -> MissingTopic:
        declared = {topic.name: (topic.partitions, topic.replication) for topic in plain}
        declared |= {new.name: (new.partitions, new.replication) for new in copies}
        return MissingTopic(declared, self._brokers, configs={new.name: new.config for new in copies})

    def _refuse_collisions(self, names: Collection[str], existing: Collection[str]) -> None:
        clashes = [
            f"topic {name!r} cannot be created: {other!r} exists, and Kafka, which writes '.' as '_' in the names of "
            "its metrics, allows only one of the two."
            for name, other in collisions(names, existing)
        ]
        if clashes:
            hint = "Rename the topic, or give its agent another group= (retries) or dead_letter=."
            raise ConfigurationError("\n".join([*clashes, hint]))

    async def _created(self, admin: Admin, topics: Sequence[NewTopic]) -> Mapping[str, TopicInfo]:
        """Create topics and wait until the brokers show them."""
        if not topics:
            return {}
        names = [topic.name for topic in topics]
        await admin.create_topics(topics)
        log.info("created %s", ", ".join(names))
        found = await admin.topics(names)
        async with asyncio.timeout(CREATED_WITHIN):
            while len(found) < len(names):
                await asyncio.sleep(0.1)
                found = await admin.topics(names)
        deadline = asyncio.get_running_loop().time() + CONFIG_WITHIN
        while not all(info.config for info in found.values()) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.1)
            found |= await admin.topics(names)
        return found

    # What is there

    def _check(self, wanted: Iterable[Wanted], found: Mapping[str, TopicInfo]) -> None:
        wrong = [misfit for topic in wanted for misfit in misfits(topic, found[topic.new.name])]
        if wrong:
            raise ConfigurationError(unfit(wrong, self._brokers))

    async def _stranded(self, admin: Admin, listed: Collection[str]) -> Stranded:
        try:
            stranded = await find_stranded(admin, self._agents, listed)
        except Refused as error:
            log.warning("cannot see which tiers hold records that are declared no more: %s", error)
            stranded = Stranded()
        try:
            orphans = orphaned_tiers(self._app, self._all_agents, self._topics, listed)
            stranded.warnings += await find_orphaned(admin, orphans)
        except (TransportError, TimeoutError) as error:  # of which no agent depends
            log.warning("cannot see which tiers hold records that nobody reads: %s", error)
        return stranded


def as_new(topic: Topic[Any, Any]) -> NewTopic:
    assert topic.partitions is not None
    return NewTopic(topic.name, topic.partitions, topic.replication, settings_of(topic))


def _expected(topics: Iterable[NewTopic]) -> dict[str, TopicInfo]:
    """What topics will be like, as far as that is known before they exist."""
    return {new.name: TopicInfo(new.partitions, _limit(new), new.replication, new.config) for new in topics}


def _limit(new: NewTopic) -> int | None:
    limit = new.config.get("max.message.bytes", "")
    return int(limit) if limit.isdecimal() else None


def _agent_topics(agent: Agent[Any, Any], found: Mapping[str, TopicInfo], stranded: Stranded) -> AgentTopics:
    tiers = [*declared_tiers(agent), *stranded.tiers.get(agent.name, ())]
    return AgentTopics(
        tiers={tier.topic: tier for tier in tiers},
        routes={name: found[name] for name in copies_of([agent])},
    )
