"""An output that is larger than its topic takes fails its own source record, and no other output is lost or doubled."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import MessageSizeTooLargeError

from streamkit import App, Record
from streamkit.errors import RecordFailed
from streamkit.transport.base import NewTopic
from tests.faults.ledger import Committed
from tests.faults.oracles import Coverage
from tests.faults.support import (
    QUICK_GROUP,
    admin_of,
    committed_of,
    create,
    eventually,
    kafka_admin_of,
    produce,
    producer_of,
    read_all,
    running,
    unique,
)
from tests.kafka.server import ExistingKafka, GenuineKafka

LIMIT, TOO_LARGE = 10_000, 20_000  # bytes
RECORDS = 200
CULPRIT = 120  # the offset of the record with the large output


@pytest.mark.parametrize("known", [False, True], ids=["lowered while the worker runs", "known to the worker"])
def test_an_output_over_the_limit_of_its_topic_fails_its_record_and_its_neighbours_arrive_once(
    genuine: GenuineKafka | ExistingKafka, known: bool
) -> None:
    asyncio.run(oversize(genuine.brokers, known))


async def oversize(brokers: str, known: bool) -> None:
    source, target = unique("oversize"), unique("oversize.out")
    config = {"max.message.bytes": str(LIMIT)} if known else {}
    await create(brokers, NewTopic(source, 1, 1), NewTopic(target, 1, 1, config))
    app = App("test", **QUICK_GROUP, linger="50ms")
    topic, sink = app.topic(source, value=bytes), app.topic(target, value=bytes)

    @app.agent(topic, sink=sink, group=source, concurrency=4)
    async def copy(record: Record[str, bytes]) -> bytes:
        return b"%d" % record.offset + (b"." * TOO_LARGE if record.value == b"large" else b"")

    records = [(b"k%d" % (n % 10), b"large" if n == CULPRIT else b"small") for n in range(RECORDS)]
    async with running(app, brokers) as worker:
        await worker.ready()
        if not known:
            await lower_the_limit(brokers, target)
        await produce(brokers, source, records)
        failure = await worker.failure(20)
    assert isinstance(failure, RecordFailed)
    assert (failure.stage, failure.topic, failure.offset) == ("sink", source, CULPRIT)
    outputs = await outputs_of(brokers, target)
    assert max(outputs.values()) == 1, "an output arrived twice"
    # All that is committed has arrived, and what was in the same batches as the culprit is committed.
    committed = (await committed_of(brokers, source, source, 1))[0]
    assert committed.offset == CULPRIT
    assert set(Coverage(Committed(*committed), RECORDS).offsets()) == set(outputs)
    assert set(range(CULPRIT)) <= set(outputs)

    await set_limit(brokers, target, 1_000_000)
    async with running(app, brokers, stop_when_idle="200ms") as worker:
        await asyncio.wait_for(asyncio.shield(worker.task), 20)
    assert await outputs_of(brokers, target) == Counter(range(RECORDS))


async def lower_the_limit(brokers: str, topic: str) -> None:
    """Return when the broker refuses what is larger."""
    await set_limit(brokers, topic, LIMIT)
    async with producer_of(brokers) as producer:
        while True:
            try:
                await producer.send_and_wait(topic, b"probe" + b"." * TOO_LARGE)
            except MessageSizeTooLargeError:
                return


async def set_limit(brokers: str, topic: str, limit: int) -> None:
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": str(limit)})
    async with kafka_admin_of(brokers) as kafka, admin_of(brokers) as admin:
        await kafka.alter_configs([resource])

        async def changed() -> bool:
            return (await admin.topics([topic]))[topic].max_message_bytes == limit

        await eventually(changed, 10, "the limit was not changed")


async def outputs_of(brokers: str, topic: str) -> Counter[int]:
    records = (await read_all(brokers, topic, 1))[0]
    values = [(record.value or b"").rstrip(b".") for record in records]
    return Counter(int(value) for value in values if value != b"probe")
