"""What docs/aiokafka.md says is worked around, number by number; each of these fails without its work-around.

Tests that begin with `test_aiokafka` show the fault itself: when one of them fails after an upgrade of aiokafka, its
work-around may go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple, Protocol, TypeVar

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.conn import create_conn
from aiokafka.consumer.subscription_state import SubscriptionState

from streamkit.errors import TransportError
from streamkit.observe.slots import WorkerSlots
from streamkit.record import ConsumedRecord, TopicPartition
from streamkit.runtime.publisher import Publisher
from streamkit.settings import Settings
from streamkit.transport.base import (
    NO_GENERATION,
    CommitRejected,
    CommittedOffset,
    FetchFailed,
    LogRange,
    NewTopic,
    OffsetOutOfRange,
    Producer,
    RecordTooLarge,
    Refused,
    Stored,
    TopicMissing,
    Unreachable,
)
from streamkit.transport.kafka import client, consumer, producer
from streamkit.transport.kafka.admin import KafkaAdmin
from streamkit.transport.kafka.consumer import KafkaConsumer
from streamkit.transport.kafka.failures import translated
from streamkit.transport.kafka.producer import KafkaProducer
from streamkit.transport.kafka.reader import KafkaReader
from tests.faults.support import create, producer_of, unique
from tests.kafka.server import ExistingKafka, GenuineKafka
from tests.transport.kafka import scripted
from tests.transport.kafka.scripted import TOPIC, ScriptedBroker, record_batch, silence

GROUP = "g"
FIRST, SECOND = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)
KAFKA_FIRST = KafkaPartition(TOPIC, 0)
PATIENCE = 10.0
NOT_LOADED, NOT_AVAILABLE, NOT_COORDINATOR = 14, 15, 16
UNKNOWN_MEMBER, REBALANCING, GROUP_FORBIDDEN, UNSTABLE = 25, 27, 30, 88
PARTITIONS = 3

Kafka = GenuineKafka | ExistingKafka
T = TypeVar("T")


class Client(Protocol):
    async def start(self) -> None: ...
    async def stop(self) -> None: ...


C = TypeVar("C", bound=Client)


def with_broker(case: Callable[[ScriptedBroker], Coroutine[Any, Any, None]], partitions: int = 1) -> None:
    async def run() -> None:
        async with asyncio.timeout(3 * PATIENCE), ScriptedBroker(partitions) as broker:
            await case(broker)

    asyncio.run(run())


@asynccontextmanager
async def started(made: C) -> AsyncIterator[C]:
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


class Listener:
    """Reads from offset 0 what it is assigned."""

    def __init__(self, member: KafkaConsumer) -> None:
        self.member = member
        self.calls: list[str] = []
        self.changed = asyncio.Event()
        self.in_revoked: Callable[[], Awaitable[None]] | None = None

    async def revoked(self, partitions: Collection[TopicPartition], *, lost: bool) -> None:
        self._note("lost" if lost else "revoked")
        if self.in_revoked is not None:
            await self.in_revoked()

    async def assigned(self, partitions: Collection[TopicPartition]) -> None:
        for partition in partitions:
            self.member.seek(partition, 0)
        self._note("assigned")

    async def until(self, call: str, times: int = 1) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.calls.count(call) < times:
                self.changed.clear()
                await self.changed.wait()

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self.changed.set()


@asynccontextmanager
async def membership(broker: ScriptedBroker, **settings: Any) -> AsyncIterator[tuple[KafkaConsumer, Listener]]:
    """A member that has been assigned every partition."""
    async with started(KafkaConsumer(broker.settings(**settings), GROUP)) as member:
        listener = Listener(member)
        member.subscribe([TOPIC], listener)
        await listener.until("assigned")
        yield member, listener


async def read(member: KafkaConsumer, partition: TopicPartition, count: int) -> list[ConsumedRecord]:
    records: list[ConsumedRecord] = []
    async with asyncio.timeout(PATIENCE):
        while len(records) < count:
            records += (await member.poll([partition], max_records=count, timeout=0.1)).get(partition, [])
    return records


def in_turn(*answers: scripted.Answer) -> scripted.Answer:
    """One answer after another, the last one for ever."""
    waiting = list(answers)
    return lambda request: (waiting.pop(0) if len(waiting) > 1 else waiting[0])(request)


def offset_fetch_error(code: int) -> scripted.Answer:
    """Of the whole group: no topics, and the error beside them."""
    return lambda request: (0, [], code) if request.API_VERSION < 7 else (0, [], code, {})


async def within(seconds: float, work: Awaitable[T]) -> T:
    async with asyncio.timeout(seconds):
        return await work


# R1: OffsetFetch


@pytest.mark.parametrize("version", [3, 7])
@pytest.mark.parametrize("code", [NOT_LOADED, NOT_AVAILABLE, NOT_COORDINATOR])
def test_an_error_of_the_whole_group_is_not_taken_for_nothing_committed(code: int, version: int) -> None:
    async def case(broker: ScriptedBroker) -> None:
        broker.versions[scripted.OFFSET_FETCH] = (0, version)
        broker.committed[0] = (20, "note")
        broker.answers[scripted.OFFSET_FETCH] = in_turn(
            offset_fetch_error(code), offset_fetch_error(code), broker.answers[scripted.OFFSET_FETCH]
        )
        async with started(KafkaConsumer(broker.settings(), GROUP)) as member:
            assert await member.committed([FIRST]) == {FIRST: CommittedOffset(20, "note")}
        assert {request.API_VERSION for request in broker.asked(scripted.OFFSET_FETCH)} == {version}
        if code != NOT_LOADED:
            assert len(broker.asked(scripted.FIND_COORDINATOR)) >= 3, "the coordinator is looked for again"

    with_broker(case)


def test_aiokafka_takes_an_error_of_the_whole_group_for_nothing_committed() -> None:
    async def case(broker: ScriptedBroker) -> None:
        broker.committed[0] = (20, "")
        broker.answers[scripted.OFFSET_FETCH] = offset_fetch_error(NOT_COORDINATOR)
        stock = AIOKafkaConsumer(bootstrap_servers=f"{broker.host}:{broker.port}", group_id=GROUP)
        async with started(stock):
            assert await within(PATIENCE, stock.committed(KAFKA_FIRST)) is None

    with_broker(case)


def test_a_group_that_may_not_be_read_is_refused_and_not_begun_anew() -> None:
    async def case(broker: ScriptedBroker) -> None:
        broker.answers[scripted.OFFSET_FETCH] = offset_fetch_error(GROUP_FORBIDDEN)
        async with (
            started(KafkaConsumer(broker.settings(), GROUP)) as member,
            started(KafkaAdmin(broker.settings())) as admin,
        ):
            with pytest.raises(Refused):
                await member.committed([FIRST])
            with pytest.raises(Refused):
                await admin.committed(GROUP, [FIRST])

    with_broker(case)


# R5, R6, R10: commits


def test_an_offset_that_a_transaction_is_about_to_move_is_waited_for() -> None:
    async def case(broker: ScriptedBroker) -> None:
        def unstable(request: Any) -> Sequence[Any]:
            return 0, [(TOPIC, [(0, -1, -1, "", UNSTABLE, {})], {})], 0, {}

        broker.committed[0] = (5, "")
        broker.answers[scripted.OFFSET_FETCH] = in_turn(unstable, broker.answers[scripted.OFFSET_FETCH])
        async with started(KafkaConsumer(broker.settings(), GROUP)) as member:
            assert await member.committed([FIRST]) == {FIRST: CommittedOffset(5)}
        assert all(request.require_stable for request in broker.asked(scripted.OFFSET_FETCH))

    with_broker(case)


@pytest.mark.parametrize("generation", [0, 2, NO_GENERATION])
def test_a_commit_of_another_generation_sends_no_request(generation: int) -> None:
    async def case(broker: ScriptedBroker) -> None:
        async with membership(broker) as (member, _):
            with pytest.raises(CommitRejected):
                await member.commit({FIRST: CommittedOffset(3)}, generation)
            await member.commit({FIRST: CommittedOffset(4)}, 1)
        (request,) = broker.asked(scripted.OFFSET_COMMIT)
        assert (request.consumer_group_generation_id, request.topics) == (1, [(TOPIC, [(0, 4, "")])])

    with_broker(case)


def test_a_commit_that_waits_for_its_coordinator_does_not_go_out_in_a_later_generation() -> None:
    async def case(broker: ScriptedBroker) -> None:
        async with membership(broker) as (member, _):
            lookups = len(broker.asked(scripted.FIND_COORDINATOR))
            member._coordinator.coordinator_dead()
            commit = asyncio.create_task(member.commit({FIRST: CommittedOffset(3)}, 1))
            await broker.until_asked(scripted.FIND_COORDINATOR, lookups + 1)
            # Meanwhile the group has gone on, and may have given the partition to another member.
            member._coordinator.generation = 2
            with pytest.raises(CommitRejected):
                await commit
        assert not broker.asked(scripted.OFFSET_COMMIT)

    with_broker(case)


def test_a_commit_that_fails_is_not_repeated_behind_the_engines_back() -> None:
    async def case(broker: ScriptedBroker) -> None:
        broker.answers[scripted.OFFSET_COMMIT] = lambda _: (0, [(TOPIC, [(0, NOT_COORDINATOR)])])
        async with membership(broker) as (member, _):
            with pytest.raises(TransportError):
                await member.commit({FIRST: CommittedOffset(3)}, 1)
            assert len(broker.asked(scripted.OFFSET_COMMIT)) == 1

    with_broker(case)


@pytest.mark.usefixtures("hasty")
def test_a_member_that_was_thrown_out_commits_nothing() -> None:
    async def case(broker: ScriptedBroker) -> None:
        async with membership(broker) as (member, listener):
            broker.answers[scripted.JOIN_GROUP] = silence
            broker.answers[scripted.HEARTBEAT] = lambda _: (0, UNKNOWN_MEMBER)
            await listener.until("lost")
            for generation in (1, NO_GENERATION):
                with pytest.raises(CommitRejected):
                    await member.commit({FIRST: CommittedOffset(3)}, generation)
        assert not broker.asked(scripted.OFFSET_COMMIT)

    with_broker(case)


def test_a_producer_opens_no_transaction() -> None:
    async def case(broker: ScriptedBroker) -> None:
        async with started(KafkaProducer(broker.settings())) as sender:
            await (await sender.send(batch_of(sender, b"x"), TOPIC, 0))
        (request,) = broker.asked(scripted.INIT_PRODUCER_ID)
        assert request.transactional_id is None

    with_broker(case)


# R7, R8: the listener and the rebalance


def test_what_a_listener_raises_fails_the_next_poll() -> None:
    async def case(broker: ScriptedBroker) -> None:
        async with membership(broker) as (member, listener):

            async def broken() -> None:
                raise RuntimeError("broken listener")

            listener.in_revoked = broken
            broker.answers[scripted.HEARTBEAT] = in_turn(lambda _: (0, REBALANCING), lambda _: (0, 0))
            await listener.until("assigned", 2)
            with pytest.raises(RuntimeError, match="broken listener"):
                await member.poll([FIRST], max_records=1, timeout=0)

    with_broker(case)


def test_losing_partitions_is_told_from_giving_them_back() -> None:
    async def case(broker: ScriptedBroker) -> None:
        async with membership(broker) as (_, listener):
            assert listener.calls == ["assigned"], "before the first assignment there is nothing to revoke"
            broker.answers[scripted.HEARTBEAT] = in_turn(lambda _: (0, REBALANCING), lambda _: (0, 0))
            await listener.until("assigned", 2)
            broker.answers[scripted.HEARTBEAT] = in_turn(lambda _: (0, UNKNOWN_MEMBER), lambda _: (0, 0))
            await listener.until("assigned", 3)
        assert listener.calls == ["assigned", "revoked", "assigned", "lost", "assigned"]

    with_broker(case)


def test_the_last_commit_goes_through_while_a_poll_waits_for_the_rebalance() -> None:
    async def case(broker: ScriptedBroker) -> None:
        async with membership(broker) as (member, listener):
            gone, released = asyncio.Event(), asyncio.Event()

            async def drained() -> None:
                await member.commit({FIRST: CommittedOffset(3)}, 1)
                gone.set()
                await released.wait()

            listener.in_revoked = drained
            broker.answers[scripted.HEARTBEAT] = in_turn(lambda _: (0, REBALANCING), lambda _: (0, 0))
            await listener.until("revoked")
            poll = asyncio.create_task(member.poll([FIRST], max_records=1, timeout=0.01))
            await within(PATIENCE, gone.wait())
            await asyncio.sleep(0.1)
            assert not poll.done(), "R8 is mended: a poll keeps to its timeout while the group rebalances"
            released.set()
            await within(PATIENCE, poll)
        assert len(broker.asked(scripted.OFFSET_COMMIT)) == 1

    with_broker(case)


# R9, R11, R12: how a member joins and stays


def test_a_member_is_never_taken_out_of_the_group_for_want_of_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    async def case(broker: ScriptedBroker) -> None:
        async with membership(broker) as (member, listener):
            monkeypatch.setattr(SubscriptionState, "fetcher_idle_time", property(lambda _: 20 * 86_400.0))
            await broker.until_asked(scripted.HEARTBEAT, len(broker.asked(scripted.HEARTBEAT)) + 3)
            assert member.generation == 1
            assert not broker.asked(scripted.LEAVE_GROUP)
            assert listener.calls == ["assigned"]

    with_broker(case)


def test_the_group_waits_for_a_whole_drain() -> None:
    async def case(broker: ScriptedBroker) -> None:
        async with membership(broker, drain_timeout=40.0, request_timeout=5.0, session_timeout=10.0):
            (request,) = broker.asked(scripted.JOIN_GROUP)
        assert request.session_timeout == 10_000
        assert request.rebalance_timeout == 50_000

    with_broker(case)


def test_a_member_joins_once_and_offers_range_alone() -> None:
    async def case(broker: ScriptedBroker) -> None:
        async with membership(broker):
            (request,) = broker.asked(scripted.JOIN_GROUP)
        assert [name for name, _ in request.group_protocols] == ["range"]

    with_broker(case)


# R14: the lease


def test_the_lease_runs_out_while_aiokafka_still_believes_in_its_session() -> None:
    async def case(broker: ScriptedBroker) -> None:
        loop = asyncio.get_running_loop()
        async with membership(broker, session_timeout=0.6, request_timeout=0.5) as (member, _):
            await broker.until_asked(scripted.HEARTBEAT, 2)
            broker.answers[scripted.HEARTBEAT] = silence
            assert member.lease > loop.time()
            # Nothing tells of its end, and a heartbeat may still be answered.
            while (left := member.lease - loop.time()) > 0:  # noqa: ASYNC110
                await asyncio.sleep(left)
            assert member.generation == 1

    with_broker(case)


def test_the_lease_counts_from_when_a_heartbeat_was_sent() -> None:
    async def case(broker: ScriptedBroker) -> None:
        async with membership(broker, session_timeout=10.0, heartbeat_interval=3.0) as (member, _):
            joined = member.lease
            sent: list[float] = []

            async def slow() -> bool:
                sent.append(asyncio.get_running_loop().time())
                await asyncio.sleep(0.1)
                return True

            member._coordinator._do_heartbeat = slow
            member._watch_heartbeats(member._coordinator)
            await member._coordinator._do_heartbeat()
            assert member.lease > joined
            assert member.lease == pytest.approx(sent[0] + 10.0, abs=0.01)

    with_broker(case)


def test_a_heartbeat_that_hangs_is_given_up_before_the_session_ends() -> None:
    async def case(broker: ScriptedBroker) -> None:
        loop = asyncio.get_running_loop()
        async with membership(broker, session_timeout=5.0, request_timeout=0.3) as (member, listener):
            broker.answers[scripted.HEARTBEAT] = in_turn(silence, lambda _: (0, 0))
            beats = len(broker.asked(scripted.HEARTBEAT))
            await broker.until_asked(scripted.HEARTBEAT, beats + 1)
            lease = member.lease
            await within(3.0, broker.until_asked(scripted.HEARTBEAT, beats + 3))
            assert member.lease > lease > loop.time()
            assert listener.calls == ["assigned"]

    with_broker(case)


# R15, R16, R18: fetching


def test_what_was_fetched_of_partitions_that_wait_is_kept() -> None:
    async def case(broker: ScriptedBroker) -> None:
        for number in (0, 1):
            broker.log[number] = [record_batch([b"%d" % n for n in range(100)])]
        async with membership(broker) as (member, _):
            await read(member, SECOND, 5)
            for _ in range(19):
                assert not await member.poll([], max_records=5, timeout=0)
                await read(member, SECOND, 5)
            assert [record.value for record in await read(member, FIRST, 100)] == [b"%d" % n for n in range(100)]
        from_start = [
            partition
            for request in broker.asked(scripted.FETCH)
            for _, partitions in request.topics
            for partition, _, offset, _, _ in partitions
            if offset < 100
        ]
        assert sorted(from_start) == [0, 1], "each partition is fetched once"

    with_broker(case, partitions=2)


def test_keys_and_values_come_as_the_bytes_that_they_are() -> None:
    async def case(broker: ScriptedBroker) -> None:
        values = [b"\xff\xfe", b"{not json", b""]
        broker.log[0] = [record_batch(values)]
        async with membership(broker) as (member, _):
            assert [record.value for record in await read(member, FIRST, 3)] == values

    with_broker(case)


def test_a_corrupt_batch_is_an_error_and_is_not_passed_over() -> None:
    async def case(broker: ScriptedBroker) -> None:
        batch = bytearray(record_batch([b"abc"]))
        batch[-2] ^= 1
        broker.log[0] = [bytes(batch), record_batch([b"next"], 1)]
        async with membership(broker) as (member, _):
            for _ in range(2):
                with pytest.raises(FetchFailed):
                    await read(member, FIRST, 1)
                assert member.position(FIRST) == 0

    with_broker(case)


def test_an_offset_out_of_range_is_an_error_and_moves_nothing() -> None:
    async def case(broker: ScriptedBroker) -> None:
        out_of_range = [(0, 1, -1, -1, -1, None, -1, b"x")]
        broker.answers[scripted.FETCH] = lambda _: (0, 0, 0, [(TOPIC, out_of_range)])
        async with membership(broker) as (member, _):
            with pytest.raises(OffsetOutOfRange) as raised:
                await read(member, FIRST, 1)
            assert (raised.value.partition, raised.value.offset) == (FIRST, 0)
            assert member.position(FIRST) == 0
        assert not broker.asked(scripted.LIST_OFFSETS), "nobody looked for another offset"
        assert {request.rack_id for request in broker.asked(scripted.FETCH)} == {""}, "a follower may lag behind"

    with_broker(case)


def test_a_group_that_has_committed_nothing_is_given_no_offset() -> None:
    async def case(broker: ScriptedBroker) -> None:
        class Waiting(Listener):
            async def assigned(self, partitions: Collection[TopicPartition]) -> None:
                self._note("assigned")

        async with started(KafkaConsumer(broker.settings(), GROUP)) as member:
            listener = Waiting(member)
            member.subscribe([TOPIC], listener)
            await listener.until("assigned")
            for _ in range(3):
                assert not await member.poll([FIRST], max_records=1, timeout=0.05)
        assert not broker.asked(scripted.LIST_OFFSETS)
        assert not broker.asked(scripted.FETCH)

    with_broker(case)


# R17: topics are not created in passing


def test_no_client_lets_the_brokers_create_a_topic_by_asking_for_it() -> None:
    async def case(broker: ScriptedBroker) -> None:
        async with (
            membership(broker, metadata_max_age=0.1),
            started(KafkaProducer(broker.settings())) as sender,
            started(KafkaAdmin(broker.settings())) as admin,
        ):
            assert await sender.partition_count(TOPIC) == 1
            await admin._admin.describe_topics(["missing"])
            await broker.until_asked(scripted.METADATA, len(broker.asked(scripted.METADATA)) + 2)
        asked = broker.asked(scripted.METADATA)
        assert {request.API_VERSION for request in asked} == {5}
        assert not any(request.allow_auto_topic_creation for request in asked)

    with_broker(case)


# R20: deadlines


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CUT_TIMEOUT", 0.3)
    monkeypatch.setattr(consumer, "STOP_TIMEOUT", 0.3)
    monkeypatch.setattr(producer, "STOP_TIMEOUT", 0.3)


@pytest.mark.usefixtures("hasty")
def test_a_consumer_stops_in_time_when_the_broker_has_gone_silent() -> None:
    async def case(broker: ScriptedBroker) -> None:
        async with membership(broker, request_timeout=9.0) as (member, _):
            broker.go_silent()
            await within(2.0, member.stop())

    with_broker(case)


@pytest.mark.usefixtures("hasty")
def test_a_producer_stops_in_time_and_fails_what_is_not_acknowledged() -> None:
    async def case(broker: ScriptedBroker) -> None:
        async with tidy(), started(KafkaProducer(broker.settings(request_timeout=9.0))) as sender:
            broker.answers[scripted.PRODUCE] = silence
            acknowledged = await sender.send(batch_of(sender, b"x"), TOPIC, 0)
            await broker.until_asked(scripted.PRODUCE)
            await within(2.0, sender.stop())
            with pytest.raises(TransportError):
                await within(1.0, acknowledged)

    with_broker(case)


@pytest.mark.usefixtures("hasty")
def test_a_producer_that_is_about_to_send_again_stops_in_time() -> None:
    not_the_leader = 6

    async def case(broker: ScriptedBroker) -> None:
        async with tidy(), started(KafkaProducer(broker.settings(request_timeout=9.0))) as sender:
            broker.answers[scripted.PRODUCE] = lambda request: (
                [(topic, [(p, not_the_leader, -1, -1, 0) for p, _ in rows]) for topic, rows in request.topics],
                0,
            )
            sent = [await sender.send(batch_of(sender, b"x"), TOPIC, number) for number in (0, 1)]
            broker.answers[scripted.METADATA] = silence  # the batches are put back until the leader is known
            asked = len(broker.asked(scripted.METADATA))
            await broker.until_asked(scripted.METADATA, asked + 1)
            await asyncio.sleep(0.1)
            await within(2.0, sender.stop())
            for acknowledged in sent:
                with pytest.raises(TransportError):
                    await within(1.0, acknowledged)

    with_broker(case, partitions=2)


@asynccontextmanager
async def tidy() -> AsyncIterator[None]:
    """No task is left at the end of the block, and no error went unnoticed."""
    noted: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noted.append(context))
    before = asyncio.all_tasks()
    yield
    await asyncio.sleep(0.05)
    servers = {task for task in asyncio.all_tasks() if "ScriptedBroker" in repr(task)}
    assert not asyncio.all_tasks() - before - servers
    assert not noted


def test_aiokafkas_own_stop_waits_for_what_is_never_acknowledged() -> None:
    async def case(broker: ScriptedBroker) -> None:
        sender = KafkaProducer(broker.settings(request_timeout=0.3))
        await sender.start()
        broker.answers[scripted.PRODUCE] = silence
        acknowledged = await sender.send(batch_of(sender, b"x"), TOPIC, 0)
        await broker.until_asked(scripted.PRODUCE)
        stop = asyncio.create_task(sender._producer.stop())
        await asyncio.wait([stop], timeout=1.5)
        assert not stop.done()
        await producer._abandon(sender._producer)
        await within(PATIENCE, asyncio.wait([stop, acknowledged]))
        assert acknowledged.exception()

    with_broker(case)


@pytest.mark.usefixtures("hasty")
def test_an_admin_stops_in_time_when_the_broker_has_gone_silent() -> None:
    async def case(broker: ScriptedBroker) -> None:
        async with started(KafkaAdmin(broker.settings(request_timeout=9.0))) as admin:
            broker.go_silent()
            await within(4.0, admin.stop())

    with_broker(case)


def test_a_reader_does_not_wait_for_ever_when_the_broker_has_gone_silent() -> None:
    async def case(broker: ScriptedBroker) -> None:
        async with started(KafkaReader(broker.settings(request_timeout=1.0))) as reader:
            reader.assign({FIRST: 0})
            await reader.poll(max_records=1, timeout=0.1)
            broker.go_silent()
            with pytest.raises(Unreachable, match="nothing was heard of"):
                async with asyncio.timeout(PATIENCE):
                    while True:
                        await reader.poll(max_records=1, timeout=0.1)
            await within(7.0, reader.stop())

    with_broker(case)


# aiokafka forgets the connection of a bootstrap that is cancelled; it is closed when it is collected.
@pytest.mark.filterwarnings("ignore:Unclosed AIOKafkaConnection:ResourceWarning")
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    "make", [KafkaProducer, KafkaAdmin, KafkaReader, lambda settings: KafkaConsumer(settings, GROUP)]
)
@pytest.mark.parametrize("silent", [scripted.API_VERSIONS, scripted.METADATA, scripted.INIT_PRODUCER_ID])
def test_starting_is_given_up_when_the_broker_does_not_answer(make: Callable[[Settings], Client], silent: int) -> None:
    async def case(broker: ScriptedBroker) -> None:
        broker.answers[silent] = silence
        made = make(broker.settings(request_timeout=0.5))
        if silent == scripted.INIT_PRODUCER_ID and not isinstance(made, KafkaProducer):
            return  # the others never ask for it
        with pytest.raises(Unreachable):
            await within(3.0, made.start())

    with_broker(case)


# R4, R21: broken producers


def test_aiokafkas_idempotent_producer_delivers_nothing_more_after_a_batch_was_refused(genuine: Kafka) -> None:
    async def case() -> None:
        topic = unique("refused")
        await create(genuine.brokers, NewTopic(topic, 1, 1, {"max.message.bytes": "1000"}))
        settings = Settings(brokers=(genuine.brokers,))
        async with started(KafkaProducer(settings)) as sender:
            await (await sender.send(batch_of(sender, b"before"), topic, 0))
            with pytest.raises(RecordTooLarge):
                await (await sender.send(batch_of(sender, b"x" * 2000), topic, 0))
            with suppress(TransportError):
                await (await sender.send(batch_of(sender, b"after"), topic, 0))
                raise AssertionError("R4 is mended: the producer works after a refusal")
        async with started(KafkaProducer(settings)) as sender:
            await (await sender.send(batch_of(sender, b"after"), topic, 0))

    asyncio.run(within(2 * PATIENCE, case()))


def test_fatal_states_that_aiokafka_asserts_are_errors_of_the_transport() -> None:
    with pytest.raises(TransportError), translated():
        raise AssertionError("fatal")


def test_a_producer_whose_sender_has_died_fails_what_is_sent() -> None:
    async def case(broker: ScriptedBroker) -> None:
        async with started(KafkaProducer(broker.settings())) as sender:

            def dies(*_: object, **__: object) -> None:
                raise RuntimeError("in the sender")

            accumulator = sender._producer._message_accumulator
            accumulator.drain_by_nodes = dies
            with pytest.raises(TransportError):
                await within(PATIENCE, await sender.send(batch_of(sender, b"x"), TOPIC, 0))
            with pytest.raises(TransportError):
                await within(PATIENCE, await sender.send(batch_of(sender, b"y"), TOPIC, 0))

    with_broker(case)


# R23: the admin's errors


@pytest.mark.parametrize(
    ("code", "text", "said"),
    [(37, "too few", "'t' could not be created: too few"), (29, None, "TopicAuthorizationFailed")],
)
def test_a_topic_that_could_not_be_created_is_an_error(code: int, text: str | None, said: str) -> None:
    async def case(broker: ScriptedBroker) -> None:
        broker.answers[scripted.CREATE_TOPICS] = lambda _: (0, [(TOPIC, code, text)])
        async with started(KafkaAdmin(broker.settings())) as admin:
            with pytest.raises(Refused, match=said):
                await admin.create_topics([NewTopic(TOPIC, 1)])

    with_broker(case)


def test_a_topic_that_exists_already_is_none() -> None:
    async def case(broker: ScriptedBroker) -> None:
        broker.answers[scripted.CREATE_TOPICS] = lambda _: (0, [(TOPIC, 36, "exists")])
        async with started(KafkaAdmin(broker.settings())) as admin:
            await admin.create_topics([NewTopic(TOPIC, 1)])

    with_broker(case)


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (1, OffsetOutOfRange, r"t\[1\] holds no offset 8"),
        (3, TopicMissing, "'t' does not exist"),
        (44, Refused, r"t\[1\] could not be emptied up to offset 8: its cleanup.policy does not delete"),
        (29, Refused, r"t\[1\] could not be emptied up to offset 8: \[Error 29\] TopicAuthorizationFailedError"),
        (6, TransportError, r"t\[1\] could not be emptied up to offset 8: \[Error 6\] NotLeaderForPartitionError"),
    ],
)
def test_a_partition_that_could_not_be_emptied_is_named(code: int, kind: type[TransportError], said: str) -> None:
    async def case(broker: ScriptedBroker) -> None:
        broker.answers[scripted.DELETE_RECORDS] = lambda request: broker.deleted(request, {1: code})
        async with started(KafkaAdmin(broker.settings())) as admin:
            with pytest.raises(kind, match=said):
                await admin.delete_records({FIRST: 7, SECOND: 8, TopicPartition(TOPIC, 2): 9})
        (request,) = broker.asked(scripted.DELETE_RECORDS)
        ((topic, rows, _),) = request.topics
        assert (topic, [(partition, offset) for partition, offset, _ in rows]) == (TOPIC, [(0, 7), (1, 8), (2, 9)])

    with_broker(case, partitions=3)


def test_nothing_is_deleted_while_a_partition_has_no_leader() -> None:
    async def case(broker: ScriptedBroker) -> None:
        def without_leader(_request: Any) -> Sequence[Any]:
            partitions: list[Any] = [(0, 0, scripted.NODE, [1], [1], []), (5, 1, -1, [1], [1], [])]
            return 0, [(scripted.NODE, broker.host, broker.port, None)], "c", 1, [(0, TOPIC, False, partitions)]

        broker.answers[scripted.METADATA] = without_leader
        async with started(KafkaAdmin(broker.settings())) as admin:
            with pytest.raises(TransportError, match=r"t\[1\] has no leader"):
                await admin.delete_records({FIRST: 7, SECOND: 8})
        assert not broker.asked(scripted.DELETE_RECORDS)

    with_broker(case)


# R24: lag


def test_the_ends_of_a_log_are_asked_of_the_brokers_as_a_reader_of_committed_records_sees_them() -> None:
    async def case(broker: ScriptedBroker) -> None:
        ends = {-2: 5, -1: 11}
        broker.answers[scripted.LIST_OFFSETS] = lambda request: (
            0,
            [(topic, [(p, 0, -1, ends[at]) for p, at in partitions]) for topic, partitions in request.topics],
        )
        async with started(KafkaAdmin(broker.settings())) as admin:
            assert await admin.log_ranges([FIRST]) == {FIRST: LogRange(5, 11)}
            ends[-1] = 12
            assert await admin.log_ranges([FIRST]) == {FIRST: LogRange(5, 12)}
        assert {request.isolation_level for request in broker.asked(scripted.LIST_OFFSETS)} == {1}

    with_broker(case)


def test_records_of_an_open_transaction_are_not_waited_for(genuine: Kafka) -> None:
    async def case() -> None:
        topic = unique("open")
        await create(genuine.brokers, NewTopic(topic, 1, 1))
        partition = TopicPartition(topic, 0)
        async with (
            producer_of(genuine.brokers, transactional_id=topic) as sender,
            started(KafkaAdmin(Settings(brokers=(genuine.brokers,)))) as admin,
        ):
            await sender.begin_transaction()
            await sender.send_and_wait(topic, b"hidden")
            assert await admin.log_ranges([partition]) == {partition: LogRange(0, 0)}
            await sender.commit_transaction()
            async with asyncio.timeout(PATIENCE):
                while (await admin.log_ranges([partition]))[partition].end < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

    asyncio.run(within(2 * PATIENCE, case()))


# R25: logs


def test_no_payload_and_no_password_gets_into_the_logs_of_aiokafka(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "aiokafka")

    async def case(broker: ScriptedBroker) -> None:
        broker.log[0] = [record_batch([b"sesame"])]
        async with membership(broker) as (member, _), started(KafkaProducer(broker.settings())) as sender:
            await read(member, FIRST, 1)
            await (await sender.send(batch_of(sender, b"sesame"), TOPIC, 0))
        login = await create_conn(
            broker.host,
            broker.port,
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="PLAIN",
            sasl_plain_username="ali",
            sasl_plain_password="sesame",
        )
        login.close()
        assert b"sesame" in broker.asked(scripted.SASL_AUTHENTICATE)[0].sasl_auth_bytes

    with_broker(case)
    assert "aiokafka" in {record.name.partition(".")[0] for record in caplog.records}
    assert "sesame" not in caplog.text


# R20, R31: the one task that sends


def publisher_of(*producers: FakeProducer, **settings: Any) -> tuple[Publisher, list[int]]:
    """It takes one producer after another; with the values that were acknowledged."""
    acknowledged: list[int] = []
    waiting = list(producers)
    publisher = Publisher(
        lambda: waiting.pop(0),
        Settings(batch_size=200, **settings),
        WorkerSlots("test"),
        nothing_ready=lambda: True,
        acknowledged=lambda items: acknowledged.extend(int(item.value or b"") for item in items),
        rejected=lambda item, route, error: None,
    )
    publisher.add_route("out", PARTITIONS, None)
    return publisher, acknowledged


async def publish(publisher: Publisher, values: Sequence[int]) -> None:
    await publisher.start()
    run = asyncio.create_task(publisher.run())
    for value in values:
        publisher.put("out", None, b"%d" % value, [], 0, value % PARTITIONS, None)
    await publisher.flush()
    run.cancel()


def test_one_task_alone_hands_batches_to_the_producer() -> None:
    async def case() -> None:
        sender = FakeProducer()
        publisher, acknowledged = publisher_of(sender)
        await publish(publisher, range(300))
        assert not sender.overlapped
        assert sorted(acknowledged) == list(range(300))
        for sent in sender.sent:
            assert sent == sorted(sent), "one barged in"

    asyncio.run(within(PATIENCE, case()))


def test_an_output_that_is_never_acknowledged_is_sent_again_by_another_producer() -> None:
    async def case() -> None:
        silent, good = FakeProducer(acknowledges=False), FakeProducer()
        publisher, acknowledged = publisher_of(silent, good, send_timeout=0.1)
        await publish(publisher, range(3))
        assert silent.stopped
        assert [sent for (sent,) in good.sent] == acknowledged == [0, 1, 2]

    asyncio.run(within(PATIENCE, case()))


class FakeProducer:
    """Notes whether two callers are in `send` at a time."""

    def __init__(self, *, acknowledges: bool = True) -> None:
        self.sent: list[list[int]] = [[] for _ in range(PARTITIONS)]
        self.overlapped = self.stopped = False
        self._acknowledges = acknowledges
        self._callers = 0

    async def start(self) -> None: ...

    async def stop(self) -> None:
        self.stopped = True

    async def partition_count(self, topic: str) -> int:
        return PARTITIONS

    def batch(self, limit: int) -> Any:
        return _Values()

    async def send(self, batch: Any, topic: str, partition: int) -> asyncio.Future[Stored]:
        self._callers += 1
        self.overlapped = self.overlapped or self._callers > 1
        await asyncio.sleep(0)
        self.sent[partition].extend(batch.values)
        self._callers -= 1
        outcome: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        if self._acknowledges:
            asyncio.get_running_loop().call_later(0.001, outcome.set_result, _Stored(0))
        return outcome


class _Stored(NamedTuple):
    offset: int


class _Values:
    def __init__(self) -> None:
        self.values: list[int] = []

    def append(self, *, key: object, value: bytes | None, timestamp: int, headers: object) -> object | None:
        if len(self.values) == 5:
            return None
        self.values.append(int(value or b""))
        return self


def batch_of(sender: Producer, value: bytes) -> Any:
    batch = sender.batch(10_000)
    assert batch.append(key=None, value=value, timestamp=0, headers=[]) is not None
    return batch
