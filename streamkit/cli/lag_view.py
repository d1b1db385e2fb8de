"""One run of `streamkit lag`: sampling, and what it shows."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click
import orjson
from rich.console import Console

from streamkit.agent import Agent
from streamkit.cli.logs import configure_logs_of_command
from streamkit.cli.paper import console, table
from streamkit.cli.target import chosen_agents, load_app
from streamkit.cli.transports import asking, transport_for
from streamkit.cli.version import version
from streamkit.core.lag_status import READINGS
from streamkit.errors import ConfigurationError, UsageError
from streamkit.observe.assigned import Assigned
from streamkit.observe.lag import PartitionLag
from streamkit.observe.lag_poller import LagPoller
from streamkit.observe.outside import OutsideTable, OutsideView, WatchedGroup
from streamkit.observe.slots import AgentSlots, WorkerSlots
from streamkit.record import TopicPartition
from streamkit.retry import tier_topics
from streamkit.settings import Settings
from streamkit.transport.base import GroupInfo

LEAST_STEP = 0.1  # seconds between samples
WATCH_STEP = 2.0
SPAN = 5.0  # to look for, to tell the status
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
    """Samples the groups for `span` seconds and shows what it has seen; with `watch` at each sample.

    What cannot be read at present is not shown: an old figure looks as good as a new one. Without `span` it is as long
    as a status takes, and with `watch` without end.
    """

    def __init__(
        self,
        settings: Settings,
        groups: Sequence[WatchedGroup],
        *,
        span: float | None,
        every: bool,
        watch: bool,
        as_json: bool,
    ) -> None:
        """Raises ConfigurationError."""
        self._settings = settings
        self._span = SPAN if span is None and not watch else span
        self._step = WATCH_STEP if watch else max((self._span or 0.0) / (READINGS - 1), LEAST_STEP)
        self._every = every
        self._watch = watch
        self._as_json = as_json
        self._slots = WorkerSlots(version())
        self._table = OutsideTable(interval=self._step, commit_interval=settings.commit_interval)
        transport = transport_for(settings)
        self._view = OutsideView(groups, self._slots, self._table, transport.admin, settings.connect_timeout)
        self._poller = LagPoller(
            self._slots, transport.admin, self._table, self._step, transport.reader, most_reads=1_000_000
        )
        self._began = 0.0  # the latest sample, in seconds since 1970
        self._in_a_row = Counter[str]()  # the latest samples of each group, without a gap

    async def run(self) -> int:
        """The exit code: 1 if in the end a group was not known, or a topic of it is not there.

        Raises TransportError, ConfigurationError.
        """
        configure_logs_of_command(self._settings)
        try:
            with asking(self._settings):
                await self._view.start()
            await (self._go_on() if self._watch else self._look_once())
        finally:
            await self._poller.close()
            await self._view.close()
        return 1 if any(self._is_unknown(agent) for agent in self._slots.agents.values()) else 0

    def _is_unknown(self, agent: AgentSlots) -> bool:
        return agent.group not in self._view.infos or bool(self._missing(agent)) or self._is_nobody(agent)

    async def _look_once(self) -> None:
        if self._span:
            if sys.stderr.isatty():
                click.echo(f"looking for {self._span:g} s (--for), to tell the status ...", err=True)
            await self._sample_until_judged()
            await self._view.refresh()  # who has what now: to ask at every sample costs more than the samples
        await self._sample()
        self._show()

    async def _sample_until_judged(self) -> None:
        """All samples that make a status, but the last."""
        for _ in range(READINGS - 1):
            await self._sample()
            if not self._in_a_row.total():
                return
            await asyncio.sleep(self._step)

    async def _go_on(self) -> None:
        """Also while no broker answers."""
        limit = asyncio.timeout_at(None if self._span is None else asyncio.get_running_loop().time() + self._span)
        await self._sample()
        self._show()
        try:
            async with limit:
                while True:
                    await asyncio.sleep(self._step)
                    await self._view.refresh()
                    self._raise_denial()
                    await self._sample()
                    self._show()
        except TimeoutError:
            if not limit.expired():
                raise

    async def _sample(self) -> None:
        self._began = self._table.now()
        await self._poller.sample()
        for agent in self._slots.agents.values():
            self._in_a_row[agent.group] = self._in_a_row[agent.group] + 1 if self._is_sampled(agent) else 0

    def _is_sampled(self, agent: AgentSlots) -> bool:
        """Whether the latest sample was one of it, if there was anything to sample."""
        at = self._table.sampled_at(agent.group)
        return not agent.assigned or (at is not None and at >= self._began)

    def _raise_denial(self) -> None:
        # To log in again every few seconds may get the account locked.
        for failure in self._view.failures.values():
            if isinstance(failure.error, ConfigurationError):
                raise failure.error

    def _show(self) -> None:
        agents = list(self._slots.agents.values())
        if self._as_json:
            found = [self._group_json(agent) for agent in agents]
            option = 0 if self._watch else orjson.OPT_INDENT_2
            click.echo(orjson.dumps({"brokers": ",".join(self._settings.brokers), "groups": found}, option=option))
            return
        paper = console()
        if self._watch and paper.is_terminal:
            paper.clear()
        for number, agent in enumerate(agents):
            if number:
                paper.print()
            self._print_group(paper, agent)

    def _print_group(self, paper: Console, agent: AgentSlots) -> None:
        info = self._view.infos.get(agent.group)
        if info is None:
            paper.print(self._why_unknown(agent.group), style="bold", soft_wrap=True)
            return
        rows = list(self._rows(agent, info))
        if self._is_nobody(agent):
            paper.print(f"{agent.group}: there is no such group", style="bold", soft_wrap=True)
            return
        paper.print(_headline(agent, info, rows), style="bold", soft_wrap=True)
        for name in self._missing(agent):
            paper.print(f"there is no topic {name}", soft_wrap=True)
        shown = [row for row in rows if self._every or row.is_noteworthy]
        if shown:
            headings = ("records", "seconds", "partition", "status", "owner")
            paper.print(table(headings, map(_cells, shown), right=2))
        if hidden := len(rows) - len(shown):
            paper.print(f"{hidden:,} partition{'' if hidden == 1 else 's'} without lag")

    def _missing(self, agent: AgentSlots) -> list[str]:
        """Topics of the agent that are not there; its tiers may be made later."""
        return sorted(set(agent.topics) - agent.topic_partitions.keys()) if agent.group in self._view.infos else []

    def _is_nobody(self, agent: AgentSlots) -> bool:
        """A name of which the brokers know nothing."""
        info = self._view.infos.get(agent.group)
        return info is not None and info.state == "Dead" and not agent.topics and not agent.assigned

    def _why_unknown(self, group: str) -> str:
        failure = self._view.failures[group]
        since = "" if failure.last_seen is None else f" since {_moment(failure.last_seen)}"
        return f"{group}: the brokers tell nothing{since}: {self._view.reason(failure)}"

    def _group_json(self, agent: AgentSlots) -> dict[str, Any]:
        info, failure = self._view.infos.get(agent.group), self._view.failures.get(agent.group)
        rows = [] if info is None else list(self._rows(agent, info))
        seen = None if failure is None else failure.last_seen
        return {
            "group": agent.group,
            "error": None if failure is None else self._view.reason(failure),
            "last_seen": None if seen is None else _moment(seen),
            "state": None if info is None else info.state,
            "members": None if info is None else info.members,
            "missing_topics": self._missing(agent),
            # A part of the sum would look like all of it.
            "lag_records": None if self._is_unknown(agent) or _unknown(rows) else _behind(rows),
            "lag_seconds": _oldest(rows),
            "partitions": [row.as_json() for row in rows],
        }

    def _rows(self, agent: AgentSlots, info: GroupInfo) -> Iterator[Row]:
        is_sampled = self._is_sampled(agent)
        for partition, latest in self._table.partitions(Assigned.read(agent)).items():
            known = latest if is_sampled else PartitionLag()
            sample, verdict, owner = known.offsets, known.verdict, info.owners.get(partition)
            records = None if sample is None else sample.lag
            # With gaps between the samples it would be the status of a part of the time.
            is_judged = self._in_a_row[agent.group] >= READINGS or not records
            yield Row(
                partition=partition,
                committed=None if sample is None else sample.committed,
                end=None if sample is None else sample.end,
                records=records,
                seconds=known.seconds,
                status=verdict.status if verdict is not None and is_judged else None,
                reason=verdict.reason if verdict is not None else "",
                owner=None if owner is None else f"{owner.client_id}@{owner.host}",
            )


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


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
