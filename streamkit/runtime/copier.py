"""Copies of records on their way to a tier or to the dead letters, sent for as long as it takes."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any, Final

from streamkit.agent import Agent
from streamkit.core.copies import Cause, dead_letter_headers, tier_headers, user_headers
from streamkit.core.failures import ToDeadLetters, ToTier
from streamkit.errors import TransportError
from streamkit.observe.slots import AgentSlots
from streamkit.record import HeaderList
from streamkit.retry import tier_topic
from streamkit.runtime.delivery import Delivery
from streamkit.runtime.log_fields import about
from streamkit.runtime.publisher import OutputItem, Publisher, Route
from streamkit.runtime.returned import origin_of
from streamkit.transport.base import RecordTooLarge

log = logging.getLogger(__name__)

FIRST_BACKOFF, LAST_BACKOFF = 0.2, 5.0  # seconds
WARN_EVERY = 10.0  # seconds
GATHER_FOR = 0.05  # seconds
LATE = 5.0  # seconds without an answer, after which a copy counts as not taken

Move = ToTier | ToDeadLetters


class Copy:
    """One record's copy, until it is acknowledged."""

    __slots__ = ("cause", "delivery", "failed_at", "move", "on_stored", "place", "reduced", "since", "topic")

    def __init__(
        self,
        delivery: Delivery,
        move: Move,
        topic: str,
        cause: Cause,
        failed_at: int,
        on_stored: Callable[[Copy], None],
    ) -> None:
        self.delivery = delivery
        self.move = move
        self.topic = topic
        self.cause = cause
        self.failed_at = failed_at  # ms since 1970
        self.on_stored = on_stored
        self.reduced = 0  # how much was left out because it was too large: an index of the forms
        self.since = inf  # loop time from which on its answer is awaited
        self.place: tuple[int, int] | None = None  # partition and offset, once it is stored and if the brokers say so


class Stuck:
    """A topic that takes no copies at present.

    One of those that wait is tried now and then, and the others follow when it is taken: all at once would only be
    refused together, each with a producer rebuilt.
    """

    __slots__ = ("backoff", "copies", "tried", "warned_at")

    def __init__(self) -> None:
        self.copies: deque[Copy] = deque()
        self.tried: Copy | None = None  # and not answered yet; else a timer runs
        self.backoff = FIRST_BACKOFF
        self.warned_at = -inf  # loop time


def _in_vain(copy: Copy) -> bool:
    """Its record runs again where its partition is then."""
    return copy.delivery.partition.halted


# What a dead letter that is too large goes without, one after the other; the last form says where the record is.
FORMS: Final[tuple[Mapping[str, Any], ...]] = (
    {},
    {"stack": False},
    {"stack": False, "message": False},
    {"stack": False, "message": False, "omitted": "value"},
    {"stack": False, "message": False, "omitted": "key,value,headers"},
)


