"""What the observer asks of the assigned partitions, from its own thread."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from streamkit.core.lag_status import Closed
from streamkit.core.offsets import OffsetWindow
from streamkit.observe.partition_state import PartitionState
from streamkit.observe.slots import WallClock
from streamkit.record import TopicPartition
from streamkit.runtime.delivery import AssignedPartition, Delivery

TRIES = 3


class Membership(Protocol):
    @property
    def partitions(self) -> dict[TopicPartition, AssignedPartition]: ...


class Pool(Protocol):
    def running(self, partitions: Collection[AssignedPartition], /) -> Iterable[tuple[Delivery, float]]: ...


class Copies(Protocol):
    def blocked(self) -> Collection[Delivery]: ...


def readings(
    membership: Membership, pool: Pool, copies: Copies, clock: WallClock
) -> Mapping[TopicPartition, PartitionState]:
    """One of each assigned partition, while the loop's thread goes on: each collection is copied in one step."""
    partitions = membership.partitions.copy()
    in_flight: dict[AssignedPartition, dict[int, float]] = {}  # when each began, by sequence
    for delivery, began in pool.running(partitions.values()):
        in_flight.setdefault(delivery.partition, {})[delivery.sequence] = began
    blocked = {(delivery.partition, delivery.sequence) for delivery in copies.blocked()}
    return {
        partition: _reading(mine, in_flight.get(mine, {}), blocked, clock.since_1970)
        for partition, mine in partitions.items()
    }


def _reading(
    mine: AssignedPartition,
    in_flight: Mapping[int, float],
    blocked: Collection[tuple[AssignedPartition, int]],
    since_1970: float,
) -> PartitionState:
    window = mine.window
    # What a handler that keeps the loop keeps from the window too: it is settled as soon as that lets go.
    settling = set(mine.settling)
    unsettled, head = _head(window)
    stamp, due, began = None, None, None
    if head is not None:
        stamp = mine.stamps.at(head)
        due = None if mine.dues is None else mine.dues.at(head)
        runs = head
        while settling and (runs in settling or window.is_settled(runs)):
            runs += 1
        began = in_flight.get(runs)
    return PartitionState(
        unsettled=unsettled,
        position=max(window.next_offset, unsettled),
        head_timestamp=stamp / 1000 if stamp is not None and stamp > 0 else None,
        head_started=None if began is None else since_1970 + began,
        head_due=due / 1000 if due else None,
        head_blocked=head is not None and (mine, head) in blocked,
        buffered=max(0, window.pending - len(settling) - len(in_flight)),
        settled_ahead=window.ahead,
        closed=_closed(mine),
        progressed_at=mine.progressed_at,
        event_timestamp=mine.event_timestamp / 1000 if mine.event_timestamp else None,
        buffered_bytes=max(0, mine.bytes),
    )


def _head(window: OffsetWindow) -> tuple[int, int | None]:
    """The lowest unsettled offset, and the sequence that belongs to it; None if it moves too fast to tell."""
    unsettled = window.next_offset
    for _ in range(TRIES):
        head = window.head
        try:
            unsettled = window.committable
        except IndexError:  # the last record of the window was settled between two steps of that
            continue
        if window.head == head:
            return unsettled, head
    return unsettled, None


def _closed(mine: AssignedPartition) -> Closed:
    return "rebalance" if mine.halted else mine.closed
