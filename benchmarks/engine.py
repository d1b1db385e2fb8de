"""A worker without its command: started, watched, stopped when its work is done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from streamkit import App
from streamkit.observe.slots import WorkerSlots
from streamkit.record import ConsumedRecord, TopicPartition
from streamkit.runtime.worker import Worker
from streamkit.settings import Settings
from streamkit.transport.base import Consumer
from streamkit.transport.kafka import KafkaTransport
from streamkit.transport.kafka.consumer import KafkaConsumer

LOOK_EVERY = 0.005
STALLED_AFTER = 30.0


class Run:
    """One run of an app's worker. `first_poll` is when records first came, in `time.perf_counter()` seconds."""

    def __init__(self, app: App, brokers: str, *, create_topics: bool = False) -> None:
        self._app = app
        self._create_topics = create_topics
        self._settings = app.settings({"brokers": brokers}, {})
        self.slots = WorkerSlots("benchmark")
        self.first_poll = self.ended = 0.0
        self._cpu_at_first_poll = self.cpu = 0.0

    async def until(self, done: Callable[[], bool], progress: Callable[[], int]) -> None:
        """Work until `done`, looked at every 5 ms. Raises RuntimeError when `progress` stands still for 30 s."""
        app = self._app
        transport = NotingTransport(self._settings, self)
        worker = Worker(app, self._settings, transport, self.slots, create_topics=self._create_topics)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(worker.run())
            try:
                await self._watch(running, done, progress)
            finally:
                worker.stop()

    async def _watch(self, running: asyncio.Task[None], done: Callable[[], bool], progress: Callable[[], int]) -> None:
        last, moved = progress(), time.monotonic()
        while not done():
            await asyncio.sleep(LOOK_EVERY)
            if running.done():
                return  # it has failed, and the task group raises that
            if (now := progress()) != last:
                last, moved = now, time.monotonic()
            elif time.monotonic() - moved > STALLED_AFTER:
                raise RuntimeError(f"no progress for {STALLED_AFTER:.0f} s, after {last} records")
        self.ended = time.perf_counter()
        self.cpu = time.process_time() - self._cpu_at_first_poll

    def polled(self) -> None:
        if not self.first_poll:
            self.first_poll, self._cpu_at_first_poll = time.perf_counter(), time.process_time()


class NotingTransport(KafkaTransport):
    """Notes when the first records come: a handler sees them only after they are queued."""

    def __init__(self, settings: Settings, run: Run) -> None:
        super().__init__(settings)
        self._noting = settings, run

    def consumer(self, group: str) -> Consumer:
        settings, run = self._noting
        return NotingConsumer(settings, group, run)


class NotingConsumer(KafkaConsumer):
    def __init__(self, settings: Settings, group: str, run: Run) -> None:
        super().__init__(settings, group)
        self._run = run

    async def poll(
        self, partitions: Collection[TopicPartition], *, max_records: int, timeout: float
    ) -> Mapping[TopicPartition, Sequence[ConsumedRecord]]:
        batches = await super().poll(partitions, max_records=max_records, timeout=timeout)
        if batches:
            self._run.polled()
        return batches
