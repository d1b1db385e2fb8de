"""Work that a stop must not wait for, and how to tell that it was one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def asked_to_end(error: BaseException) -> bool:
    """Whether the present task was cancelled by who started it, and not by what it runs."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


async def unless(stopped: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`; None, with the work cancelled, if `stopped` was set before it ended."""
    doing = asyncio.ensure_future(work)
    stop = asyncio.ensure_future(stopped.wait())
    try:
        await asyncio.wait([doing, stop], return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        doing.cancel()
        await asyncio.wait([doing])
        return None
    finally:
        stop.cancel()
        doing.cancel()