class Copier:
    """Sends the copies of an agent, each until the brokers have it: it cannot be given up without losing the record.

    A tier gets the whole record or nothing. One that is too large for it becomes a dead letter; of one that is too
    large for that, only a part does.

    While other lanes have plenty to run, copies are gathered for a moment and sent together: a request of its own for
    each would cost the agent more than running the record.
    """

    def __init__(
        self,
        agent: Agent[Any, Any],
        publisher: Publisher,
        slots: AgentSlots,
        wall: Callable[[], float],
        progressed: Callable[[], None],
        plenty: Callable[[], bool],
    ) -> None:
        """`publisher` tells `acknowledged` and `rejected`; `progressed` is told when answers have been dealt with.
        `plenty`: more can run at present than the tasks will soon get to."""
        self._agent = agent
        self._publisher = publisher
        self._slots = slots
        self._wall = wall
        self._progressed = progressed
        self._plenty = plenty
        self._gathered: list[Copy] = []
        self._timer: asyncio.TimerHandle | None = None  # while some are gathered
        self._stuck: dict[str, Stuck] = {}
        self._too_large: set[Copy] = set()
        self._under_way: dict[Delivery, Copy] = {}
        self._clock: Callable[[], float] = float  # the loop's, once it runs
        slots.blocked = self._blocked

    def send(self, delivery: Delivery, move: Move, cause: Cause, on_stored: Callable[[Copy], None]) -> None:
        """`on_stored` is told where it has gone in the end, and never called if the partition is given back first."""
        topic, failed_at = self._topic(delivery, move), round(self._wall() * 1000)
        self._gathered.append(Copy(delivery, move, topic, cause, failed_at, on_stored))
        if not self._plenty():
            self.hurry()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_FOR, self.hurry)

    def hurry(self) -> None:
        """Send what is gathered: its lanes may be all that is left to run."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        gathered, self._gathered = self._gathered, []
        for copy in gathered:
            self._try(copy)

    def _blocked(self) -> int:
        return len(self.blocked())

    def blocked(self) -> list[Delivery]:
        """Records whose keys wait because their copies are not taken. From any thread."""
        stuck = [copy for each in list(self._stuck.values()) for copy in list(each.copies)]
        late = self._clock() - LATE
        waiting = [copy for copy in list(self._under_way.values()) if copy.since < late]
        return [copy.delivery for copy in (*stuck, *list(self._too_large), *waiting)]

    def clear(self) -> None:
        """Nothing more may start. Forget those that wait for their topics: they run again where their partitions are
        then."""
        self.hurry()
        self._stuck.clear()
        self._too_large.clear()

    def _try(self, copy: Copy) -> None:
        stuck = self._stuck.get(copy.topic)
        if stuck is None:
            self._send(copy)
        else:
            stuck.copies.append(copy)

    def _send(self, copy: Copy) -> bool:
        """False if it is not on its way to the topic that it was for."""
        while True:
            try:
                self._put(copy)
            except RecordTooLarge as error:
                topic = copy.topic
                if not self._reduce(copy):
                    self._hold(copy, error)
                    return False
                if copy.topic != topic:
                    self._try(copy)
                    return False
            else:
                self._clock = asyncio.get_running_loop().time
                copy.since = self._clock()
                self._under_way[copy.delivery] = copy
                return True

    def _put(self, copy: Copy) -> None:
        record = copy.delivery.record
        key, value, headers = record.key, record.value, self._headers(copy)
        if isinstance(copy.move, ToDeadLetters):
            omitted = FORMS[copy.reduced].get("omitted", "")
            key = None if "key" in omitted else key
            value = None if "value" in omitted else value
        topic = copy.topic
        partition = record.partition % self._publisher.partition_count(topic)
        self._publisher.put(topic, key, value, headers, round(self._wall() * 1000), partition, copy.delivery)

    def _topic(self, delivery: Delivery, move: Move) -> str:
        source = delivery.record.topic
        if isinstance(move, ToTier):
            return tier_topic(source, self._agent.group, move.number)
        return self._agent.dead_letters[source]

    def _headers(self, copy: Copy) -> HeaderList:
        record = copy.delivery.record
        origin, user = origin_of(record), user_headers(record.headers)
        origin = origin._replace(attempts=origin.attempts + 1)
        common: dict[str, Any] = {"group": self._agent.group, "failed_ms": copy.failed_at, "cause": copy.cause}
        if isinstance(copy.move, ToTier):
            due = copy.failed_at + round(copy.move.wait * 1000)
            return tier_headers(user, origin, due_ms=due, brief=copy.reduced > 0, **common)
        form = FORMS[copy.reduced]
        return dead_letter_headers([] if "headers" in form.get("omitted", "") else user, origin, **common, **form)

    def _reduce(self, copy: Copy) -> bool:
        """Leave out more of it; False if nothing more can be."""
        if isinstance(copy.move, ToDeadLetters):
            if copy.reduced + 1 == len(FORMS):
                return False
            copy.reduced += 1
            return True
        if copy.reduced == 0:
            copy.reduced = 1
            return True
        if not self._agent.dead_letters:
            return False
        copy.move, copy.reduced = ToDeadLetters("too_large"), 0
        copy.topic = self._topic(copy.delivery, copy.move)
        return True

    def placed(self, items: Sequence[OutputItem], partition: int, first: int) -> None:
        """Where the brokers have them; `acknowledged` follows."""
        for offset, item in enumerate(items, first):
            assert type(item.owner) is Delivery
            self._under_way[item.owner].place = partition, offset

    def acknowledged(self, items: Sequence[OutputItem]) -> None:
        """The brokers have these copies."""
        for item in items:
            copy = self._landed(item)
            self._too_large.discard(copy)
            self._release(copy.topic)
            copy.on_stored(copy)
        self._progressed()

    def rejected(self, item: OutputItem, _route: Route, error: TransportError) -> None:
        """The brokers refuse this copy for good, or for now."""
        self._deal_with(self._landed(item), error)
        self._progressed()

    def _landed(self, item: OutputItem) -> Copy:
        assert type(item.owner) is Delivery
        copy = self._under_way.pop(item.owner)
        copy.delivery.outputs -= 1
        copy.delivery.partition.outputs -= 1
        return copy

    def _deal_with(self, copy: Copy, error: TransportError) -> None:
        if _in_vain(copy):
            self._too_large.discard(copy)
            stuck = self._stuck.get(copy.topic)
            if stuck is not None and stuck.tried is copy:
                self._try_one(copy.topic, stuck)
        elif isinstance(error, RecordTooLarge):  # the fault of this one alone
            self._release(copy.topic)
            if self._reduce(copy):
                self._try(copy)
            else:
                self._hold(copy, error)
        else:
            self._wait(copy, error)

    def _release(self, topic: str) -> None:
        """The topic takes copies."""
        stuck = self._stuck.pop(topic, None)
        for copy in stuck.copies if stuck is not None else ():
            if not _in_vain(copy):
                self._try(copy)

    def _wait(self, copy: Copy, error: BaseException) -> None:
        """Until the topic takes it."""
        self._count_failure(copy.move)
        topic = copy.topic
        stuck = self._stuck.get(topic)
        if stuck is not None and stuck.tried is not copy:
            stuck.copies.append(copy)  # another one is tried already
            return
        if stuck is None:
            stuck = self._stuck[topic] = Stuck()
        stuck.tried = None
        stuck.copies.appendleft(copy)
        loop = asyncio.get_running_loop()
        if loop.time() >= stuck.warned_at + WARN_EVERY:
            stuck.warned_at = loop.time()
            self._warn(copy, str(error))
        loop.call_later(stuck.backoff, self._try_one, topic, stuck)
        stuck.backoff = min(2 * stuck.backoff, LAST_BACKOFF)

    def _try_one(self, topic: str, stuck: Stuck) -> None:
        if self._stuck.get(topic) is not stuck:
            return  # it takes them again, or they are forgotten
        while stuck.copies:
            stuck.tried = stuck.copies.popleft()
            if not _in_vain(stuck.tried) and self._send(stuck.tried):
                return
        del self._stuck[topic]

    def _hold(self, copy: Copy, error: BaseException) -> None:
        """Nothing more can be left out of it: until somebody raises the topic's limit."""
        self._count_failure(copy.move)
        if copy not in self._too_large:
            self._too_large.add(copy)
            self._warn(copy, f"{error}; raise its max.message.bytes")
        asyncio.get_running_loop().call_later(LAST_BACKOFF, self._try_again, copy)

    def _try_again(self, copy: Copy) -> None:
        if _in_vain(copy):
            self._too_large.discard(copy)
        elif copy in self._too_large:
            self._try(copy)

    def _count_failure(self, move: Move) -> None:
        if isinstance(move, ToTier):
            self._slots.retry_failures[move.number] += 1
        else:
            self._slots.dead_letter_failures += 1

    def _warn(self, copy: Copy, why: str) -> None:
        record = copy.delivery.record
        log.warning(
            "agent %s: %s does not take the copy of %s[%d] offset %d: %s. Its key waits, and it is tried again until "
            "it is taken (records of the agent that wait so: %d)",
            self._agent.name,
            copy.topic,
            record.topic,
            record.partition,
            record.offset,
            why,
            self._blocked(),
            extra=about(copy.delivery, "copy_not_taken"),
        )
