"""`streamkit lag --exporter`: the lag of groups for Prometheus, whether or not a worker of theirs is alive."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from streamkit.cli.logs import configure_logs
from streamkit.cli.signals import SIGNALLED, Stop
from streamkit.cli.transports import asking, transport_for
from streamkit.cli.version import version
from streamkit.errors import StreamkitError
from streamkit.observe.address import bind, bound
from streamkit.observe.lag import INTERVAL, LagTable
from streamkit.observe.lag_poller import LagPoller
from streamkit.observe.outside import OutsideCollector, OutsideView, WatchedGroup
from streamkit.observe.server import Server
from streamkit.observe.slots import WorkerSlots
from streamkit.runtime.waiting import unless
from streamkit.settings import Settings
from streamkit.transport.base import Admin

log = logging.getLogger("streamkit")

BEAT_EVERY = 0.25  # seconds
REFRESH_EVERY = 30.0  # seconds, for new partitions


async def export(settings: Settings, groups: Sequence[WatchedGroup], http: str) -> int:
    """Serve until a signal; the exit code. Raises ConfigurationError for an address that is taken, or if the brokers
    refuse this client; TransportError if none answers at the start."""
    configure_logs(settings.log_format, settings.log_level)
    slots = WorkerSlots(version())
    table = LagTable(commit_interval=settings.commit_interval)
    view = OutsideView(groups, slots, table)
    transport = transport_for(settings)
    admin = transport.admin()
    poller = LagPoller(slots, transport.admin, table, INTERVAL, transport.reader)
    server = Server(slots, table, OutsideCollector(slots, table))
    listening = bind(http, is_default=False)
    stop = Stop()
    stop.listen()
    try:
        with asking(settings):
            await unless(stop.event, _begin(view, admin, settings))
        if not stop.event.is_set():
            await server.start(listening)
            log.info("the lag of %s is on %s/metrics", ", ".join(each.group for each in groups), bound(listening).url)
            slots.state, slots.unready, slots.vitals.joined = "running", "", True
            async with asyncio.TaskGroup() as tasks:
                work = [tasks.create_task(each) for each in (poller.run(), _beat(slots), _refresh(view, admin, slots))]
                await stop.event.wait()
                for task in work:
                    task.cancel()
    finally:
        await server.stop()
        await admin.stop()
        listening.close()
    return 0 if stop.signal is None else SIGNALLED + stop.signal


async def _begin(view: OutsideView, admin: Admin, settings: Settings) -> None:
    async with asyncio.timeout(settings.connect_timeout):
        await admin.start()
        await view.refresh(admin)


async def _beat(slots: WorkerSlots) -> None:
    while True:
        slots.heartbeat = asyncio.get_running_loop().time()
        await asyncio.sleep(BEAT_EVERY)


async def _refresh(view: OutsideView, admin: Admin, slots: WorkerSlots) -> None:
    while True:
        await asyncio.sleep(REFRESH_EVERY)
        try:
            if slots.unready:  # a client that has lost its brokers does not always find back by itself
                await admin.stop()
                await admin.start()
            await view.refresh(admin)
        except (StreamkitError, TimeoutError) as error:
            if not slots.unready:
                log.warning("the brokers cannot be asked: %s; trying again every %g s", error, REFRESH_EVERY)
            slots.unready = f"the brokers cannot be asked: {error}"
        else:
            slots.unready = ""
