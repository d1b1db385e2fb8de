from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from streamkit.observe.health import HEARTBEAT_LIMIT, not_live, not_ready, summary
from streamkit.observe.slots import WorkerSlots
from streamkit.record import TopicPartition
from tests.observe.support import ORDERS, running_worker


def a_worker_that_beat_at(heartbeat: float) -> WorkerSlots:
    slots = WorkerSlots("1")
    slots.heartbeat = heartbeat
    return slots


def test_a_loop_that_ran_within_the_limit_is_live() -> None:
    assert not_live(a_worker_that_beat_at(100.0), started=50.0, now=100.0 + HEARTBEAT_LIMIT) == ""


def test_a_loop_that_stands_still_is_not_live() -> None:
    reason = not_live(a_worker_that_beat_at(100.0), started=50.0, now=141.0)
    assert reason == "the event loop has not run for 41 s: something in it blocks"


def test_before_the_first_heartbeat_the_age_counts_from_the_start() -> None:
    slots = a_worker_that_beat_at(0.0)
    assert not_live(slots, started=5_000.0, now=5_001.0) == ""
    assert not_live(slots, started=5_000.0, now=5_031.0) != ""


def test_a_running_worker_with_nothing_against_it_is_ready() -> None:
    slots, _ = running_worker()
    assert not_ready(slots) == ""


@pytest.mark.parametrize("state", ["starting", "draining", "stopped"])
def test_a_worker_is_ready_only_while_it_runs(state: str) -> None:
    slots, _ = running_worker()
    slots.state = state
    assert not_ready(slots) == state


def test_the_reason_against_readiness_is_said() -> None:
    slots, _ = running_worker()
    slots.unready = "no broker answers"
    assert not_ready(slots) == "no broker answers"
    slots.state = "starting"
    assert not_ready(slots) == "starting: no broker answers"


OPENED = datetime(2026, 11, 25, 7, 0, tzinfo=UTC).timestamp()


def summary_of(slots: WorkerSlots) -> str:
    return summary(slots, started=slots.heartbeat, now=slots.heartbeat)


def breaker_line(slots: WorkerSlots) -> str:
    (line,) = [line for line in summary_of(slots).splitlines() if line.startswith("  breaker: ")]
    return line.removeprefix("  breaker: ")


def test_the_summary_of_a_worker_that_retries() -> None:
    slots, charge = running_worker()
    charge.declare(tiers=1, dead_letters=True, breaker=True)
    charge.assigned = frozenset([*ORDERS, TopicPartition("orders.billing.charge.retry-1", 1)])
    charge.in_flight, charge.blocked, charge.held = lambda: 1, lambda: 3, lambda: 12
    charge.breaker_open, charge.breaker_since = True, OPENED
    slots.agent("audit", "billing.audit", ("orders",), 1)
    assert summary_of(slots) == (
        "streamkit 1.2.3\n"
        "live: yes\n"
        "ready: yes\n"
        "\n"
        "agent charge, group billing.charge\n"
        "  assigned: orders 0-2, orders.billing.charge.retry-1 1\n"
        "  in flight: 1 record\n"
        "  breaker: open since 2026-11-25T07:00:00Z, 12 records held\n"
        "  blocked: 3 records\n"
        "\n"
        "agent audit, group billing.audit\n"
        "  assigned: nothing\n"
        "  in flight: 0 records"
    )


def test_the_summary_says_why_the_worker_is_neither_live_nor_ready() -> None:
    slots = a_worker_that_beat_at(100.0)
    assert summary(slots, started=50.0, now=141.0).splitlines()[1:] == [
        "live: no: the event loop has not run for 41 s: something in it blocks",
        "ready: no: starting: not started",
    ]


def test_a_breaker_that_is_closed_is_said_to_be() -> None:
    slots, agent = running_worker()
    agent.declare(breaker=True)
    assert breaker_line(slots) == "closed"
    agent.breaker_since = OPENED
    assert breaker_line(slots) == "closed"
    agent.held = lambda: 1
    assert breaker_line(slots) == "closed, 1 record held"


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as there:
        there.setenv("TZ", "XXX-9")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_from_greenwich")
def test_an_open_breaker_names_when_and_what_it_holds() -> None:
    slots, agent = running_worker()
    agent.declare(breaker=True)
    agent.breaker_open, agent.breaker_since = True, OPENED + 59.9
    assert breaker_line(slots) == "open since 2026-11-25T07:00:59Z, 0 records held"


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [([0], "0"), ([0, 1], "0-1"), ([5, 3, 4, 9], "3-5 9"), ([0, 2, 4], "0 2 4"), (list(range(200)), "0-199")],
)
def test_assigned_partitions_are_shown_as_spans(numbers: list[int], shown: str) -> None:
    slots, agent = running_worker()
    agent.assigned = frozenset(TopicPartition("orders", number) for number in numbers)
    assert f"  assigned: orders {shown}\n" in summary_of(slots)
