from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice, pairwise
from types import SimpleNamespace

import pytest

from streamkit.observe import watchdog as module
from streamkit.observe.slots import WorkerSlots
from streamkit.observe.watchdog import QUIET_FOR, TELL_AT, Watchdog, where
from tests.observe.support import running_worker


class Dog:
    """A watchdog that is made to look, at times of the test's own. The thread that it watches is the test's."""

    def __init__(self) -> None:
        self.slots, _ = running_worker()
        self.slots.vitals.resumed = 0.0
        self.watchdog = Watchdog(self.slots, error_after=15.0, dump_after=0.0)
        self.watchdog._loop_thread = threading.get_ident()
        self.now = 1_000.0
        self.processor = 0.0
        self.watchdog._looked = self.now, self.processor
        self.beat()

    def beat(self) -> None:
        self.slots.heartbeat = self.now

    def looks(self, seconds: float, *, beating: bool = False) -> None:
        """As often as it would in so many seconds."""
        for _ in range(round(seconds / module.LOOK_EVERY)):
            self.now += module.LOOK_EVERY
            if beating:
                self.beat()
            self.look()

    def look(self) -> None:
        self.watchdog._look(self.now, self.processor)

    def stands_still(self, seconds: float, *, processor: float) -> None:
        """With everything else that the process does."""
        self.now += seconds
        self.processor += processor
        self.look()


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage().partition(":")[0]) for record in caplog.records]


def test_a_loop_that_runs_is_not_spoken_of(caplog: pytest.LogCaptureFixture) -> None:
    Dog().looks(100.0, beating=True)
    assert caplog.records == []


def test_a_blocked_loop_is_told_of_again_and_again_and_is_an_error_when_the_group_may_lose_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dog = Dog()
    dog.looks(62.0)
    dog.beat()
    dog.look()
    assert told(caplog) == [
        ("WARNING", "the event loop has not run for 1.2 s"),
        ("WARNING", "the event loop has not run for 5.2 s"),
        ("ERROR", "the event loop has not run for 15.2 s"),
        ("ERROR", "the event loop has not run for 30.2 s"),
        ("ERROR", "the event loop has not run for 60.2 s"),
        ("WARNING", "the event loop runs again, after 62.0 s"),
    ]


def test_the_warning_names_the_users_function_and_line(caplog: pytest.LogCaptureFixture) -> None:
    dog = Dog()

    async def handler() -> None:
        dog.looks(2.0)

    asyncio.run(handler())
    (record,) = caplog.records
    line = Dog.look.__code__.co_firstlineno + 1
    assert f"it is in Dog.look ({__file__}:{line})" in record.getMessage()
    fields = record.__dict__
    assert (fields["event_name"], fields["function"], fields["line"]) == ("event_loop_blocked", "Dog.look", line)
    stack = fields["stack"].splitlines()
    assert "in handler" in stack[0]  # not what has called the loop
    assert f'File "{__file__}", line {line}, in look' in fields["stack"]
    assert "in _tell" in stack[-2]  # what it has called is there too


def test_a_loop_that_blocks_shortly_again_and_again_is_told_of_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    dog = Dog()
    for _ in range(8):  # 12 s
        dog.looks(1.5)
        dog.beat()
    said = [each.getMessage() for each in caplog.records if each.getMessage().startswith("the event loop has not run")]
    assert len(said) == 2
    assert said[1].endswith(f"(and {round(QUIET_FOR / 1.5) - 1} times more since the last of these lines)")
    dog.looks(6.0)
    assert told(caplog)[-1] == ("WARNING", "the event loop has not run for 5.2 s")


def test_a_process_that_was_stopped_has_no_blocked_loop(caplog: pytest.LogCaptureFixture) -> None:
    dog = Dog()
    dog.looks(1.0, beating=True)
    dog.stands_still(60.0, processor=0.01)
    dog.beat()
    dog.looks(10.0, beating=True)
    ((level, text),) = told(caplog)
    assert (level, text.startswith("the process goes on after 60.0 s")) == ("WARNING", True)
    assert dog.slots.vitals.resumed == 1_061.0


def test_code_that_held_the_gil_is_named_as_that(caplog: pytest.LogCaptureFixture) -> None:
    dog = Dog()
    dog.stands_still(20.0, processor=19.0)
    assert told(caplog) == [
        ("WARNING", "no Python code could run for 20.0 s"),
        ("ERROR", "the event loop has not run for 20.0 s"),
    ]


def test_nothing_is_said_before_the_first_heartbeat_and_after_the_end(caplog: pytest.LogCaptureFixture) -> None:
    dog = Dog()
    dog.slots.heartbeat = 0.0
    dog.looks(5.0)
    dog.beat()
    dog.slots.state = "stopped"
    dog.looks(5.0)
    assert caplog.records == []


def test_nothing_is_said_while_a_debugger_has_stopped_in_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    dog = Dog()
    scope = {"__name__": "pdb", "call": lambda: dog.looks(5.0)}
    exec("def interact(): call()\ninteract()", scope)
    assert caplog.records == []
    dog.looks(0.25)
    assert len(caplog.records) == 1


