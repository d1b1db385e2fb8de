"""The demo: `python -m apps.flights`, or `make demo`. With KEEP=1 it runs on until Ctrl-C.

Starts a broker and a worker with all agents, streams the flights in while they run, and reports what came out.
"""

import asyncio
import os
import signal
import sys
import time

from apps.flights.data import read_flights
from apps.flights.dead_letters import CommandFailed, work
from apps.flights.feed import feed
from apps.flights.figures import done, lag_is_zero, render_excerpt, render_retries, render_run
from apps.flights.metrics import Scrape
from apps.flights.progress import showing
from apps.flights.report import read_findings, render
from apps.flights.strange import STRANGE
from apps.flights.worker_process import WorkerFailed, WorkerProcess
from streamkit.cli.embedded import EmbeddedBroker

LOOK_EVERY = 0.25  # seconds
GIVE_UP_AFTER = 75.0


def main() -> int:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        demo(keep=os.environ.get("KEEP") == "1")
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        print(f"\nThe demo has failed: {_reason(error)}", file=sys.stderr)
        return 1
    return 0


def demo(*, keep: bool) -> None:
    print("Flights that left New York City in January 2013, through agents", flush=True)
    with EmbeddedBroker() as broker, WorkerProcess(broker.brokers) as worker:
        print(f"\n  {worker.command}\n  metrics: {worker.url}/metrics\n", flush=True)
        count, seconds, seen = asyncio.run(_stream(broker.brokers, worker))
        found = asyncio.run(read_findings(broker.brokers))
        run = [*render_run(count, seconds, seen), "", *render_retries(seen)]
        print("", *run, "", render(found), "", *render_excerpt(seen), sep="\n", flush=True)
        print("\nWorking the dead letters of agent weather", *work(broker.brokers), sep="\n", flush=True)
        if keep:
            _keep(broker.brokers, worker)
        worker.stop()


async def _stream(brokers: str, worker: WorkerProcess) -> tuple[int, float, Scrape]:
    """Send the flights while the agents run, until each is done with all of them and lag is 0.

    How many flights, the seconds until they were done, and what the worker says at the end.
    """
    rows = read_flights()
    started, sent = time.monotonic(), 0
    records = len(rows) + len(STRANGE)

    def count(total: int) -> None:
        nonlocal sent
        sent = total

    async with asyncio.timeout(GIVE_UP_AFTER), asyncio.TaskGroup() as group:
        group.create_task(feed(brokers, rows, count))
        with showing(records) as show:
            while True:
                seen = await worker.scrape()
                show({"sent": sent} | done(seen))
                if min(done(seen).values()) >= records:
                    break
                await asyncio.sleep(LOOK_EVERY)
        seconds, handled_at = time.monotonic() - started, time.time()
        print("  done; the worker reads its lag from the broker every 10 s ...", flush=True)
        while True:
            seen = await worker.scrape()
            if lag_is_zero(seen, handled_at):
                return len(rows), seconds, seen
            await asyncio.sleep(LOOK_EVERY)


def _keep(brokers: str, worker: WorkerProcess) -> None:
    try:
        print(f"\nKEEP=1: broker {brokers} and {worker.url}/metrics stay until Ctrl-C. To send the flights again:")
        print(f"  python -m apps.flights.feed --brokers {brokers}", flush=True)
        while True:
            worker.check()
            time.sleep(LOOK_EVERY)
    except KeyboardInterrupt:
        print("\nstopping", flush=True)


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, TimeoutError):
        return f"the flights were not handled and committed within {GIVE_UP_AFTER:.0f} s"
    return str(error) if isinstance(error, WorkerFailed | CommandFailed | RuntimeError) else repr(error)


if __name__ == "__main__":
    sys.exit(main())
