"""What an app has left on a cluster, and declares no more. Pure: told by the names alone."""

from __future__ import annotations

from collections.abc import Collection

from streamkit.app import App
from streamkit.runtime.stranded_tiers import orphaned_tiers, undeclared_tiers


def orphaned_topics(app: App, topics: Collection[str]) -> list[str]:
    """Retry topics of agents, or of an agent's topics, that the app does not declare; and tiers that an agent has no
    more."""
    agents = app.agents.values()
    surplus = [tier.topic for _, tier in undeclared_tiers(agents, topics)]
    in_use = {*app.topics, *(name for agent in agents for name in agent.dead_letters.values())}
    return sorted({*orphaned_tiers(app.name, agents, app.topics, topics), *surplus} - in_use)


def orphaned_groups(app: App, groups: Collection[str]) -> list[str]:
    """Groups called `<app>.<something>` that are no agent's."""
    declared = {agent.group for agent in app.agents.values()}
    return sorted(group for group in groups if group.startswith(f"{app.name}.") and group not in declared)
