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
from streamkit.transport.kafka.access import Access, Denied

CUT_TIMEOUT = 2.0

# R17: aiokafka's metadata requests allow the broker to create the topics they name, so a deleted topic comes back by
# itself, with the broker's default partitions. streamkit's processes never create a topic by asking for it.
aiokafka.client.MetadataRequest = aiokafka.admin.client.MetadataRequest = functools.partial(
    MetadataRequest, allow_auto_topic_creation=False
)


def _keep_payloads_out_of_logs() -> None:
    """R25: at DEBUG aiokafka logs keys, values and the SASL password."""
    names = (".conn", "", ".producer.producer", ".producer.sender", ".consumer.fetcher", ".consumer.consumer")
    for name in names:  # the client's logger is called aiokafka
        logging.getLogger(f"aiokafka{name}").addFilter(lambda record: record.levelno > logging.DEBUG)


def _say_once_why_access_is_denied() -> None:
    """aiokafka would say it again for each broker, and of each login over PLAIN that its password is in the clear."""
    logging.getLogger("aiokafka").addFilter(_is_not_said_elsewhere)
    logging.getLogger("aiokafka.conn").addFilter(lambda record: "in the clear" not in str(record.msg))


def _is_not_said_elsewhere(record: logging.LogRecord) -> bool:
    return not (isinstance(record.args, tuple) and any(isinstance(each, Denied) for each in record.args))


_keep_payloads_out_of_logs()
_say_once_why_access_is_denied()


def client_options(settings: Settings, access: Access) -> dict[str, Any]:
    """Arguments of AIOKafkaConsumer, AIOKafkaProducer and AIOKafkaAdminClient alike."""
    return access.options() | {
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
