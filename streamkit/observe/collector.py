"""The worker's slots as Prometheus metrics, rendered at scrape."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from prometheus_client.core import Metric

from streamkit.observe.assigned import Assigned
from streamkit.observe.catalogue import DETAILS, Detail
from streamkit.observe.families import Family, with_samples
from streamkit.observe.lag import LagTable
from streamkit.observe.lag_metrics import lag_metrics
from streamkit.observe.partition_metrics import partition_metrics
from streamkit.observe.retry_metrics import retry_metrics
from streamkit.observe.slots import STATES, AgentSlots, WorkerSlots

logger = logging.getLogger("streamkit.observe")

MOST_PARTITIONS: Final = 1_000  # of which each is told everything, unless the setting says so
# Seconds. Reading and rendering keep the GIL: in between, the worker's loop gets it.
PAUSE_AFTER: Final = 0.0005
PAUSE: Final = 0.0001


class StreamkitCollector:
    """Reads the slots from the observer's thread while the loop's thread writes them.

    Each list or dict is copied in one step before it is walked, so what is derived from one of them agrees with itself;
    two slots may be some records apart. Only present assignments are walked, so a revoked partition's series ends with
    the next scrape.
    """

    def __init__(self, slots: WorkerSlots, lag: LagTable) -> None:
        self._slots = slots
        self._lag = lag
        self._too_many = False  # partitions, for telling everything of each
        self._took: float | None = None  # seconds, the scrape before
        self.pause: Callable[[float], None] = time.sleep

    def describe(self) -> Iterable[Metric]:
        """Nothing: otherwise registering it would collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        began = resumed = time.perf_counter()

        def breathe() -> None:
            nonlocal resumed
            if time.perf_counter() - resumed > PAUSE_AFTER:
                self.pause(PAUSE)
                resumed = time.perf_counter()

        for metric in self._metrics(breathe):
            yield metric
            breathe()
        self._took = time.perf_counter() - began

    def _metrics(self, breathe: Callable[[], None]) -> Iterator[Metric]:
        agents = list(self._slots.agents.values())
        detail = self._detail(agents)
        yield from with_samples(_worker(self._slots, self._took))
        yield from with_samples(self._outputs())
        yield from with_samples(_throughput(agents))
        yield from with_samples(_outcomes(agents))
        yield from with_samples(_running(agents))
        yield from with_samples(_commits(agents))
        yield from with_samples(_membership(agents))
        yield from with_samples(_topics(agents))
        yield from with_samples([_errors(agents)])
        read = list[Assigned]()
        for agent in agents:
            read.append(Assigned.read(agent))
            breathe()
        yield from lag_metrics(read, self._lag, detail, breathe)
        yield from partition_metrics(read, detail)
        yield from retry_metrics(agents, self._lag)

    def _detail(self, agents: Sequence[AgentSlots]) -> Detail:
        for detail in DETAILS:
            if detail == self._slots.detail:
                return detail
        partitions = sum(len(agent.assigned) for agent in agents)
        if (partitions > MOST_PARTITIONS) != self._too_many:
            self._too_many = not self._too_many
            logger.info(
                "%s partitions are assigned: metrics tell %s; metrics_detail says otherwise",
                f"{partitions:,}",
                "only totals by topic" if self._too_many else "of each of them again",
            )
        return "topic" if self._too_many else "full"

    def _outputs(self) -> Sequence[Family]:
        produced, durations = (
            Family("streamkit_records_produced_total"),
            Family("streamkit_produce_duration_seconds"),
        )
        for topic in list(self._slots.produced.values()):
            produced.add((topic.topic, "success"), topic.acknowledged)
            produced.add((topic.topic, "error"), topic.failed)
            durations.add_histogram((topic.topic,), topic.duration)
        return produced, durations


def _worker(slots: WorkerSlots, took: float | None) -> Sequence[Family]:
    info, state, heartbeat, late, blocked, collecting = families = (
        Family("streamkit_worker_info"),
        Family("streamkit_worker_state"),
        Family("streamkit_event_loop_heartbeat_timestamp_seconds"),
        Family("streamkit_event_loop_lag_seconds"),
        Family("streamkit_event_loop_blocked_seconds_total"),
        Family("streamkit_collect_duration_seconds"),
    )
    info.add((slots.version,), 1)
    present = slots.state
    for each in STATES:
        state.add((each,), each == present)
    if slots.heartbeat:
        heartbeat.add((), slots.clock.since_1970 + slots.heartbeat)
    late.add_histogram((), slots.loop_lag)
    blocked.add((), slots.loop_blocked)
    if took is not None:
        collecting.add((), took)
    return families


def _throughput(agents: Sequence[AgentSlots]) -> Sequence[Family]:
    records, size, activities = families = (
        Family("streamkit_records_consumed_total"),
        Family("streamkit_consumed_bytes_total"),
        Family("streamkit_consumer_time_seconds_total"),
    )
    for agent in agents:
        for topic, count in agent.consumed.copy().items():
            records.add((agent.group, topic), count)
        for topic, count in agent.consumed_bytes.copy().items():
            size.add((agent.group, topic), count)
        for activity, seconds in agent.activities.items():
            activities.add((agent.group, activity), seconds)
    return families


