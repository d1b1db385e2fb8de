"""Topics of copies that refuse them, vanish, or have fewer partitions than their source."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from aiokafka.admin import NewPartitions

from streamkit import App, Record, Reject
from streamkit.errors import TransportError
from streamkit.record import TopicPartition
from streamkit.transport.base import NewTopic
from tests.faults.oracles import RecordId
from tests.faults.retry_evidence import all_violations, by_place, copy_topics, gather, origin_of
from tests.faults.retry_program import ALWAYS, Case, command
from tests.faults.settled import settled
from tests.faults.support import (
    QUICK_GROUP,
    admin_of,
    committed_of,
    create,
    eventually,
    kafka_admin_of,
    processes,
    produce,
    read_all,
    ready,
    running,
    tail,
    unique,
    until,
)
from tests.kafka.required import required
from tests.kafka.server import ExistingKafka, GenuineKafka

Kafka = GenuineKafka | ExistingKafka
EVERYBODY = "ANONYMOUS"  # all that come by the listener for PLAINTEXT
AT_ONCE = 5.0  # seconds within which a record runs that waits for nothing


class Began(NamedTuple):
    key: str | None
    offset: int


@pytest.mark.long  # for its own broker, and the commands that change its rules
def test_a_dead_letter_topic_that_an_acl_refuses_holds_up_the_keys_of_its_records_and_nothing_else() -> None:
    authorizer = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    with required(GenuineKafka(authorizer)) as kafka:

        async def refuse(topic: str) -> None:
            await asyncio.to_thread(kafka.forbid, EVERYBODY, "Write", "--topic", topic)

        async def take_again(topic: str) -> None:
            await asyncio.to_thread(kafka.forbid_no_more, EVERYBODY, "Write", "--topic", topic)

        asyncio.run(held_up(kafka.brokers, refuse, take_again))


def test_a_dead_letter_topic_that_is_deleted_holds_up_the_keys_of_its_records_and_nothing_else(genuine: Kafka) -> None:
    async def delete(topic: str) -> None:
        async with kafka_admin_of(genuine.brokers) as kafka, admin_of(genuine.brokers) as admin:
            await kafka.delete_topics([topic])

            async def gone() -> bool:
                return not await admin.topics([topic])

            await eventually(gone, 20, f"{topic} was not deleted")

    async def make_again(topic: str) -> None:
        await create(genuine.brokers, dead_letters(topic.removesuffix(".dlq")))

    asyncio.run(held_up(genuine.brokers, delete, make_again))


async def held_up(
    brokers: str, take_away: Callable[[str], Awaitable[None]], bring_back: Callable[[str], Awaitable[None]]
) -> None:
    source = unique("held")
    await create(brokers, NewTopic(source, 1, 1), dead_letters(source))
    app = App("test", **QUICK_GROUP)
    topic = app.topic(source, value=bytes)
    began: list[Began] = []

    @app.agent(topic, group=source, dead_letter=True, concurrency=8)
    async def choosy(record: Record[str, bytes]) -> None:
        began.append(Began(record.key, record.offset))
        await asyncio.sleep(0.001)
        if record.value == b"bad":
            raise Reject("as asked")

    def ran(key: str) -> list[int]:
        return [each.offset for each in began if each.key == key]

    async with running(app, brokers) as worker:
        await worker.ready()
        await produce(brokers, source, [(b"first", b"bad")])  # its topic was in use before
        await until(lambda: worker.agent.dead_letters["rejected"], 20, "the first dead letter")
        await take_away(f"{source}.dlq")
        block = [
            (b"good0", b"x"),
            (b"good1", b"x"),
            (b"bad0", b"bad"),
            (b"bad0", b"x"),
            (b"bad1", b"bad"),
            (b"bad1", b"x"),
        ]
        await produce(brokers, source, block * 5)
        await until(lambda: worker.agent.blocked() == 2, 30, lambda: (worker.agent.blocked(), began))
        await until(lambda: len(ran("good0")) == 5 and len(ran("good1")) == 5, AT_ONCE, lambda: began)
        for _ in range(3):  # what does not fail does not wait
            before = len(began)
            await produce(brokers, source, [(b"good0", b"x")])
            await until(lambda: len(began) > before, AT_ONCE, lambda: began)  # noqa: B023 - at once
        assert ran("bad0") == [3] and ran("bad1") == [5], "something has passed a record that is in doubt"
        committed = (await committed_of(brokers, source, source, 1)).get(0)
        assert committed is None or committed.offset <= 3
        await bring_back(f"{source}.dlq")
        await until(lambda: worker.agent.blocked() == 0 and len(began) == 1 + 5 * 6 + 3, 40, lambda: began)
        await until(lambda: worker.agent.dead_letters["rejected"] == 11, 20, lambda: worker.agent.dead_letters)
    for key in ("good0", "good1", "bad0", "bad1"):
        assert ran(key) == sorted(set(ran(key))), f"{key} lost its order, or something ran twice"
    letters = by_place(await read_all(brokers, f"{source}.dlq", 1)).values()
    found = sorted(origin_of(letter) for letter in letters)
    expected: list[RecordId] = [(0, 1 + 6 * block + bad) for block in range(5) for bad in (2, 4)]
    assert [each for each in found if each != (0, 0)] == expected
    assert (await committed_of(brokers, source, source, 1))[0].offset == 1 + 5 * 6 + 3


def dead_letters(source: str) -> NewTopic:
    return copy_topics(source, 0, 1)[-1]


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_nothing_is_lost_when_the_source_grows_and_its_tiers_have_fewer_partitions(
    genuine: Kafka, tmp_path: Path, workers: int
) -> None:
    asyncio.run(grown(genuine.brokers, tmp_path, workers))


async def grown(brokers: str, directory: Path, workers: int) -> None:
    source, waits = unique("grown"), ["500ms", "1s"]
    await create(brokers, *copy_topics(source, len(waits), 3))
    case = Case(brokers, source, str(directory), waits, settings={"metadata_max_age": "500ms", "breaker_failures": "0"})
    with processes() as start:
        await fill(brokers, source, range(3))
        started = [start(command(case), directory) for _ in range(workers)]
        await until_committed(brokers, source)
        async with kafka_admin_of(brokers) as kafka, admin_of(brokers) as admin:
            await kafka.create_partitions({source: NewPartitions(6)})
            await ready(admin, [NewTopic(source, 6, 1)])
        await fill(brokers, source, range(6))
        await settled(brokers, source, len(waits), 40, directory, started, 6, of_copies=3)
        for worker in started:
            worker.terminate()
        codes = [await asyncio.to_thread(worker.wait, 30) for worker in started]
    assert codes == [0] * workers, tail(directory)
    evidence = await gather(brokers, source, directory, len(waits), 6, of_copies=3)
    assert {partition for partition, _ in evidence.letters} == {0, 1, 2}
    violations = all_violations(evidence, ())
    assert not violations, "\n".join([*violations[:20], tail(directory)])


async def fill(brokers: str, source: str, partitions: range) -> None:
    for partition in partitions:
        records: list[tuple[bytes | None, bytes | None]] = []
        for number in range(10):
            records += [(b"good%d" % number, b"0"), (b"bad%d" % (number % 3), [b"1", b"2", ALWAYS][number % 3])]
        await produce(brokers, source, records * 2, partition)


async def until_committed(brokers: str, source: str) -> None:
    """Some work has been committed."""
    wanted = [TopicPartition(source, number) for number in range(3)]
    async with admin_of(brokers) as admin:

        async def some() -> bool:
            with suppress(TransportError):
                found = await admin.committed(f"{source}.group", wanted)
                return len(found) == 3 and all(committed.offset for committed in found.values())
            return False

        await eventually(some, 30, "nothing was committed")