def test_it_tells_at_intervals_that_grow() -> None:
    ages = list(islice(module._ages(), 8))
    assert ages[:4] == list(TELL_AT)
    assert [after - before for before, after in pairwise(ages[3:])] == [module.THEN_EVERY] * 4


def test_a_stack_without_the_users_code_names_its_innermost_function() -> None:
    go_on = threading.Event()
    # A library's function is the target: no frame of this file is on its stack.
    thread = threading.Thread(target=go_on.wait)
    thread.start()
    try:
        place, stack = where(sys._current_frames()[thread.ident or 0])
    finally:
        go_on.set()
        thread.join()
    assert place.file.endswith("threading.py")
    assert __file__ not in stack


# Its thread


@contextmanager
def fake_faulthandler(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, float]]]:
    calls: list[tuple[str, float]] = []

    def later(seconds: float, file: object = None) -> None:
        calls.append(("later", seconds))

    fake = SimpleNamespace(
        dump_traceback_later=later, cancel_dump_traceback_later=lambda: calls.append(("cancel", 0.0))
    )
    with monkeypatch.context() as patched:
        patched.setattr(module, "faulthandler", fake)
        yield calls


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def dogs() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "streamkit-watchdog"]


def test_the_dump_is_put_off_while_it_looks_and_cancelled_when_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY", 0.01)
    with fake_faulthandler(monkeypatch) as calls:
        with Watchdog(WorkerSlots("1"), error_after=15.0, dump_after=7.0):
            assert len(dogs()) == 1
            until(lambda: len(calls) > 3)
        assert dogs() == []
        assert set(calls[:-1]) == {("later", 7.0)}
        assert calls[-1] == ("cancel", 0.0)


def test_without_a_limit_faulthandler_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY", 0.01)
    slots, _ = running_worker()
    with fake_faulthandler(monkeypatch) as calls:
        with Watchdog(slots, error_after=15.0, dump_after=0.0) as watchdog:
            before = watchdog._looked
            until(lambda: watchdog._looked > before)
        assert calls == []


def test_no_dump_runs_in_a_child_that_is_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would have the timer's lock and not its thread, and hang when it ends."""
    with fake_faulthandler(monkeypatch) as calls, Watchdog(WorkerSlots("1"), error_after=15.0, dump_after=7.0):
        until(lambda: bool(calls))
        module._before_fork()
        assert calls[-1] == ("cancel", 0.0)
        module._Dump.lock.release()
        until(lambda: calls[-1] == ("later", 7.0))


def test_standard_error_that_is_no_file_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sys.__stderr__", None)
    monkeypatch.setattr("sys.stderr", SimpleNamespace())
    with Watchdog(WorkerSlots("1"), error_after=15.0, dump_after=7.0) as watchdog:
        until(lambda: watchdog._dump._seconds == 0.0)
    assert caplog.records == []


def test_stopping_twice_or_without_a_start_is_nothing() -> None:
    watchdog = Watchdog(WorkerSlots("1"), error_after=15.0, dump_after=0.0)
    watchdog.stop()
    watchdog.start()
    watchdog.stop()
    watchdog.stop()


def test_a_watchdog_that_cannot_look_says_so_once_for_each_kind_of_error_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY", 0.01)
    slots, _ = running_worker()
    errors = [ZeroDivisionError(), ZeroDivisionError(), OSError(), ZeroDivisionError()]
    looks: list[float] = []

    def look(now: float, processor: float) -> None:
        looks.append(now)
        if len(looks) <= len(errors):
            raise errors[len(looks) - 1]

    with Watchdog(slots, error_after=15.0, dump_after=0.0) as watchdog:
        monkeypatch.setattr(watchdog, "_look", look)
        until(lambda: len(looks) > len(errors) + 1)
    said = [record for record in caplog.records if "the watchdog could not look" in record.getMessage()]
    assert [record.exc_info and record.exc_info[0] for record in said] == [ZeroDivisionError, OSError]
    assert {record.levelname for record in said} == {"ERROR"}


def test_a_log_filter_that_raises_does_not_end_the_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY", 0.01)
    slots, _ = running_worker()
    slots.heartbeat = time.monotonic() - 100.0
    slots.vitals.resumed = 0.0
    asked: list[str] = []

    def raises(record: logging.LogRecord) -> bool:
        asked.append(record.msg)
        raise RuntimeError("the filter")

    module.logger.addFilter(raises)
    try:
        with Watchdog(slots, error_after=15.0, dump_after=0.0):
            until(lambda: len([text for text in asked if text.startswith("the event loop has not run")]) > 1)
            assert len(dogs()) == 1
    finally:
        module.logger.removeFilter(raises)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_forking_goes_on_as_before() -> None:
    child = os.fork()
    if not child:
        os._exit(0 if not module._Dump.lock.locked() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert not module._Dump.lock.locked()
