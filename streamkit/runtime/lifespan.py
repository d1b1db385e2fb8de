"""What an app does around the work of a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from streamkit.errors import StreamkitError, UserCodeFailed
from streamkit.record import UNSET
from streamkit.runtime.membership import CANCEL_GRACE
from streamkit.runtime.waiting import asked_to_end, unless
from streamkit.topic import PortHolder

WHAT = "the lifespan of the app"


class Lifespan:
    """Entered and left in one task of its own, as cancel scopes and task groups inside of it need."""

    def __init__(
        self,
        make: Callable[[], AbstractAsyncContextManager[Any]] | None,
        holder: PortHolder,
        fail: Callable[[Exception], None],
    ) -> None:
        self._make = make
        self._holder = holder
        self._fail = fail
        self._entered = asyncio.Event()
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.abandoned = False  # it ignores its cancellation and still runs

    async def enter(self, stopping: asyncio.Event) -> bool:
        """Whether the work may begin: not if it fails, or if the worker is stopped meanwhile."""
        if self._make is None:
            self._holder.state = None
            return True
        self._task = asyncio.create_task(self._live(self._make))
        return bool(await unless(stopping, self._entered.wait()))

    async def leave(self, patience: float) -> None:
        """In at most `patience` seconds, then it is cancelled."""
        self._over.set()
        if self._task is not None:
            if not self._entered.is_set():
                self._task.cancel()
            _, late = await asyncio.wait([self._task], timeout=patience)
            if late:
                self._fail(StreamkitError(f"{WHAT} did not end within {patience:g} s (drain_timeout)"))
                self._task.cancel()
                _, stuck = await asyncio.wait([self._task], timeout=CANCEL_GRACE)
                self.abandoned = bool(stuck)
        self._holder.state = UNSET

    async def _live(self, make: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        try:
            async with make() as state:
                self._holder.state = state
                self._entered.set()
                await self._over.wait()
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # SystemExit too: nothing would be drained or committed
            if not asked_to_end(error):
                self._fail(UserCodeFailed(WHAT, error))
