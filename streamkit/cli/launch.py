"""A worker from its start to its exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from streamkit.agent import Agent
from streamkit.app import App
from streamkit.cli.failures import exit_code, logged_report, plain_report
from streamkit.cli.logs import configure_logs
from streamkit.cli.signals import take_signals
from streamkit.cli.transports import transport_for
from streamkit.cli.version import version
from streamkit.errors import ConfigurationError, StreamkitError
from streamkit.observe.observer import Observer
from streamkit.observe.slots import WorkerSlots
from streamkit.runtime.worker import Worker
from streamkit.settings import Settings
from streamkit.topic import Topic

log = logging.getLogger("streamkit")

LEFTOVERS_END_WITHIN = 5.0  # seconds for the tasks and threads that handlers have left behind


def launch(
    app: App,
    agents: Sequence[Agent[Any, Any]],
    topics: Collection[Topic[Any, Any]],
    settings: Settings,
    *,
    create_topics: bool = False,
) -> int:
    """Run the agents until they are stopped or fail; the exit code. What failed has been reported when this returns."""
    configure_logs(settings.log_format, settings.log_level)
    report = logged_report if settings.log_format == "json" else plain_report
    slots = WorkerSlots(version())
    try:
        transport = transport_for(settings)
        observer = Observer(slots, transport.admin, http=settings.http, http_is_default=settings.is_default("http"))
        _announce(app, agents, settings)
        # Before the brokers are reached: meanwhile /livez says yes and /readyz says why not.
        observer.start()
    except ConfigurationError as error:
        report(error)
        return error.exit_code
    worker = Worker(app, settings, transport, slots, agents=agents, topics=topics, create_topics=create_topics)

    def end_now(code: int) -> None:
        logging.shutdown()
        os._exit(code)

    async def run() -> int:
        code = await _to_the_end(worker, slots, report)
        observer.stop()
        # The loop waits for tasks that ignore their cancellation, and for threads, as long as they take.
        if worker.abandoned:
            end_now(code)
        _later(LEFTOVERS_END_WITHIN, end_now, code)
        return code

    try:
        with asyncio.Runner() as runner:
            take_signals(runner.get_loop(), lambda _number: worker.stop(), end_now)
            return runner.run(run())
    except SystemExit as error:
        # From a handler or its tasks. What it asks for is not what has happened: nothing was drained or committed.
        report(StreamkitError(f"a handler, or a task that it started, called sys.exit({error.code!r})"))
        return 1
    finally:
        observer.stop()


async def _to_the_end(worker: Worker, slots: WorkerSlots, report: Callable[[Exception], None]) -> int:
    started, code = time.monotonic(), 0
    try:
        await worker.run()
    except Exception as error:
        report(error)
        code = exit_code(error)
    _summarize(slots, time.monotonic() - started)
    return code


def _announce(app: App, agents: Sequence[Agent[Any, Any]], settings: Settings) -> None:
    log.info("streamkit %s runs app %s on %s", version(), app.name, ",".join(settings.brokers))
    for agent in agents:
        sink = f" → {agent.sink.name}" if agent.sink else ""
        topics = ", ".join(topic.name for topic in agent.topics)
        how = "a loop for each partition" if agent.shape == "loop" else f"concurrency {agent.concurrency}"
        log.info("agent %s: %s%s, group %s, %s", agent.name, topics, sink, agent.group, how)


def _summarize(slots: WorkerSlots, seconds: float) -> None:
    counts = ", ".join(f"{agent.agent} {agent.processed_success:,}" for agent in slots.agents.values())
    log.info("stopped after %.1f s; records handled: %s", seconds, counts or "no agent had begun")


def _later(seconds: float, call: Callable[[int], None], code: int) -> None:
    timer = threading.Timer(seconds, call, [code])
    timer.daemon = True
    timer.start()
