"""Dead letters counted: by what they died of, and by the agent that gave them up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from streamkit.core.cases import Status
from streamkit.core.fingerprints import Fingerprint, fingerprint
from streamkit.core.letters import Letter

MOST_GROUPS: Final = 1_000  # that are kept apart
MOST_CLASSES: Final = 100  # of errors, that are kept apart in the totals of an agent
HOUR: Final = 3_600_000  # ms


@dataclass(slots=True)
class Group:
    """Dead letters of one fingerprint. Times are ms since 1970."""

    fingerprint: Fingerprint
    count: int
    first: int
    last: int
    sample: str  # the ID of the newest


class Groups:
    """Dead letters by fingerprint, in bounded memory: those of further fingerprints than `most` are only counted."""

    __slots__ = ("_groups", "_most", "others")

    def __init__(self, most: int = MOST_GROUPS) -> None:
        self._groups: dict[Fingerprint, Group] = {}
        self._most = most
        self.others = 0  # dead letters that are in no group

    def add(self, letter: Letter) -> None:
        found = fingerprint(letter)
        when = letter.when
        group = self._groups.get(found)
        if group is None:
            if len(self._groups) >= self._most:
                self.others += 1
            else:
                self._groups[found] = Group(found, 1, when, when, letter.id)
            return
        group.count += 1
        if when < group.first:
            group.first = when
        if when >= group.last:
            group.last = when
            group.sample = letter.id

    def rows(self) -> list[Group]:
        """The largest first; of equally large ones, the one that failed last."""
        return sorted(self._groups.values(), key=lambda group: (-group.count, -group.last))


@dataclass(slots=True)
class AgentTotals:
    """The dead letters of one agent. Times are ms since 1970; None: there is none."""

    counts: Counter[Status] = field(default_factory=Counter["Status"])
    oldest_open: int | None = None
    newest: int | None = None  # failure, of any status
    last_hour: int = 0  # failures, of any status
    classes: Counter[str] = field(default_factory=Counter[str])  # of the errors of open ones
    other_classes: int = 0  # open ones of further classes
    failed_again: int = 0  # after a replay, of any status

    def top(self, most: int) -> list[tuple[str, int]]:
        """The most frequent errors of open ones; those without a class are under ""."""
        return sorted(self.classes.items(), key=lambda item: (-item[1], item[0]))[:most]


class Totals:
    """Dead letters counted by group, that is by agent; under None those that do not say theirs. In bounded memory:
    those of further groups than `most` are only counted."""

    __slots__ = ("_agents", "_hour_ago", "_most", "others")

    def __init__(self, now: int, most: int = MOST_GROUPS) -> None:
        self._agents: dict[str | None, AgentTotals] = {}
        self._hour_ago = now - HOUR
        self._most = most
        self.others = 0

    def add(self, letter: Letter, status: Status, case: str | None = None) -> None:
        """Count a dead letter of this status; `case` is the letter that its case began with, if that is another."""
        totals = self._of(letter.group)
        if totals is None:
            self.others += 1
            return
        when = letter.when
        totals.newest = when if totals.newest is None else max(totals.newest, when)
        totals.last_hour += when > self._hour_ago
        totals.failed_again += case is not None and case != letter.id
        totals.counts[status] += 1
        if status == "open":
            totals.oldest_open = when if totals.oldest_open is None else min(totals.oldest_open, when)
            _count_class(totals, letter.error_class or "")

    def agents(self) -> dict[str | None, AgentTotals]:
        """The totals by group."""
        return self._agents

    def _of(self, group: str | None) -> AgentTotals | None:
        totals = self._agents.get(group)
        if totals is None and len(self._agents) < self._most:
            totals = self._agents[group] = AgentTotals()
        return totals


def _count_class(totals: AgentTotals, name: str) -> None:
    if name in totals.classes or len(totals.classes) < MOST_CLASSES:
        totals.classes[name] += 1
    else:
        totals.other_classes += 1
