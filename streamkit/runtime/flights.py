"""Handlers that wait: seen by who drains, cancelled at their time limit, and told apart by how they end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Collection, Iterator
from typing import Literal, NamedTuple

from streamkit.runtime.delivery import AssignedPartition, Delivery, Flight, Owner
from streamkit.runtime.log_fields import about

log = logging.getLogger(__name__)

How = Literal["handled", "given up", "late", "raised", "failed before"]


class Landing(NamedTuple):
    """The end of a flight."""

    how: How
    error: BaseException | None = None


async def fly(owner: Owner, rest: Awaitable[None], began: float, limit: float | None) -> Landing:
    """Await the rest of a handler that began at this loop time, cancelling it `limit` seconds after that."""
    task = asyncio.current_task()
    assert task is not None
    flight = Flight(owner, task, began)
    if limit is not None:
        flight.timer = asyncio.get_running_loop().call_at(began + limit, flight.cancel, "timeout")
    owner.partition.flights.add(flight)
    error: BaseException | None = None
    try:
        await rest
    except (KeyboardInterrupt, GeneratorExit):  # the latter closes the task itself
        raise
    except BaseException as caught:
        error = caught
    finally:
        owner.partition.flights.discard(flight)
        if flight.timer is not None:
            flight.timer.cancel()
    if error is not None or flight.cancelled_by:
        while task.uncancel():
            pass
    try:
        return Landing(landing(owner, flight, error), error)
    finally:
        error = None  # whose traceback holds this frame: a cycle would keep all of it until the next collection


def flying(partitions: Collection[AssignedPartition]) -> Iterator[tuple[Delivery, float]]:
    """The records whose handlers wait for something, and the loop time when they began. From any thread."""
    for mine in partitions:
        for flight in list(mine.flights):
            owner = flight.owner
            for delivery in (owner,) if type(owner) is Delivery else owner.deliveries:
                yield delivery, flight.began


def flies(owner: Owner) -> bool:
    """Whether its handler is waiting for something. One that never waits is seen by nobody before it has ended."""
    return any(flight.owner is owner for flight in owner.partition.flights)


def landing(owner: Owner, flight: Flight, error: BaseException | None) -> How:
    # To be run again by whoever has the partition then.
    if (error is not None or owner.failed) and (owner.partition.window.closed or flight.cancelled_by == "revoke"):
        return "given up"
    if owner.failed:  # while it ran: an output was rejected
        return "failed before"
    if error is None:
        return "handled"
    if flight.cancelled_by == "timeout" and isinstance(error, asyncio.CancelledError):
        return "late"
    return "raised"


def too_late(limit: float | None) -> str:
    return f"not done within its timeout of {limit:g} s"


def give_up(owner: Owner) -> None:
    """It runs again where its partition is then. What it has sent may be acknowledged yet, and must not settle it."""
    owner.handled = owner.failed = True


def note_late_error(agent: str, owner: Owner, error: BaseException | None) -> None:
    """Nobody else hears of it: the handler was given up, and its record runs again."""
    if error is not None and not isinstance(error, asyncio.CancelledError):
        fields = about(owner, "cancelled_handler_raised")
        log.warning("agent %s: a cancelled handler raised %r", agent, error, extra=fields)
