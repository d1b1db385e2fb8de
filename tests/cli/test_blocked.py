"""A worker whose handler blocks the event loop: it is seen from outside, named, and in the end restarted."""

from __future__ import annotations

import asyncio
import json
import signal
import statistics
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from prometheus_client.parser import text_string_to_metric_families

from streamkit.cli.embedded import EmbeddedBroker
from tests.cli.support import Program, Running, program, records_of

BLOCKS = """
import re

@app.agent(source)
async def slow(order: dict) -> None:
    if order["n"] == 1:
        print("begun")
        block(order)
        print("done")

def block(order: dict) -> None:
    {body}
"""
# Both for 20 s.
SLEEP = "time.sleep(20)"
SPIN = """until = time.monotonic() + 20
    while time.monotonic() < until: pass"""
# For some seconds on any machine, and it never lets go of the GIL.
HOLDS_THE_GIL = """begun = time.perf_counter()
    sum(range(10**6))
    sum(range(int(4 * 10**6 / (time.perf_counter() - begun))))"""

WITHIN = 0.1  # seconds
IN_A_ROW = 20
SCRAPE = 1.0  # seconds

HARMLESS, BLOCKING = b'{"n": 2}', b'{"n": 1}'


def fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def send(made: Program, *values: bytes) -> None:
    async def produce() -> None:
        async with AIOKafkaProducer(bootstrap_servers=made.brokers) as producer:
            for value in values:
                await producer.send_and_wait(made.source, value, key=b"k")

    asyncio.run(produce())


def begin(made: Program, worker: Running) -> str:
    """Once the worker is ready, give it the record that its handler blocks at. Where it serves."""
    url: str = worker.await_text(r"metrics and health are on (http://[\d.:]+)")[1]
    until(lambda: fetch(f"{url}/readyz")[0] == 200)
    send(made, BLOCKING)
    worker.await_text("begun")
    return url


def lag(made: Program, page: str, unit: str = "records") -> float | None:
    labels = {"group": f"{made.name}.slow", "topic": made.source, "partition": "0"}
    samples = (sample for family in text_string_to_metric_families(page) for sample in family.samples)
    found = [each for each in samples if each.name == f"streamkit_consumer_lag_{unit}" and each.labels == labels]
    return found[0].value if found else None


def true_until_done(made: Program, worker: Running, url: str) -> float:
    """Scrape until the handler is done: all the time the lag in seconds is the age of its record. The last of them."""
    written = next(each.timestamp for each in records_of(made.brokers, made.source) if each.value == BLOCKING) / 1000
    shown = 0.0
    while True:
        asked = time.time()
        seconds = lag(made, fetch(f"{url}/metrics")[1], "seconds")
        answered = time.time()
        if "done" in worker.output:
            return shown
        assert seconds is not None
        assert asked - written - SCRAPE < seconds < answered - written + SCRAPE
        assert seconds > shown
        shown = seconds
        time.sleep(0.5)


def answers_in_time(url: str, deadline: float) -> None:
    """The slowest stretch apart: as many requests in a row as `IN_A_ROW` that are all answered within the limit.

    Other work on the machine delays single requests. What the worker delays, it delays all the time.
    """
    taken: list[float] = []
    row: list[float] = []
    while len(row) < IN_A_ROW:
        assert time.monotonic() < deadline, f"{url}: median {statistics.median(taken):.3f} s, slowest {max(taken):.3f}"
        begun = time.perf_counter()
        status, _ = fetch(url)
        taken.append(time.perf_counter() - begun)
        assert status == 200
        row = [*row, taken[-1]] if taken[-1] < WITHIN else []
    assert statistics.median(taken) < WITHIN
    print(f"{url}: {len(taken)} requests, median {statistics.median(taken):.4f} s, slowest {max(taken):.4f} s")


