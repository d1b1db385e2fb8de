"""What every aiokafka client of streamkit has in common."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from typing import Any

import aiokafka.admin.client
import aiokafka.client
from aiokafka.protocol.metadata import MetadataRequest

from streamkit.settings import Settings

CUT_TIMEOUT = 2.0

# R17: aiokafka's metadata requests allow the broker to create the topics they name, so a deleted topic comes back by
# itself, with the broker's default partitions. streamkit's processes never create a topic by asking for it.
aiokafka.client.MetadataRequest = aiokafka.admin.client.MetadataRequest = functools.partial(
    MetadataRequest, allow_auto_topic_creation=False
)


def _keep_payloads_out_of_logs() -> None:
    """R25: at DEBUG aiokafka logs keys, values and the SASL password."""
    for name in ("conn", "client", "producer.producer", "producer.sender", "consumer.fetcher", "consumer.consumer"):
        logging.getLogger(f"aiokafka.{name}").addFilter(lambda record: record.levelno > logging.DEBUG)


_keep_payloads_out_of_logs()


def client_options(settings: Settings) -> dict[str, Any]:
    """Arguments of AIOKafkaConsumer, AIOKafkaProducer and AIOKafkaAdminClient alike."""
    return {
        "bootstrap_servers": list(settings.brokers),
        "client_id": "streamkit",
        # R14: below the session timeout, or a heartbeat that hangs outlives the session it is to keep.
        "request_timeout_ms": round(settings.request_timeout * 1000),
        "metadata_max_age_ms": round(settings.metadata_max_age * 1000),
    }


def rebalance_timeout(settings: Settings) -> float:
    """Seconds the group waits for a member: its drain, its last commit, and room to join."""
    return settings.drain_timeout + 2 * settings.request_timeout


async def cut(client: Any) -> None:
    """Close the connections of a client whose own close() hangs (R20)."""
    for connection in list(client._conns.values()):
        connection.close()
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(client.close(), CUT_TIMEOUT)
