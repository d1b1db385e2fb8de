"""The thread that notices when the event loop stands still, and says where."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from types import FrameType, TracebackType
from typing import NamedTuple, Self

from streamkit.observe.slots import WorkerSlots

logger = logging.getLogger("streamkit.observe")

# Seconds.
LOOK_EVERY = 0.25
TELL_AT = (1.0, 5.0, 15.0, 30.0)
THEN_EVERY = 30.0
QUIET_FOR = 10.0  # a loop that blocks again and again for less than TELL_AT[1] is told of this often
STOPPED_BELOW = 0.05  # of a processor; on a busy machine who computes may get little, but not that little
OVERSLEPT = 1.0  # with looks this late the process as a whole stood still, and not the loop in it

_CALL = asyncio.Handle._run.__code__  # whatever a loop calls is called by it
DEBUGGERS = ("bdb", "pdb", "ipdb", "pudb", "debugpy", "pydevd", "_pydevd_bundle", "_pydev_bundle")
_LIBRARIES = tuple(
    dict.fromkeys(
        os.path.join(path, "")
        for path in (
            str(Path(__file__).parents[1]),
            *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        )
    )
)


class Place(NamedTuple):
    """Where a thread is: the innermost function of the user's that it is in, or the innermost at all."""

    function: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.function} ({self.file}:{self.line})"