@pytest.mark.parametrize(("body", "line"), [(SLEEP, SLEEP), (SPIN, "while")], ids=["sleeps", "spins"])
def test_while_the_loop_is_blocked_metrics_and_health_answer_lag_grows_and_the_stack_is_logged(
    tmp_path: Path, embedded: EmbeddedBroker, body: str, line: str
) -> None:
    made = program(tmp_path, embedded.brokers, BLOCKS.format(body=body), [HARMLESS])
    with made.start("--http", "127.0.0.1:0", "--log-format", "json") as worker:
        url = begin(made, worker)
        begun = time.monotonic()
        for page in ("/livez", "/metrics"):
            answers_in_time(f"{url}{page}", deadline=begun + 15)
        send(made, *[HARMLESS] * 5)
        until(lambda: lag(made, fetch(f"{url}/metrics")[1]) == 6, seconds=18 - (time.monotonic() - begun))
        assert "done" not in worker.output
        assert 15 < true_until_done(made, worker, url) < 25
        worker.await_text("the event loop runs again")
        until(lambda: lag(made, fetch(f"{url}/metrics")[1]) == lag(made, fetch(f"{url}/metrics")[1], "seconds") == 0)
        worker.signal(signal.SIGTERM)
        assert worker.finish().code == 0
        lines = [json.loads(each) for each in worker.errors.splitlines()]  # nothing is faulthandler's
    blocked = [each for each in lines if each.get("event_name") == "event_loop_blocked"]
    assert [(each["level"], round(each["blocked_s"])) for each in blocked] == [
        ("warning", 1),
        ("warning", 5),
        ("error", 15),
    ]
    source = (tmp_path / "program.py").read_text().splitlines()
    for each in blocked:
        assert (each["function"], Path(each["file"]).name) == ("block", "program.py")
        assert line in source[each["line"] - 1] or "until" in source[each["line"] - 1]
        assert f"{each['function']} ({each['file']}:{each['line']})" in each["event"]
        assert "in slow" in each["stack"] and "block(order)" in each["stack"]
        assert "asyncio" not in each["stack"]
    assert 19 < next(each["blocked_s"] for each in lines if each.get("event_name") == "event_loop_runs_again") < 25


def test_after_30_s_the_worker_is_not_live(tmp_path: Path, embedded: EmbeddedBroker) -> None:
    code = BLOCKS.format(body="time.sleep(60)")
    made = program(tmp_path, embedded.brokers, code, [HARMLESS])
    with made.start("--http", "127.0.0.1:0") as worker:
        url = begin(made, worker)
        begun = time.monotonic()
        assert fetch(f"{url}/livez") == (200, "ok\n")
        until(lambda: fetch(f"{url}/livez")[0] == 503, seconds=40)
        assert 29.0 < time.monotonic() - begun < 35.0
        assert fetch(f"{url}/livez")[1].startswith("the event loop has not run for 30 s")
        assert fetch(f"{url}/readyz")[0] == fetch(f"{url}/healthz")[0] == 503
        told = json.loads(fetch(f"{url}/healthz?format=json")[1])
        assert [each["check"] for each in told["checks"] if not each["ok"]] == ["event_loop", "event_loop"]


def test_c_code_that_holds_the_gil_is_named_as_what_it_is(tmp_path: Path, embedded: EmbeddedBroker) -> None:
    made = program(tmp_path, embedded.brokers, BLOCKS.format(body=HOLDS_THE_GIL), [HARMLESS])
    with made.start("--http", "127.0.0.1:0", STREAMKIT_DUMP_STACKS_AFTER="1s") as worker:
        url = begin(made, worker)
        # faulthandler's, while nothing else runs.
        dump = worker.await_text(r"(?s)Timeout \(0:00:01\)!\n.*program\.py\", line \d+ in block\n")[0]
        assert "done" not in worker.output
        assert "in slow" in worker.await_text(r"program\.py\", line \d+ in slow")[0]
        assert "streamkit/observe/watchdog.py" in dump or "Thread 0x" in dump
        worker.await_text(r"no Python code could run for \d+\.\d s: C code held the GIL")
        worker.await_text("done")
        assert fetch(f"{url}/livez")[0] == 200
        worker.signal(signal.SIGTERM)
        assert worker.finish().code == 0


