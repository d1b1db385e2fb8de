"""Lag as Prometheus metrics: of what is assigned at present, and only what is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client.core import Metric

from streamkit.observe.assigned import Assigned
from streamkit.observe.catalogue import Detail
from streamkit.observe.families import Family, together, with_samples
from streamkit.observe.lag import LagTable, PartitionLag
from streamkit.observe.slots import AgentSlots
from streamkit.record import TopicPartition

# Of one partition; None where it is not known.
LAG_GAUGES: Final[tuple[tuple[str, Callable[[PartitionLag], float | None]], ...]] = (
    ("streamkit_consumer_lag_records", lambda it: it.offsets and it.offsets.lag),
    ("streamkit_consumer_lag_seconds", lambda it: it.seconds),
    ("streamkit_oldest_unprocessed_timestamp_seconds", lambda it: it.oldest and it.oldest.since),
    ("streamkit_log_end_offset", lambda it: it.offsets and it.offsets.end),
    ("streamkit_committed_offset", lambda it: it.offsets and it.offsets.committed),
    ("streamkit_consumer_lead_records", lambda it: it.offsets and it.offsets.lead),
)

Groups = Mapping[str, Mapping[TopicPartition, PartitionLag]]


def lag_metrics(
    agents: Sequence[Assigned], lag: LagTable, detail: Detail = "full", breathe: Callable[[], None] = lambda: None
) -> Iterator[Metric]:
    """Those that have samples: one after the other, so that who scrapes can pause in between; before the first, this
    calls `breathe` for that."""
    return with_samples(_families(agents, lag, detail, breathe))


def _families(
    agents: Sequence[Assigned], lag: LagTable, detail: Detail, breathe: Callable[[], None]
) -> Iterator[Family]:
    groups = dict[str, Mapping[TopicPartition, PartitionLag]]()
    for each in agents:
        groups[each.agent.group] = lag.partitions(each)
        breathe()
    for name, value_of in LAG_GAUGES:
        family = Family(name, detail)
        for group, partitions in groups.items():
            values = {p: value for p, known in partitions.items() if (value := value_of(known)) is not None}
            family.add_partitions(group, values, partitions)
        yield family
    yield _unstable(groups)
    yield _watermarks(agents, groups)
    if detail != "topic":
        yield _statuses(groups)
    yield _sample_times([each.agent for each in agents], lag)


def _unstable(groups: Groups) -> Family:
    family = Family("streamkit_unstable_records")
    for group, partitions in groups.items():
        sampled = {p: known.offsets.unstable for p, known in partitions.items() if known.offsets is not None}
        values = {partition: unstable for partition, unstable in sampled.items() if unstable is not None}
        for topic, total in sorted(together("sum", values, partitions)):
            family.add((group, topic), total)
    return family


def _watermarks(agents: Sequence[Assigned], groups: Groups) -> Family:
    family = Family("streamkit_event_watermark_timestamp_seconds")
    for agent, states in agents:
        sources = {p: known.oldest for p, known in groups[agent.group].items() if p.topic not in agent.tier_topics}
        waiting = {p: oldest.since for p, oldest in sources.items() if oldest is not None and oldest.since is not None}
        if waiting and None not in sources.values():  # the least of some would be too late
            settled = [at for p in waiting if (at := states[p].event_timestamp) is not None]
            # What waits may be older than what was settled ahead of it.
            family.add((agent.group, agent.agent), min([*settled, *waiting.values()]))
    return family


def _statuses(groups: Groups) -> Family:
    family = Family("streamkit_partition_status")
    for group, partitions in groups.items():
        for partition, known in partitions.items():
            if known.verdict is not None:
                family.add((group, partition.topic, str(partition.partition), *known.verdict), 1)
    return family


def _sample_times(agents: Sequence[AgentSlots], lag: LagTable) -> Family:
    family = Family("streamkit_lag_sample_timestamp_seconds")
    for agent in agents:
        at = lag.sampled_at(agent.group)
        if at is not None and agent.assigned:
            family.add((agent.group,), at)
    return family
