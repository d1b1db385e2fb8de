"""A worker that is started anew when its code changes."""

from __future__ import annotations

import asyncio
import logging

from streamkit.cli.processes import Arguments, Processes
from streamkit.cli.watch import Changes, Watched, watching
from streamkit.runtime.waiting import unless

log = logging.getLogger("streamkit")

# A cached file is told from a stale one by size and by a time in whole seconds: a quick edit would not be seen.
NO_BYTECODE = ("-B",)


class Reloader:
    """One process at a time. On a change it is stopped in order: a killed one would leave dead members in its groups.

    A change that comes while a process stops or starts is kept: what was noted is forgotten just before the next
    process begins to read the files.
    """

    def __init__(self, arguments: Arguments, where: Watched) -> None:
        self._arguments = arguments
        self._where = where
        self._processes = Processes(arguments)
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        """Until it is stopped, or the process ends by itself with 0; the exit code of the last process."""
        code = 0
        async with watching(self._where) as changes:
            while not self._stopping.is_set():
                changes.forget()
                code, reason = await self._run_until_changed(changes)
                if reason is None:
                    if code == 0 or self._processes.killed or self._stopping.is_set():
                        break
                    log.info("waiting for a change")
                    reason = await unless(self._stopping, changes.wait())
                    if reason is not None:
                        log.info("reloading: %s changed", reason)
        return code

    def stop(self) -> None:
        self._stopping.set()
        self._processes.stop()

    def kill(self) -> None:
        self._processes.kill()

    async def _run_until_changed(self, changes: Changes) -> tuple[int, str | None]:
        """The process's exit code, and what has changed if that is why it was stopped."""
        self._processes = Processes(self._arguments, flags=NO_BYTECODE)
        running = asyncio.create_task(self._processes.run())
        changed = asyncio.create_task(changes.wait())
        await asyncio.wait([running, changed], return_when=asyncio.FIRST_COMPLETED)
        reason: str | None = None
        if changed.done() and not running.done():
            reason = changed.result()
            log.info("reloading: %s changed", reason)
            self._processes.stop()
        changed.cancel()
        return await running, reason
