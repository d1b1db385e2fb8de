"""The timers of an app."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from contextvars import copy_context
from typing import Any, cast

from streamkit.errors import UserCodeFailed
from streamkit.runtime.invoke import drive
from streamkit.runtime.membership import CANCEL_GRACE
from streamkit.timer import Timer

Fail = Callable[[Exception], None]


async def run_timer(timer: Timer, stopping: asyncio.Event, fail: Fail) -> None:
    """Call it whenever it is due, until `stopping`; `fail` is told what it raises, which ends it."""
    loop = asyncio.get_running_loop()
    due = loop.time() + timer.every
    while not await _set_before(stopping, due):
        try:
            await drive(copy_context(), cast(Coroutine[Any, Any, None], timer.function()))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            fail(UserCodeFailed(f"timer {timer.name!r}", error))
            return
        except Exception as error:
            fail(UserCodeFailed(f"timer {timer.name!r}", error))
            return
        # What came due while it ran is one call.
        late = max(0.0, loop.time() - due)
        due += timer.every * (1 + late // timer.every)


async def end_timers(timers: Collection[asyncio.Task[None]], patience: float) -> None:
    """Let those that run come to their end for `patience` seconds, then cancel them."""
    if not timers:
        return
    _, late = await asyncio.wait(timers, timeout=patience)
    for timer in late:
        timer.cancel()
    if late:
        await asyncio.wait(late, timeout=CANCEL_GRACE)


async def _set_before(event: asyncio.Event, deadline: float) -> bool:
    try:
        async with asyncio.timeout_at(deadline):
            return await event.wait()
    except TimeoutError:
        return False
