"""Lag stays true while the worker's loop is blocked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from unittest import mock

import pytest
from prometheus_client.core import Metric

from streamkit import App
from streamkit.observe.assigned import Assigned
from streamkit.observe.collector import StreamkitCollector
from streamkit.observe.lag_metrics import lag_metrics
from streamkit.observe.observer import Observer
from streamkit.observe.slots import WorkerSlots
from streamkit.runtime.worker import Worker
from streamkit.transport.memory import MemoryBroker, MemoryTransport
from tests.observe.lag_support import Times, noted_times, tell
from tests.observe.support import Sample, scrape, series
from tests.runtime.support import SETTINGS

INTERVAL = 0.2  # seconds between samples
PATIENCE = 20.0
IN = {"group": "test.block", "topic": "in", "partition": "0"}
RECORDS, SECONDS = series("streamkit_consumer_lag_records", **IN), series("streamkit_consumer_lag_seconds", **IN)
STALLED = series("streamkit_partition_status", **IN, status="stalled", reason="handler")


@pytest.fixture
def times() -> Iterator[Times]:
    def collect(self: StreamkitCollector) -> Iterator[Metric]:
        return lag_metrics([Assigned.read(agent) for agent in list(self._slots.agents.values())], self._lag)

    with noted_times() as noted, mock.patch.object(StreamkitCollector, "collect", collect):
        yield noted


def test_lag_grows_truthfully_while_a_handler_blocks_the_loop(times: Times) -> None:
    broker = MemoryBroker()
    broker.create_topic("in")
    slots = WorkerSlots("test")
    transport = MemoryTransport(broker, SETTINGS)
    app = App("test")
    seen: list[tuple[float, dict[Sample, float]]] = []
    written = 0.0

    def look() -> dict[Sample, float]:
        samples = scrape(observer)
        seen.append((time.time() - written, samples))
        return samples

    @app.agent(app.topic("in", value=bytes))
    async def block(value: bytes) -> None:
        if value == b"first":
            deadline = time.monotonic() + PATIENCE
            while STALLED not in look() or seen[-1][1].get(RECORDS) != broker.topics["in"].partitions[0].range.end:
                assert time.monotonic() < deadline, seen[-1]
                if len(seen) < 50:
                    broker.append("in", b"later")
                time.sleep(0.05)  # noqa: ASYNC251  it is what this is about

    async def main() -> None:
        nonlocal written
        worker = Worker(app, SETTINGS, transport, slots)
        working = asyncio.ensure_future(worker.run())
        while not worker.ready:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        (runner,) = worker._runners
        tell(runner.slots, runner, times)
        written = time.time()
        broker.append("in", b"first")
        async with asyncio.timeout(2 * PATIENCE):
            while not seen or scrape(observer).get(RECORDS) != 0:  # noqa: ASYNC110
                await asyncio.sleep(INTERVAL)
        worker.stop()
        await working

    with Observer(
        slots,
        transport.admin,
        http="127.0.0.1:0",
        http_is_default=False,
        reader_factory=transport.reader,
        lag_interval=INTERVAL,
    ) as observer:
        asyncio.run(main())

    assert len(seen) > 20
    ages = [(age, samples[SECONDS]) for age, samples in seen if SECONDS in samples]
    assert len(ages) >= len(seen) - 1
    assert max(abs(age - shown) for age, shown in ages) < 1.0
    counts = [samples[RECORDS] for _, samples in seen if RECORDS in samples]
    assert counts == sorted(counts)
    assert len(set(counts)) > 5
