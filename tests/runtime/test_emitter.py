"""Outputs: what a handler returns, yields and sends, and what becomes of it in the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from streamkit import App, Output, Record, Topic
from streamkit.core.partitioner import Partitioner
from streamkit.errors import EncodeError, RecordFailed, TransportError
from streamkit.record import TopicPartition
from streamkit.transport.base import RecordTooLarge, TopicMissing
from streamkit.transport.memory import MemoryRecord
from tests.runtime.support import World, simulated, until

IN = TopicPartition("in", 0)
LONG_AGO = 1234


class Outputs:
    """An agent that returns what it is told to, and its sink "out" with the topic "other" beside it."""

    def __init__(self, returns: Callable[[Outputs, Record[str, bytes]], Any], *, sink: bool = True) -> None:
        self.world = World()
        self.world.broker.create_topic("out", 3)
        self.world.broker.create_topic("other")
        self.app = App("test")
        self.out: Topic[str, str] = self.app.topic("out", value=str)
        self.nullable: Topic[str, str | None] = self.app.topic("other", value=str | None)

        async def work(record: Record[str, bytes]) -> Any:
            with self.world.running(record):
                result = returns(self, record)
                return await result if isinstance(result, Awaitable) else result

        agent: Any = self.app.agent
        agent(self.app.topic("in", value=bytes), **({"sink": self.out} if sink else {}))(work)

    def put(self, key: bytes | None = b"k", headers: tuple[tuple[str, bytes | None], ...] = ()) -> None:
        self.world.broker.append("in", b"x", key=key, headers=headers, timestamp=LONG_AGO)

    async def sent(self, topic: str = "out") -> list[MemoryRecord]:
        """Run until everything is settled; what is in the topic then."""
        async with self.world.working(self.app):
            await until(lambda: self.world.committed() == self.world.ends())
        return self.world.broker.records(topic)

    async def failure(self) -> RecordFailed:
        error = await self.world.failing(self.app)
        assert isinstance(error, RecordFailed)
        assert error.offset == 0
        assert self.world.committed() == {0: 0}
        return error


@simulated
async def test_what_is_returned_goes_to_the_sink_under_the_raw_key_with_the_current_time() -> None:
    case = Outputs(lambda case, record: "value")
    case.put("ключ".encode())
    (record,) = await case.sent()
    assert (record.key, record.value, record.headers) == ("ключ".encode(), b"value", ())
    assert abs(record.timestamp - time.time() * 1000) < 60_000
    assert record.partition == Partitioner(3).choose("ключ".encode())


@simulated
async def test_a_null_key_stays_null() -> None:
    case = Outputs(lambda case, record: "value")
    case.put(None)
    (record,) = await case.sent()
    assert record.key is None


@simulated
async def test_none_is_not_sent() -> None:
    case = Outputs(lambda case, record: None)
    case.put()
    assert await case.sent() == []


@simulated
async def test_an_output_has_its_own_key_and_headers() -> None:
    case = Outputs(lambda case, record: Output("v", key="own", headers=[("h", b"1"), ("n", None)]))
    case.put()
    (record,) = await case.sent()
    assert (record.key, record.value, record.headers) == (b"own", b"v", (("h", b"1"), ("n", None)))


@simulated
async def test_an_output_without_a_key_keeps_the_records_and_with_none_has_a_null_one() -> None:
    case = Outputs(lambda case, record: Output("v") if record.offset == 0 else Output("v", key=None))
    case.put()
    case.put()
    records = await case.sent()
    assert {record.key for record in records} == {b"k", None}


@simulated
async def test_an_output_may_name_another_topic_and_be_a_tombstone() -> None:
    case = Outputs(lambda case, record: Output(None, topic=case.nullable))
    case.put()
    (record,) = await case.sent("other")
    assert (record.key, record.value) == (b"k", None)
    assert case.world.broker.records("out") == []


@simulated
async def test_an_agent_without_a_sink_may_return_outputs_that_name_their_topic() -> None:
    case = Outputs(lambda case, record: Output("v", topic=case.out), sink=False)
    case.put()
    (record,) = await case.sent()
    assert record.value == b"v"


@simulated
async def test_trace_and_correlation_follow_a_record_and_nothing_else_does() -> None:
    carried = (("traceparent", b"t"), ("correlation-id", b"c"))
    case = Outputs(lambda case, record: "v" if record.offset == 0 else Output("v", headers=[("traceparent", b"own")]))
    for _ in range(2):
        case.put(headers=(*carried, ("sk-attempt", b"1"), ("other", b"o")))
    first, second = await case.sent()
    assert first.headers == carried
    assert sorted(second.headers) == [("correlation-id", b"c"), ("traceparent", b"own")]


@pytest.mark.parametrize("result", [7, Output(b"bytes"), Output("v", key=7)], ids=["value", "output", "key"])
@simulated
async def test_an_output_of_another_type_fails_its_record_at_stage_sink(result: object) -> None:
    case = Outputs(lambda case, record: result)
    case.put()
    error = await case.failure()
    assert error.stage == "sink"
    assert isinstance(error.cause, EncodeError)
    assert "'work'" in str(error)
    assert "expected str, got" in str(error)


@pytest.mark.parametrize("result", ["value", Output("value")])
@simulated
async def test_an_output_without_a_sink_to_go_to_fails_at_stage_sink(result: object) -> None:
    case = Outputs(lambda case, record: result, sink=False)
    case.put()
    error = await case.failure()
    assert error.stage == "sink"
    assert "no sink" in str(error.cause)


@simulated
async def test_an_oversize_output_fails_its_record_at_stage_sink_and_its_neighbours_arrive_once() -> None:
    case = Outputs(lambda case, record: "x" * 2_000_000 if record.offset == 2 else f"{record.offset}")
    for number in range(5):
        case.put(b"%d" % number)
    error = await case.world.failing(case.app)
    assert isinstance(error, RecordFailed)
    assert (error.stage, error.offset) == ("sink", 2)
    assert isinstance(error.cause, RecordTooLarge)
    assert "2,000,0" in str(error)
    assert sorted(record.value or b"" for record in case.world.broker.records("out")) == [b"0", b"1"]
    assert case.world.committed() == {0: 2}


@simulated
async def test_the_limit_of_the_topic_counts_where_it_is_lower_than_that_of_the_client() -> None:
    case = Outputs(lambda case, record: "x" * 2000)
    case.world.broker.create_topic("out", max_message_bytes="1000")
    case.put()
    error = await case.failure()
    assert error.stage == "sink"
    assert "1,000 at the most" in str(error)


@simulated
async def test_an_output_for_a_topic_that_the_worker_does_not_know_fails_at_stage_sink() -> None:
    elsewhere = App("elsewhere").topic("elsewhere", value=str)
    case = Outputs(lambda case, record: Output("v", topic=elsewhere))
    case.put()
    error = await case.failure()
    assert error.stage == "sink"
    assert isinstance(error.cause, TopicMissing)


# Topic.send


@simulated
async def test_send_has_a_null_key_unless_one_is_given_and_takes_headers_partition_and_timestamp() -> None:
    stamp = datetime(2020, 1, 2, tzinfo=UTC)

    async def send(case: Outputs, record: Record[str, bytes]) -> None:
        await case.out.send("1", partition=2)
        await case.out.send("2", key="k", partition=2, headers=[("h", b"")], timestamp=stamp)

    case = Outputs(send)
    case.put(headers=(("traceparent", b"t"),))
    first, second = await case.sent()
    assert (first.key, first.value, first.partition, first.headers) == (None, b"1", 2, (("traceparent", b"t"),))
    assert (second.key, second.timestamp) == (b"k", int(stamp.timestamp() * 1000))
    assert sorted(second.headers) == [("h", b""), ("traceparent", b"t")]


@simulated
async def test_what_send_refuses_is_raised_in_the_handler_which_may_catch_it() -> None:
    caught: list[type[Exception]] = []

    async def send(case: Outputs, record: Record[str, bytes]) -> None:
        bad: Any = 7
        refused: list[dict[str, Any]] = [{"value": bad}, {"value": "v", "key": bad}, {"value": "x" * 2_000_000}]
        for arguments in refused:
            try:
                await case.out.send(**arguments)
            except (EncodeError, RecordTooLarge) as error:
                caught.append(type(error))
        with pytest.raises(ValueError, match="there is no partition 3"):
            await case.out.send("v", partition=3)

    case = Outputs(send)
    case.put()
    assert await case.sent() == []
    assert caught == [EncodeError, EncodeError, RecordTooLarge]


@simulated
async def test_a_record_is_settled_only_when_what_it_sent_is_acknowledged() -> None:
    async def send(case: Outputs, record: Record[str, bytes]) -> None:
        await case.out.send("v", key="k")

    case = Outputs(send, sink=False)
    case.put()
    case.world.broker.faults.acknowledgements.close()
    async with case.world.working(case.app):
        await until(lambda: case.world.broker.records("out"))
        await asyncio.sleep(10)
        assert case.world.committed() == {0: 0}
        case.world.broker.faults.acknowledgements.open()
        await until(lambda: case.world.committed() == {0: 1})


@simulated
async def test_sends_outside_of_handlers_belong_to_the_app_and_are_flushed_at_stop() -> None:
    case = Outputs(lambda case, record: None)
    async with case.world.working(case.app) as working:
        await working.joined()
        await case.out.send("v", key="k")
        await working.stopped()
    assert [record.value for record in case.world.broker.records("out")] == [b"v"]


@simulated
async def test_a_send_outside_of_handlers_that_is_refused_fails_the_worker() -> None:
    case = Outputs(lambda case, record: None)
    with pytest.raises(TransportError, match="a value sent to 'out' outside of handlers was refused"):
        async with case.world.working(case.app) as working:
            await working.joined()
            case.world.broker.topics["out"].config["max.message.bytes"] = "10"
            await case.out.send("v" * 20)


@simulated
async def test_a_send_outside_of_handlers_that_is_not_acknowledged_in_time_fails_the_worker() -> None:
    case = Outputs(lambda case, record: None)
    with pytest.raises(TransportError, match="outside of handlers is not acknowledged"):
        async with case.world.working(case.app) as working:
            await working.joined()
            case.world.broker.faults.acknowledgements.close()
            await case.out.send("v")


@simulated
async def test_after_the_worker_has_ended_nothing_can_be_sent() -> None:
    case = Outputs(lambda case, record: None)
    async with case.world.working(case.app) as working:
        await working.joined()
    with pytest.raises(RuntimeError, match="no worker is running"):
        await case.out.send("v")
