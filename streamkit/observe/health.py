"""What /livez and /readyz answer: the reason against, empty when there is none."""

from __future__ import annotations

from streamkit.observe.slots import WorkerSlots

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
