"""DeleteRecords (KIP-107), with the error of each partition told as its own.

R23: aiokafka's call raises the first error code without saying whose it is, and takes a topic that does not exist for
one that has no leader.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from aiokafka import errors as kafka
from aiokafka.protocol.admin import DeleteRecordsRequest

from streamkit.errors import TransportError
from streamkit.record import TopicPartition
from streamkit.transport.base import OffsetOutOfRange, Refused, TopicMissing
from streamkit.transport.kafka.failures import describe, translate

NO_LEADER = -1

Offsets = Mapping[TopicPartition, int]


def by_leader(before: Offsets, leaders: Mapping[TopicPartition, int]) -> dict[int, dict[TopicPartition, int]]:
    """What to ask of which node. Raises ValueError, TopicMissing, and LeaderNotAvailableError while there is none."""
    wanted: dict[int, dict[TopicPartition, int]] = defaultdict(dict)
    for partition, offset in sorted(before.items()):
        if offset < 0:  # -1 asks Kafka for the end of the log
            raise ValueError(f"{partition.topic}[{partition.partition}] is to be emptied up to offset {offset}")
        leader = leaders.get(partition)
        if leader is None:
            raise TopicMissing(partition.topic)
        if leader == NO_LEADER:
            raise kafka.LeaderNotAvailableError(f"{partition.topic}[{partition.partition}] has no leader")
        wanted[leader][partition] = offset
    return wanted


def deletion(before: Offsets, timeout: float) -> Any:
    topics: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for (topic, partition), offset in before.items():
        topics[topic].append((partition, offset))
    return DeleteRecordsRequest(list(topics.items()), round(timeout * 1000))


def check_deleted(response: Any, before: Offsets) -> None:
    """Raise for the first partition that was not done."""
    for topic, rows, *_ in response.topics:
        for partition, _low_watermark, code, *_ in rows:
            if code != 0:
                asked = TopicPartition(topic, partition)
                raise _failure(asked, before[asked], kafka.for_code(code))


def _failure(partition: TopicPartition, before: int, kind: type[kafka.KafkaError]) -> TransportError:
    if issubclass(kind, kafka.OffsetOutOfRangeError):
        return OffsetOutOfRange(partition, before)
    if issubclass(kind, kafka.UnknownTopicOrPartitionError):
        return TopicMissing(partition.topic)
    what = f"{partition.topic}[{partition.partition}] could not be emptied up to offset {before}"
    if issubclass(kind, kafka.PolicyViolationError):
        return Refused(f"{what}: its cleanup.policy does not delete")
    error = translate(kind())
    return type(error)(f"{what}: {describe(kind())}")
