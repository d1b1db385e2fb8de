"""What a genuine Kafka's state topic is told of replayed records, and that one that is missing holds up nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from streamkit import App, Reject
from streamkit.retry import state_topic
from streamkit.transport.base import NewTopic
from tests.faults.retry_evidence import copy_topics
from tests.faults.support import (
    QUICK_GROUP,
    admin_of,
    committed_of,
    create,
    producer_of,
    read_all,
    running,
    unique,
    until,
)
from tests.kafka.server import ExistingKafka, GenuineKafka

Kafka = GenuineKafka | ExistingKafka


def work(source: str) -> App:
    app = App("test", **QUICK_GROUP)

    @app.agent(app.topic(source, value=bytes), group=source, dead_letter=True)
    async def choosy(value: bytes) -> None:
        if value == b"bad":
            raise Reject("as asked")

    return app


async def replay(brokers: str, topic: str, *records: tuple[bytes, bytes]) -> None:
    """Values, and the dead letters that they come from."""
    async with producer_of(brokers) as producer:
        for value, case in records:
            await producer.send_and_wait(topic, value, key=b"a", headers=[("h", b"1"), ("sk-dlq-id", case)])


async def told(brokers: str, topic: str) -> dict[str, Any]:
    """The last of each key, as compaction keeps it."""
    records = (await read_all(brokers, topic, 1))[0]
    return {(record.key or b"").decode(): orjson.loads(record.value or b"") for record in records}


def test_the_state_topic_is_told_how_replayed_records_have_fared(genuine: Kafka) -> None:
    asyncio.run(told_of_both(genuine.brokers))


async def told_of_both(brokers: str) -> None:
    source = unique("replayed")
    letters = f"{source}.dlq"
    compacted = {"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime"}
    await create(brokers, *copy_topics(source, 0, 1), NewTopic(state_topic(letters), 1, 1, compacted))
    await replay(brokers, source, (b"bad", b"none"), (b"good", b"0:40"), (b"bad", b"0:41"))
    async with running(work(source), brokers) as worker:
        await worker.ready()
        await until(lambda: worker.agent.dead_letters["rejected"] == 2, 20, lambda: worker.agent.dead_letters)
        await worker.stop()
    runs = await told(brokers, state_topic(letters))
    assert {key: (run["group"], run["outcome"], run["attempt"]) for key, run in runs.items()} == {
        f"run:0:40:{source}": (source, "handled", 1),
        f"run:0:41:{source}": (source, "dead", 1),
    }
    (letter,) = [
        record
        for record in (await read_all(brokers, letters, 1))[0]
        if dict(record.headers).get("sk-dlq-id") == b"0:41"
    ]
    assert runs[f"run:0:41:{source}"]["letter"] == f"{letter.partition}:{letter.offset}"


def test_a_missing_state_topic_holds_up_nothing_and_is_not_created(
    genuine: Kafka, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.run(without_state(genuine.brokers))
    warnings = [record.getMessage() for record in caplog.records if ".dlq.state" in record.getMessage()]
    assert len(warnings) == 1 and "does not exist" in warnings[0]


async def without_state(brokers: str) -> None:
    source = unique("forged")
    await create(brokers, *copy_topics(source, 0, 1))
    await replay(brokers, source, *[(b"good", b"0:%d" % number) for number in range(20)])
    async with running(work(source), brokers) as worker:
        await worker.ready()
        await until(lambda: worker.agent.processed_success == 20, 20, lambda: worker.agent.processed_success)
        await replay(brokers, source, (b"good", b"0:99"))
        await until(lambda: worker.agent.processed_success == 21, 20, lambda: worker.agent.processed_success)
        assert await worker.stop() < 10
    assert (await committed_of(brokers, source, source, 1))[0].offset == 21
    async with admin_of(brokers) as admin:
        assert not await admin.topics([f"{source}.dlq.state"])
