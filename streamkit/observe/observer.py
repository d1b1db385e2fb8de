"""The thread that measures and serves HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import NamedTuple, Self

from streamkit.observe.address import Address, bind, bound
from streamkit.observe.lag import COMMIT_INTERVAL, STALE_AFTER, LagTable
from streamkit.observe.lag_poller import LagPoller
from streamkit.observe.slots import WorkerSlots
from streamkit.transport.base import Admin, Reader

logger = logging.getLogger("streamkit.observe")

OFF = "off"

# Seconds.
LAG_INTERVAL = 10.0
STOP_TIMEOUT = 5.0


class _Running(NamedTuple):
    """What the other threads need of the observer's loop."""

    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event
    poller: LagPoller


class Observer:
    """Serves /metrics, /livez and /readyz and polls the lag, in a thread with an event loop and a client of its own.

    So all of it goes on while the worker's loop is blocked. It reads `slots` and writes nothing that the worker reads.
    `admin_factory` is called in the thread, anew after each outage. `http` is `HOST:PORT`, or `off` for no observer at
    all; `http_is_default` says that nobody chose it. `reader_factory` is called whenever one record has to be read, to
    tell how old a backlog is. `lag_interval` and `commit_interval`, the setting, are in seconds.

        with Observer(slots, transport.admin, http="127.0.0.1:9464", http_is_default=True):
            ...
    """

    def __init__(
        self,
        slots: WorkerSlots,
        admin_factory: Callable[[], Admin],
        *,
        http: str,
        http_is_default: bool,
        reader_factory: Callable[[], Reader] | None = None,
        lag_interval: float = LAG_INTERVAL,
        commit_interval: float = COMMIT_INTERVAL,
    ) -> None:
        self.address: Address | None = None  # while it serves
        self._slots = slots
        self._admin_factory = admin_factory
        self._http = http
        self._http_is_default = http_is_default
        self._reader_factory = reader_factory
        self._lag_interval = lag_interval
        self._commit_interval = commit_interval
        self._thread: threading.Thread | None = None
        self._running: _Running | None = None

    def start(self) -> Address | None:
        """Begin to serve; the address, None if it is off. Raises ConfigurationError when it cannot listen there."""
        if self._http == OFF:
            return None
        # In the caller's thread, so that it is the caller who hears of a busy port.
        listening = bind(self._http, is_default=self._http_is_default)
        address = bound(listening)
        started: Future[_Running] = Future()
        # A daemon: whatever hangs in it must not keep the process from ending.
        self._thread = threading.Thread(
            target=self._run, args=(listening, started), name="streamkit-observer", daemon=True
        )
        self._thread.start()
        self._running = started.result()
        self.address = address
        logger.info("metrics and health are on %s", address.url)
        return address

    def stop(self) -> None:
        """Stop serving and close everything, within 5 s. Does not raise; may be called again."""
        thread, running = self._thread, self._running
        self._thread = self._running = self.address = None
        if thread is None or running is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            running.loop.call_soon_threadsafe(running.stop.set)
        thread.join(STOP_TIMEOUT)
        if thread.is_alive():
            logger.warning("the observer did not stop within %g s; it ends with the process", STOP_TIMEOUT)

    def sample_now(self, timeout: float = 10.0) -> None:
        """Read the lag at once and wait for it, up to `timeout` seconds. For tests; from any other thread."""
        if self._running is None:
            raise RuntimeError("the observer does not run")
        loop, _, poller = self._running
        asyncio.run_coroutine_threadsafe(poller.sample(), loop).result(timeout)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self, listening: socket.socket, started: Future[_Running]) -> None:
        try:
            asyncio.run(self._observe(listening, started))
        except BaseException as error:
            if started.done():
                logger.exception("the observer has failed: there are no metrics any more")
            else:
                started.set_exception(error)
        finally:
            listening.close()

    async def _observe(self, listening: socket.socket, started: Future[_Running]) -> None:
        # Imported late: prometheus_client and aiohttp are needed here only, and not by `import streamkit`.
        from streamkit.observe.server import Server

        table = LagTable(
            stale_after=max(STALE_AFTER, 3 * self._lag_interval),
            interval=self._lag_interval,
            commit_interval=self._commit_interval,
        )
        poller = LagPoller(self._slots, self._admin_factory, table, self._lag_interval, self._reader_factory)
        server = Server(self._slots, table)
        stop = asyncio.Event()
        await server.start(listening)
        try:
            async with asyncio.TaskGroup() as tasks:
                polling = tasks.create_task(poller.run())
                started.set_result(_Running(asyncio.get_running_loop(), stop, poller))
                await stop.wait()
                polling.cancel()
        finally:
            await server.stop()
