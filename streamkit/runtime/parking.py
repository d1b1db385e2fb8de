"""Where records wait until they are due, and how overdue those are that are not handled yet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from streamkit.core.due import Waiting
from streamkit.observe.slots import AgentSlots
from streamkit.runtime.delivery import Delivery

LEAST_LOOK_AT = 1_000


class Due(NamedTuple):
    """Stands in for the argument of a tier's record."""

    at: float  # loop time
    argument: object  # UNSET, where it was not needed before its turn


def note_lateness(slots: AgentSlots, delivery: Delivery, now: float) -> None:
    """Of a tier's record whose handler begins."""
    due, tier = delivery.argument, delivery.partition.tier
    if type(due) is Due and tier is not None:
        slots.observe_lateness(tier.number, now - due.at)
        delivery.argument = due.argument


class Parking:
    """Deliveries that wait, by tier. One timer serves all."""

    def __init__(self, on_due: Callable[[Sequence[Delivery]], None], wall: Callable[[], float]) -> None:
        """`on_due` gets what is due of a tier, in the order of the dues. `wall` tells seconds since 1970."""
        self._on_due = on_due
        self._wall = wall
        self._waiting: dict[int, Waiting[tuple[float, Delivery]]] = {}
        self._gone: dict[int, deque[tuple[float, Delivery]]] = {}  # were due, and perhaps are not handled yet
        self._look_at: dict[int, int] = {}  # how many there may be of those before all are looked at
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = 0.0
        self._since_1970 = 0.0  # the wall clock when the loop's was 0

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, tier: int, deliveries: Sequence[tuple[float, Delivery]]) -> None:
        """Keep each until the loop time that it is due at."""
        waiting = self._waiting.get(tier)
        if waiting is None:
            waiting = self._waiting[tier] = Waiting()
            self._gone[tier] = deque()
        for each in deliveries:
            waiting.put(each[0], each)
        self._since_1970 = self._wall() - asyncio.get_running_loop().time()
        first = waiting.next
        if first is not None and (self._timer is None or first < self._wakes_at):
            self._set_timer(first)

    def clear(self) -> None:
        """Forget everything: it runs again where its partition is then."""
        self._waiting.clear()
        self._gone.clear()
        self._look_at.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def oldest_due(self) -> dict[int, float]:
        """By tier, when the first that is not handled is or was due, in seconds since 1970. From any thread."""
        oldest: dict[int, float] = {}
        for tier, waiting in list(self._waiting.items()):
            due = next((due for due, delivery in list(self._gone.get(tier, ())) if not delivery.handled), waiting.next)
            if due is not None:
                oldest[tier] = self._since_1970 + due
        return oldest

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._wakes_at = due
        self._timer = asyncio.get_running_loop().call_at(due, self._wake)

    def _wake(self) -> None:
        self._timer = None
        # The timer may fire a little before the clock shows its time.
        now = max(asyncio.get_running_loop().time(), self._wakes_at)
        for tier, waiting in list(self._waiting.items()):
            due = waiting.take(now)
            if due:
                self._note(tier, due)
                self._on_due([delivery for _, delivery in due])
        following = [waiting.next for waiting in self._waiting.values() if waiting.next is not None]
        if following:
            self._set_timer(min(following))

    def _note(self, tier: int, due: Sequence[tuple[float, Delivery]]) -> None:
        gone = self._gone[tier]
        while gone and gone[0][1].handled:
            gone.popleft()
        gone.extend(due)
        if len(gone) > self._look_at.get(tier, LEAST_LOOK_AT):  # behind one that is blocked, others are handled
            gone = self._gone[tier] = deque(each for each in gone if not each[1].handled)
            self._look_at[tier] = max(2 * len(gone), LEAST_LOOK_AT)
