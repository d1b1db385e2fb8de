"""What every transport must do: one suite for the in-process broker, the embedded one and a genuine Kafka.

A case is a coroutine that takes a `World`. What not every broker can do it declares: `@case("session_expiry")`.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from streamkit.errors import TransportError
from streamkit.record import ConsumedRecord, HeaderList, TopicPartition
from streamkit.settings import Settings
from streamkit.transport.base import (
    NO_GENERATION,
    SHOWN_CONFIG,
    Admin,
    CommitRejected,
    CommittedOffset,
    Consumer,
    GroupInfo,
    LogRange,
    MetadataTooLarge,
    NewTopic,
    OffsetOutOfRange,
    Producer,
    Reader,
    RecordTooLarge,
    Refused,
    TopicMissing,
)
from tests.transport.backends import NEEDS, Backend

PATIENCE = 20.0  # seconds until what must happen is given up
BATCH_BYTES = 100_000
MAX_RECORDS = 500
# A broker deletes what is older than its retention.
SENT_MS = time.time_ns() // 1_000_000 - 3_600_000
METADATA_LIMIT = 4096
SETTINGS = Settings(
    session_timeout=20.0,
    heartbeat_interval=0.3,
    request_timeout=10.0,
    drain_timeout=5.0,
    metadata_max_age=1.0,
)
SHORT_SESSION = replace(SETTINGS, session_timeout=6.0, request_timeout=3.0)

Run = Callable[["World"], Awaitable[None]]


@dataclass(frozen=True)
class Case:
    run: Run
    needs: frozenset[str]

    def __str__(self) -> str:
        return self.run.__name__


CASES: list[Case] = []


def case(*needs: str) -> Callable[[Run], Run]:
    assert NEEDS.issuperset(needs), needs

    def declare(run: Run) -> Run:
        CASES.append(Case(run, frozenset(needs)))
        return run

    return declare


async def run_case(case: Case, backend: Backend) -> None:
    async with asyncio.timeout(3 * PATIENCE), World(backend) as world:
        await case.run(world)


class Member:
    """A member of a group, and its listener: seeks what it is assigned to what is committed, else to 0."""

    def __init__(self, consumer: Consumer, changed: asyncio.Event) -> None:
        self.consumer = consumer
        self.partitions: frozenset[TopicPartition] = frozenset()
        self.revocations: list[tuple[frozenset[TopicPartition], bool]] = []  # with `lost`
        self.started_from: dict[TopicPartition, CommittedOffset] = {}
        self.generation = NO_GENERATION  # of the latest assignment
        self.before_revoked_returns: Callable[[], Awaitable[None]] | None = None
        self._changed = changed

    async def revoked(self, partitions: Collection[TopicPartition], *, lost: bool) -> None:
        assert self.generation != NO_GENERATION, "before the first assignment there is nothing to revoke"
        assert self.partitions == frozenset(partitions)
        if partitions:
            self.revocations.append((frozenset(partitions), lost))
        self._changed.set()
        if self.before_revoked_returns is not None:
            await self.before_revoked_returns()
        self.partitions = frozenset()
        self._changed.set()

    async def assigned(self, partitions: Collection[TopicPartition]) -> None:
        self.started_from = await self.consumer.committed(partitions)
        for partition in partitions:
            self.consumer.seek(partition, self.started_from.get(partition, CommittedOffset(0)).offset)
        self.partitions = frozenset(partitions)
        self.generation = self.consumer.generation
        self._changed.set()

    async def poll(
        self, *partitions: TopicPartition, max_records: int = MAX_RECORDS, seconds: float = 1.0
    ) -> Mapping[TopicPartition, Sequence[ConsumedRecord]]:
        return await self.consumer.poll(partitions, max_records=max_records, timeout=seconds)

    async def read(self, partition: TopicPartition, count: int) -> list[ConsumedRecord]:
        """The next `count` records, or more if they came together."""
        records: list[ConsumedRecord] = []
        async with asyncio.timeout(PATIENCE):
            while len(records) < count:
                records += (await self.poll(partition)).get(partition, [])
        return records

    async def commit(self, partition: TopicPartition, offset: int, metadata: str = "") -> None:
        await self.consumer.commit({partition: CommittedOffset(offset, metadata)}, self.consumer.generation)


class World:
    """Topics and clients of one case; whatever was started is stopped at its end."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.admin: Admin = backend.transport(SETTINGS).admin()
        self._clients: list[Consumer | Producer | Admin | Reader] = []
        self._changed = asyncio.Event()
        self._run = uuid.uuid4().hex[:8]
        self._names = itertools.count(1)

    async def __aenter__(self) -> Self:
        await self._start(self.admin)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for client in reversed(self._clients):
            await client.stop()

    def name(self, kind: str) -> str:
        return f"contract-{kind}-{self._run}-{next(self._names)}"

    async def topic(self, partitions: int = 1, **config: str) -> str:
        """`config` with underscores for dots."""
        name = self.name("topic")
        settings = {key.replace("_", "."): value for key, value in config.items()}
        await self.admin.create_topics([NewTopic(name, partitions, config=settings)])
        await self.settled_topic(name, partitions)
        return name

    async def settled_topic(self, name: str, partitions: int) -> None:
        """A broker answers before it has made what it was asked to make."""
        async with asyncio.timeout(PATIENCE):
            while (info := (await self.admin.topics([name])).get(name)) is None or info.partitions != partitions:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def producer(self) -> Producer:
        producer = self.backend.transport(SETTINGS).producer()
        await self._start(producer)
        return producer

    async def reader(self, starts: Mapping[TopicPartition, int]) -> Reader:
        reader = self.backend.transport(SETTINGS).reader()
        await self._start(reader)
        reader.assign(starts)
        return reader

    async def member(
        self, group: str, *topics: str, settings: Settings = SETTINGS, kind: type[Member] = Member
    ) -> Member:
        member = kind(self.backend.transport(settings).consumer(group), self._changed)
        await self._start(member.consumer)
        member.consumer.subscribe(topics, member)
        return member

    async def only_member(self, *topics: str, settings: Settings = SETTINGS) -> Member:
        """The one member of a group of its own, with its assignment."""
        member = await self.member(self.name("group"), *topics, settings=settings)
        await self.until(lambda: bool(member.partitions))
        return member

    async def produce(self, partition: TopicPartition, values: Iterable[bytes]) -> None:
        producer = await self.producer()
        await send(producer, partition, [(None, value, []) for value in values])

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what a listener is told makes the condition true."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def shared(self, members: Collection[Member], partitions: Collection[TopicPartition]) -> None:
        """Wait until the members hold the partitions between them, each at least one, and none twice."""

        def holds() -> bool:
            held = [partition for member in members for partition in member.partitions]
            return sorted(held) == sorted(partitions) and all(member.partitions for member in members)

        await self.until(holds)

    async def _start(self, client: Consumer | Producer | Admin | Reader) -> None:
        self._clients.append(client)
        await client.start()


