"""A record on its way through an agent, and the partition that it came from."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, final

import msgspec

from streamkit.core.flow import Load
from streamkit.core.lag_status import Closed
from streamkit.core.offset_map import SkipList
from streamkit.core.offsets import OffsetWindow
from streamkit.record import ConsumedRecord, Headers, TopicPartition
from streamkit.runtime.stamps import Stamps
from streamkit.transport.base import CommittedOffset

if TYPE_CHECKING:
    from streamkit.runtime.emitter import Emitter
    from streamkit.runtime.retry_topics import Tier

WHOLE_PARTITION: Final = True  # the lane of all records under order_by="partition"


class AssignedPartition:
    """One partition from its assignment to its revocation. A later assignment of it is another object."""

    __slots__ = (
        "bytes",
        "cases",
        "closed",
        "committed",
        "dues",
        "emitter",
        "event_timestamp",
        "fetched_at",
        "flights",
        "halted",
        "head",
        "kept",
        "outputs",
        "part",
        "partition",
        "progressed_at",
        "retried",
        "settling",
        "skip",
        "stamps",
        "tier",
        "traced",
        "window",
    )

    def __init__(
        self,
        partition: TopicPartition,
        part: Any,
        start: CommittedOffset,
        skip: SkipList | None,
        emitter: Emitter,
        tier: Tier | None = None,
        since: float = 0.0,
    ) -> None:
        """`since`: when it was assigned, in seconds since 1970."""
        self.partition = partition
        self.part = part  # of the agent's queue: a Track of lanes, or a Line of batches
        self.window = OffsetWindow(start.offset)
        self.committed = start  # what the group is known to have stored
        self.skip = skip  # settled before the last restart
        self.emitter = emitter
        self.tier = tier  # None: of a source topic
        self.halted = False  # nothing more of it is started
        self.bytes = 0  # of the records not settled
        self.outputs = 0  # unacknowledged
        self.settling: list[int] = []  # sequences to settle at the end of this loop step
        self.cases: dict[int, Delivery] = {}  # by sequence, the unsettled records that were replayed: hardly ever any
        self.flights: set[Flight] = set()
        self.stamps = Stamps()  # when each record was made: of a tier's, the original one
        self.dues: Stamps | None = None if tier is None else Stamps()  # when it is due; 0 if that is not known yet
        self.traced: list[ConsumedRecord] = []  # those with headers among what is in `settling`
        # Those to settle that a tier has taken: how old they were is told when their copies are settled.
        self.retried: set[int] = set()  # sequences
        self.event_timestamp = 0  # the latest of a settled record, in ms since 1970
        self.head = 0  # of the window, as last seen
        self.kept = 0  # records that were settled when that was last committed
        self.closed: Closed = ""  # why it is not read at present
        self.fetched_at = since  # when a poll last had something of it, in seconds since 1970
        self.progressed_at = since  # when the window's head last moved

    @property
    def load(self) -> Load:
        window = self.window
        return Load(window.pending, window.size, self.bytes)

    @property
    def quiet(self) -> bool:
        """Nothing that has started is still running or waiting for an acknowledgement."""
        return not self.flights and not self.outputs


@final
class Delivery(msgspec.Struct, eq=False):
    """One record of one assignment. A Struct, because one is made for every record."""

    record: ConsumedRecord
    sequence: int
    partition: AssignedPartition
    part: Any  # of the agent's queue: its partition's own, or for a record of a tier that of its source's
    size: int  # bytes that it is counted with
    lane: Hashable | None
    ready_since: float = 0.0  # loop time: when it had come, or was due if it was to wait
    next: Delivery | None = None  # the one that waits behind it in its lane
    argument: object = msgspec.UNSET  # what the handler gets, where that was needed before its turn
    outputs: int = 0  # unacknowledged
    handled: bool = False  # the handler has ended: it sends no more
    failed: bool = False  # never to be settled
    rejection: BaseException | None = None  # of an output, while the handler ran
    in_place: int = 0  # how often it has run again without a tier
    left: bool = False  # its lane has gone on: it will not run again here
    probe: bool = False  # its run began while the breaker was open, to see how it fares

    @property
    def headers(self) -> Headers:
        return self.record.headers


@final
class Bundle(msgspec.Struct, eq=False):
    """Records of one assignment that are handled and settled together: a batch; or none, for what a loop sends outside
    of a record."""

    deliveries: Sequence[Delivery]  # those of a batch that failed are taken out
    partition: AssignedPartition
    outputs: int = 0  # unacknowledged
    handled: bool = False
    failed: bool = False
    rejection: BaseException | None = None
    probe: bool = False
    headers: Headers = ()  # none of one record's go with what is made of many
    # Those that were taken out while outputs were unacknowledged: these count as one more output of each.
    leaving: Sequence[Delivery] = ()

    @property
    def part(self) -> Any:
        return self.deliveries[0].part if self.deliveries else self.partition.part


Owner = Delivery | Bundle
"""What outputs belong to: it is settled when all of them are acknowledged."""


class Flight:
    """A handler that is waiting for something."""

    __slots__ = ("began", "cancelled_by", "owner", "task", "timer")

    def __init__(self, owner: Owner, task: asyncio.Task[None], began: float = 0.0) -> None:
        self.owner = owner
        self.task = task
        self.began = began  # loop time
        self.timer: asyncio.TimerHandle | None = None
        # Why the framework cancelled it: a handler's own CancelledError is an ordinary failure.
        self.cancelled_by = ""

    def cancel(self, reason: str) -> None:
        # A revoke too if it has gone on after its timeout; but once each.
        if not self.cancelled_by or (self.cancelled_by == "timeout" and reason == "revoke"):
            self.cancelled_by = reason
            self.task.cancel()


current: ContextVar[Owner | None] = ContextVar("streamkit_delivery", default=None)
"""What is being handled, in the context of its handler and of the tasks that it starts."""


def running_in(part: Any, partitions: Iterable[AssignedPartition]) -> list[Owner]:
    """What has handlers that have started, in this part of the queue; those that never wait are never seen here.

    A record of a tier runs in the part of its source's partition.
    """
    return [flight.owner for mine in partitions for flight in mine.flights if flight.owner.part is part]


def check_open(owner: Owner | None) -> None:
    """Raise RuntimeError if the record may no longer send."""
    if owner is None:
        return
    if owner.handled:
        raise RuntimeError("this record's handler has ended: a task that outlives it cannot send for it")
    if owner.partition.window.closed:
        raise RuntimeError("this record's partition now belongs to another worker, where the record runs again")
