"""One run of `streamkit lag`: sampling, and what it shows."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click
import orjson

from streamkit.agent import Agent
from streamkit.cli.logs import configure_logs_of_command
from streamkit.cli.paper import console, table
from streamkit.cli.target import chosen_agents, load_app
from streamkit.cli.transports import asking, transport_for
from streamkit.cli.version import version
from streamkit.core.lag_status import READINGS
from streamkit.errors import UsageError
from streamkit.observe.assigned import Assigned
from streamkit.observe.lag import LagTable
from streamkit.observe.lag_poller import LagPoller
from streamkit.observe.outside import OutsideView, WatchedGroup
from streamkit.observe.slots import AgentSlots, WorkerSlots
from streamkit.record import TopicPartition
from streamkit.retry import tier_topics
from streamkit.settings import Settings
from streamkit.transport.base import Admin, GroupInfo

LEAST_STEP = 0.1  # seconds between samples
WATCH_STEP = 2.0
UNKNOWN = "–"


def watched(
    target: str | None, groups: Sequence[str], agents: Sequence[str], brokers: str | None
) -> tuple[Settings, list[WatchedGroup]]:
    """Raises UsageError, and what `load_app` raises."""
    if target is None:
        if not groups or agents:
            raise UsageError("whose lag? Give TARGET (module:app, or module), or --group NAME")
        return Settings.load({"brokers": brokers}, os.environ, {}), [WatchedGroup(name, name) for name in groups]
    if groups:
        raise UsageError("TARGET says which groups: leave out --group, or TARGET")
    app = load_app(target)
    found = [_group(agent) for agent in chosen_agents(app, agents)]
    return app.settings({"brokers": brokers}, os.environ), found


def _group(agent: Agent[Any, Any]) -> WatchedGroup:
    tiers = {
        name: number
        for topic in agent.topics
        for number, name in enumerate(tier_topics(topic.name, agent.group, agent.retry), 1)
    }
    return WatchedGroup(agent.group, agent.name, [topic.name for topic in agent.topics], tiers)


@dataclass(frozen=True)
class Row:
    """One partition. None: it is not known."""

    partition: TopicPartition
    committed: int | None
    end: int | None
    records: int | None
    seconds: float | None
    status: str | None
    reason: str
    owner: str | None

    @property
    def is_noteworthy(self) -> bool:
        return self.records != 0 or self.status not in ("ok", None)

    def as_json(self) -> dict[str, Any]:
        return {
            "topic": self.partition.topic,
            "partition": self.partition.partition,
            "committed": self.committed,
            "end": self.end,
            "lag_records": self.records,
            "lag_seconds": None if self.seconds is None else round(self.seconds, 3),
            "status": self.status,
            "reason": self.reason or None,
            "owner": self.owner,
        }


class Look:
    """Samples the groups for `span` seconds, or with `watch` until it is cancelled, and shows what it has seen."""

    def __init__(
        self,
        settings: Settings,
        groups: Sequence[WatchedGroup],
        *,
        span: float,
        every: bool,
        watch: bool,
        as_json: bool,
    ) -> None:
        self._settings = settings
        self._groups = groups
        self._step = WATCH_STEP if watch else max(span / (READINGS - 1), LEAST_STEP)
        self._samples = READINGS if span > 0 else 1
        self._every = every
        self._watch = watch
        self._as_json = as_json
        self._slots = WorkerSlots(version())
        self._table = LagTable(interval=self._step, commit_interval=settings.commit_interval)
        self._view = OutsideView(groups, self._slots, self._table)

    async def run(self) -> None:
        """Raises TransportError, ConfigurationError."""
        configure_logs_of_command(self._settings)
        transport = transport_for(self._settings)
        poller = LagPoller(
            self._slots, transport.admin, self._table, self._step, transport.reader, most_reads=1_000_000
        )
        admin = transport.admin()
        try:
            with asking(self._settings):
                async with asyncio.timeout(self._settings.connect_timeout):
                    await admin.start()
                    await self._view.refresh(admin)
            await self._sample(poller, admin)
        finally:
            await poller.close()
            await admin.stop()

    async def _sample(self, poller: LagPoller, admin: Admin) -> None:
        for _ in range(0 if self._watch else self._samples - 1):
            await poller.sample()
            await asyncio.sleep(self._step)
        if not self._watch and self._samples > 1:
            await self._view.refresh(admin)  # who has what now: to ask at every sample costs more than the samples
        while True:
            await poller.sample()
            self._show()
            if not self._watch:
                return
            await asyncio.sleep(self._step)
            await self._view.refresh(admin)

    def _show(self) -> None:
        groups = [(agent, self._view.infos[agent.group]) for agent in self._slots.agents.values()]
        rows = {agent.group: list(self._rows(agent, info)) for agent, info in groups}
        if self._as_json:
            option = 0 if self._watch else orjson.OPT_INDENT_2
            found = [_group_json(agent, info, rows[agent.group]) for agent, info in groups]
            click.echo(orjson.dumps({"brokers": ",".join(self._settings.brokers), "groups": found}, option=option))
            return
        paper = console()
        if self._watch and paper.is_terminal:
            paper.clear()
        for number, (agent, info) in enumerate(groups):
            paper.print("\n" * bool(number) + _headline(agent, info, rows[agent.group]), style="bold", soft_wrap=True)
            shown = [row for row in rows[agent.group] if self._every or row.is_noteworthy]
            if shown:
                headings = ("records", "seconds", "partition", "status", "owner")
                paper.print(table(headings, map(_cells, shown), right=2))
            if hidden := len(rows[agent.group]) - len(shown):
                paper.print(f"{hidden:,} partition{'' if hidden == 1 else 's'} without lag")

    def _rows(self, agent: AgentSlots, info: GroupInfo) -> Iterator[Row]:
        for partition, known in self._table.partitions(Assigned.read(agent)).items():
            sample, verdict, owner = known.offsets, known.verdict, info.owners.get(partition)
            records = None if sample is None else sample.lag
            is_judged = verdict is not None and (self._samples > 1 or not records)
            yield Row(
                partition=partition,
                committed=None if sample is None else sample.committed,
                end=None if sample is None else sample.end,
                records=records,
                seconds=known.seconds,
                status=verdict.status if verdict is not None and is_judged else None,
                reason=_reason(verdict.reason if verdict else "", owned=owner is not None),
                owner=None if owner is None else f"{owner.client_id}@{owner.host}",
            )


def _reason(reason: str, *, owned: bool) -> str:
    """From outside it is not seen whether a worker fetches, but whether there is one."""
    if reason != "not_fetching":
        return reason
    return "" if owned else "no_owner"


def _group_json(agent: AgentSlots, info: GroupInfo, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "group": agent.group,
        "state": info.state,
        "members": info.members,
        # A part of the sum would look like all of it.
        "lag_records": None if _unknown(rows) else _behind(rows),
        "lag_seconds": _oldest(rows),
        "partitions": [row.as_json() for row in rows],
    }


def _behind(rows: Sequence[Row]) -> int:
    return sum(row.records or 0 for row in rows)


def _unknown(rows: Sequence[Row]) -> int:
    return sum(row.records is None for row in rows)


def _oldest(rows: Sequence[Row]) -> float | None:
    known = [row.seconds for row in rows if row.seconds is not None]
    return round(max(known), 3) if known else None


def _headline(agent: AgentSlots, info: GroupInfo, rows: Sequence[Row]) -> str:
    members = f"{info.members} member{'' if info.members == 1 else 's'}"
    behind, oldest, unknown = _behind(rows), _oldest(rows), _unknown(rows)
    text = f"{agent.group}: {info.state}, {members}, {behind:,} record{'' if behind == 1 else 's'} behind"
    if behind and oldest is not None:
        text += f", the oldest for {oldest:,.1f} s"
    return f"{text}, {unknown:,} partition{'' if unknown == 1 else 's'} not known" if unknown else text


def _cells(row: Row) -> Sequence[str]:
    status = UNKNOWN if row.status is None else row.status + (f" ({row.reason})" if row.reason else "")
    return (
        UNKNOWN if row.records is None else f"{row.records:,}",
        UNKNOWN if row.seconds is None else f"{row.seconds:,.1f}",
        f"{row.partition.topic} {row.partition.partition}",
        status,
        row.owner or "nobody",
    )
