"""Which records may still send, and when a partition is quiet."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from streamkit.core.flow import Load
from streamkit.core.lanes import Track
from streamkit.record import TopicPartition
from streamkit.runtime.delivery import AssignedPartition, Delivery, Flight, check_open
from streamkit.transport.base import CommittedOffset
from streamkit.transport.memory import MemoryRecord
from tests.runtime.support import simulated

IN = TopicPartition("in", 0)


def partition() -> AssignedPartition:
    return AssignedPartition(IN, Track(IN), CommittedOffset(5), None, cast(Any, None))


def delivery() -> Delivery:
    mine = partition()
    return Delivery(MemoryRecord("in", 0, 5, 0, None, b"", ()), 0, mine, mine.part, 250, lane=None)


def test_what_belongs_to_no_record_may_always_be_sent() -> None:
    check_open(None)


def test_a_record_being_handled_may_send() -> None:
    check_open(delivery())


def test_a_record_whose_handler_has_ended_may_not_send() -> None:
    record = delivery()
    record.handled = True
    with pytest.raises(RuntimeError, match="this record's handler has ended"):
        check_open(record)


def test_a_record_whose_partition_has_gone_may_not_send() -> None:
    record = delivery()
    record.partition.window.closed = True
    with pytest.raises(RuntimeError, match="now belongs to another worker"):
        check_open(record)


@simulated
async def test_a_partition_is_quiet_when_nothing_runs_and_nothing_is_unacknowledged() -> None:
    mine = partition()
    assert mine.quiet
    task = asyncio.ensure_future(asyncio.sleep(0))
    flight = Flight(delivery(), task)
    mine.flights.add(flight)
    assert not mine.quiet
    mine.flights.clear()
    mine.outputs = 1
    assert not mine.quiet
    await task


@simulated
async def test_a_flight_is_cancelled_once_for_each_reason_and_by_no_timeout_after_a_revoke() -> None:
    task = asyncio.ensure_future(asyncio.sleep(10))
    flight = Flight(delivery(), task)
    for reason, reasons in (("timeout", 1), ("timeout", 1), ("revoke", 2), ("revoke", 2), ("timeout", 2)):
        flight.cancel(reason)
        assert task.cancelling() == reasons
    assert flight.cancelled_by == "revoke"
    await asyncio.wait([task])


def test_the_load_of_a_partition_is_what_is_not_settled() -> None:
    mine = partition()
    mine.window.register_all([5, 6, 7])
    mine.window.settle(1)
    mine.bytes = 500
    assert mine.load == Load(unsettled=2, window=3, bytes=500)


def test_records_are_told_apart_by_identity() -> None:
    assert delivery() != delivery()
