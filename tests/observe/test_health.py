from __future__ import annotations

import pytest

from streamkit.observe.health import HEARTBEAT_LIMIT, not_live, not_ready
from streamkit.observe.slots import WorkerSlots
from tests.observe.support import running_worker


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
