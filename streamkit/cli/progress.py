"""How far a command has come: one line of a terminal, which goes away at the end."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

EVERY = 0.2  # seconds


@asynccontextmanager
async def progress(count: Callable[[], int], done: str = "sent") -> AsyncIterator[None]:
    """Show `count()`, of records that are `done`, and the rate on standard error while the block runs.

    Nothing if that is no terminal.
    """
    if not sys.stderr.isatty():
        yield
        return
    showing = asyncio.create_task(_show(count, done))
    try:
        yield
    finally:
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await showing


async def _show(count: Callable[[], int], done: str) -> None:
    from rich.console import Console
    from rich.live import Live

    started = time.monotonic()
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        while True:
            number, seconds = count(), time.monotonic() - started
            live.update(f"{done} {number:,} records, {number / (seconds or 1):,.0f} a second", refresh=True)
            await asyncio.sleep(EVERY)
