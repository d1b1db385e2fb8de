"""What all who fetch records through aiokafka have in common, in a group or in none."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from copy import copy
from typing import Any

from aiokafka import TopicPartition as KafkaPartition
from aiokafka import errors as kafka
from aiokafka.consumer.fetcher import READ_UNCOMMITTED

from streamkit.errors import TransportError
from streamkit.record import TopicPartition
from streamkit.settings import Settings
from streamkit.transport.base import LogRange, OffsetOutOfRange
from streamkit.transport.kafka.failures import describe


def fetch_options(settings: Settings) -> dict[str, Any]:
    """Arguments of AIOKafkaConsumer."""
    return {
        "enable_auto_commit": False,
        # R1, R18: aiokafka takes an error of the group for "nothing committed" and resets silently when an offset is
        # out of range. It never chooses an offset here: every partition is sought explicitly.
        "auto_offset_reset": "none",
        "isolation_level": "read_committed",
        "fetch_max_wait_ms": round(settings.fetch_max_wait * 1000),
        "fetch_min_bytes": settings.fetch_min_bytes,
        "fetch_max_bytes": settings.fetch_max_bytes,
        "max_partition_fetch_bytes": settings.max_partition_fetch_bytes,
        "retry_backoff_ms": 100,
        # R16: keys and values stay bytes: a deserialiser that fails inside the fetcher blocks it for ever.
    }


def position_of(consumer: Any, partition: TopicPartition) -> int:
    assignment = consumer._subscription.subscription.assignment
    position: int = assignment.state_value(partition).position
    # aiokafka passes over a record that is too large when it meets it, and says so at some later poll.
    found = consumer._fetcher._records.get(partition)
    too_large = isinstance(getattr(found, "_error", None), kafka.RecordTooLargeError)
    return position - 1 if too_large else position


async def log_ranges(consumer: Any, partitions: Collection[TopicPartition]) -> dict[TopicPartition, LogRange]:
    wanted = [KafkaPartition(*partition) for partition in partitions]
    if not wanted:
        return {}
    starts = await consumer.beginning_offsets(wanted)
    ends = await consumer.end_offsets(wanted)
    return {TopicPartition(*tp): LogRange(starts[tp], ends[tp]) for tp in wanted}


async def high_watermarks(
    consumer: Any, partitions: Collection[TopicPartition], timeout: float
) -> dict[TopicPartition, int]:
    if not partitions:
        return {}
    # The isolation level is the fetcher's, for all that it asks; so a twin of it asks, which fetches nothing.
    twin = copy(consumer._fetcher)
    twin._isolation_level = READ_UNCOMMITTED
    ends = await twin.end_offsets([KafkaPartition(*partition) for partition in partitions], round(timeout * 1000))
    return {TopicPartition(*tp): end for tp, end in ends.items()}


def check_fetcher(consumer: Any) -> None:
    """R29: aiokafka does not look after its fetcher: when that dies, polls come back empty for ever."""
    check_task(consumer._fetcher.error_future)


def check_task(task: asyncio.Future[Any]) -> None:
    """Raises TransportError if it has ended."""
    if task.done():
        cause = None if task.cancelled() else task.exception()
        reason = "it was cancelled" if cause is None else describe(cause)
        raise TransportError(f"a task of the client has ended: {reason}") from cause


def out_of_range(error: kafka.OffsetOutOfRangeError) -> OffsetOutOfRange:
    ((partition, offset),) = error.args[0].items()
    return OffsetOutOfRange(TopicPartition(*partition), offset)
