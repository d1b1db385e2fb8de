"""The timers of an app."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from contextvars import copy_context
from typing import Any, cast

from streamkit.errors import UserCodeFailed
from streamkit.runtime.invoke import drive
from streamkit.runtime.membership import CANCEL_GRACE
from streamkit.runtime.waiting import asked_to_end
from streamkit.timer import Timer

log = logging.getLogger(__name__)

Fail = Callable[[Exception], None]


async def run_timer(timer: Timer, stopping: asyncio.Event, fail: Fail) -> None:
    """Call it whenever it is due, until `stopping`; `fail` is told what it raises, which ends it."""
    loop = asyncio.get_running_loop()
    due = loop.time() + timer.every
    while not await _set_before(stopping, due):
        try:
            await drive(copy_context(), cast(Coroutine[Any, Any, None], timer.function()))
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # SystemExit too: nothing would be drained or committed
            if asked_to_end(error):
                raise
            fail(UserCodeFailed(f"timer {timer.name!r}", error))
            return
        # What came due while it ran is one call.
        late = max(0.0, loop.time() - due)
        due += timer.every * (1 + late // timer.every)


async def end_timers(timers: Collection[asyncio.Task[None]], patience: float) -> int:
    """Let those that run come to their end for `patience` seconds, then cancel them; how many ignore that."""
    if not timers:
        return 0
    _, late = await asyncio.wait(timers, timeout=patience)
    if not late:
        return 0
    for timer in late:
        timer.cancel()
    _, stuck = await asyncio.wait(late, timeout=CANCEL_GRACE)
    if stuck:
        log.error("%d timers ignore their cancellation and are abandoned", len(stuck))
    return len(stuck)


async def _set_before(event: asyncio.Event, deadline: float) -> bool:
    try:
        async with asyncio.timeout_at(deadline):
            return await event.wait()
    except TimeoutError:
        return False
