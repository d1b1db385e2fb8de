"""`streamkit lag --exporter`: the lag of groups for Prometheus, whether or not a worker of theirs is alive."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from streamkit.cli.logs import configure_logs
from streamkit.cli.signals import Stop
from streamkit.cli.transports import asking, transport_for
from streamkit.cli.version import version
from streamkit.observe.address import bind, bound
from streamkit.observe.lag import INTERVAL
from streamkit.observe.lag_poller import LagPoller
from streamkit.observe.outside import OutsideCollector, OutsideTable, OutsideView, WatchedGroup
from streamkit.observe.server import Server
from streamkit.observe.slots import WorkerSlots
from streamkit.runtime.waiting import unless
from streamkit.settings import Settings

log = logging.getLogger("streamkit")

BEAT_EVERY = 0.25  # seconds
REFRESH_EVERY = 30.0  # seconds, for new partitions


async def export(settings: Settings, groups: Sequence[WatchedGroup], http: str) -> None:
    """Serve until a signal. Raises ConfigurationError for an address that is taken, or if the brokers
    refuse this client; TransportError if none answers at the start. Later it goes on, whatever becomes of them."""
    configure_logs(settings.log_format, settings.log_level)
    slots = WorkerSlots(version())
    table = OutsideTable(interval=INTERVAL, commit_interval=settings.commit_interval)
    transport = transport_for(settings)
    view = OutsideView(groups, slots, table, transport.admin, settings.connect_timeout)
    poller = LagPoller(slots, transport.admin, table, INTERVAL, transport.reader)
    server = Server(slots, table, OutsideCollector(slots, table))
    listening = bind(http, is_default=False, advice="Choose another with --exporter HOST:PORT")
    stop = Stop()
    stop.listen()
    try:
        with asking(settings):
            await unless(stop.event, view.start())
        if not stop.event.is_set():
            await server.start(listening)
            log.info("the lag of %s is on %s/metrics", ", ".join(each.group for each in groups), bound(listening).url)
            slots.state, slots.unready, slots.vitals.joined = "running", "", True
            async with asyncio.TaskGroup() as tasks:
                work = [tasks.create_task(each) for each in (poller.run(), _beat(slots), _refresh(view, slots))]
                await stop.event.wait()
                for task in work:
                    task.cancel()
    finally:
        await server.stop()
        await view.close()
        listening.close()


async def _beat(slots: WorkerSlots) -> None:
    while True:
        slots.heartbeat = asyncio.get_running_loop().time()
        await asyncio.sleep(BEAT_EVERY)


async def _refresh(view: OutsideView, slots: WorkerSlots) -> None:
    while True:
        await asyncio.sleep(REFRESH_EVERY)
        await view.refresh()
        slots.unready = f"the brokers cannot be asked: {view.silence}" if view.silence else ""
