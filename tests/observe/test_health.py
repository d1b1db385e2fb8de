from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from math import inf

import pytest

from streamkit.observe.health import (
    ANSWER_LIMIT,
    HEARTBEAT_LIMIT,
    READ_LIMIT,
    not_live,
    not_ready,
    not_started,
    report,
    summary,
)
from streamkit.observe.slots import AgentSlots, WorkerSlots
from streamkit.record import TopicPartition
from tests.observe.support import ORDERS, running_worker


def a_worker_that_beat_at(heartbeat: float, begun: float = 50.0) -> WorkerSlots:
    slots = WorkerSlots("1")
    slots.heartbeat, slots.vitals.begun = heartbeat, begun
    return slots


def running_at(now: float) -> tuple[WorkerSlots, AgentSlots]:
    """One that has nothing against it at that time."""
    slots, agent = running_worker()
    slots.heartbeat = slots.vitals.begun = slots.vitals.answered = agent.read_at = now
    slots.vitals.joined = True
    return slots, agent


def test_a_loop_that_ran_within_the_limit_is_live() -> None:
    assert not_live(a_worker_that_beat_at(100.0), now=100.0 + HEARTBEAT_LIMIT) == ""


def test_a_loop_that_stands_still_is_not_live() -> None:
    reason = not_live(a_worker_that_beat_at(100.0), now=141.0)
    assert reason == "the event loop has not run for 41 s: something in it blocks"


def test_before_the_first_heartbeat_the_age_counts_from_the_start() -> None:
    slots = a_worker_that_beat_at(0.0, begun=5_000.0)
    assert not_live(slots, now=5_001.0) == ""
    assert not_live(slots, now=5_031.0) != ""


def test_a_loop_is_not_to_blame_for_the_time_in_which_the_whole_process_stood_still() -> None:
    slots = a_worker_that_beat_at(100.0)
    slots.vitals.resumed = 190.0
    assert not_live(slots, now=191.0) == ""
    assert not_live(slots, now=221.0) != ""


def test_work_that_must_not_end_and_has_is_not_live() -> None:
    slots, _ = running_at(100.0)
    slots.vitals.ended = "agent 'charge'"
    assert not_live(slots, now=100.0) == "agent 'charge' has ended, and must not"


def test_a_reading_task_that_is_silent_for_too_long_is_not_live() -> None:
    slots, agent = running_at(100.0)
    slots.heartbeat = slots.vitals.answered = now = 100.0 + READ_LIMIT + 1
    assert not_live(slots, now) == "agent charge has read nothing, and not tried to, for 301 s"
    agent.read_at = 101.0
    assert not_live(slots, now) == ""


def test_a_reading_task_may_wait_for_ever_while_the_assignment_changes() -> None:
    slots, agent = running_at(100.0)
    slots.heartbeat = slots.vitals.answered = 9_000.0
    agent.read_at = inf
    assert not_live(slots, now=9_000.0) == ""


def test_a_reading_task_that_waits_for_brokers_is_live() -> None:
    slots, _ = running_at(100.0)
    slots.heartbeat = now = 9_000.0
    slots.vitals.answered = now - ANSWER_LIMIT
    assert not_live(slots, now) != ""
    slots.vitals.answered -= 1
    assert not_live(slots, now) == ""


def test_a_start_that_takes_too_long_is_not_live() -> None:
    slots = a_worker_that_beat_at(400.0)
    slots.unready = "joining the groups"
    slots.vitals.starting_since, slots.vitals.startup_limit = 100.0, 300.0
    assert not_live(slots, now=400.0) == ""
    assert not_live(slots, now=401.0) == "starting: joining the groups for 301 s"
    slots.state = "running"
    assert not_live(slots, now=401.0) == ""


def test_what_a_restart_would_not_mend_never_is_against_liveness() -> None:
    slots, agent = running_at(9_000.0)
    slots.vitals.answered = 1.0
    slots.unready = "out of touch with the group of charge"
    agent.declare(tiers=1, dead_letters=True, breaker=True)
    agent.breaker_open, agent.blocked, agent.held = True, lambda: 10_000, lambda: 10_000
    agent.in_flight = lambda: 10_000
    for state in ("starting", "running", "draining", "stopped"):
        slots.state = state
        assert not_live(slots, now=9_000.0) == ""


def test_a_running_worker_with_nothing_against_it_is_ready() -> None:
    slots, _ = running_at(100.0)
    assert not_ready(slots, now=100.0) == ""


