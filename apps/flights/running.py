"""An app inside of a program of one's own. Agents alone need none of this: `streamkit worker` runs them."""

import asyncio
import os
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from streamkit import App
from streamkit.cli.transports import transport_for
from streamkit.observe.slots import WorkerSlots
from streamkit.runtime.worker import Worker


def worker_of(app: App, brokers: str, *, agents: Collection[str], stop_when_idle: str | None = None) -> Worker:
    """A worker without HTTP that runs those agents, perhaps none; missing topics are created."""
    settings = app.settings({"brokers": brokers, "stop_when_idle": stop_when_idle}, os.environ)
    return Worker(
        app,
        settings,
        transport_for(settings),
        WorkerSlots("flights"),
        agents=[app.agents[name] for name in agents],
        create_topics=True,
    )


@asynccontextmanager
async def sending(app: App, brokers: str) -> AsyncIterator[None]:
    """Inside, the app's topics can be sent to; at the end everything is acknowledged.

    Raises an ExceptionGroup with the worker's error if that cannot be.
    """
    worker = worker_of(app, brokers, agents=())
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run())
        while app.port.current is None:  # noqa: ASYNC110 -- the port has no event
            await asyncio.sleep(0.01)
        try:
            yield
        finally:
            worker.stop()
