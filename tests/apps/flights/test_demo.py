"""`python -m apps.flights` as `make demo` runs it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

MARK = "FLIGHTS_DEMO_TEST"
PROC = Path("/proc")


@contextmanager
def demo(environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """The demo; at the end nothing that it has started may be left."""
    mark = uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-m", "apps.flights"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {}), MARK: mark},
    )
    try:
        with process:
            yield process
    finally:
        process.kill()
    assert marked(mark) == []


def marked(mark: str) -> list[str]:
    """The processes with the mark in the environment that they were started with."""
    if not PROC.is_dir():
        pytest.skip("without /proc it cannot be seen what is left")
    found = []
    for entry in PROC.glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_text())
        except OSError:  # ended meanwhile, or another user's
            continue
    return found


def lines_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """What the demo says up to the line that holds the text."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if text in line:
            return lines
    raise AssertionError(f"the demo ended without saying {text!r}")


def test_the_demo_reports_in_eighty_columns_and_keeps_running_if_told_to() -> None:
    with demo({"KEEP": "1"}) as process:
        lines = lines_until(process, "KEEP=1: ")
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    output = "\n".join(lines)
    assert "27,004 flights and 5 records that are none, through 5 agents" in output
    assert "134,970 records handled" in output
    assert "lag 0 in each of 48 partitions" in output
    assert "27,009 read = 26,954 with their weather + 55 dead letters: nothing is lost" in output
    assert "its dead letters by reason: 10 exhausted, 40 non_retryable, 5 deserialize" in output
    assert "the breaker opened once, and has closed again" in output
    assert "The longest chain of lateness: N190JB, 4 flights" in output
    assert "Cancelled: 521 flights" in output
    assert "Dead letters in nyc.flights.v1.dlq: 75" in output
    assert "    handle        NotObserved             1   weather " in output
    assert "       10  TimeoutError: the weather service has not answered in time" in output
    assert "replayed 1 dead letter of nyc.flights.v1.dlq" in output
    assert "1 handled, 0 failed again, 0 not heard of" in output
    report = lines[next(n for n, line in enumerate(lines) if "records that are none, " in line) : -1]
    assert max(map(len, report)) <= 80


def test_a_worker_that_cannot_start_fails_the_demo_with_its_message() -> None:
    with demo({"STREAMKIT_COMMIT_INTERVAL": "soon"}) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "The demo has failed: the worker has ended" in errors
    assert "STREAMKIT_COMMIT_INTERVAL" in errors


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_demo_and_all_that_it_started(number: signal.Signals, code: int) -> None:
    with demo() as process:
        lines_until(process, "metrics: ")
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == code
