"""An event loop whose time jumps to whatever is due next, so that waiting costs nothing and every run is the same."""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

NANOSECOND = 1e-9


class Deadlock(Exception):
    """Everybody waits, and nothing is due."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Its `time()` starts at 0. For code without threads and sockets."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_JumpingSelector(self))
        # No timer runs before its time: what waits for the rest of a nanosecond would be woken in vain, for ever.
        self._clock_resolution = 0.0

    def time(self) -> float:
        return self._now

    def jump(self, seconds: float) -> None:
        """At least a little: a timer runs only when its time has passed."""
        self._now = max(self._now + seconds + NANOSECOND, math.nextafter(self._now, math.inf))


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock
        if not self._loop._ready:  # type: ignore[attr-defined]
            self._loop.jump(timeout)
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        return ready


def run(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
