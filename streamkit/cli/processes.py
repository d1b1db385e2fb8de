"""Processes of one command that start together and stop together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence

from streamkit.cli.child import command

log = logging.getLogger("streamkit")

Arguments = Callable[[int], list[str]]  # of the process with this number, from 0 on


class Processes:
    """`size` processes of `streamkit`. One that fails stops the others in order; `run` returns its exit code.

    They have sessions of their own: Ctrl-C reaches only the supervisor, which passes a stop on in its own time.
    """

    def __init__(self, arguments: Arguments, size: int = 1, flags: Sequence[str] = ()) -> None:
        self._arguments = arguments
        self._flags = flags
        self._size = size
        self._processes: list[Process] = []
        self._stopping = False
        self.code = 0
        self.killed = False  # one of them, by a signal that did not come from here

    async def run(self) -> int:
        """Until all have ended: 0, or the exit code of the first that failed, 1 if a signal has killed it."""
        while len(self._processes) < self._size and not self._stopping:
            arguments = command(self._arguments(len(self._processes)), *self._flags)
            process = await asyncio.create_subprocess_exec(*arguments, start_new_session=True)
            self._processes.append(process)
            if self._stopping:  # told while this one was being started
                _signal(process, signal.SIGTERM)
        await asyncio.gather(*(self._end_of(number, process) for number, process in enumerate(self._processes)))
        return self.code

    def stop(self) -> None:
        """Let each drain, commit and leave its groups."""
        if not self._stopping:
            self._stopping = True
            for process in self._processes:
                _signal(process, signal.SIGTERM)

    def kill(self) -> None:
        for process in self._processes:
            _signal(process, signal.SIGKILL)

    async def _end_of(self, number: int, process: Process) -> None:
        code = await process.wait()
        if code == 0 or (code == -signal.SIGTERM and self._stopping):  # the latter had not begun
            return
        who = f"worker {number + 1} of {self._size} (process {process.pid})"
        if code < 0:
            self.killed = True
            name = signal.Signals(-code).name
            hint = "; has the system run out of memory?" if code == -signal.SIGKILL else ""
            log.error("%s was killed by %s%s", who, name, hint)
        elif self._size > 1:
            log.error("%s failed with exit code %d; the others are stopped", who, code)
        self.code = self.code or max(code, 1)
        self.stop()


def _signal(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
