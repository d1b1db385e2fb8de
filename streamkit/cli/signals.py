"""SIGTERM and SIGINT: the first stops the worker in order, the second ends the process at once."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import signal
from collections.abc import Callable
from types import FrameType

from streamkit.cli import child

log = logging.getLogger("streamkit")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SIGNALLED = 128  # what a shell adds to the number of the signal that ended a process


def exit_on_signals() -> None:
    """Until `take_signals`, let the first one raise SystemExit, so that what has been started is taken down again."""

    def handle(number: int, _frame: FrameType | None) -> None:
        _ignore_signals()
        raise SystemExit(SIGNALLED + number)

    for number in SIGNALS:
        signal.signal(number, handle)


class Stop:
    """Set by the first signal, once it listens: come to an end in order. The second ends the process at once."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.signal: signal.Signals | None = None

    def listen(self) -> None:
        take_signals(asyncio.get_running_loop(), self._stop, _end_now)

    def _stop(self, number: signal.Signals) -> None:
        self.signal = number
        self.event.set()


def _end_now(code: int) -> None:
    logging.shutdown()
    os._exit(code)


def take_signals(
    loop: asyncio.AbstractEventLoop,
    stop: Callable[[signal.Signals], None],
    end_now: Callable[[int], None],
    *,
    at_once: Callable[[], None] = lambda: None,
) -> None:
    """`stop(signal)` is called in the loop; `at_once()` and `end_now(exit code)`, for the first and the second one, in
    the signal handler, even while the loop is blocked.

    That is why these are not the loop's own signal handlers: they wait for the loop. They stay until the process ends:
    a second signal that comes when the worker has just stopped must not raise KeyboardInterrupt in what is left.
    """
    received = 0

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal received
        received += 1
        if received > 1:
            end_now(SIGNALLED + number)
        elif not loop.is_closed():
            at_once()
            loop.call_soon_threadsafe(begin_to_stop, signal.Signals(number))

    def begin_to_stop(number: signal.Signals) -> None:
        if not child.supervised:  # whoever sent the signal has been told by the supervisor
            log.info("%s: stopping; once more to end at once", number.name)
        stop(number)

    for number in SIGNALS:
        signal.signal(number, handle)
    # The interpreter puts the defaults back while it ends, and a signal that comes then would belie the exit code.
    atexit.register(_ignore_signals)


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
