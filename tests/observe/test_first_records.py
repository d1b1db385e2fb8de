from __future__ import annotations

import asyncio
from dataclasses import replace

from streamkit.core.lag import Found
from streamkit.observe.first_records import read_first
from streamkit.observe.lag import Unread
from streamkit.record import TopicPartition
from streamkit.transport.base import OffsetOutOfRange, Reader, Unreachable
from streamkit.transport.memory import MemoryBroker, MemoryTransport
from tests.runtime.support import SETTINGS, simulated

ORDERS = TopicPartition("orders", 0)
SECONDS = 5.0


class Closing:
    """Makes readers of a broker, and counts those that are open."""

    def __init__(self, broker: MemoryBroker, request_timeout: float = 3.0) -> None:
        self.open = 0
        self._transport = MemoryTransport(
            broker, replace(SETTINGS, request_timeout=request_timeout, session_timeout=120.0)
        )

    def __call__(self) -> Reader:
        reader = self._transport.reader()
        stop = reader.stop
        self.open += 1

        async def stopped() -> None:
            self.open -= 1
            await stop()

        reader.stop = stopped  # type: ignore[method-assign]
        return reader


def a_log(records: int) -> MemoryBroker:
    """Their timestamps are 0 s, 1 s, 2 s..."""
    broker = MemoryBroker()
    broker.create_topic("orders")
    for n in range(records):
        broker.append("orders", b"{}", timestamp=1000 * n, headers=(("sk-due", b"%d" % (1000 * n + 60_000)),))
    return broker


def wanted(offset: int, end: int, partition: TopicPartition = ORDERS) -> Unread:
    return Unread("group", partition, offset, end)


@simulated
async def test_the_record_at_the_offset_tells_when_it_was_written_and_when_it_is_due() -> None:
    make = Closing(a_log(100))
    read, failure = await read_first(make, [wanted(40, 100)], SECONDS)
    assert read == {wanted(40, 100): Found(40, 40.0, 100.0)}
    assert (failure, make.open) == (None, 0)


@simulated
async def test_several_partitions_are_read_one_after_the_other() -> None:
    broker = a_log(100)
    broker.create_topic("returns")
    broker.append("returns", b"{}", timestamp=7_000)
    first, second = wanted(40, 100), wanted(0, 1, TopicPartition("returns", 0))
    read, _ = await read_first(Closing(broker), [first, second], SECONDS)
    assert read == {first: Found(40, 40.0, 100.0), second: Found(0, 7.0)}


@simulated
async def test_holes_are_passed_over() -> None:
    broker = a_log(100)
    for offset in range(30, 70):
        broker.log(ORDERS).punch(offset)
    read, _ = await read_first(Closing(broker), [wanted(40, 100)], SECONDS)
    assert read[wanted(40, 100)] == Found(70, 70.0, 130.0)


@simulated
async def test_a_log_that_holds_only_markers_up_to_its_end_has_no_record() -> None:
    broker = a_log(10)
    broker.append_marker("orders")
    broker.append_marker("orders")
    read, failure = await read_first(Closing(broker), [wanted(10, 12)], SECONDS)
    assert (read, failure) == ({wanted(10, 12): Found(12, None)}, None)


@simulated
async def test_what_is_never_answered_is_given_up_in_time() -> None:
    broker = a_log(100)
    broker.faults.network.close()
    make = Closing(broker, request_timeout=60.0)
    began = asyncio.get_running_loop().time()
    read, failure = await read_first(make, [wanted(40, 100)], SECONDS)
    assert asyncio.get_running_loop().time() - began < SECONDS + 0.1
    assert (read, type(failure), make.open) == ({}, TimeoutError, 0)


@simulated
async def test_a_partition_whose_broker_does_not_answer_was_tried_in_vain() -> None:
    broker = a_log(100)

    def then_closed(reader: Reader) -> Reader:
        start = reader.start

        async def started() -> None:
            await start()
            broker.faults.network.close()

        reader.start = started  # type: ignore[method-assign]
        return reader

    make = Closing(broker)
    read, failure = await read_first(lambda: then_closed(make()), [wanted(40, 100)], SECONDS)
    assert (read, type(failure), make.open) == ({wanted(40, 100): None}, Unreachable, 0)


@simulated
async def test_an_offset_that_has_fallen_to_retention_meanwhile_was_tried_in_vain() -> None:
    broker = a_log(100)
    broker.delete_records("orders", 60)
    read, failure = await read_first(Closing(broker), [wanted(40, 100)], SECONDS)
    assert (read, type(failure)) == ({wanted(40, 100): None}, OffsetOutOfRange)


@simulated
async def test_a_reader_that_cannot_be_made_is_a_failure_like_any_other() -> None:
    def refuse() -> Reader:
        raise Unreachable("no")

    read, failure = await read_first(refuse, [wanted(40, 100)], SECONDS)
    assert (read, type(failure)) == ({}, Unreachable)