def test_a_process_that_was_stopped_for_a_while_is_told_from_a_blocked_loop(
    tmp_path: Path, embedded: EmbeddedBroker
) -> None:
    made = program(tmp_path, embedded.brokers, BLOCKS.format(body="pass"), [HARMLESS])
    with made.start("--http", "127.0.0.1:0") as worker:
        url = begin(made, worker)
        worker.signal(signal.SIGSTOP)
        time.sleep(4)
        worker.signal(signal.SIGCONT)
        worker.await_text(r"the process goes on after [345]\.\d s in which it was stopped")
        assert fetch(f"{url}/livez")[0] == 200
        worker.signal(signal.SIGTERM)
        ended = worker.finish()
    assert ended.code == 0
    assert "the event loop has not run" not in ended.errors
    assert "Timeout (" not in ended.errors  # it was shorter than `dump_stacks_after`


def test_stacks_that_are_written_after_a_stop_of_the_process_are_said_to_mean_no_more_than_that(
    tmp_path: Path, embedded: EmbeddedBroker
) -> None:
    """Whether the timer or the watchdog runs first when the process goes on is chance: so it is stopped until both have
    happened, and the watchdog must tell of every stop, with stacks or without."""
    made = program(tmp_path, embedded.brokers, BLOCKS.format(body="pass"), [HARMLESS])
    with made.start("--http", "127.0.0.1:0", STREAMKIT_DUMP_STACKS_AFTER="1s") as worker:
        url = begin(made, worker)
        dumped, stops = False, 0
        while not dumped and stops < 15:
            time.sleep(0.5)  # the timer is set anew with each look
            stops += 1
            worker.signal(signal.SIGSTOP)
            time.sleep(2)
            worker.signal(signal.SIGCONT)
            worker.await_text(rf"(?s)(the process goes on after .*){{{stops}}}")
            assert fetch(f"{url}/livez") == (200, "ok\n")
            dumped = "Timeout (0:00:01)!" in worker.errors
        worker.signal(signal.SIGTERM)
        ended = worker.finish()
    print(f"stacks after {stops} stops: {dumped}")
    assert ended.code == 0
    _, _, after = ended.errors.partition("Timeout (0:00:01)!")
    assert not dumped or "the process goes on after" in after
    assert ended.errors.count("if stacks have just been written to standard error, they mean no more") == stops
    assert "the event loop has not run" not in ended.errors
    assert "no Python code could run" not in ended.errors


NOT_READY_FIRST = """
@app.agent(source)
async def slow(order: dict) -> None:
    if order["n"] == 1:
        print("begun")
        {body}
        print("done")
"""


@pytest.mark.parametrize("body", ["await asyncio.sleep(3)", "time.sleep(3)"], ids=["awaits", "blocks"])
def test_a_worker_that_is_told_to_stop_is_not_ready_before_it_drains(
    tmp_path: Path, embedded: EmbeddedBroker, body: str
) -> None:
    made = program(tmp_path, embedded.brokers, NOT_READY_FIRST.format(body=body), [HARMLESS])
    with made.start("--http", "127.0.0.1:0") as worker:
        url = begin(made, worker)
        assert fetch(f"{url}/startupz") == (200, "ok\n")
        worker.signal(signal.SIGTERM)
        # With the blocked loop nothing but the signal's handler has run: fetching cannot have stopped before.
        until(lambda: fetch(f"{url}/readyz")[0] == 503, seconds=2)
        assert "done" not in worker.output
        assert "stopping" in fetch(f"{url}/readyz")[1]
        assert fetch(f"{url}/livez")[0] == fetch(f"{url}/startupz")[0] == 200
        assert worker.finish().code == 0
        assert "done" in worker.output
    assert made.committed("slow") == 2
