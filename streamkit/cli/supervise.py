"""The process above the workers: it passes signals on, and ends when they have."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Protocol

from streamkit.cli.processes import Arguments, Processes
from streamkit.cli.signals import take_signals


class Supervised(Protocol):
    async def run(self) -> int: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...


class Workers:
    """`size` workers, once the target is known to load: else each of them would show the same traceback."""

    def __init__(self, arguments: Arguments, size: int) -> None:
        self._check = Processes(lambda number: ["worker", "--check", *arguments(number)[1:]])
        self._processes = Processes(arguments, size)

    async def run(self) -> int:
        return await self._check.run() or await self._processes.run()

    def stop(self) -> None:
        self._check.stop()
        self._processes.stop()

    def kill(self) -> None:
        self._check.kill()
        self._processes.kill()


def supervise(supervised: Supervised, clean_up: Callable[[], None] = lambda: None) -> int:
    """Run them to their end; the exit code. The first signal stops them in order, the second ends everything.

    `clean_up` is called if the process ends without returning from here.
    """

    def end_now(code: int) -> None:
        supervised.kill()
        clean_up()
        logging.shutdown()
        os._exit(code)

    with asyncio.Runner() as runner:
        take_signals(runner.get_loop(), lambda _number: supervised.stop(), end_now)
        return runner.run(supervised.run())
