"""`streamkit lag --exporter`: it goes on whatever becomes of the brokers."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from streamkit.cli.lag_exporter import REFRESH_EVERY, _refresh
from streamkit.observe.outside import OutsideTable, OutsideView, WatchedGroup
from streamkit.observe.slots import WorkerSlots
from streamkit.record import TopicPartition
from streamkit.transport.base import AccessDenied, GroupInfo, Unreachable
from streamkit.transport.memory import MemoryBroker
from streamkit.transport.memory.admin import MemoryAdmin
from tests.cli.support import COMMAND
from tests.runtime.support import SETTINGS, simulated

GROUP = "shop.charge"
LOST = Unreachable("no broker answered")


class ForgetfulAdmin(MemoryAdmin):
    """Does not find back to brokers that it has lost once, unless it is started anew."""

    lost: Exception | None = None

    async def start(self) -> None:
        await super().start()
        self.lost = None

    async def group(self, name: str) -> GroupInfo:
        if self.lost is not None:
            raise self.lost
        return await super().group(name)


class Exporter:
    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.broker.create_topic("orders", 1)
        self.admin = ForgetfulAdmin(self.broker, SETTINGS)
        self.slots = WorkerSlots("test")
        self.slots.unready = ""
        watched = [WatchedGroup(GROUP, "charge", ["orders"])]
        self.view = OutsideView(watched, self.slots, OutsideTable(), lambda: self.admin, SETTINGS.connect_timeout)

    @asynccontextmanager
    async def refreshing(self) -> AsyncIterator[None]:
        await self.view.start()
        work = asyncio.create_task(_refresh(self.view, self.slots))
        await asyncio.sleep(1)
        try:
            yield
        finally:
            work.cancel()
            await asyncio.wait([work])
            assert work.cancelled()


@pytest.mark.parametrize("lost", [LOST, AccessDenied("the password is wrong"), OSError("a fault")])
def test_it_finds_back_to_brokers_that_its_client_has_lost(lost: Exception) -> None:
    @simulated
    async def case() -> None:
        exporter = Exporter()
        async with exporter.refreshing():
            exporter.admin.lost = lost
            await asyncio.sleep(REFRESH_EVERY)
            assert exporter.slots.unready.startswith("the brokers cannot be asked: ")
            await asyncio.sleep(REFRESH_EVERY)
            assert exporter.slots.unready == ""
            assert exporter.slots.agents["charge"].assigned == {TopicPartition("orders", 0)}

    case()


@simulated
async def test_it_is_not_ready_while_the_brokers_are_away_and_ready_when_they_are_back() -> None:
    exporter = Exporter()
    async with exporter.refreshing():
        exporter.broker.faults.network.close()
        for _ in range(3):
            await asyncio.sleep(REFRESH_EVERY + SETTINGS.request_timeout)
            assert exporter.slots.unready
        exporter.broker.faults.network.open()
        await asyncio.sleep(REFRESH_EVERY + SETTINGS.request_timeout)
        assert exporter.slots.unready == ""


def test_a_signal_ends_it_at_once_while_it_waits_for_its_first_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        brokers = f"127.0.0.1:{silent.getsockname()[1]}"
        command = [*COMMAND, "lag", "--group", GROUP, "--brokers", brokers, "--exporter", "127.0.0.1:0"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            silent.settimeout(30)
            connection, _ = silent.accept()
            with connection:
                process.send_signal(signal.SIGTERM)
                _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "cannot reach" not in said
