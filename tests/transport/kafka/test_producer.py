"""What becomes of the batches beside one that a broker refuses, and of the records that none will ever take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from streamkit.errors import TransportError
from streamkit.observe.slots import WorkerSlots
from streamkit.runtime.publisher import Publisher
from streamkit.settings import Settings
from streamkit.transport.base import NewTopic, Refused, TopicMissing
from streamkit.transport.kafka.producer import KafkaProducer
from tests.faults.support import create, unique
from tests.transport.kafka import scripted
from tests.transport.kafka.scripted import TOPIC, ScriptedBroker
from tests.transport.kafka.test_workarounds import Kafka, batch_of, started, with_broker, within

NO_LEADER = 5
INVALID_TIMESTAMP = 32
TOMORROW = 24 * 60 * 60 * 1000


def test_nothing_that_waits_behind_a_refused_batch_gets_into_the_log() -> None:
    """A broker accepts any sequence number of a producer that it has not seen in the partition."""

    def refuse(request: Any) -> Any:
        rows = [(t, [(p, INVALID_TIMESTAMP, -1, -1, 0) for p, _ in ps]) for t, ps in request.topics]
        broker_answers[scripted.PRODUCE] = accept
        return rows, 0

    broker_answers: dict[int, scripted.Answer] = {}
    accept: scripted.Answer = lambda _: None  # noqa: E731

    async def case(broker: ScriptedBroker) -> None:
        nonlocal broker_answers, accept
        broker_answers, accept = broker.answers, broker.answers[scripted.PRODUCE]
        broker.answers[scripted.PRODUCE] = refuse
        async with started(KafkaProducer(broker.settings())) as sender:
            sent = [await sender.send(batch_of(sender, value), TOPIC, 0) for value in (b"refused", b"behind it")]
            outcomes = await within(5.0, asyncio.gather(*sent, return_exceptions=True))
            assert [type(outcome) for outcome in outcomes] == [Refused, Refused]
            with pytest.raises(TransportError):
                await within(5.0, sender.send(batch_of(sender, b"later"), TOPIC, 0))
            assert len(broker.asked(scripted.PRODUCE)) == 1

    with_broker(case)


@pytest.mark.parametrize("silent", [False, True])
def test_a_topic_that_has_gone_is_told_from_brokers_that_do_not_answer(silent: bool) -> None:
    async def case(broker: ScriptedBroker) -> None:
        brokers = [(1, broker.host, broker.port, None)]
        async with started(KafkaProducer(broker.settings(request_timeout=0.5))) as sender:
            broker.answers[scripted.METADATA] = lambda _: (0, brokers, "scripted", 1, [(3, "gone", False, [])])
            if silent:
                broker.answers[scripted.METADATA] = scripted.silence
            with pytest.raises(TransportError) as failed:
                await within(10.0, sender.send(batch_of(sender, b"x"), "gone", 0))
            assert isinstance(failed.value, TopicMissing) == (not silent)

    with_broker(case)


def test_a_sink_partition_without_a_leader_does_not_hold_up_the_outputs_of_the_others() -> None:
    async def case(broker: ScriptedBroker) -> None:
        rows: list[Any] = [(NO_LEADER, 0, -1, [1], [1], []), (0, 1, 1, [1], [1], [])]
        brokers = [(1, broker.host, broker.port, None)]
        recovered = broker.answers[scripted.METADATA]
        broker.answers[scripted.METADATA] = lambda _: (0, brokers, "scripted", 1, [(0, TOPIC, False, rows)])
        settings = broker.settings(request_timeout=0.5)
        arrived: list[bytes | None] = []
        publisher = Publisher(
            lambda: KafkaProducer(settings),
            settings,
            WorkerSlots("test"),
            nothing_ready=lambda: True,
            acknowledged=lambda items: arrived.extend(item.value for item in items),
            rejected=lambda *_: None,
        )
        publisher.add_route(TOPIC, 2, None)
        await publisher.start()
        sending = asyncio.create_task(publisher.run())
        try:
            for number in range(8):
                publisher.put(TOPIC, None, b"%d" % number, [], 0, number % 2, None)
                await asyncio.sleep(0.05)
            await asyncio.sleep(2)
            assert arrived == [b"1", b"3", b"5", b"7"]
            broker.answers[scripted.METADATA] = recovered
            await within(5.0, publisher.flush())
            assert arrived[4:] == [b"0", b"2", b"4", b"6"]
            assert len(broker.asked(scripted.INIT_PRODUCER_ID)) == 1  # no producer was broken
        finally:
            sending.cancel()
            await asyncio.wait([sending])
            await publisher.stop()

    with_broker(case, partitions=2)


@asynccontextmanager
async def publishing(brokers: str, topic: str) -> AsyncIterator[tuple[Publisher, list[bytes | None]]]:
    settings = Settings(brokers=(brokers,))
    rejected: list[bytes | None] = []
    publisher = Publisher(
        lambda: KafkaProducer(settings),
        settings,
        WorkerSlots("test"),
        nothing_ready=lambda: True,
        acknowledged=lambda _: None,
        rejected=lambda item, _route, _error: rejected.append(item.value),
    )
    publisher.add_route(topic, 1, None)
    await publisher.start()
    sending = asyncio.create_task(publisher.run())
    try:
        yield publisher, rejected
    finally:
        sending.cancel()
        await asyncio.wait([sending])
        await publisher.stop()


async def values(brokers: str, topic: str, count: int) -> list[bytes]:
    from aiokafka import AIOKafkaConsumer

    reader: Any = AIOKafkaConsumer(topic, bootstrap_servers=brokers, auto_offset_reset="earliest")
    async with reader:
        return [(await within(10.0, reader.getone())).value for _ in range(count)]


@pytest.mark.parametrize("bad", ["a timestamp far ahead", "no key on a compacted topic"])
def test_an_output_that_no_broker_will_ever_take_is_rejected_and_its_neighbours_keep_their_order(
    genuine: Kafka, bad: str
) -> None:
    async def case() -> None:
        topic = unique("refused")
        compacted = bad.startswith("no key")
        await create(genuine.brokers, NewTopic(topic, 1, 1, {"cleanup.policy": "compact"} if compacted else {}))
        async with publishing(genuine.brokers, topic) as (publisher, rejected):
            now = int(time.time() * 1000)

            def put(value: bytes, key: bytes | None = b"k", at: int = now) -> None:
                publisher.put(topic, key, value, [], at, 0, None)

            put(b"0")
            if compacted:
                put(b"bad", key=None)
            else:
                put(b"bad", at=now + TOMORROW)
            put(b"1")
            publisher._routes[topic].pipes[0].waiting[-1].full = True  # the next one goes into another batch
            put(b"2")
            put(b"3")
            await within(20.0, publisher.flush())
            assert rejected == [b"bad"]
        assert await values(genuine.brokers, topic, 4) == [b"0", b"1", b"2", b"3"]

    asyncio.run(within(60.0, case()))
