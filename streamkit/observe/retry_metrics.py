"""Retries, dead letters and breakers as Prometheus metrics: of the agents that have them, and nothing of the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from streamkit.observe.lag import LagTable
from streamkit.observe.slots import LATENESS_BUCKETS, AgentSlots

_BOUNDS = (*map(str, LATENESS_BUCKETS), "+Inf")


def retry_metrics(agents: Sequence[AgentSlots], lag: LagTable) -> Iterator[Metric]:
    """The metrics that have samples."""
    families = (
        _retries(agents),
        _retry_failures(agents),
        _pending(agents, lag),
        _oldest_due(agents),
        _lateness(agents),
        _dead_letters(agents),
        _dead_letter_failures(agents),
        _blocked(agents),
        _breaker_open(agents),
        _breaker_openings(agents),
        _held(agents),
    )
    return (family for family in families if family.samples)


def _retries(agents: Sequence[AgentSlots]) -> Metric:
    family = CounterMetricFamily(
        "streamkit_retries",
        "Records that a tier has taken over, by the tier's number; runs in place are the tier in_place.",
        labels=("group", "agent", "tier"),
    )
    for agent in agents:
        if agent.has_in_place:
            family.add_metric((agent.group, agent.agent, "in_place"), agent.retries_in_place)
        for tier, count in sorted(agent.retries.copy().items()):
            family.add_metric((agent.group, agent.agent, str(tier)), count)
    return family


def _retry_failures(agents: Sequence[AgentSlots]) -> Metric:
    family = CounterMetricFamily(
        "streamkit_retry_failures",
        "Attempts to hand a record to a tier that failed. Each is made again, and the record's key waits meanwhile.",
        labels=("group", "tier"),
    )
    for agent in agents:
        for tier, count in sorted(agent.retry_failures.copy().items()):
            family.add_metric((agent.group, str(tier)), count)
    return family


def _pending(agents: Sequence[AgentSlots], lag: LagTable) -> Metric:
    family = GaugeMetricFamily(
        "streamkit_retry_pending_records",
        "Lag of this worker's partitions of a tier: records that wait for their retry. Absent when not known.",
        labels=("group", "tier"),
    )
    for agent in agents:
        for tier, records in sorted(_pending_by_tier(agent, lag).items()):
            family.add_metric((agent.group, str(tier)), records)
    return family


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


def _oldest_due(agents: Sequence[AgentSlots]) -> Metric:
    family = GaugeMetricFamily(
        "streamkit_retry_oldest_due_timestamp_seconds",
        "When the first of the records that wait in a tier is due, in seconds since 1970; past if overdue. "
        "Absent if none waits.",
        labels=("group", "tier"),
    )
    for agent in agents:
        for tier, due in sorted(agent.oldest_due().items()):
            family.add_metric((agent.group, str(tier)), due)
    return family


def _lateness(agents: Sequence[AgentSlots]) -> Metric:
    family = HistogramMetricFamily(
        "streamkit_retry_delay_error_seconds",
        "From when a record of a tier was due to the start of its handler. Early ones are in the bucket 0.",
        labels=("group", "tier"),
    )
    for agent in agents:
        for tier, counts in sorted(agent.late_counts.copy().items()):
            buckets = list(zip(_BOUNDS, accumulate(counts.copy()), strict=True))
            family.add_metric((agent.group, str(tier)), buckets, sum_value=agent.late_sum[tier])
    return family


def _dead_letters(agents: Sequence[AgentSlots]) -> Metric:
    family = CounterMetricFamily(
        "streamkit_dead_letters",
        "Records that a dead letter topic has taken, by why they went there.",
        labels=("group", "agent", "reason"),
    )
    for agent in agents:
        for reason, count in agent.dead_letters.copy().items():
            family.add_metric((agent.group, agent.agent, reason), count)
    return family


def _dead_letter_failures(agents: Sequence[AgentSlots]) -> Metric:
    family = CounterMetricFamily(
        "streamkit_dead_letter_failures",
        "Attempts to hand a record to a dead letter topic that failed. Each is made again, and the record's key waits "
        "meanwhile.",
        labels=("group",),
    )
    for agent in agents:
        if agent.has_dead_letters:
            family.add_metric((agent.group,), agent.dead_letter_failures)
    return family


def _blocked(agents: Sequence[AgentSlots]) -> Metric:
    family = GaugeMetricFamily(
        "streamkit_blocked_records",
        "Records that failed and that neither a tier nor a dead letter topic has taken yet; their keys wait.",
        labels=("group", "agent"),
    )
    for agent in agents:
        if agent.makes_copies:
            family.add_metric((agent.group, agent.agent), agent.blocked())
    return family


def _breaker_open(agents: Sequence[AgentSlots]) -> Metric:
    family = GaugeMetricFamily(
        "streamkit_breaker_open",
        "1 while so much fails that the agent holds its records and only probes, else 0.",
        labels=("group", "agent"),
    )
    for agent in agents:
        if agent.has_breaker:
            family.add_metric((agent.group, agent.agent), int(agent.breaker_open))
    return family


def _breaker_openings(agents: Sequence[AgentSlots]) -> Metric:
    family = CounterMetricFamily(
        "streamkit_breaker_openings", "How often the breaker has opened.", labels=("group", "agent")
    )
    for agent in agents:
        if agent.has_breaker:
            family.add_metric((agent.group, agent.agent), agent.breaker_openings)
    return family


def _held(agents: Sequence[AgentSlots]) -> Metric:
    family = GaugeMetricFamily(
        "streamkit_held_records",
        "Records that failed and wait in their places until the breaker closes.",
        labels=("group", "agent"),
    )
    for agent in agents:
        if agent.has_breaker:
            family.add_metric((agent.group, agent.agent), agent.held())
    return family
