"""From a dead letter to the record that is sent again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from streamkit.app import App
from streamkit.checks import valid_topic_name
from streamkit.cli.dlq.selecting import Case, Unfit
from streamkit.cli.dlq.times import shown
from streamkit.cli.dlq.where import Where
from streamkit.cli.outgoing import Outgoing
from streamkit.cli.paper import short
from streamkit.cli.sender import Sender
from streamkit.core.cases import Status, StoredStatus
from streamkit.core.letters import Letter
from streamkit.core.replays import due_headers, replay_headers
from streamkit.durations import parse_duration
from streamkit.errors import DeclarationError, UsageError
from streamkit.retry import dead_letter_topic, state_topic, tier_topic
from streamkit.topic import Topic
from streamkit.transport.base import Admin, TopicInfo

MOST = 100  # characters of what a header says
STATES = state_topic(dead_letter_topic(""))  # how their names end, unless an agent names its dead letter topic
ORIGIN, RETRY, TOPIC = "origin", "retry", "topic:"
_OLDER = "Later records of their keys may have been handled since: an older value may overwrite a newer one."


def declared(place: Where, to: str, letter: Letter) -> Topic[Any, Any] | None:
    """The topic whose types a value of the dead letter is to have: where it goes, else where it came from; None if the
    app declares neither, or there is none."""
    named = place.source(to.removeprefix(TOPIC)) if to.startswith(TOPIC) else None
    return named or place.source(letter.origin_topic)


def check_destination(to: str) -> str:
    """Raises UsageError."""
    if to in (ORIGIN, RETRY):
        return to
    name = to.removeprefix(TOPIC)
    if name == to:
        raise UsageError(f"--to {to!r}: origin, retry or topic:NAME. For times write --from and --until")
    try:
        valid_topic_name(name)
    except DeclarationError as error:
        raise UsageError(f"--to {to}: {error}") from error
    if name.endswith(STATES):
        raise UsageError(f"--to {to}: what became of dead letters stands there, and nothing else")
    return to


class Declared(NamedTuple):
    """What an app says of the dead letters that can be its own."""

    app: str
    origins: Sequence[str]
    with_tiers: Sequence[str]  # groups

    @classmethod
    def of(cls, app: App) -> Declared:
        agents = app.agents.values()
        origins = {source for agent in agents for source in agent.dead_letters}
        groups = {agent.group for agent in agents if agent.retry is not None and agent.retry.tier_waits}
        return cls(app.name, sorted(origins), sorted(groups))

    @classmethod
    def by(cls, place: Where) -> dict[str, Any]:
        """As the arguments of a job hold it; nothing without an app."""
        return {} if place.app is None else {"declared": cls.of(place.app)._asdict()}


class Replaying:
    """`to` origin: the topic that it came from, so that all agents of that get it; `retry`: the first tier of the agent
    that gave it up; `topic:NAME`."""

    status: StoredStatus = "replayed"
    of: frozenset[Status] = frozenset({"open"})
    done = "replayed"

    def __init__(self, arguments: Mapping[str, Any], place: Where, admin: Admin, sender: Sender) -> None:
        self._to = check_destination(arguments["to"])
        self._states = frozenset(map(state_topic, place.names))
        declared = arguments.get("declared")  # not by `place`: whoever resumes it may name only the topic
        self._declared = None if declared is None else Declared(**declared)
        self._admin = admin
        self._sender = sender
        self._topics: dict[str, TopicInfo | None] = {}
        self._destinations: Counter[str] = Counter()
        self._groups: set[str] = set()
        self._oldest: dict[str, int] = {}  # original timestamp, by destination

    async def copy(self, case: Case) -> tuple[str, Outgoing]:
        letter = case.letter
        if letter.omitted:
            raise Unfit(f"its {' and '.join(letter.omitted)} had to be left out, being too large")
        name = await self._destination(letter)
        info = await self._info(name)
        partition, timestamp = letter.origin_partition, letter.origin_timestamp
        to_topic = self._to not in (ORIGIN, RETRY)
        place = None if partition is None or to_topic else partition % info.partitions
        self._destinations[name] += 1
        if self._to == RETRY:
            now = time.time_ns() // 1_000_000
            return name, Outgoing(letter.key, letter.value, due_headers(letter, case.id, now), place, now)
        if timestamp is not None:
            self._oldest[name] = min(timestamp, self._oldest.get(name, timestamp))
        return name, Outgoing(letter.key, letter.value, replay_headers(letter, case.id), place, timestamp)

    def notes(self) -> list[str]:
        found = [f"{count:,} {'goes' if count == 1 else 'go'} to {name}" for name, count in self._destinations.items()]
        if self._to == ORIGIN:
            found.append("Every agent and consumer of the topic gets them again, not only the one that gave them up.")
        if self._to == RETRY:
            found.append(f"Only {', '.join(sorted(self._groups))} gets them again.")
        return [*found, *self.warnings(), _OLDER]

    def warnings(self) -> list[str]:
        return [*filter(None, map(self._too_old, self._oldest))]

    def _too_old(self, name: str) -> str | None:
        info = self._topics[name]
        kept = int(info.config.get("retention.ms", "-1")) if info else -1
        oldest = self._oldest[name]
        if kept < 0 or oldest >= time.time_ns() // 1_000_000 - kept:
            return None
        return (
            f"The oldest was first sent at {shown(oldest)}, before what {name} keeps (retention.ms={kept}): Kafka may "
            "delete it before it is read. --to retry does not have that fault."
        )

    async def _destination(self, letter: Letter) -> str:
        if self._to not in (ORIGIN, RETRY):
            return self._to.removeprefix(TOPIC)
        origin = letter.origin_topic
        if origin is None:
            raise Unfit("it does not say which topic it came from; --to topic:NAME takes it")
        self._check_origin(origin)
        if self._to == ORIGIN:
            return origin
        group = letter.group
        if group is None:
            raise Unfit("it does not say which agent gave it up; --to origin takes it")
        tier = tier_topic(origin, group, 1)
        if not _is_name(tier) or not self._has_tiers(group) or await self._look_up(tier) is None:
            raise Unfit(f"{short(group, MOST)} has no tiers; --to origin takes it")
        self._groups.add(group)
        return tier

    def _check_origin(self, origin: str) -> None:
        said = f"it says that it came from {short(origin, MOST)!r}"
        if not _is_name(origin):
            raise Unfit(f"{said}, which is no name of a topic")
        if origin in self._states or origin.endswith(STATES):
            # Else whoever can write a dead letter could say what has become of others.
            raise Unfit(f"{said}, where it stands what became of dead letters")
        if self._declared is not None and origin not in self._declared.origins:
            raise Unfit(f"{said}, of which {self._declared.app} has no dead letters")

    def _has_tiers(self, group: str) -> bool:
        return self._declared is None or group in self._declared.with_tiers

    async def _info(self, name: str) -> TopicInfo:
        info = await self._look_up(name)
        if info is None:
            raise Unfit(f"topic {name} does not exist")
        return info

    async def _look_up(self, name: str) -> TopicInfo | None:
        if name not in self._topics:
            info = self._topics[name] = (await self._admin.topics([name])).get(name)
            if info is not None:
                self._sender.add(name, info)
        return self._topics[name]


def _is_name(topic: str) -> bool:
    try:
        valid_topic_name(topic)
    except DeclarationError:
        return False
    return True


def parse_batches(text: str | None) -> list[int] | None:
    """Sizes with commas between them. Raises UsageError."""
    if text is None:
        return None
    sizes = [int(each) if each.strip().isdecimal() else 0 for each in text.split(",")]
    if min(sizes) < 1:
        raise UsageError(
            f"--batch {text!r}: write sizes with commas between them, as in 1,5,20,100; the last one repeats"
        )
    return sizes


def parse_wait(text: str) -> float:
    """Seconds. Raises UsageError."""
    try:
        if seconds := parse_duration(text):
            return seconds
        raise ValueError("longer than that")
    except ValueError as error:
        raise UsageError(f"--wait {text!r}: {error}") from error
