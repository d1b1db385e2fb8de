"""From TARGET, `--topic` and `--agent` to dead letter topics and the agents that fill them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamkit.agent import Agent
from streamkit.app import App
from streamkit.checks import valid_topic_name
from streamkit.cli.target import chosen_agents, instead, load_app
from streamkit.errors import DeclarationError, UsageError
from streamkit.retry import dead_letter_topic
from streamkit.settings import Settings
from streamkit.topic import Topic
from streamkit.transport.base import Admin, TopicInfo

SUFFIX = ".dlq"


@dataclass(frozen=True)
class Where:
    """Whose dead letters are meant. `names` are the candidates, dead letter topics first."""

    settings: Settings
    names: tuple[str, ...]
    group: str | None = None
    app: App | None = None

    @property
    def brokers(self) -> str:
        return ",".join(self.settings.brokers)

    def source(self, name: str | None) -> Topic[Any, Any] | None:
        """The declared topic of that name, with its types."""
        return self.app.topics.get(name) if self.app and name else None

    async def topics(self, admin: Admin) -> tuple[dict[str, TopicInfo], list[str]]:
        """The dead letter topics that exist, and the names of those that do not."""
        found = await admin.topics(self.names)
        if self.app is not None or len(self.names) == 1:
            return found, [name for name in self.names if name not in found]
        dead_letters, itself = self.names
        if dead_letters in found:
            return {dead_letters: found[dead_letters]}, []
        if itself in found and found[itself].config.get("message.timestamp.type") == "LogAppendTime":
            return {itself: found[itself]}, []  # one that was named by dead_letter=; a source is hardly ever like this
        return {}, [dead_letters]


def where(target: str | None, topic: str | None, agent: str | None, brokers: str | None) -> Where:
    """Raises UsageError, and what `load_app` raises."""
    if target is None:
        return _by_topic(topic, agent, brokers)
    app = load_app(target)
    settings = app.settings({"brokers": brokers}, os.environ)
    agents = chosen_agents(app, [agent] if agent else [])
    names = _narrowed(_dead_letters(agents), topic)
    if not names:
        raise UsageError(
            f"no agent of {app.name!r} has dead letters; declare retry= with tiers, or dead_letter=True"
            if not agent
            else f"agent {agent!r} has no dead letters; declare retry= with tiers, or dead_letter=True"
        )
    return Where(settings, names, agents[0].group if agent else None, app)


def _by_topic(topic: str | None, agent: str | None, brokers: str | None) -> Where:
    if topic is None:
        raise UsageError("whose dead letters? Give TARGET (module:app, or module) or --topic NAME")
    try:
        valid_topic_name(topic)
    except DeclarationError as error:
        raise UsageError(f"--topic: {error}") from error
    names = (topic,) if topic.endswith(SUFFIX) else (dead_letter_topic(topic), topic)
    return Where(Settings.load({"brokers": brokers}, os.environ, {}), names, agent)


def _dead_letters(agents: Sequence[Agent[Any, Any]]) -> dict[str, list[str]]:
    """Each dead letter topic with its sources."""
    found: dict[str, list[str]] = {}
    for agent in agents:
        for source, name in agent.dead_letters.items():
            found.setdefault(name, []).append(source)
    return found


def _narrowed(found: Mapping[str, Sequence[str]], topic: str | None) -> tuple[str, ...]:
    if topic is None:
        return tuple(found)
    names = tuple(name for name, sources in found.items() if topic == name or topic in sources)
    if found and not names:
        known = [*found, *(source for sources in found.values() for source in sources)]
        raise UsageError(f"--topic {topic!r} is neither source nor dead letter topic{instead(topic, known)}")
    return names
