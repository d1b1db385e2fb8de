"""What /livez and /readyz answer: the reason against, empty when there is none; and /healthz: all of it for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby

from streamkit.observe.slots import AgentSlots, WorkerSlots
from streamkit.record import TopicPartition

HEARTBEAT_LIMIT = 30.0  # seconds


def not_live(slots: WorkerSlots, started: float, now: float) -> str:
    """Why a restart would help.

    Only a loop that stands still counts. Brokers that are down, lag, rebalances and slow handlers never do: a restart
    mends none of them, and all workers would restart at once. `started` and `now` are `time.monotonic()`; before the
    first heartbeat the age counts from `started`.
    """
    age = now - max(slots.heartbeat, started)
    if age <= HEARTBEAT_LIMIT:
        return ""
    return f"the event loop has not run for {age:.0f} s: something in it blocks"


def not_ready(slots: WorkerSlots) -> str:
    """Why the worker takes no work at present. Lag and back-pressure are no reasons."""
    unready = slots.unready
    if slots.state != "running":
        return f"{slots.state}: {unready}" if unready else slots.state
    return unready


def summary(slots: WorkerSlots, started: float, now: float) -> str:
    """A few lines on the worker and each of its agents; arguments as of `not_live`."""
    lines = [
        f"streamkit {slots.version}",
        f"live: {_verdict(not_live(slots, started, now))}",
        f"ready: {_verdict(not_ready(slots))}",
    ]
    for agent in list(slots.agents.values()):
        lines += ["", f"agent {agent.agent}, group {agent.group}", *(f"  {line}" for line in _agent_lines(agent))]
    return "\n".join(lines)


def _verdict(reason: str) -> str:
    return f"no: {reason}" if reason else "yes"


def _agent_lines(agent: AgentSlots) -> Iterator[str]:
    yield f"assigned: {_partitions(agent.assigned)}"
    yield f"in flight: {_records(agent.in_flight())}"
    if agent.has_breaker:
        yield f"breaker: {_breaker(agent)}"
    if agent.makes_copies:
        yield f"blocked: {_records(agent.blocked())}"


def _breaker(agent: AgentSlots) -> str:
    held = agent.held()
    if agent.breaker_open:
        since = datetime.fromtimestamp(agent.breaker_since, UTC)
        return f"open since {since:%Y-%m-%dT%H:%M:%SZ}, {_records(held)} held"
    return f"closed, {_records(held)} held" if held else "closed"


def _records(count: int) -> str:
    return f"{count} record" if count == 1 else f"{count} records"


def _partitions(assigned: Iterable[TopicPartition]) -> str:
    """As in `orders 0-2 5, returns 0`."""
    topics = groupby(sorted(assigned), key=lambda partition: partition.topic)
    return ", ".join(f"{topic} {_spans([p.partition for p in found])}" for topic, found in topics) or "nothing"


def _spans(numbers: list[int]) -> str:
    # In a run of ascending numbers, number less position stays the same.
    runs = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    spans = ([number for _, number in run] for _, run in runs)
    return " ".join(f"{span[0]}-{span[-1]}" if len(span) > 1 else str(span[0]) for span in spans)
