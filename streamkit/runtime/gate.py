"""The breaker at work: what may start while it is open, and when."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from streamkit.agent import Agent
from streamkit.core.breaker import Breaker
from streamkit.core.failures import counts
from streamkit.errors import named
from streamkit.observe.slots import AgentSlots
from streamkit.runtime.delivery import Delivery
from streamkit.runtime.returned import attempt_of

log = logging.getLogger(__name__)


class Gate:
    """Open while the breaker is closed. Else it lets one record or batch through now and then, to see how it fares."""

    def __init__(
        self,
        agent: Agent[Any, Any],
        breaker: Breaker | None,
        slots: AgentSlots,
        wall: Callable[[], float],
    ) -> None:
        """Without a breaker it is always open."""
        self._agent = agent.name
        self._breaker = breaker
        self._slots = slots
        self._wall = wall
        self.permitted = False  # one may start, and none was there to do so
        self._timer: asyncio.TimerHandle | None = None
        self.counted = breaker is not None
        self.tripped = False
        self.failing: dict[Hashable, float] = {} if breaker is None else breaker.failing
        self.on_permit: Callable[[], None] = lambda: None
        self.on_closed: Callable[[], None] = lambda: None

    def permit(self) -> bool:
        """Whether one may start although the breaker is open; whoever asks starts it."""
        if not self.permitted or self._breaker is None:
            return False
        self._breaker.began_probe(self._now())
        self._schedule()
        return True

    def returned(self, count: int, now: float) -> None:
        """So many handlers have returned; what they have sent may be unacknowledged."""
        if self._breaker is not None:
            self._breaker.returned(count, now)

    def succeeded(self, count: int, now: float, *, probe: bool) -> None:
        """So many runs of the handler have ended well, with all that they have sent acknowledged.

        While the breaker is open, only those of probes count: the others may have begun when all was well.
        """
        if self._breaker is None or not count or (self.tripped and not probe):
            return
        if self._breaker.succeeded(count, now):
            self._close()
        elif self.tripped:
            self._schedule()  # the next one may follow at once

    def acknowledged(self, count: int, probes: int) -> None:
        """So many runs have ended well by an acknowledgement; of these, so many were probes."""
        now = self._now()
        self.succeeded(count - probes, now, probe=False)
        self.succeeded(probes, now, probe=True)

    def count(
        self, outcomes: Iterable[tuple[Delivery, BaseException | None]], began: float, *, refused: bool = False
    ) -> None:
        """How runs of the handler that began at this loop time have ended, in their order."""
        if self._breaker is None:
            return
        now = self._now()
        for delivery, error in outcomes:
            if error is None:
                self.failing.pop(delivery.record.key, None)
                self.returned(1, now)
                self.succeeded(1, now, probe=delivery.probe)
            elif counts(error):
                again = attempt_of(delivery.record) > 1
                if self._breaker.failed(delivery.record.key, now, again=again, began=began, refused=refused):
                    self._open(error)
                elif self.tripped:
                    self._schedule()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _open(self, error: BaseException) -> None:
        self.tripped = True
        self._slots.breaker_openings += 1
        self._show()
        log.error(
            "agent %s: the breaker is open: too many records fail, the last with %s. They wait where they are, "
            "instead of going to tiers or dead letters, and one is tried now and then. Once the cause is mended, the "
            "work goes on by itself.",
            self._agent,
            named(error),
        )
        self._schedule()

    def _close(self) -> None:
        self.tripped = self.permitted = False
        self.stop()
        self._show()
        log.warning("agent %s: the breaker is closed: records succeed again, and the work goes on", self._agent)
        self.on_closed()

    def _show(self) -> None:
        self._slots.breaker_since = self._wall()
        self._slots.breaker_open = self.tripped

    def _schedule(self) -> None:
        assert self._breaker is not None
        self.stop()
        self.permitted = False
        self._timer = asyncio.get_running_loop().call_later(self._breaker.next_probe(self._now()), self._allow)

    def _allow(self) -> None:
        self._timer = None
        self.permitted = True
        self.on_permit()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