def _outcomes(agents: Sequence[AgentSlots]) -> Sequence[Family]:
    processed, processing, queue_wait, end_to_end, event = families = (
        Family("streamkit_records_processed_total"),
        Family("streamkit_processing_duration_seconds"),
        Family("streamkit_queue_wait_seconds"),
        Family("streamkit_end_to_end_latency_seconds"),
        Family("streamkit_event_timestamp_seconds"),
    )
    for agent in agents:
        # Kept per agent, so those of an agent of several topics belong to all of them.
        labels = (agent.group, agent.agent, ",".join(agent.topics))
        processed.add((*labels, "success"), agent.processed_success)
        processed.add((*labels, "error"), agent.processed_error)
        processed.add((*labels, "cancelled"), agent.processed_cancelled)
        processed.add((*labels, "skipped"), agent.skipped)
        processed.add((*labels, "filtered"), agent.processed_filtered)
        if agent.retries:
            processed.add((*labels, "retried"), agent.processed_retried)
        if agent.has_dead_letters:
            processed.add((*labels, "dead_lettered"), agent.processed_dead_lettered)
        processing.add_histogram(labels, agent.processing)
        queue_wait.add_histogram(labels[:2], agent.queue_wait)
        end_to_end.add_histogram(labels, agent.end_to_end)
        if agent.event_timestamp:
            event.add(labels[:2], agent.event_timestamp / 1000)
    return families


def _running(agents: Sequence[AgentSlots]) -> Sequence[Family]:
    up, in_flight, limit, keys, closings = families = (
        Family("streamkit_agent_up"),
        Family("streamkit_in_flight_records"),
        Family("streamkit_concurrency_limit"),
        Family("streamkit_active_keys"),
        Family("streamkit_partition_closings_total"),
    )
    for agent in agents:
        labels = (agent.group, agent.agent)
        up.add(labels, agent.up)
        in_flight.add(labels, agent.in_flight())
        limit.add(labels, agent.concurrency_limit())
        keys.add(labels, agent.active_keys())
        for reason, count in agent.closings.items():
            if reason != "breaker" or agent.has_breaker:
                closings.add((agent.group, reason), count)
    return families


def _commits(agents: Sequence[AgentSlots]) -> Sequence[Family]:
    commits, duration, last = families = (
        Family("streamkit_commits_total"),
        Family("streamkit_commit_duration_seconds"),
        Family("streamkit_last_commit_timestamp_seconds"),
    )
    for agent in agents:
        commits.add((agent.group, "success"), agent.commits_succeeded)
        commits.add((agent.group, "error"), agent.commits_failed)
        duration.add_histogram((agent.group,), agent.commit_duration)
        if agent.last_commit:
            last.add((agent.group,), agent.last_commit)
    return families


def _membership(agents: Sequence[AgentSlots]) -> Sequence[Family]:
    rebalances, durations, heartbeat, lost, at_risk = families = (
        Family("streamkit_rebalances_total"),
        Family("streamkit_rebalance_duration_seconds"),
        Family("streamkit_last_heartbeat_timestamp_seconds"),
        Family("streamkit_partitions_lost_total"),
        Family("streamkit_redelivery_risk_records_total"),
    )
    for agent in agents:
        rebalances.add((agent.group, "success"), agent.rebalances)
        rebalances.add((agent.group, "lost"), agent.rebalances_lost)
        for phase, histogram in agent.rebalance_durations.items():
            durations.add_histogram((agent.group, phase), histogram)
        heard = agent.last_heartbeat()
        if heard is not None:
            heartbeat.add((agent.group,), heard)
        lost.add((agent.group,), agent.partitions_lost)
        at_risk.add((agent.group,), agent.redelivery_risk)
    return families


def _topics(agents: Sequence[AgentSlots]) -> Sequence[Family]:
    assigned, existing, resets = families = (
        Family("streamkit_assigned_partitions"),
        Family("streamkit_topic_partitions"),
        Family("streamkit_offset_resets_total"),
    )
    for agent in agents:
        partitions = Counter(partition.topic for partition in agent.assigned)
        for topic in sorted({*agent.topics, *partitions}):
            assigned.add((agent.group, topic), partitions[topic])
        for topic, count in sorted(agent.topic_partitions.copy().items()):
            existing.add((agent.group, topic), count)
        for (topic, reason), count in sorted(agent.offset_resets.copy().items()):
            resets.add((agent.group, topic, reason), count)
    return families


def _errors(agents: Sequence[AgentSlots]) -> Family:
    family = Family("streamkit_errors_total")
    for agent in agents:
        for (stage, error), count in sorted(agent.errors.copy().items()):
            family.add((agent.group, agent.agent, stage, error), count)
    return family
