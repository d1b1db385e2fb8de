"""Waiting for one another. Unlike those of asyncio, these belong to no event loop.

A broker may outlive several loops, and an observer looks at it from the loop of another thread.
"""

from __future__ import annotations

import asyncio


class Signal:
    """Wakes all who wait for it at that moment."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], None] = {}

    async def wait(self, within: float | None) -> None:
        """Until the next `notify`, or for `within` seconds: what was waited for must be looked at again."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = None
        try:
            await asyncio.wait([waiter], timeout=within)
        finally:
            self._waiting.pop(waiter, None)

    def notify(self) -> None:
        waiting, self._waiting = self._waiting, {}
        here = _running_loop()
        for waiter in list(waiting):
            loop = waiter.get_loop()
            if loop is here:
                _wake(waiter)
            elif not loop.is_closed():
                loop.call_soon_threadsafe(_wake, waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class Gate:
    """Open, or closed with everybody waiting before it."""

    def __init__(self) -> None:
        self.closed = False
        self._opened = Signal()

    def close(self) -> None:
        self.closed = True

    def open(self) -> None:
        self.closed = False
        self._opened.notify()

    async def passed(self, within: float | None) -> bool:
        """True once it is open, False when it was not for `within` seconds."""
        loop = asyncio.get_running_loop()
        deadline = None if within is None else loop.time() + within
        while self.closed:
            left = None if deadline is None else deadline - loop.time()
            if left is not None and left <= 0:
                return False
            await self._opened.wait(left)
        return True
