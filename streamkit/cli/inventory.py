"""What an app declares, and what a cluster has of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from streamkit.agent import Agent
from streamkit.app import App
from streamkit.cli.orphans import orphaned_groups, orphaned_topics
from streamkit.errors import TransportError
from streamkit.settings import Settings
from streamkit.transport.base import Admin, Transport

Role = Literal["declared", "retry", "dead_letter"]


@dataclass
class Found:
    """What the cluster answers. `error` says why it could not be asked."""

    brokers: str
    error: str | None = None
    partitions: Mapping[str, int] | None = None  # of `topic_roles` those that exist; None: it was not asked
    orphaned_topics: list[str] = field(default_factory=list[str])
    orphaned_groups: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class AgentRow:
    name: str
    shape: str
    topics: list[str]
    sink: str | None
    group: str
    concurrency: int
    order_by: str
    tier_waits: list[float]  # seconds, one a tier
    times_in_place: int
    wait_in_place: float | None  # seconds; None: not tried again in place
    dead_letters: dict[str, str]  # by topic; empty: what has failed for good stops the worker


@dataclass(frozen=True)
class TopicRow:
    name: str
    role: Role
    declared_partitions: int | None
    exists: bool | None  # None: the cluster could not be asked
    partitions: int | None


@dataclass(frozen=True)
class Inventory:
    """The fields are the keys of `streamkit agents --json`: docs/cli.md describes them."""

    app: str
    brokers: str
    error: str | None
    agents: list[AgentRow]
    topics: list[TopicRow]
    orphans: dict[str, list[str]]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def inventory(app: App, found: Found) -> Inventory:
    return Inventory(
        app=app.name,
        brokers=found.brokers,
        error=found.error,
        agents=[_agent_row(agent) for agent in app.agents.values()],
        topics=[_topic_row(app, name, role, found) for name, role in topic_roles(app).items()],
        orphans={"topics": found.orphaned_topics, "groups": found.orphaned_groups},
    )


def topic_roles(app: App) -> dict[str, Role]:
    """All topics of the app, those first that it declares, then what its agents bring with them."""
    roles: dict[str, Role] = dict.fromkeys(app.topics, "declared")
    for agent in app.agents.values():
        roles |= dict.fromkeys(agent.tier_topics, "retry")
        for name in agent.dead_letters.values():
            roles.setdefault(name, "dead_letter")
    return roles


async def ask(app: App, settings: Settings, transport: Transport) -> Found:
    """Ask the cluster once, within `connect_timeout`. Does not raise when it cannot be asked."""
    found, admin = Found(",".join(settings.brokers)), transport.admin()
    try:
        async with asyncio.timeout(settings.connect_timeout):
            await admin.start()
            await _ask(app, admin, found)
    except (TransportError, TimeoutError) as error:
        found.error = str(error) or f"no answer within {settings.connect_timeout:g} s (connect_timeout)"
    finally:
        await admin.stop()
    return found


async def _ask(app: App, admin: Admin, found: Found) -> None:
    found.partitions = {name: info.partitions for name, info in (await admin.topics(topic_roles(app))).items()}
    found.orphaned_topics = orphaned_topics(app, await admin.all_topics())
    found.orphaned_groups = orphaned_groups(app, await admin.all_groups())


def _agent_row(agent: Agent[Any, Any]) -> AgentRow:
    return AgentRow(
        name=agent.name,
        shape=agent.shape,
        topics=[topic.name for topic in agent.topics],
        sink=agent.sink.name if agent.sink else None,
        group=agent.group,
        concurrency=agent.concurrency,
        order_by=_order(agent),
        tier_waits=list(agent.retry.tier_waits) if agent.retry else [],
        times_in_place=agent.retry.times_in_place if agent.retry else 0,
        wait_in_place=agent.retry.wait_in_place if agent.retry and agent.retry.times_in_place else None,
        dead_letters=dict(agent.dead_letters),
    )


def _order(agent: Agent[Any, Any]) -> str:
    if agent.shape in ("batch", "loop"):
        return "partition"
    return agent.order_by if isinstance(agent.order_by, str) else _function_name(agent.order_by)


def _function_name(function: object) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _topic_row(app: App, name: str, role: Role, found: Found) -> TopicRow:
    declared = app.topics[name].partitions if name in app.topics else None
    if found.partitions is None:
        return TopicRow(name, role, declared, exists=None, partitions=None)
    return TopicRow(name, role, declared, exists=name in found.partitions, partitions=found.partitions.get(name))
