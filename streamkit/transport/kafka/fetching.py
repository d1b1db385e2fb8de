"""What all who fetch records through aiokafka have in common, in a group or in none."""

from __future__ import annotations

from typing import Any

from aiokafka import errors as kafka

from streamkit.record import TopicPartition
from streamkit.settings import Settings
from streamkit.transport.base import OffsetOutOfRange


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


def out_of_range(error: kafka.OffsetOutOfRangeError) -> OffsetOutOfRange:
    ((partition, offset),) = error.args[0].items()
    return OffsetOutOfRange(TopicPartition(*partition), offset)
