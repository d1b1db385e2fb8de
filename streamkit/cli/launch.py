"""A worker from its start to its exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from streamkit.agent import Agent
from streamkit.app import App
from streamkit.cli.failures import exit_code, logged_report, plain_report
from streamkit.cli.logs import configure_logs
from streamkit.cli.signals import take_signals
from streamkit.cli.transports import transport_for
from streamkit.cli.version import version
from streamkit.durations import show_duration
from streamkit.errors import ConfigurationError, StreamkitError
from streamkit.observe.observer import Observer
from streamkit.observe.slots import AgentSlots, WorkerSlots
from streamkit.observe.watchdog import Watchdog
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
    report: Callable[[Exception], None] = plain_report
    if settings.log_format == "json":
        report = partial(logged_report, payloads=settings.log_payloads)
    slots = WorkerSlots(version(), detail=settings.metrics_detail, buckets=settings.metrics_buckets)
    try:
        transport = transport_for(settings)
        observer = Observer(
            slots,
            transport.admin,
            http=settings.http,
            http_is_default=settings.is_default("http"),
            reader_factory=transport.reader,
            commit_interval=settings.commit_interval,
        )
        _announce(app, agents, settings)
        # Before the brokers are reached: meanwhile /livez says yes and /readyz says why not.
        observer.start()
    except ConfigurationError as error:
        report(error)
        return error.exit_code
    worker = Worker(app, settings, transport, slots, agents=agents, topics=topics, create_topics=create_topics)
    watchdog = Watchdog(slots, error_after=settings.session_timeout / 3, dump_after=settings.dump_stacks_after)

    def end_now(code: int) -> None:
        logging.shutdown()
        os._exit(code)

    async def run() -> int:
        code = await _to_the_end(worker, slots, report)
        watchdog.stop()
        observer.stop()
        # The loop waits for tasks that ignore their cancellation, and for threads, as long as they take.
        if worker.abandoned:
            end_now(code)
        _later(LEFTOVERS_END_WITHIN, end_now, code)
        return code

    def not_ready() -> None:
        slots.vitals.stopping = True

    try:
        with asyncio.Runner() as runner:
            take_signals(runner.get_loop(), lambda _number: worker.stop(), end_now, at_once=not_ready)
            watchdog.start()
            return runner.run(run())
    except SystemExit as error:
        # From a handler or its tasks. What it asks for is not what has happened: nothing was drained or committed.
        report(StreamkitError(f"a handler, or a task that it started, called sys.exit({error.code!r})"))
        return 1
    finally:
        watchdog.stop()
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
        log.info("agent %s: %s%s, group %s, %s%s", agent.name, topics, sink, agent.group, how, _on_failure(agent))


def _summarize(slots: WorkerSlots, seconds: float) -> None:
    counts = ", ".join(f"{agent.agent} {_outcomes(agent)}" for agent in slots.agents.values())
    log.info("stopped after %.1f s; records handled: %s", seconds, counts or "no agent had begun")


def _on_failure(agent: Agent[Any, Any]) -> str:
    """What becomes of records that fail, where that is declared."""
    parts: list[str] = []
    if agent.retry is not None and agent.retry.times_in_place:
        parts.append(f"again in place up to {agent.retry.times_in_place} times")
    if agent.retry is not None and agent.retry.tier_waits:
        parts.append(f"retries after {', '.join(map(show_duration, agent.retry.tier_waits))}")
    if agent.dead_letters:
        parts.append(f"dead letters in {', '.join(dict.fromkeys(agent.dead_letters.values()))}")
    return "".join(f", {part}" for part in parts)


def _outcomes(agent: AgentSlots) -> str:
    others = (
        (agent.processed_filtered, "skipped"),
        (agent.processed_retried, "to be tried again"),
        (agent.processed_dead_lettered, "to the dead letters"),
    )
    more = ", ".join(f"{count:,} {what}" for count, what in others if count)
    return f"{agent.processed_success:,}" + (f" ({more})" if more else "")


def _later(seconds: float, call: Callable[[int], None], code: int) -> None:
    timer = threading.Timer(seconds, call, [code])
    timer.daemon = True
    timer.start()
