"""What the engine tells of each assigned partition as Prometheus metrics, and what comes of it by topic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final, get_args

from prometheus_client.core import Metric

from streamkit.core.lag_status import Closed
from streamkit.observe.assigned import Assigned
from streamkit.observe.catalogue import Detail
from streamkit.observe.families import Family, with_samples
from streamkit.observe.partition_state import PartitionState

REASONS: Final = tuple(reason for reason in get_args(Closed) if reason)


_PARTITION_GAUGES: Final[tuple[tuple[str, Callable[[PartitionState], float | None]], ...]] = (
    ("streamkit_position_offset", lambda state: state.position),
    ("streamkit_last_progress_timestamp_seconds", lambda state: state.progressed_at),
    ("streamkit_settled_ahead_records", lambda state: state.settled_ahead),
    ("streamkit_oldest_in_flight_timestamp_seconds", lambda state: state.head_started),
)
_TOPIC_SUMS: Final[tuple[tuple[str, Callable[[PartitionState], int]], ...]] = (
    ("streamkit_buffered_records", lambda state: state.buffered),
    ("streamkit_buffered_bytes", lambda state: state.buffered_bytes),
)


def partition_metrics(agents: Sequence[Assigned], detail: Detail) -> Iterator[Metric]:
    """Those that have samples: one after the other, so that who scrapes can pause in between."""
    return with_samples(_families(agents, detail))


def _families(agents: Sequence[Assigned], detail: Detail) -> Iterator[Family]:
    for name, value_of in _PARTITION_GAUGES:
        family = Family(name, detail)
        for agent, states in agents:
            values = {p: value for p, state in states.items() if (value := value_of(state)) is not None}
            family.add_partitions(agent.group, values, agent.assigned)
        yield family
    for name, count_of in _TOPIC_SUMS:
        family = Family(name)
        for each in agents:
            totals = Counter[str]()
            for partition, state in each.states.items():
                totals[partition.topic] += count_of(state)
            for topic in each.topics:
                family.add((each.agent.group, topic), totals[topic])
        yield family
    yield _closed(agents)


def _closed(agents: Sequence[Assigned]) -> Family:
    family = Family("streamkit_closed_partitions")
    for each in agents:
        closed = Counter((partition.topic, state.closed) for partition, state in each.states.items())
        for topic in each.topics:
            for reason in REASONS:
                if reason != "breaker" or each.agent.has_breaker:
                    family.add((each.agent.group, topic, reason), closed[topic, reason])
    return family
