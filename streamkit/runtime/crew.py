"""The tasks that run an agent's handlers: born, woken and ended here."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from streamkit.runtime.membership import CANCEL_GRACE

log = logging.getLogger(__name__)

Work = Callable[[], Coroutine[Any, Any, None]]


class Crew:
    """Tasks that all do the same work, and wait here while there is none.

    They are in no task group: it would wait for ever for a handler that ignores its cancellation.
    """

    def __init__(self, agent: str, fail: Callable[[Exception], None]) -> None:
        """`fail` is told when a task has died."""
        self._agent = agent
        self._fail = fail
        self._idle: deque[asyncio.Future[None]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self.ended = False  # a task whose handler took a cancellation for its own goes no further

    def start(self, work: Work, tasks: int = 1, context: Context | None = None) -> None:
        """In a copy of the present context each, or all in the one that is given."""
        loop = asyncio.get_running_loop()
        for _ in range(tasks):
            task = loop.create_task(self._guarded(work), context=context)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def end(self) -> int:
        """Cancel everything; how many handlers ignore that, and are abandoned."""
        self.ended = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if not tasks:
            return 0
        _, stuck = await asyncio.wait(tasks, timeout=CANCEL_GRACE)
        if stuck:
            log.error("agent %s: %d handlers ignore their cancellation and are abandoned", self._agent, len(stuck))
        return len(stuck)

    def wake(self, tasks: int) -> None:
        idle = self._idle
        while tasks and idle:
            ready = idle.popleft()
            if not ready.done():
                ready.set_result(None)
                tasks -= 1

    async def until_woken(self) -> None:
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(ready)
        await ready

    async def _guarded(self, work: Work) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            if self.ended:
                raise
            self._fail(RuntimeError("a handler has cancelled the task that runs it, and ended before that"))
        except Exception as error:
            log.exception("agent %s: unexpected error in the engine", self._agent)
            self._fail(error)
