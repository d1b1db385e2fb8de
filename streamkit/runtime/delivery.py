"""A record on its way through an agent, and the partition that it came from."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

import msgspec

from streamkit.core.flow import Load
from streamkit.core.lanes import Track
from streamkit.core.offset_map import SkipList
from streamkit.core.offsets import OffsetWindow
from streamkit.record import TopicPartition
from streamkit.transport.base import CommittedOffset, ConsumedRecord

if TYPE_CHECKING:
    from streamkit.runtime.emitter import Emitter


class AssignedPartition:
    """One partition from its assignment to its revocation. A later assignment of it is another object."""

    __slots__ = (
        "bytes",
        "committed",
        "emitter",
        "flights",
        "outputs",
        "partition",
        "settling",
        "skip",
        "track",
        "window",
    )

    def __init__(
        self,
        partition: TopicPartition,
        track: Track[TopicPartition, Delivery],
        start: CommittedOffset,
        skip: SkipList | None,
        emitter: Emitter,
    ) -> None:
        self.partition = partition
        self.track = track
        self.window = OffsetWindow(start.offset)
        self.committed = start  # what the group is known to have stored
        self.skip = skip  # settled before the last restart
        self.emitter = emitter
        self.bytes = 0  # of the records not settled
        self.outputs = 0  # unacknowledged
        self.settling: list[int] = []  # sequences to settle at the end of this loop step
        self.flights: set[Flight] = set()

    @property
    def load(self) -> Load:
        window = self.window
        return Load(window.pending, window.size, self.bytes)

    @property
    def running(self) -> Iterator[Delivery]:
        """The records whose handlers have started; those that never wait are never seen here."""
        return (flight.delivery for flight in self.flights)

    @property
    def quiet(self) -> bool:
        """Nothing that has started is still running or waiting for an acknowledgement."""
        return not self.flights and not self.outputs


class Delivery(msgspec.Struct, eq=False):
    """One record of one assignment. A Struct, because one is made for every record."""

    record: ConsumedRecord
    sequence: int
    partition: AssignedPartition
    size: int  # bytes that it is counted with
    lane: Hashable | None
    next: Delivery | None = None  # the one that waits behind it in its lane
    argument: object = msgspec.UNSET  # what the handler gets, where that was needed before its turn
    outputs: int = 0  # unacknowledged
    handled: bool = False  # the handler has ended: it sends no more
    failed: bool = False  # never to be settled


class Flight:
    """A handler that is waiting for something."""

    __slots__ = ("cancelled_by", "delivery", "task", "timer")

    def __init__(self, delivery: Delivery, task: asyncio.Task[None]) -> None:
        self.delivery = delivery
        self.task = task
        self.timer: asyncio.TimerHandle | None = None
        # Why the framework cancelled it: a handler's own CancelledError is an ordinary failure.
        self.cancelled_by = ""

    def cancel(self, reason: str) -> None:
        if not self.cancelled_by:
            self.cancelled_by = reason
            self.task.cancel()


current: ContextVar[Delivery | None] = ContextVar("streamkit_delivery", default=None)
"""The record being handled, in the context of its handler and of the tasks that it starts."""


def check_open(delivery: Delivery | None) -> None:
    """Raise RuntimeError if the record may no longer send."""
    if delivery is None:
        return
    if delivery.handled:
        raise RuntimeError("this record's handler has ended: a task that outlives it cannot send for it")
    if delivery.partition.window.closed:
        raise RuntimeError("this record's partition now belongs to another worker, where the record runs again")