def test_a_worker_without_agents_is_ready_though_no_broker_was_asked() -> None:
    slots = a_worker_that_beat_at(100.0)
    slots.state = "running"
    slots.unready = ""
    assert not_ready(slots, now=100.0) == ""


def test_a_worker_whose_brokers_are_silent_is_not_ready() -> None:
    slots, _ = running_at(100.0)
    slots.heartbeat = 161.0
    assert not_ready(slots, now=100.0 + ANSWER_LIMIT) == ""
    assert not_ready(slots, now=161.0) == "no broker has answered for 61 s"


def test_a_worker_whose_loop_stands_still_is_not_ready() -> None:
    slots, _ = running_at(100.0)
    assert not_ready(slots, now=141.0) == "the event loop has not run for 41 s: something in it blocks"


def test_a_signal_makes_it_not_ready_before_the_loop_knows() -> None:
    slots, _ = running_at(100.0)
    slots.vitals.stopping = True
    assert not_ready(slots, now=100.0) == "stopping"


def test_what_has_joined_once_has_started_for_good() -> None:
    slots = a_worker_that_beat_at(100.0)
    assert not_started(slots) == "starting: not started"
    slots.unready = "joining the groups"
    assert not_started(slots) == "starting: joining the groups"
    slots.vitals.joined = True
    slots.state, slots.unready = "draining", "stopping"
    assert not_started(slots) == ""


def test_the_report_for_programs_has_each_check_with_its_age_and_limit() -> None:
    slots, agent = running_at(100.0)
    agent.declare(dead_letters=True, breaker=True)
    agent.assigned = frozenset([*ORDERS, TopicPartition("returns", 1)])
    agent.in_flight, agent.blocked, agent.held = lambda: 1, lambda: 2, lambda: 3
    slots.heartbeat, agent.read_at = 100.5, 90.0
    told = report(slots, now=101.0)
    found = told.pop("checks")
    assert told == {
        "version": "1.2.3",
        "state": "running",
        "live": True,
        "ready": True,
        "started": True,
        "agents": [
            {
                "agent": "charge",
                "group": "billing.charge",
                "assigned": {"orders": [0, 1, 2], "returns": [1]},
                "in_flight_records": 1,
                "breaker_open": False,
                "held_records": 3,
                "blocked_records": 2,
            }
        ],
    }
    assert {(each["page"], each["check"]): (each["age_seconds"], each["limit_seconds"]) for each in found} == {
        ("livez", "event_loop"): (0.5, 30.0),
        ("livez", "tasks"): (None, None),
        ("livez", "startup"): (None, 300.0),
        ("livez", "reading:charge"): (11.0, 300.0),
        ("startupz", "joined"): (None, None),
        ("readyz", "state"): (None, None),
        ("readyz", "stopping"): (None, None),
        ("readyz", "event_loop"): (0.5, 30.0),
        ("readyz", "brokers"): (1.0, 60.0),
        ("readyz", "group"): (None, None),
    }
    assert all(each["ok"] and each["reason"] is None for each in found)


def test_a_check_that_fails_says_why() -> None:
    slots, _ = running_at(100.0)
    told = report(slots, now=141.0)
    assert (told["live"], told["ready"]) == (False, False)
    assert [(each["page"], each["check"]) for each in told["checks"] if not each["ok"]] == [
        ("livez", "event_loop"),
        ("readyz", "event_loop"),
    ]
    (reason, _) = [each["reason"] for each in told["checks"] if not each["ok"]]
    assert reason == "the event loop has not run for 41 s: something in it blocks"


@pytest.mark.parametrize("state", ["starting", "draining", "stopped"])
def test_a_worker_is_ready_only_while_it_runs(state: str) -> None:
    slots, _ = running_at(100.0)
    slots.state = state
    assert not_ready(slots, now=100.0) == state


def test_the_reason_against_readiness_is_said() -> None:
    slots, _ = running_at(100.0)
    slots.unready = "no broker answers"
    assert not_ready(slots, now=100.0) == "no broker answers"
    slots.state = "starting"
    assert not_ready(slots, now=100.0) == "starting: no broker answers"


OPENED = datetime(2026, 11, 25, 7, 0, tzinfo=UTC).timestamp()


def summary_of(slots: WorkerSlots) -> str:
    return summary(slots, now=slots.heartbeat)


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
    assert summary(slots, now=141.0).splitlines()[1:] == [
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
