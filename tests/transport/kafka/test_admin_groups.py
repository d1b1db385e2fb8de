"""Groups that are no consumers of records."""

from __future__ import annotations

import asyncio
import struct
from types import SimpleNamespace
from typing import Any

from streamkit.transport.base import GroupInfo
from streamkit.transport.kafka.admin import KafkaAdmin
from tests.runtime.support import SETTINGS


def test_a_group_of_connect_workers_is_described_without_owners() -> None:
    # Version, error, leader, its URL, offset of the configuration; then connectors and tasks.
    assignment = struct.pack(">hhh3sh8sqi", 1, 0, 3, b"c-1", 8, b"http://a", 5, 0)
    member = ("c-1", "connect", "/10.0.0.1", b"", assignment)

    class Client:
        async def describe_consumer_groups(self, names: list[str]) -> list[Any]:
            row = (0, names[0], "Stable", "connect", "sessioned", [member])
            return [SimpleNamespace(groups=[row])]

    admin = KafkaAdmin(SETTINGS)
    admin._admin = Client()
    assert asyncio.run(admin.group("connect-sink")) == GroupInfo("Stable", 1, {})