class Watchdog:
    """Warns when the loop of the thread that has started it does not run, and says so when it runs again.

    For that it looks at the age of the heartbeat. A debugger that has stopped in the loop's thread is no reason, nor is
    it when the whole process stood still (SIGSTOP, a suspended machine). Where C code holds the GIL this thread
    stands still too: then faulthandler, which needs no GIL, writes the stacks of all threads to standard error after
    `dump_after` seconds; 0 for never. It has one timer in a process: whoever uses that himself wants 0 here.
    """

    def __init__(self, slots: WorkerSlots, *, error_after: float, dump_after: float) -> None:
        """From `error_after` seconds on it is an error: the group may soon take the partitions away."""
        self._slots = slots
        self._error_after = error_after
        self._dump = _Dump(dump_after)
        self._blocked = _Blocked(0.0)
        self._quiet_until = 0.0
        self._untold = 0
        self._loop_thread = 0
        self._looked = (0.0, 0.0)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """In the thread whose loop is watched, from its first heartbeat on."""
        self._loop_thread = threading.get_ident()
        self._stop.clear()
        self._looked = time.monotonic(), time.process_time()
        self._thread = threading.Thread(target=self._run, name="streamkit-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """May be called again, or without a start."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        failed: set[type[Exception]] = set()
        try:
            self._dump.put_off()
            while not self._stop.wait(LOOK_EVERY):
                try:
                    self._dump.put_off()
                    self._look(time.monotonic(), time.process_time())
                except Exception as error:
                    if type(error) not in failed:
                        failed.add(type(error))
                        _tell_failure()
        finally:
            self._dump.cancel()

    def _look(self, now: float, processor: float) -> None:
        slept, used = now - self._looked[0], processor - self._looked[1]
        self._looked = now, processor
        if slept > LOOK_EVERY + OVERSLEPT:
            self._stood_still(now, slept, used)
        heartbeat = self._slots.heartbeat
        if not heartbeat or self._slots.state == "stopped":
            return
        if heartbeat > self._blocked.since:
            self._runs_again(heartbeat)
            self._blocked = _Blocked(heartbeat)
        age = now - max(heartbeat, self._slots.vitals.resumed)
        if age > self._blocked.tell_at:
            self._tell(now, age)

    def _stood_still(self, now: float, slept: float, used: float) -> None:
        """Whoever stops the process for a while stops the processor's clock too; who holds the GIL mostly does not."""
        if used < slept * STOPPED_BELOW:
            self._slots.vitals.resumed = now
            logger.warning(
                "the process goes on after %.1f s in which it was stopped, or starved, or C code held the GIL and "
                "waited; if stacks have just been written to standard error, they mean no more than that",
                slept,
                extra={"event_name": "process_stood_still", "seconds": round(slept, 3)},
            )
            return
        logger.warning(
            "no Python code could run for %.1f s: C code held the GIL",
            slept,
            extra={"event_name": "gil_held", "blocked_s": round(slept, 3)},
        )

    def _tell(self, now: float, age: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        if frame is None or _in_debugger(frame):
            return
        if self._blocked.tell_at == TELL_AT[0] and now < self._quiet_until:
            self._blocked.next_time()
            self._untold += 1
            return
        self._blocked.next_time()
        self._blocked.told = True
        place, stack = where(frame)
        del frame  # it would keep what the handler holds
        logger.log(
            logging.ERROR if age > self._error_after else logging.WARNING,
            "the event loop has not run for %.1f s: it is in %s%s",
            age,
            place,
            f" (and {self._untold} times more since the last of these lines)" if self._untold else "",
            extra={
                "event_name": "event_loop_blocked",
                "blocked_s": round(age, 3),
                "function": place.function,
                "file": place.file,
                "line": place.line,
                "suppressed": self._untold,
                "stack": stack,
            },
        )
        self._quiet_until, self._untold = now + QUIET_FOR, 0

    def _runs_again(self, heartbeat: float) -> None:
        if self._blocked.told:
            seconds = heartbeat - self._blocked.since
            logger.warning(
                "the event loop runs again, after %.1f s",
                seconds,
                extra={"event_name": "event_loop_runs_again", "blocked_s": round(seconds, 3)},
            )


def _tell_failure() -> None:
    # What raised may be the logging itself: a filter or a handler of the app's.
    with contextlib.suppress(Exception):
        logger.exception("the watchdog could not look; it goes on, and tells no more of errors of this kind")


class _Blocked:
    """The present heartbeat, and what was told since."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.told = False
        self._ages = _ages()
        self.tell_at = next(self._ages)

    def next_time(self) -> None:
        self.tell_at = next(self._ages)


def _ages() -> Iterator[float]:
    age = 0.0
    for age in TELL_AT:
        yield age
    for more in repeat(THEN_EVERY):
        age += more
        yield age


def where(frame: FrameType) -> tuple[Place, str]:
    """Where the thread is, and its stack from the outermost function of the user's on that the loop has called."""
    frames = list(traceback.walk_stack(frame))  # innermost first
    called = next((number for number, (each, _) in enumerate(frames) if each.f_code is _CALL), 0)
    users = [number for number, (each, _) in enumerate(frames[:called]) if not _is_library(each)]
    inner, outer = (users[0], users[-1]) if users else (0, len(frames) - 1)
    place, line = frames[inner]
    code = place.f_code
    stack = traceback.StackSummary.extract(reversed(frames[: outer + 1]))
    return Place(code.co_qualname, code.co_filename, line), "".join(stack.format()).rstrip()


def _is_library(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return name.startswith(_LIBRARIES) or name.startswith("<frozen")


def _in_debugger(frame: FrameType) -> bool:
    return any(
        str(each.f_globals.get("__name__", "")).partition(".")[0] in DEBUGGERS
        for each, _ in traceback.walk_stack(frame)
    )


class _Dump:
    """faulthandler's timer, put off as long as Python code runs.

    A child that is forked while the timer runs has its lock and not its thread, and would wait for it when it ends. So
    it does not run at a fork; the next look starts it again, in the parent.
    """

    lock = threading.Lock()
    runs = False  # there is but one in a process

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def put_off(self) -> None:
        if not self._seconds:
            return
        with _Dump.lock:
            try:
                faulthandler.dump_traceback_later(self._seconds, file=sys.__stderr__ or sys.stderr)
            except (AttributeError, OSError, RuntimeError, ValueError):  # standard error is no file
                self._seconds = 0.0
            else:
                _Dump.runs = True

    def cancel(self) -> None:
        if self._seconds:
            with _Dump.lock:
                _cancel_dump()


def _cancel_dump() -> None:
    if _Dump.runs:
        faulthandler.cancel_dump_traceback_later()
        _Dump.runs = False


def _before_fork() -> None:
    _Dump.lock.acquire()
    _cancel_dump()


os.register_at_fork(before=_before_fork, after_in_parent=_Dump.lock.release, after_in_child=_Dump.lock.release)
