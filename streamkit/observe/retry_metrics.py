"""Retries, dead letters and breakers as Prometheus metrics: of the agents that have them, and nothing of the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import Metric

from streamkit.observe.families import Family, with_samples
from streamkit.observe.lag import LagTable
from streamkit.observe.slots import AgentSlots


def retry_metrics(agents: Sequence[AgentSlots], lag: LagTable) -> Iterator[Metric]:
    """The metrics that have samples."""
    yield from with_samples(_tiers(agents, lag))
    yield from with_samples(_copies(agents))
    yield from with_samples(_breakers(agents))


def _tiers(agents: Sequence[AgentSlots], lag: LagTable) -> Sequence[Family]:
    retries, failures, pending, oldest_due, lateness = families = (
        Family("streamkit_retries_total"),
        Family("streamkit_retry_failures_total"),
        Family("streamkit_retry_pending_records"),
        Family("streamkit_retry_oldest_due_timestamp_seconds"),
        Family("streamkit_retry_delay_error_seconds"),
    )
    for agent in agents:
        if agent.has_in_place:
            retries.add((agent.group, agent.agent, "in_place"), agent.retries_in_place)
        for tier, count in sorted(agent.retries.copy().items()):
            retries.add((agent.group, agent.agent, str(tier)), count)
        for tier, count in sorted(agent.retry_failures.copy().items()):
            failures.add((agent.group, str(tier)), count)
        for tier, records in sorted(_pending_by_tier(agent, lag).items()):
            pending.add((agent.group, str(tier)), records)
        for tier, due in sorted(agent.oldest_due().items()):
            oldest_due.add((agent.group, str(tier)), due)
        for tier, histogram in sorted(agent.lateness.copy().items()):
            lateness.add_histogram((agent.group, str(tier)), histogram)
    return families


def _copies(agents: Sequence[AgentSlots]) -> Sequence[Family]:
    letters, failures, blocked = families = (
        Family("streamkit_dead_letters_total"),
        Family("streamkit_dead_letter_failures_total"),
        Family("streamkit_blocked_records"),
    )
    for agent in agents:
        for reason, count in agent.dead_letters.copy().items():
            letters.add((agent.group, agent.agent, reason), count)
        if agent.has_dead_letters:
            failures.add((agent.group,), agent.dead_letter_failures)
        if agent.makes_copies:
            blocked.add((agent.group, agent.agent), agent.blocked())
    return families


def _breakers(agents: Sequence[AgentSlots]) -> Sequence[Family]:
    is_open, openings, held = families = (
        Family("streamkit_breaker_open"),
        Family("streamkit_breaker_openings_total"),
        Family("streamkit_held_records"),
    )
    for agent in agents:
        if agent.has_breaker:
            labels = (agent.group, agent.agent)
            is_open.add(labels, agent.breaker_open)
            openings.add(labels, agent.breaker_openings)
            held.add(labels, agent.held())
    return families


def _pending_by_tier(agent: AgentSlots, lag: LagTable) -> dict[int, int]:
    """Without the tiers that have a partition whose lag is not known: a part of the sum would look like all of it."""
    tiers, assigned = agent.tier_topics, agent.assigned
    known = lag.current(agent.group, assigned)
    pending: dict[int, int] = {}
    unknown: set[int] = set()
    for partition in assigned:
        tier = tiers.get(partition.topic)
        if tier is None:
            continue
        if partition in known:
            pending[tier] = pending.get(tier, 0) + known[partition]
        else:
            unknown.add(tier)
    return {tier: records for tier, records in pending.items() if tier not in unknown}
