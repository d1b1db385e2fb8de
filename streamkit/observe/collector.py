"""The worker's slots as Prometheus metrics, rendered at scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from streamkit.observe.lag import LagTable
from streamkit.observe.retry_metrics import retry_metrics
from streamkit.observe.slots import DURATION_BUCKETS, AgentSlots, WorkerSlots

_BOUNDS = (*map(str, DURATION_BUCKETS), "+Inf")


class StreamkitCollector:
    """Reads the slots from the observer's thread while the loop's thread writes them.

    Each list or dict is copied in one step before it is walked, so what is derived from one of them agrees with itself;
    two slots may be some records apart. Only present assignments are walked, so a revoked partition's series ends with
    the next scrape.
    """

    def __init__(self, slots: WorkerSlots, lag: LagTable) -> None:
        self._slots = slots
        self._lag = lag

    def describe(self) -> Iterable[Metric]:
        """Nothing: otherwise registering it would collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        agents = list(self._slots.agents.values())
        yield _info(self._slots)
        yield _consumed(agents)
        yield _processed(agents)
        yield _durations(agents)
        yield _in_flight(agents)
        yield self._produced()
        yield _commits(agents)
        yield _rebalances(agents)
        yield _assigned(agents)
        yield self._lags(agents)
        yield self._sample_times(agents)
        yield from retry_metrics(agents, self._lag)

    def _produced(self) -> Metric:
        family = CounterMetricFamily(
            "streamkit_records_produced",
            "Outputs that the brokers acknowledged (success) or that failed for good (error).",
            labels=("topic", "result"),
        )
        for topic in list(self._slots.produced.values()):
            family.add_metric((topic.topic, "success"), topic.acknowledged)
            family.add_metric((topic.topic, "error"), topic.failed)
        return family

    def _lags(self, agents: Sequence[AgentSlots]) -> Metric:
        family = GaugeMetricFamily(
            "streamkit_consumer_lag_records",
            "Offsets between what the group has committed and the end of the log. Absent when not known.",
            labels=("group", "topic", "partition"),
        )
        for agent in agents:
            for partition, lag in sorted(self._lag.current(agent.group, agent.assigned).items()):
                family.add_metric((agent.group, partition.topic, str(partition.partition)), lag)
        return family

    def _sample_times(self, agents: Sequence[AgentSlots]) -> Metric:
        family = GaugeMetricFamily(
            "streamkit_lag_sample_timestamp_seconds",
            "When the lag was last read from the brokers, in seconds since 1970. Absent while nothing is assigned.",
            labels=("group",),
        )
        for agent in agents:
            at = self._lag.sampled_at(agent.group)
            if at is not None and agent.assigned:
                family.add_metric((agent.group,), at)
        return family


def _info(slots: WorkerSlots) -> Metric:
    family = GaugeMetricFamily("streamkit_worker_info", "1, with what this worker runs.", labels=("version",))
    family.add_metric((slots.version,), 1)
    return family


def _consumed(agents: Sequence[AgentSlots]) -> Metric:
    family = CounterMetricFamily(
        "streamkit_records_consumed",
        "Records read from the log, those that are delivered again included.",
        labels=("group", "topic"),
    )
    for agent in agents:
        for topic, count in agent.consumed.copy().items():
            family.add_metric((agent.group, topic), count)
    return family


def _processed(agents: Sequence[AgentSlots]) -> Metric:
    family = CounterMetricFamily(
        "streamkit_records_processed",
        "How deliveries ended: success, error, cancelled (by a revoke or a stop), skipped (settled before a restart), "
        "filtered (by the handler), retried (a tier has them), dead_lettered.",
        labels=("group", "agent", "topic", "result"),
    )
    for agent in agents:
        labels = _agent_labels(agent)
        family.add_metric((*labels, "success"), agent.processed_success)
        family.add_metric((*labels, "error"), agent.processed_error)
        family.add_metric((*labels, "cancelled"), agent.processed_cancelled)
        family.add_metric((*labels, "skipped"), agent.skipped)
        family.add_metric((*labels, "filtered"), agent.processed_filtered)
        if agent.retries:
            family.add_metric((*labels, "retried"), agent.processed_retried)
        if agent.has_dead_letters:
            family.add_metric((*labels, "dead_lettered"), agent.processed_dead_lettered)
    return family


def _durations(agents: Sequence[AgentSlots]) -> Metric:
    family = HistogramMetricFamily(
        "streamkit_processing_duration_seconds",
        "From the start of the handler to its end.",
        labels=("group", "agent", "topic"),
    )
    for agent in agents:
        counts = accumulate(agent.duration_counts.copy())
        buckets = list(zip(_BOUNDS, counts, strict=True))
        family.add_metric(_agent_labels(agent), buckets, sum_value=agent.duration_sum)
    return family


def _in_flight(agents: Sequence[AgentSlots]) -> Metric:
    family = GaugeMetricFamily(
        "streamkit_in_flight_records", "Records whose handler runs at present.", labels=("group", "agent")
    )
    for agent in agents:
        family.add_metric((agent.group, agent.agent), agent.in_flight())
    return family


def _commits(agents: Sequence[AgentSlots]) -> Metric:
    family = CounterMetricFamily("streamkit_commits", "Offset commits sent.", labels=("group", "result"))
    for agent in agents:
        family.add_metric((agent.group, "success"), agent.commits_succeeded)
        family.add_metric((agent.group, "error"), agent.commits_failed)
    return family


def _rebalances(agents: Sequence[AgentSlots]) -> Metric:
    family = CounterMetricFamily(
        "streamkit_rebalances",
        "Assignments received (success), and those that ended because the group had thrown this worker out (lost).",
        labels=("group", "result"),
    )
    for agent in agents:
        family.add_metric((agent.group, "success"), agent.rebalances)
        family.add_metric((agent.group, "lost"), agent.rebalances_lost)
    return family


def _assigned(agents: Sequence[AgentSlots]) -> Metric:
    family = GaugeMetricFamily(
        "streamkit_assigned_partitions", "Partitions assigned to this worker.", labels=("group", "topic")
    )
    for agent in agents:
        partitions = Counter(partition.topic for partition in agent.assigned)
        for topic in sorted({*agent.topics, *partitions}):
            family.add_metric((agent.group, topic), partitions[topic])
    return family


def _agent_labels(agent: AgentSlots) -> tuple[str, str, str]:
    # Outcomes and durations are kept per agent, so those of an agent of several topics belong to all of them.
    return (agent.group, agent.agent, ",".join(agent.topics))