async def send(
    producer: Producer,
    partition: TopicPartition,
    records: Iterable[tuple[bytes | None, bytes | None, HeaderList]],
    *,
    limit: int = BATCH_BYTES,
) -> object:
    """One batch with timestamps from SENT_MS on; its acknowledgement."""
    batch = producer.batch(limit)
    for index, (key, value, headers) in enumerate(records):
        assert batch.append(key=key, value=value, timestamp=SENT_MS + index, headers=headers) is not None
    async with asyncio.timeout(PATIENCE):
        return await (await producer.send(batch, *partition))


def numbers(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


def values(records: Iterable[ConsumedRecord]) -> list[bytes | None]:
    return [record.value for record in records]


def offsets(records: Iterable[ConsumedRecord]) -> list[int]:
    return [record.offset for record in records]


async def raises(kind: type[TransportError | ValueError], work: Awaitable[Any]) -> TransportError | ValueError:
    async with asyncio.timeout(PATIENCE):
        try:
            outcome = await work
        except kind as error:
            return error
    raise AssertionError(f"{kind.__name__} was not raised, but {outcome!r} returned")


# Records


@case()
async def records_come_in_order_and_as_they_were_sent(world: World) -> None:
    partition = TopicPartition(await world.topic(), 0)
    sent: list[tuple[bytes | None, bytes | None, HeaderList]] = [
        (b"key", b"value", [("a", b"1"), ("a", b"2"), ("nothing", None)]),
        (None, b"null key", []),
        (b"tombstone", None, []),
        (b"", b"", [("empty", b"")]),
    ]
    await send(await world.producer(), partition, sent)
    member = await world.only_member(partition.topic)
    records = await member.read(partition, len(sent))
    assert [(record.key, record.value, list(record.headers)) for record in records] == [
        (key, value, list(headers)) for key, value, headers in sent
    ]
    assert offsets(records) == [0, 1, 2, 3]
    assert [record.timestamp for record in records] == [SENT_MS + index for index in range(len(sent))]
    assert {(record.topic, record.partition) for record in records} == {partition}


@case()
async def a_full_batch_takes_no_more_but_never_refuses_its_first_record(world: World) -> None:
    producer = await world.producer()
    batch = producer.batch(1000)
    assert batch.append(key=None, value=b"x" * 2000, timestamp=SENT_MS, headers=[]) is not None
    assert batch.append(key=None, value=b"x", timestamp=SENT_MS, headers=[]) is None
    batch, taken = producer.batch(1000), 0
    while batch.append(key=None, value=b"x" * 90, timestamp=SENT_MS, headers=[]) is not None:
        taken += 1
    assert 5 <= taken <= 10


@case()
async def batches_of_a_partition_are_stored_in_the_order_they_were_sent(world: World) -> None:
    partition = TopicPartition(await world.topic(), 0)
    producer = await world.producer()
    acknowledgements = []
    for value in numbers(20):
        batch = producer.batch(BATCH_BYTES)
        batch.append(key=None, value=value, timestamp=SENT_MS, headers=[])
        acknowledgements.append(await producer.send(batch, *partition))
    await asyncio.gather(*acknowledgements)
    member = await world.only_member(partition.topic)
    assert values(await member.read(partition, 20)) == numbers(20)


@case()
async def an_acknowledgement_says_where_the_batch_lies(world: World) -> None:
    partition = TopicPartition(await world.topic(2), 1)
    producer = await world.producer()
    await send(producer, partition, [(None, b"a", []), (None, b"b", [])])
    acknowledged: Any = await send(producer, partition, [(None, b"c", [])])
    assert (acknowledged.topic, acknowledged.partition, acknowledged.offset) == (*partition, 2)


@case("size_limit")
async def a_batch_over_the_limit_is_refused_whole_and_a_new_producer_works(world: World) -> None:
    partition = TopicPartition(await world.topic(max_message_bytes="2000"), 0)
    producer = await world.producer()
    await send(producer, partition, [(None, b"before", [])])
    await raises(RecordTooLarge, send(producer, partition, [(None, b"small", []), (None, b"x" * 3000, [])]))
    await producer.stop()
    await send(await world.producer(), partition, [(None, b"after", [])])
    member = await world.only_member(partition.topic)
    assert values(await member.read(partition, 2)) == [b"before", b"after"]


# Polling


@case()
async def polling_some_partitions_leaves_the_others_where_they_are(world: World) -> None:
    topic = await world.topic(2)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    await world.produce(first, numbers(30))
    await world.produce(second, numbers(30))
    member = await world.only_member(topic)
    await member.read(first, 1)  # by now both may have been fetched
    member.consumer.seek(first, 0)
    for _ in range(3):
        assert set(await member.poll(first, max_records=5)) <= {first}
    assert member.consumer.position(second) == 0
    assert values(await member.read(second, 30)) == numbers(30)
    done = member.consumer.position(first)
    assert values(await member.read(first, 30 - done)) == numbers(30 - done, done)


@case()
async def a_poll_returns_at_most_max_records(world: World) -> None:
    topic = await world.topic(2)
    partitions = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    for partition in partitions:
        await world.produce(partition, numbers(20))
    member = await world.only_member(topic)
    seen: dict[TopicPartition, list[bytes | None]] = {partition: [] for partition in partitions}
    while sum(map(len, seen.values())) < 40:
        polled = await member.poll(*partitions, max_records=7)
        assert sum(map(len, polled.values())) <= 7
        for partition, records in polled.items():
            seen[partition] += values(records)
    assert seen == dict.fromkeys(partitions, numbers(20))


@case()
async def a_poll_of_nothing_returns_nothing(world: World) -> None:
    partition = TopicPartition(await world.topic(), 0)
    await world.produce(partition, numbers(3))
    member = await world.only_member(partition.topic)
    assert not await member.poll(seconds=0.05)
    assert values(await member.read(partition, 3)) == numbers(3)
    assert not await member.poll(partition, seconds=0.05)


@case()
async def a_waiting_poll_returns_what_arrives(world: World) -> None:
    partition = TopicPartition(await world.topic(), 0)
    member = await world.only_member(partition.topic)
    producer = await world.producer()
    async with asyncio.TaskGroup() as tasks:
        poll = tasks.create_task(member.poll(partition, seconds=PATIENCE))
        await asyncio.sleep(0.1)
        await send(producer, partition, [(None, b"late", [])])
    assert values(poll.result()[partition]) == [b"late"]


@case()
async def seeking_back_delivers_again(world: World) -> None:
    partition = TopicPartition(await world.topic(), 0)
    await world.produce(partition, numbers(10))
    member = await world.only_member(partition.topic)
    await member.read(partition, 10)
    assert member.consumer.position(partition) == 10
    member.consumer.seek(partition, 4)
    assert member.consumer.position(partition) == 4
    assert values(await member.read(partition, 6)) == numbers(6, 4)


@case("markers")
async def the_position_moves_past_what_is_never_delivered(world: World) -> None:
    partition = TopicPartition(await world.topic(), 0)
    await world.produce(partition, numbers(3))
    await world.backend.end_in_markers(partition)
    member = await world.only_member(partition.topic)
    assert values(await member.read(partition, 3)) == numbers(3)
    async with asyncio.timeout(PATIENCE):
        while member.consumer.position(partition) < 5:
            assert not await member.poll(partition, seconds=0.2)
    assert member.consumer.position(partition) == 5
    await world.produce(partition, [b"after"])
    assert offsets(await member.read(partition, 1)) == [5]


@case()
async def an_offset_beyond_the_end_is_out_of_range(world: World) -> None:
    partition = TopicPartition(await world.topic(), 0)
    await world.produce(partition, numbers(3))
    member = await world.only_member(partition.topic)
    member.consumer.seek(partition, 4)
    error = await raises(OffsetOutOfRange, member.read(partition, 1))
    assert isinstance(error, OffsetOutOfRange)
    assert (error.partition, error.offset) == (partition, 4)
    member.consumer.seek(partition, 2)
    assert values(await member.read(partition, 1)) == [b"2"]


@case("delete_records")
async def an_offset_behind_the_start_is_out_of_range(world: World) -> None:
    partition = TopicPartition(await world.topic(), 0)
    await world.produce(partition, numbers(5))
    await world.backend.delete_records(partition, 3)
    assert await world.admin.log_ranges([partition]) == {partition: LogRange(3, 5)}
    member = await world.only_member(partition.topic)  # seeks to 0
    error = await raises(OffsetOutOfRange, member.read(partition, 1))
    assert isinstance(error, OffsetOutOfRange)
    assert (error.partition, error.offset) == (partition, 0)
    member.consumer.seek(partition, 3)
    assert values(await member.read(partition, 2)) == [b"3", b"4"]


# Reading in no group


async def read_to(reader: Reader, ends: Mapping[TopicPartition, int]) -> dict[TopicPartition, list[ConsumedRecord]]:
    """All records until each partition's position is at its end."""
    read: dict[TopicPartition, list[ConsumedRecord]] = {partition: [] for partition in ends}
    async with asyncio.timeout(PATIENCE):
        while any(reader.position(partition) < end for partition, end in ends.items()):
            for partition, records in (await reader.poll(max_records=7, timeout=0.2)).items():
                read[partition] += records
    return read


@case()
async def a_reader_reads_each_partition_from_its_offset_to_its_end(world: World) -> None:
    topic = await world.topic(2)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    await world.produce(first, numbers(30))
    await world.produce(second, numbers(10))
    reader = await world.reader({first: 12, second: 0})
    ends = {partition: found.end for partition, found in (await reader.log_ranges([first, second])).items()}
    assert ends == {first: 30, second: 10}
    read = await read_to(reader, ends)
    assert values(read[first]) == numbers(18, 12)
    assert values(read[second]) == numbers(10)
    assert not await reader.poll(max_records=1, timeout=0.05)


@case()
async def a_reader_returns_at_most_max_records_and_goes_on_behind_them(world: World) -> None:
    partition = TopicPartition(await world.topic(), 0)
    await world.produce(partition, numbers(20))
    reader = await world.reader({partition: 0})
    polled = await reader.poll(max_records=3, timeout=PATIENCE)
    assert values(polled[partition]) == numbers(3)
    assert reader.position(partition) == 3
    assert values((await reader.poll(max_records=2, timeout=PATIENCE))[partition]) == numbers(2, 3)


@case()
async def a_reader_that_is_assigned_anew_reads_nothing_else_any_more(world: World) -> None:
    topic = await world.topic(2)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    for partition in (first, second):
        await world.produce(partition, numbers(10))
    reader = await world.reader({first: 0, second: 0})
    await reader.poll(max_records=2, timeout=PATIENCE)
    reader.assign({second: 4})
    assert reader.position(second) == 4
    assert {tp: values(records) for tp, records in (await read_to(reader, {second: 10})).items()} == {
        second: numbers(6, 4)
    }
    reader.assign({first: 9})  # back to what it has read from before
    assert values((await read_to(reader, {first: 10}))[first]) == [b"9"]


@case()
async def a_reader_waits_for_what_arrives(world: World) -> None:
    partition = TopicPartition(await world.topic(), 0)
    reader, producer = await world.reader({partition: 0}), await world.producer()
    async with asyncio.TaskGroup() as tasks:
        poll = tasks.create_task(reader.poll(max_records=5, timeout=PATIENCE))
        await send(producer, partition, [(b"k", b"late", [("h", b"1")])])
    (record,) = poll.result()[partition]
    assert (record.key, record.value, list(record.headers)) == (b"k", b"late", [("h", b"1")])
    assert record.timestamp == SENT_MS


@case()
async def a_reader_finds_offsets_by_time(world: World) -> None:
    topic = await world.topic(2)
    filled, empty = TopicPartition(topic, 0), TopicPartition(topic, 1)
    await world.produce(filled, numbers(10))
    reader = await world.reader({})
    for timestamp, expected in [(-5, 0), (0, 0), (SENT_MS, 0), (SENT_MS + 4, 4), (SENT_MS + 9, 9)]:
        assert await reader.offsets_at([filled, empty], timestamp) == {filled: expected}
    assert await reader.offsets_at([filled, empty], SENT_MS + 10) == {}
    assert await reader.offsets_at([], SENT_MS) == {}
    assert await reader.log_ranges([]) == {}


@case("markers")
async def a_reader_moves_past_what_is_never_delivered(world: World) -> None:
    partition = TopicPartition(await world.topic(), 0)
    await world.produce(partition, numbers(3))
    await world.backend.end_in_markers(partition)
    reader = await world.reader({partition: 0})
    assert values((await read_to(reader, {partition: 5}))[partition]) == numbers(3)


@case()
async def a_reader_is_told_of_an_offset_beyond_the_end(world: World) -> None:
    partition = TopicPartition(await world.topic(), 0)
    await world.produce(partition, numbers(3))
    reader = await world.reader({partition: 4})
    error = await raises(OffsetOutOfRange, reader.poll(max_records=1, timeout=PATIENCE))
    assert isinstance(error, OffsetOutOfRange)
    assert (error.partition, error.offset) == (partition, 4)
    reader.assign({partition: 2})
    assert values((await read_to(reader, {partition: 3}))[partition]) == [b"2"]


@case("delete_records")
async def a_reader_is_told_of_an_offset_behind_the_start(world: World) -> None:
    partition = TopicPartition(await world.topic(), 0)
    await world.produce(partition, numbers(5))
    await world.backend.delete_records(partition, 3)
    reader = await world.reader({partition: 0})
    assert await reader.log_ranges([partition]) == {partition: LogRange(3, 5)}
    await raises(OffsetOutOfRange, reader.poll(max_records=1, timeout=PATIENCE))


@case()
async def a_reader_is_in_no_group_and_commits_nothing(world: World) -> None:
    partition = TopicPartition(await world.topic(), 0)
    await world.produce(partition, numbers(3))
    before = await world.admin.all_groups()
    await read_to(await world.reader({partition: 0}), {partition: 3})
    assert {name for name in await world.admin.all_groups() - before if not name.startswith("contract-")} == set()


@case()
async def a_reader_takes_no_negative_offset(world: World) -> None:
    reader = await world.reader({})
    try:
        reader.assign({TopicPartition(await world.topic(), 0): -1})
    except ValueError:
        return
    raise AssertionError("ValueError was not raised")


# Groups


@case()
async def a_group_says_who_has_which_partition(world: World) -> None:
    topic = await world.topic(partitions=3)
    partitions = [TopicPartition(topic, number) for number in range(3)]
    group = world.name("group")
    members = [await world.member(group, topic) for _ in range(2)]
    await world.shared(members, partitions)
    info = await world.admin.group(group)
    assert (info.state, info.members, set(info.owners)) == ("Stable", 2, set(partitions))
    assert sorted(Counter(owner.member_id for owner in info.owners.values()).values()) == [1, 2]
    assert all(owner.client_id and owner.host for owner in info.owners.values())


@case()
async def a_group_without_members_has_no_owners(world: World) -> None:
    partition = TopicPartition(await world.topic(), 0)
    group = world.name("group")
    assert await world.admin.group(group) == GroupInfo("Dead", 0, {})
    member = await world.member(group, partition.topic)
    await world.shared([member], [partition])
    await member.commit(partition, 1)
    await member.consumer.stop()
    assert await world.admin.group(group) == GroupInfo("Empty", 0, {})


# Commits


@case()
async def a_commit_is_read_back_with_its_metadata(world: World) -> None:
    topic = await world.topic(2)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    group = world.name("group")
    member = await world.member(group, topic)
    await world.shared([member], [first, second])
    assert await member.consumer.committed([first, second]) == {}
    longest = "x" * METADATA_LIMIT
    await member.commit(first, 7, longest)
    expected = {first: CommittedOffset(7, longest)}
    assert await member.consumer.committed([first, second]) == expected
    assert await world.admin.committed(group, [first, second]) == expected
    await member.commit(first, 8)
    assert await member.consumer.committed([first]) == {first: CommittedOffset(8, "")}


@case()
async def a_group_keeps_its_offsets_without_members(world: World) -> None:
    partition = TopicPartition(await world.topic(), 0)
    group = world.name("group")
    member = await world.member(group, partition.topic)
    await world.shared([member], [partition])
    await member.commit(partition, 3, "note")
    await member.consumer.stop()
    assert await world.admin.committed(group, [partition]) == {partition: CommittedOffset(3, "note")}
    successor = await world.member(group, partition.topic)
    await world.shared([successor], [partition])
    assert successor.started_from == {partition: CommittedOffset(3, "note")}


@case()
async def a_group_that_never_was_has_committed_nothing(world: World) -> None:
    partition = TopicPartition(await world.topic(), 0)
    assert await world.admin.committed(world.name("group"), [partition]) == {}


@case("metadata_limit")
async def longer_metadata_is_refused(world: World) -> None:
    partition = TopicPartition(await world.topic(), 0)
    member = await world.only_member(partition.topic)
    await member.commit(partition, 1)
    await raises(MetadataTooLarge, member.commit(partition, 2, "x" * (METADATA_LIMIT + 1)))
    assert await member.consumer.committed([partition]) == {partition: CommittedOffset(1)}
    await member.commit(partition, 3)


@case()
async def a_commit_of_an_earlier_generation_is_refused(world: World) -> None:
    topic = await world.topic(2)
    partitions = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    group = world.name("group")
    member = await world.member(group, topic)
    await world.shared([member], partitions)
    earlier = member.generation
    other = await world.member(group, topic)
    await world.shared([member, other], partitions)
    await raises(CommitRejected, member.consumer.commit({partitions[0]: CommittedOffset(5)}, earlier))
    await raises(CommitRejected, member.consumer.commit({partitions[0]: CommittedOffset(5)}, NO_GENERATION))
    assert await member.consumer.committed(partitions) == {}
    await member.commit(partitions[0], 6)


@case("rebalance_timeout")
async def a_member_that_does_not_join_in_time_is_thrown_out_and_its_commit_refused(world: World) -> None:
    partition = TopicPartition(await world.topic(), 0)
    group = world.name("group")
    # The group waits for a member drain_timeout + 2 request_timeout.
    hasty = replace(SETTINGS, drain_timeout=0.0, request_timeout=1.0)
    member = await world.member(group, partition.topic, settings=hasty)
    await world.shared([member], [partition])
    released = asyncio.Event()
    member.before_revoked_returns = lambda: _wait(released)
    generation = member.generation
    other = await world.member(group, partition.topic, settings=hasty)
    await world.until(lambda: other.partitions == {partition})
    await raises(CommitRejected, member.consumer.commit({partition: CommittedOffset(1)}, generation))
    assert await other.consumer.committed([partition]) == {}
    released.set()
    await other.consumer.stop()
    await world.shared([member], [partition])
    assert member.generation > generation


@case()
async def a_member_tells_when_a_broker_last_answered_it(world: World) -> None:
    loop = asyncio.get_running_loop()
    partition = TopicPartition(await world.topic(), 0)
    begun = loop.time()
    member = await world.member(world.name("group"), partition.topic)
    await world.shared([member], [partition])
    first = member.consumer.answered
    assert begun <= first <= loop.time()
    async with asyncio.timeout(PATIENCE):
        while member.consumer.answered == first:  # noqa: ASYNC110  (no event tells of a heartbeat)
            await asyncio.sleep(0.01)
    assert first < member.consumer.answered <= loop.time()


@case("session_expiry")
async def a_member_that_is_not_heard_from_loses_its_lease_and_then_its_partitions(world: World) -> None:
    partition = TopicPartition(await world.topic(), 0)
    group = world.name("group")
    member = await world.member(group, partition.topic, settings=SHORT_SESSION)
    await world.shared([member], [partition])
    await member.commit(partition, 1)
    other = await world.member(group, partition.topic, settings=SHORT_SESSION)
    await world.until(lambda: other.generation != NO_GENERATION and bool(member.partitions or other.partitions))
    holder, waiting = (member, other) if member.partitions else (other, member)
    generation, waiting_generation = holder.generation, waiting.generation
    world.backend.freeze(holder.consumer)
    assert holder.consumer.generation == generation
    await world.until(lambda: waiting.partitions == {partition} and waiting.generation > waiting_generation)
    assert asyncio.get_running_loop().time() >= holder.consumer.lease
    assert waiting.consumer.lease > asyncio.get_running_loop().time()
    await raises(CommitRejected, holder.consumer.commit({partition: CommittedOffset(9)}, generation))
    assert await waiting.consumer.committed([partition]) == {partition: CommittedOffset(1)}
    await world.until(lambda: bool(holder.revocations) and holder.revocations[-1] == (frozenset({partition}), True))


# Groups


@case()
async def members_share_the_partitions_and_who_stays_gets_all(world: World) -> None:
    topic = await world.topic(4)
    partitions = [TopicPartition(topic, number) for number in range(4)]
    group = world.name("group")
    first = await world.member(group, topic)
    await world.shared([first], partitions)
    second = await world.member(group, topic)
    await world.shared([first, second], partitions)
    assert len(first.partitions) == len(second.partitions) == 2
    assert first.revocations == [(frozenset(partitions), False)]
    await first.consumer.stop()
    assert first.consumer.generation == NO_GENERATION
    await world.shared([second], partitions)
    assert len(first.revocations) == 1  # stopping tells the listener nothing


@case()
async def stopping_leaves_the_group_at_once(world: World) -> None:
    partition = TopicPartition(await world.topic(), 0)
    group = world.name("group")
    first = await world.member(group, partition.topic)
    await world.shared([first], [partition])
    stopped = asyncio.get_running_loop().time()
    await first.consumer.stop()
    second = await world.member(group, partition.topic)
    await world.shared([second], [partition])
    assert asyncio.get_running_loop().time() - stopped < SETTINGS.session_timeout / 4


@case("commit_in_rebalance")
async def what_revoked_commits_the_next_owner_starts_from(world: World) -> None:
    topic = await world.topic(2)
    partitions = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    group = world.name("group")
    first = await world.member(group, topic)
    await world.shared([first], partitions)

    async def commit() -> None:
        first.before_revoked_returns = None
        await first.consumer.commit({each: CommittedOffset(11) for each in partitions}, first.generation)

    first.before_revoked_returns = commit
    second = await world.member(group, topic)
    await world.shared([first, second], partitions)
    assert second.started_from == dict.fromkeys(second.partitions, CommittedOffset(11))


@case()
async def nobody_gets_a_partition_before_revoked_has_returned(world: World) -> None:
    topic = await world.topic(2)
    partitions = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    group = world.name("group")
    first = await world.member(group, topic)
    await world.shared([first], partitions)
    released = asyncio.Event()
    first.before_revoked_returns = lambda: _wait(released)
    second = await world.member(group, topic)
    await world.until(lambda: bool(first.revocations))
    await asyncio.sleep(3 * SETTINGS.heartbeat_interval)
    assert not second.partitions
    released.set()
    await world.shared([first, second], partitions)


@case()
async def a_poll_during_a_rebalance_returns_nothing_that_was_lost(world: World) -> None:
    topic = await world.topic(2)
    partitions = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    for partition in partitions:
        await world.produce(partition, numbers(3))
    group = world.name("group")
    first = await world.member(group, topic)
    await world.shared([first], partitions)
    released = asyncio.Event()
    first.before_revoked_returns = lambda: _wait(released)
    second = await world.member(group, topic)
    await world.until(lambda: bool(first.revocations))
    poll = asyncio.create_task(first.poll(*partitions, seconds=0.01))
    await asyncio.sleep(0.2)
    assert not poll.done(), "a poll waits for the assignment, whatever its timeout"
    released.set()
    await world.shared([first, second], partitions)
    async with asyncio.timeout(PATIENCE):
        assert set(await poll) <= first.partitions


@case()
async def a_storm_of_joins_and_leaves_loses_no_partition(world: World) -> None:
    topic = await world.topic(6)
    partitions = [TopicPartition(topic, number) for number in range(6)]
    group = world.name("group")
    steady = [await world.member(group, topic) for _ in range(2)]
    for wave in range(5):
        guests = [await world.member(group, topic) for _ in range(2)]
        if wave % 2:
            await world.shared([*steady, *guests], partitions)
        for guest in guests:
            await guest.consumer.stop()
    await world.shared(steady, partitions)
    for member in steady:
        held = {partition: CommittedOffset(1) for partition in member.partitions}
        await member.consumer.commit(held, member.consumer.generation)
    assert await world.admin.committed(group, partitions) == dict.fromkeys(partitions, CommittedOffset(1))


@case()
async def partition_p_of_several_topics_goes_to_one_member(world: World) -> None:
    topics = [await world.topic(4), await world.topic(4)]
    partitions = [TopicPartition(topic, number) for topic in topics for number in range(4)]
    group = world.name("group")
    members = [await world.member(group, *topics) for _ in range(2)]
    await world.shared(members, partitions)
    for member in members:
        of_topic = [{tp.partition for tp in member.partitions if tp.topic == topic} for topic in topics]
        assert of_topic[0] == of_topic[1]


@case("grow")
async def a_topic_that_grows_is_assigned_anew(world: World) -> None:
    topic = await world.topic(3)
    member = await world.only_member(topic)
    assert member.consumer.partition_count(topic) == 3
    await world.backend.add_partitions(topic, 6)
    partitions = [TopicPartition(topic, number) for number in range(6)]
    await world.shared([member], partitions)
    assert member.consumer.partition_count(topic) == 6
    await world.settled_topic(topic, 6)
    await world.produce(partitions[5], [b"new"])
    assert values(await member.read(partitions[5], 1)) == [b"new"]


@case()
async def what_a_listener_raises_the_next_poll_raises(world: World) -> None:
    topic = await world.topic()

    class Broken(Member):
        async def assigned(self, partitions: Collection[TopicPartition]) -> None:
            raise RuntimeError("broken listener")

    member = await world.member(world.name("group"), topic, kind=Broken)
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                await member.poll(seconds=0.05)
    except RuntimeError as error:
        assert str(error) == "broken listener"


# Topics


@case("no_auto_create")
async def a_missing_topic_is_not_created_by_asking(world: World) -> None:
    missing = world.name("missing")
    assert await world.admin.topics([missing]) == {}
    producer = await world.producer()
    error = await raises(TopicMissing, producer.partition_count(missing))
    assert isinstance(error, TopicMissing)
    assert error.topic == missing
    member = await world.member(world.name("group"), missing)
    await world.until(lambda: member.generation != NO_GENERATION)
    assert not member.partitions
    assert not await member.poll(seconds=0.1)
    assert member.consumer.partition_count(missing) == 0
    await asyncio.sleep(1.5 * SETTINGS.metadata_max_age)
    assert await world.admin.topics([missing]) == {}


@case()
async def topics_are_created_once_with_their_partitions(world: World) -> None:
    topic = NewTopic(world.name("topic"), 3)
    other = NewTopic(world.name("topic"), 2)
    await world.admin.create_topics([topic])
    await world.settled_topic(topic.name, 3)
    await world.admin.create_topics([replace(topic, partitions=5), other])
    await world.settled_topic(other.name, 2)
    found = await world.admin.topics([topic.name, other.name])
    assert {name: info.partitions for name, info in found.items()} == {topic.name: 3, other.name: 2}
    assert await (await world.producer()).partition_count(topic.name) == 3


@case("size_limit")
async def a_topic_is_created_with_its_settings(world: World) -> None:
    topic = await world.topic(max_message_bytes="5000")
    assert (await world.admin.topics([topic]))[topic].max_message_bytes == 5000


@case("topic_config")
async def a_topic_shows_its_settings_and_what_it_has_by_default(world: World) -> None:
    settings = {
        "cleanup_policy": "compact,delete",
        "max_message_bytes": "2000000",
        "message_timestamp_type": "LogAppendTime",
        "min_insync_replicas": "1",
        "retention_ms": "-1",
    }
    given = await world.topic(1, **settings)
    plain = await world.topic(2, segment_ms="60000")
    found = await world.admin.topics([given, plain])
    assert found[given].config == {name.replace("_", "."): value for name, value in settings.items()}
    assert set(found[plain].config) == set(SHOWN_CONFIG)
    assert found[plain].config["message.timestamp.type"] == "CreateTime"
    assert int(found[plain].config["max.message.bytes"]) == found[plain].max_message_bytes


@case()
async def a_topic_shows_how_often_it_is_replicated(world: World) -> None:
    topic = NewTopic(world.name("topic"), 3, 1)
    await world.admin.create_topics([topic])
    await world.settled_topic(topic.name, 3)
    assert (await world.admin.topics([topic.name]))[topic.name].replication == 1


@case("topic_config")
async def a_topic_with_a_bad_name_is_refused(world: World) -> None:
    await raises(Refused, world.admin.create_topics([NewTopic("not a name", 1)]))


@case("topic_config")
async def a_topic_with_append_time_stamps_what_arrives(world: World) -> None:
    partition = TopicPartition(await world.topic(message_timestamp_type="LogAppendTime"), 0)
    await world.produce(partition, [b"x"])
    (record,) = await (await world.only_member(partition.topic)).read(partition, 1)
    assert record.timestamp > SENT_MS + 1_000_000


@case()
async def log_ranges_are_known_from_outside(world: World) -> None:
    topic = await world.topic(2)
    filled, empty = TopicPartition(topic, 0), TopicPartition(topic, 1)
    await world.produce(filled, numbers(4))
    assert await world.admin.log_ranges([filled, empty]) == {filled: LogRange(0, 4), empty: LogRange(0, 0)}
    assert await world.admin.high_watermarks([filled, empty]) == {filled: 4, empty: 0}
    assert await world.admin.high_watermarks([]) == {}


@case("delete_records")
async def what_lies_before_an_offset_can_be_deleted(world: World) -> None:
    topic = await world.topic(3)
    partitions = [TopicPartition(topic, number) for number in range(3)]
    for partition in partitions:
        await world.produce(partition, numbers(4))
    first, second, third = partitions
    await world.admin.delete_records({first: 1, second: 4})
    left = {first: LogRange(1, 4), second: LogRange(4, 4), third: LogRange(0, 4)}
    assert await world.admin.log_ranges(partitions) == left
    await world.admin.delete_records({first: 1, second: 3, third: 0})
    assert await world.admin.log_ranges(partitions) == left
    read = await read_to(await world.reader({first: 1}), {first: 4})
    assert values(read[first]) == [b"1", b"2", b"3"]


@case("delete_records")
async def nothing_past_the_end_can_be_deleted(world: World) -> None:
    partition = TopicPartition(await world.topic(), 0)
    await world.produce(partition, numbers(2))
    error = await raises(OffsetOutOfRange, world.admin.delete_records({partition: 3}))
    assert isinstance(error, OffsetOutOfRange)
    assert (error.partition, error.offset) == (partition, 3)
    assert await world.admin.log_ranges([partition]) == {partition: LogRange(0, 2)}


@case("delete_records")
async def a_negative_offset_does_not_stand_for_the_end_of_the_log(world: World) -> None:
    partition = TopicPartition(await world.topic(), 0)
    await world.produce(partition, numbers(2))
    await raises(ValueError, world.admin.delete_records({partition: -1}))
    assert await world.admin.log_ranges([partition]) == {partition: LogRange(0, 2)}


@case("delete_records")
async def what_is_only_compacted_is_not_deleted(world: World) -> None:
    compacted = TopicPartition(await world.topic(cleanup_policy="compact"), 0)
    both = TopicPartition(await world.topic(cleanup_policy="compact,delete"), 0)
    for partition in (compacted, both):
        await send(await world.producer(), partition, [(b"key", b"value", [])])
    error = await raises(Refused, world.admin.delete_records({compacted: 1}))
    assert str(error) == f"{compacted.topic}[0] could not be emptied up to offset 1: its cleanup.policy does not delete"
    await world.admin.delete_records({both: 1})
    assert await world.admin.log_ranges([compacted, both]) == {compacted: LogRange(0, 1), both: LogRange(1, 1)}


@case("delete_records")
async def nothing_can_be_deleted_of_a_topic_that_does_not_exist(world: World) -> None:
    topic = await world.topic()
    for missing in (TopicPartition(world.name("missing"), 0), TopicPartition(topic, 1)):
        error = await raises(TopicMissing, world.admin.delete_records({missing: 0}))
        assert isinstance(error, TopicMissing)
        assert error.topic == missing.topic
    assert missing.topic == topic


@case()
async def topics_and_groups_can_be_listed(world: World) -> None:
    assert not {name for name in await world.admin.all_topics() if name.startswith("__")}
    topic, group, other = await world.topic(), world.name("group"), world.name("group")
    assert topic in await world.admin.all_topics()
    member = await world.member(group, topic)
    await world.until(lambda: bool(member.partitions))
    await member.commit(TopicPartition(topic, 0), 0)
    await member.consumer.stop()
    assert {group, other} & await world.admin.all_groups() == {group}


@case()
async def nothing_asked_for_is_nothing_answered(world: World) -> None:
    assert await world.admin.topics([]) == {}
    assert await world.admin.log_ranges([]) == {}
    assert await world.admin.committed(world.name("group"), []) == {}
    await world.admin.delete_records({})


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
