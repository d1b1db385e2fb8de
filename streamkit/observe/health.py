"""What /livez, /readyz and /startupz answer: the reason against, empty when there is none.

/healthz: all of it, for people or for programs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from math import inf
from typing import Any, Literal, NamedTuple

from streamkit.observe.slots import AgentSlots, WorkerSlots
from streamkit.record import TopicPartition

# Seconds.
HEARTBEAT_LIMIT = 30.0
READ_LIMIT = 300.0  # Kafka's default of max.poll.interval.ms
ANSWER_LIMIT = 60.0

Page = Literal["livez", "readyz", "startupz"]


class Check(NamedTuple):
    """One thing that a page depends on."""

    page: Page
    name: str
    reason: str  # what speaks against; "": nothing
    age: float | None = None  # seconds; None: there is none, or none yet
    limit: float | None = None  # seconds


def checks(slots: WorkerSlots, now: float) -> list[Check]:
    """All of them, what comes first being what is said first. `now` is `time.monotonic()`."""
    return [
        *_liveness(slots, now),
        Check("startupz", "joined", "" if slots.vitals.joined else _standing(slots)),
        *_readiness(slots, now),
    ]


def not_live(slots: WorkerSlots, now: float) -> str:
    """Why a restart would help.

    Brokers that are down, lag, rebalances, slow handlers that await and dead letters never count: a restart mends none
    of them, and all workers would restart at once.
    """
    return _first(_liveness(slots, now))


def not_ready(slots: WorkerSlots, now: float) -> str:
    """Why the worker takes no work at present. Lag and back-pressure are no reasons."""
    return _first(_readiness(slots, now))


def not_started(slots: WorkerSlots) -> str:
    """Why the worker has not begun to work yet. Once it has, this stays empty."""
    return "" if slots.vitals.joined else _standing(slots)


def summary(slots: WorkerSlots, now: float) -> str:
    """A few lines on the worker and each of its agents; of an exporter of lag, which has none, only on itself."""
    lines = [
        f"streamkit {slots.version}",
        f"live: {_verdict(not_live(slots, now))}",
        f"ready: {_verdict(not_ready(slots, now))}",
    ]
    for agent in _running_here(slots):
        lines += ["", f"agent {agent.agent}, group {agent.group}", *(f"  {line}" for line in _agent_lines(agent))]
    return "\n".join(lines)


def report(slots: WorkerSlots, now: float) -> dict[str, Any]:
    """The same for programs: each check with its age and its limit."""
    return {
        "version": slots.version,
        "state": slots.state,
        "live": not not_live(slots, now),
        "ready": not not_ready(slots, now),
        "started": not not_started(slots),
        "checks": [
            {
                "page": check.page,
                "check": check.name,
                "ok": not check.reason,
                "reason": check.reason or None,
                "age_seconds": None if check.age is None else round(check.age, 3),
                "limit_seconds": check.limit,
            }
            for check in checks(slots, now)
        ],
        "agents": [_agent_report(agent) for agent in _running_here(slots)],
    }


def _liveness(slots: WorkerSlots, now: float) -> Iterator[Check]:
    vitals = slots.vitals
    beat = _since(now, max(slots.heartbeat, vitals.begun, vitals.resumed))
    blocked = f"the event loop has not run for {beat:.0f} s: something in it blocks"
    yield Check("livez", "event_loop", blocked if beat > HEARTBEAT_LIMIT else "", beat, HEARTBEAT_LIMIT)
    ended = vitals.ended
    yield Check("livez", "tasks", f"{ended} has ended, and must not" if ended else "")
    since, limit = vitals.starting_since, vitals.startup_limit
    if since and slots.state == "starting":
        age = _since(now, since)
        yield Check("livez", "startup", f"{_standing(slots)} for {age:.0f} s" if age > limit else "", age, limit)
    else:
        yield Check("livez", "startup", "", None, limit)
    # Brokers that are away may hold a poll up, and are no reason.
    deaf = _since(now, vitals.answered) > ANSWER_LIMIT
    for agent in list(slots.agents.values()):
        if agent.read_at == inf:  # while the assignment changes, it waits as long as the group does
            yield Check("livez", f"reading:{agent.agent}", "", None, READ_LIMIT)
            continue
        age = _since(now, max(agent.read_at, vitals.resumed))
        silent = f"agent {agent.agent} has read nothing, and not tried to, for {age:.0f} s"
        yield Check("livez", f"reading:{agent.agent}", silent if age > READ_LIMIT and not deaf else "", age, READ_LIMIT)


def _readiness(slots: WorkerSlots, now: float) -> Iterator[Check]:
    vitals = slots.vitals
    yield Check("readyz", "state", "" if slots.state == "running" else _standing(slots))
    yield Check("readyz", "stopping", "stopping" if vitals.stopping else "")
    beat = next(_liveness(slots, now))
    yield beat._replace(page="readyz")
    if vitals.answered:
        age = _since(now, max(vitals.answered, vitals.resumed))
        reason = f"no broker has answered for {age:.0f} s" if age > ANSWER_LIMIT else ""
        yield Check("readyz", "brokers", reason, age, ANSWER_LIMIT)
    else:  # a worker without agents does not know
        yield Check("readyz", "brokers", "", None, ANSWER_LIMIT)
    yield Check("readyz", "group", slots.unready if slots.state == "running" else "")


def _first(found: Iterable[Check]) -> str:
    return next((check.reason for check in found if check.reason), "")


def _since(now: float, then: float) -> float:
    return max(0.0, now - then)  # the other thread may have written it just now


def _standing(slots: WorkerSlots) -> str:
    unready = slots.unready
    return f"{slots.state}: {unready}" if unready else slots.state


def _verdict(reason: str) -> str:
    return f"no: {reason}" if reason else "yes"


def _agent_report(agent: AgentSlots) -> dict[str, Any]:
    topics = groupby(sorted(agent.assigned), key=lambda partition: partition.topic)
    told: dict[str, Any] = {
        "agent": agent.agent,
        "group": agent.group,
        "assigned": {topic: [partition.partition for partition in found] for topic, found in topics},
        "in_flight_records": agent.in_flight(),
    }
    if agent.has_breaker:
        told |= {"breaker_open": agent.breaker_open, "held_records": agent.held()}
    if agent.makes_copies:
        told["blocked_records"] = agent.blocked()
    return told


def _running_here(slots: WorkerSlots) -> list[AgentSlots]:
    return [agent for agent in list(slots.agents.values()) if agent.concurrency]


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
