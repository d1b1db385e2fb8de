"""The worker process of the retry tests: an agent whose records fail as their values ask.

`python -m tests.faults.retry_program CASES`, a JSON list of `Case`. A single one without a failpoint runs in this
process, and SIGTERM ends it in order. Others get a process each, forked from this one, which has everything imported
already; one that its failpoint has killed is started once more, without it. The exit code is that of the worst.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import msgspec

from streamkit import App, Record, Reject, Retry
from streamkit.cli.child import end_with
from streamkit.observe.slots import WorkerSlots
from streamkit.runtime.delivery import Delivery, current
from streamkit.runtime.worker import Worker
from tests.faults.failpoints import Failpoint, place_of
from tests.faults.ledger import LedgerFile
from tests.faults.program import WatchedTransport

GROUP: dict[str, Any] = {
    "session_timeout": "6s",
    "heartbeat_interval": "1s",
    "request_timeout": "5s",
    "drain_timeout": "5s",
    "commit_interval": "200ms",
}
ALWAYS, REJECTED = b"always", b"rejected"  # other values say how often the handler fails


class Case(msgspec.Struct):
    """One worker. Its group is that of agent `retried`: `<source>.group`."""

    brokers: str
    source: str
    directory: str
    waits: list[str]  # one a tier
    concurrency: int = 8
    stop_when_idle: str = ""
    failpoint: Failpoint | None = None
    settings: dict[str, str] = {}


class Unlucky(Exception):
    """What the handlers of the retry tests raise."""


def group_of(source: str) -> str:
    return f"{source}.group"


def tier_names(source: str, tiers: int) -> list[str]:
    return [f"{source}.{group_of(source)}.retry-{number}" for number in range(1, tiers + 1)]


def command(*cases: Case) -> list[str]:
    return [sys.executable, "-m", "tests.faults.retry_program", msgspec.json.encode(cases).decode()]


async def work(case: Case) -> None:
    names = [case.source, *tier_names(case.source, len(case.waits))]
    ledgers = {name: LedgerFile(_directory(case, name)) for name in names}
    app = App("retries", **GROUP)
    records = app.topic(case.source, value=bytes)
    retry = Retry.delays(*case.waits, jitter=0)

    @app.agent(records, name="retried", group=group_of(case.source), concurrency=case.concurrency, retry=retry)
    async def retried(record: Record[str, bytes]) -> None:
        delivery = current.get()
        assert type(delivery) is Delivery
        topic, partition, offset = place_of(delivery)
        ledger = ledgers[topic]
        assignment = ledger.start(partition, offset, record.key)
        done = False
        try:
            if record.attempt != names.index(topic) + 1:
                _die(f"{record.topic}[{record.partition}] {record.offset}: attempt {record.attempt} in {topic}")
            await asyncio.sleep(0.001)
            if record.value == REJECTED:
                raise Reject("as asked")
            if record.value == ALWAYS or record.attempt <= int(record.value):
                raise Unlucky(f"attempt {record.attempt}")
            done = True
        finally:
            ledger.end(assignment, partition, offset, record.key, done=done)

    given = {"brokers": case.brokers, **case.settings}
    if case.stop_when_idle:
        given["stop_when_idle"] = case.stop_when_idle
    settings = app.settings(given, {})
    if case.failpoint is not None:
        case.failpoint.set(Path(case.directory))
    worker = Worker(app, settings, WatchedTransport(settings, ledgers), WorkerSlots("test"))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    await worker.run()


def _directory(case: Case, topic: str) -> Path:
    directory = Path(case.directory) / topic
    directory.mkdir(exist_ok=True)
    return directory


def _die(message: str) -> None:
    """What must never be: the driver sees the exit code."""
    logging.error(message)
    os._exit(70)


def fork(case: Case) -> int:
    """The process id of a worker that is no older than this process, and ends with it."""
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        end_with(parent)
        log = os.open(Path(case.directory) / "workers.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        asyncio.run(work(case))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def supervise(cases: list[Case]) -> int:
    running = {fork(case): case for case in cases}
    worst = 0
    while running:
        child, status = os.wait()
        case = running.pop(child)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if killed and case.failpoint is not None:
            again = msgspec.structs.replace(case, failpoint=None)
            running[fork(again)] = again
        elif status:
            worst = max(worst, abs(os.waitstatus_to_exitcode(status)))
    return worst


def main(cases: list[Case]) -> int:
    if len(cases) == 1 and cases[0].failpoint is None:
        asyncio.run(work(cases[0]))
        return 0
    return supervise(cases)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s.%(msecs)03d %(levelname)s %(name)s %(message)s")
    sys.exit(main(msgspec.json.decode(sys.argv[1], type=list[Case])))
