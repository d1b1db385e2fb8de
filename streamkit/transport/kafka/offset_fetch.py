"""OffsetFetch with its group-level errors checked (R1), and stable offsets only (KIP-447)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from aiokafka import errors as kafka
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.commit import OffsetFetchRequest_v3
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

from streamkit.record import TopicPartition
from streamkit.transport.base import CommittedOffset

NOTHING_COMMITTED = -1
UNSTABLE_OFFSET_COMMIT = 88  # a transaction is open on the offset; younger than aiokafka's table of errors


class OffsetFetchResponse_v7(Response):  # type: ignore[misc]
    API_KEY = 9  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    API_VERSION = 7  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", CompactString("utf-8")),
                        ("error_code", Int16),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )


class OffsetFetchRequest_v7(RequestStruct):  # type: ignore[misc]
    API_KEY = 9
    API_VERSION = 7
    RESPONSE_TYPE = OffsetFetchResponse_v7
    FLEXIBLE_VERSION = True
    SCHEMA = Schema(
        ("group", CompactString("utf-8")),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                ("partitions", CompactArray(Int32)),
                ("tags", TaggedFields),
            ),
        ),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )


class OffsetFetch(Request[OffsetFetchRequest_v3 | OffsetFetchRequest_v7]):  # type: ignore[misc]
    """The newest of the two versions that the broker speaks."""

    API_KEY = 9

    def __init__(self, group: str, partitions: Collection[TopicPartition]) -> None:
        self._group = group
        self._topics: dict[str, list[int]] = defaultdict(list)
        for topic, partition in partitions:
            self._topics[topic].append(partition)

    def build(self, request_struct_class: type[Any]) -> Any:
        topics = sorted(self._topics.items())
        if request_struct_class.API_VERSION < 7:
            return request_struct_class(self._group, topics)
        return request_struct_class(self._group, [(topic, numbers, {}) for topic, numbers in topics], True, {})


async def fetch_offsets(
    send: Callable[[OffsetFetch], Awaitable[Any]], group: str, partitions: Collection[TopicPartition]
) -> dict[TopicPartition, CommittedOffset]:
    """One attempt. Partitions without a commit are absent; every error is raised as aiokafka's class for its code.

    aiokafka reads an error of the whole group as "nothing committed", and would then start from a reset offset.
    """
    response = await send(OffsetFetch(group, partitions))
    _raise_for(response.error_code)
    committed: dict[TopicPartition, CommittedOffset] = {}
    for topic, rows, *_ in response.topics:
        for row in rows:
            number, offset, metadata, code = _columns(response.API_VERSION, row)
            _raise_for(code)
            if offset != NOTHING_COMMITTED:
                committed[TopicPartition(topic, number)] = CommittedOffset(offset, metadata or "")
    return committed


def _columns(version: int, row: tuple[Any, ...]) -> tuple[int, int, str | None, int]:
    if version < 7:
        number, offset, metadata, code = row
    else:
        number, offset, _epoch, metadata, code, _tags = row
    return number, offset, metadata, code


def _raise_for(code: int) -> None:
    if code == UNSTABLE_OFFSET_COMMIT:
        raise kafka.GroupLoadInProgressError("a transaction is still open on the committed offset")
    if code != 0:
        raise kafka.for_code(code)()
