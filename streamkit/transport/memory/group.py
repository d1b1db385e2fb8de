"""A consumer group as its coordinator sees it: Kafka's classic protocol, rebalanced eagerly.

Joining and synchronising are one step, for the coordinator itself assigns the partitions (Range). A rebalance ends when
all members have joined again, or when those that have not are thrown out. Times are the running loop's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from streamkit.record import TopicPartition
from streamkit.transport.base import CommittedOffset, Owner

Counts = Mapping[str, int]


class UnknownMember(Exception):
    """The member has left, was thrown out, or never joined."""


class StaleGeneration(Exception):
    """The group has rebalanced since."""


class Joined(NamedTuple):
    generation: int
    assignment: list[TopicPartition]
    counts: Counts  # the partitions of each subscribed topic that the assignment was made from


@dataclass(slots=True)
class Member:
    topics: Collection[str]
    session_timeout: float
    rebalance_timeout: float
    expires: float
    joining: asyncio.Future[Joined] | None = None


class Group:
    """Empty without members; rebalancing while `_deadline` is set; else stable."""

    def __init__(self, name: str, counts: Callable[[Iterable[str]], Counts]) -> None:
        self.name = name
        self.generation = 0
        self.members: dict[str, Member] = {}
        self.offsets: dict[TopicPartition, CommittedOffset] = {}
        self._counts = counts
        self._named = 0
        self._assignments: Mapping[str, Collection[TopicPartition]] = {}  # of the present generation
        self._deadline: float | None = None  # of the rebalance
        self._timer: asyncio.TimerHandle | None = None

    @property
    def rebalancing(self) -> bool:
        return self._deadline is not None

    @property
    def state(self) -> str:
        """As Kafka names it."""
        if not self.members:
            return "Empty" if self.offsets else "Dead"
        return "PreparingRebalance" if self.rebalancing else "Stable"

    def owners(self) -> dict[TopicPartition, Owner]:
        """Who has what, outside of a rebalance."""
        if self.rebalancing:
            return {}
        return {
            partition: Owner(name, "localhost", name)
            for name, partitions in self._assignments.items()
            if name in self.members
            for partition in partitions
        }

    def name_member(self) -> str:
        """A member is named before it joins (KIP-394), so that one whose join got no answer can be told to go."""
        self._named += 1
        return f"{self.name}-{self._named:04}"

    def join(
        self, member_id: str, *, topics: Collection[str], session_timeout: float, rebalance_timeout: float, known: bool
    ) -> asyncio.Future[Joined]:
        """Start or go on with a rebalance; answered when it ends. `known`: the member has joined before."""
        self._expire()
        if known and member_id not in self.members:
            raise UnknownMember(member_id)
        answer: asyncio.Future[Joined] = asyncio.get_running_loop().create_future()
        self.members[member_id] = Member(topics, session_timeout, rebalance_timeout, _now() + session_timeout, answer)
        self._rebalance()
        return answer

    def heartbeat(self, member_id: str, generation: int) -> bool:
        """True when the member is to join again. It stays a member meanwhile."""
        self._expire()
        self._check(member_id, generation)
        self._extend(member_id)
        return self.rebalancing

    def check_commit(self, member_id: str, generation: int) -> None:
        """Members of the present generation may commit until the next one begins. As good as a heartbeat."""
        self._expire()
        self._check(member_id, generation)
        self._extend(member_id)

    def leave(self, member_id: str) -> None:
        self._expire()
        if self.members.pop(member_id, None) is not None:
            self._rebalance()

    def _check(self, member_id: str, generation: int) -> None:
        if member_id not in self.members:
            raise UnknownMember(member_id)
        if generation != self.generation:
            raise StaleGeneration(f"{member_id} speaks of generation {generation}, the group is at {self.generation}")

    def _extend(self, member_id: str) -> None:
        member = self.members[member_id]
        member.expires = _now() + member.session_timeout

    def _rebalance(self) -> None:
        if self._deadline is None:
            timeouts = [member.rebalance_timeout for member in self.members.values()]
            self._deadline = _now() + max(timeouts, default=0.0)
        if all(member.joining is not None for member in self.members.values()):
            self._begin_generation()
        self._set_timer()

    def _begin_generation(self) -> None:
        self._deadline = None
        self.generation += 1
        counts = self._counts(sorted({topic for member in self.members.values() for topic in member.topics}))
        assignments = assign_ranges({name: member.topics for name, member in self.members.items()}, counts)
        self._assignments = assignments
        for name, member in self.members.items():
            self._extend(name)
            answer, member.joining = member.joining, None
            # It is done when its client was stopped meanwhile: such a member leaves, or its session ends.
            if answer is not None and not answer.done():
                seen = {topic: counts[topic] for topic in member.topics}
                answer.set_result(Joined(self.generation, assignments[name], seen))

    def _expire(self) -> None:
        """Throw out whose session has ended, and at the rebalance's deadline whoever has not joined."""
        now = _now()
        too_late = self._deadline is not None and self._deadline <= now
        gone = [
            name
            for name, member in self.members.items()
            if member.joining is None and (too_late or member.expires <= now)
        ]
        for name in gone:
            del self.members[name]
        if gone or too_late:
            self._rebalance()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        moments = [member.expires for member in self.members.values() if member.joining is None]
        if self._deadline is not None:
            moments.append(self._deadline)
        # Heartbeats only move these moments away, so the timer may be early, and is then set again.
        self._timer = asyncio.get_running_loop().call_at(min(moments), self._tick) if moments else None

    def _tick(self) -> None:
        self._expire()
        self._set_timer()


def assign_ranges(subscriptions: Mapping[str, Collection[str]], counts: Counts) -> dict[str, list[TopicPartition]]:
    """Kafka's RangeAssignor: per topic, consecutive partitions to the members in the order of their names.

    Topics with equally many partitions are cut alike, so partition p of all of them goes to one member.
    """
    assignments: dict[str, list[TopicPartition]] = {member: [] for member in subscriptions}
    for topic, count in counts.items():
        members = sorted(member for member, topics in subscriptions.items() if topic in topics)
        share, extra = divmod(count, len(members))
        first = 0
        for index, member in enumerate(members):
            end = first + share + (index < extra)
            assignments[member].extend(TopicPartition(topic, number) for number in range(first, end))
            first = end
    return assignments


def _now() -> float:
    return asyncio.get_running_loop().time()
