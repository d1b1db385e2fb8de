"""/metrics, /livez, /readyz, /startupz and /healthz over HTTP."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterable
from typing import Protocol

import orjson
import prometheus_client
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from streamkit.observe import health
from streamkit.observe.collector import StreamkitCollector
from streamkit.observe.exposition import text
from streamkit.observe.lag import LagTable
from streamkit.observe.slots import WorkerSlots

logger = logging.getLogger("streamkit.observe")

SHUTDOWN_TIMEOUT = 1.0  # seconds for a request that is being answered

_OPENMETRICS = "application/openmetrics-text"


class Collector(Protocol):
    def collect(self) -> Iterable[Metric]: ...


class Server:
    """Answers from its own loop, so that it answers while the worker's loop is blocked."""

    def __init__(self, slots: WorkerSlots, lag: LagTable, collector: Collector | None = None) -> None:
        """`collector` says what is exported; everything, if it is not given."""
        self._slots = slots
        # Not prometheus_client's global registry: two workers of one process would be in each other's way.
        self._registry = CollectorRegistry()
        self._registry.register(_GlobalMetrics())
        self._collector: Collector = collector or StreamkitCollector(slots, lag)
        self._pages = {
            "/metrics": self._metrics,
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/startupz": self._startupz,
            "/healthz": self._healthz,
        }
        self._runner: web.ServerRunner | None = None

    async def start(self, listening: socket.socket) -> None:
        """Serve on the socket, which is owned from here on."""
        loop = asyncio.get_running_loop()
        server = web.Server(
            self._answer,
            request_factory=lambda message, payload, protocol, writer, task: _Request(
                message, payload, protocol, writer, task, loop
            ),
            access_log=None,
            logger=logger,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_TIMEOUT)
        await self._runner.setup()
        await web.SockSite(self._runner, listening).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        page = self._pages.get(request.path)
        if page is None:
            return _text("not found; there are " + " ".join(self._pages), status=404)
        if request.method not in ("GET", "HEAD"):
            return _text("only GET and HEAD", status=405, allow="GET, HEAD")
        return page(request)

    def _metrics(self, request: web.BaseRequest) -> web.Response:
        # Not choose_encoder(accept): it raises for a version that is no number, and agrees to any that is.
        wanted = _OPENMETRICS in request.headers.get("Accept", "")
        encode, content_type = choose_encoder(f"{_OPENMETRICS}; version=1.0.0" if wanted else "")
        own = "".join(text(self._collector.collect(), openmetrics=wanted))
        try:
            users = encode(self._registry)
        except Exception:  # as with _GlobalMetrics: a label that is no text is noticed only here
            logger.exception("the metrics in prometheus_client.REGISTRY cannot be written")
            users = encode(CollectorRegistry())
        return web.Response(body=own.encode() + users, headers={"Content-Type": content_type})

    def _livez(self, request: web.BaseRequest) -> web.Response:
        return _verdict(health.not_live(self._slots, time.monotonic()))

    def _readyz(self, request: web.BaseRequest) -> web.Response:
        return _verdict(health.not_ready(self._slots, time.monotonic()))

    def _startupz(self, request: web.BaseRequest) -> web.Response:
        return _verdict(health.not_started(self._slots))

    def _healthz(self, request: web.BaseRequest) -> web.Response:
        now = time.monotonic()
        status = 503 if health.not_live(self._slots, now) else 200
        if request.query.get("format") == "json" or "application/json" in request.headers.get("Accept", ""):
            body = orjson.dumps(health.report(self._slots, now), option=orjson.OPT_INDENT_2)
            return web.Response(body=body + b"\n", status=status, content_type="application/json")
        return _text(health.summary(self._slots, now), status=status)


class _Request(web.BaseRequest):
    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        # The one place that every response passes, refused requests' included. The default names versions.
        response.headers["Server"] = "streamkit"


class _GlobalMetrics:
    """What lies in prometheus_client's global registry: the user's own metrics, and those of the process."""

    def collect(self) -> Iterable[Metric]:
        try:
            return list(prometheus_client.REGISTRY.collect())
        except Exception:
            # A user's collector that raises must not take the worker's own metrics with it.
            logger.exception("the metrics in prometheus_client.REGISTRY cannot be collected")
            return []


def _verdict(reason: str) -> web.Response:
    return _text(reason, status=503) if reason else _text("ok")


def _text(text: str, *, status: int = 200, allow: str | None = None) -> web.Response:
    return web.Response(text=text + "\n", status=status, headers={"Allow": allow} if allow else None)
