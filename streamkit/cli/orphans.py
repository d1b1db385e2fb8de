"""What an app has left on a cluster, and declares no more. Pure: told by the names alone."""

from __future__ import annotations

import re
from collections.abc import Collection

from streamkit.app import App

_TIER = re.compile(r"(.+)\.retry-[1-9][0-9]*")  # <topic>.<group>.retry-<n>


def orphaned_topics(app: App, topics: Collection[str]) -> list[str]:
    """Retry topics of agents, or of an agent's topics, that the app does not declare."""
    declared = {f"{topic.name}.{agent.group}" for agent in app.agents.values() for topic in agent.topics}
    known = {*topics, *app.topics}
    tiers = ((name, match[1]) for name in topics if (match := _TIER.fullmatch(name)))
    return sorted(name for name, base in tiers if base not in declared and _is_ours(base, app.name, known))


def orphaned_groups(app: App, groups: Collection[str]) -> list[str]:
    """Groups called `<app>.<something>` that are no agent's."""
    declared = {agent.group for agent in app.agents.values()}
    return sorted(group for group in groups if group.startswith(f"{app.name}.") and group not in declared)


def _is_ours(base: str, app: str, known: Collection[str]) -> bool:
    """Whether `<topic>.<group>` has a group of the app.

    All three names may hold dots: the topic is the longest one that exists. If none does, any division will do.
    """
    dots = [match.start() for match in re.finditer(r"\.", base)]
    for dot in reversed(dots):
        if base[:dot] in known:
            return base[dot + 1 :].startswith(f"{app}.")
    return f".{app}." in base
