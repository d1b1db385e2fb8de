"""What only the in-process broker has: its faults, its records of what happened, and the dangers it copies."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from streamkit.errors import TransportError
from streamkit.record import TopicPartition
from streamkit.settings import Settings
from streamkit.transport.base import (
    NO_GENERATION,
    CommitRejected,
    CommittedOffset,
    MetadataTooLarge,
    RecordTooLarge,
    Refused,
    Stored,
    TopicMissing,
    Unreachable,
)
from streamkit.transport.memory import MemoryBroker, MemoryConsumer, MemoryProducer, MemoryTransport, named_broker
from streamkit.transport.memory.group import assign_ranges
from tests.transport.virtual_time import run

SETTINGS = Settings(session_timeout=10.0, heartbeat_interval=1.0, request_timeout=4.0, drain_timeout=2.0)
FIRST, SECOND = TopicPartition("t", 0), TopicPartition("t", 1)


class Listener:
    """Seeks everything to 0. The hooks run first."""

    def __init__(self, consumer: MemoryConsumer) -> None:
        self.consumer = consumer
        self.calls: list[tuple[str, list[TopicPartition], bool]] = []
        self.in_revoked: Callable[[], Awaitable[None]] | None = None
        self.in_assigned: Callable[[], Awaitable[None]] | None = None

    async def revoked(self, partitions: Collection[TopicPartition], *, lost: bool) -> None:
        self.calls.append(("revoked", sorted(partitions), lost))
        if self.in_revoked is not None:
            await self.in_revoked()

    async def assigned(self, partitions: Collection[TopicPartition]) -> None:
        self.calls.append(("assigned", sorted(partitions), False))
        if self.in_assigned is not None:
            await self.in_assigned()
        for partition in partitions:
            self.consumer.seek(partition, 0)


def broker_with_topic(partitions: int = 2, **config: str) -> MemoryBroker:
    broker = MemoryBroker(clock=lambda: 1_700_000_000_000)
    broker.create_topic("t", partitions, **config)
    return broker


def consumer_of(broker: MemoryBroker, settings: Settings = SETTINGS, group: str = "g") -> MemoryConsumer:
    return MemoryConsumer(broker, settings, group)


async def member_of(broker: MemoryBroker, settings: Settings = SETTINGS) -> tuple[MemoryConsumer, Listener]:
    """A member that joins within the second."""
    consumer = consumer_of(broker, settings)
    listener = Listener(consumer)
    await consumer.start()
    consumer.subscribe(["t"], listener)
    return consumer, listener


async def joined(broker: MemoryBroker, settings: Settings = SETTINGS) -> tuple[MemoryConsumer, Listener]:
    consumer, listener = await member_of(broker, settings)
    await asyncio.sleep(0.1)
    assert consumer.generation != NO_GENERATION
    return consumer, listener


async def send(
    producer: MemoryProducer, value: bytes = b"v", partition: TopicPartition = FIRST
) -> asyncio.Future[Stored]:
    batch = producer.batch(1000)
    batch.append(key=None, value=value, timestamp=1, headers=[])
    return await producer.send(batch, *partition)


def values(broker: MemoryBroker) -> list[bytes | None]:
    return [record.value for record in broker.records("t")]


# Commits


def test_a_commit_can_be_made_to_fail_and_the_next_one_works() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        consumer, _ = await joined(broker)
        broker.faults.fail_commits(1, TransportError("no"))
        with pytest.raises(TransportError, match="no"):
            await consumer.commit({FIRST: CommittedOffset(1)}, consumer.generation)
        assert await consumer.committed([FIRST]) == {}
        await consumer.commit({FIRST: CommittedOffset(2)}, consumer.generation)
        assert [(each.offset, each.accepted) for each in broker.commits] == [(1, False), (2, True)]

    run(main())


def test_a_commit_can_be_stored_though_its_answer_is_lost() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        consumer, _ = await joined(broker)
        broker.faults.fail_commits(1, Unreachable("lost"), stored=True)
        with pytest.raises(Unreachable):
            await consumer.commit({FIRST: CommittedOffset(1)}, consumer.generation)
        assert await consumer.committed([FIRST]) == {FIRST: CommittedOffset(1)}
        assert [each.accepted for each in broker.commits] == [True]

    run(main())


def test_every_commit_is_recorded_with_its_member_generation_and_moment() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        consumer, _ = await joined(broker)
        member = consumer.member
        await consumer.commit({FIRST: CommittedOffset(1, "note")}, 1)
        with pytest.raises(CommitRejected):
            await consumer.commit({SECOND: CommittedOffset(2)}, 7)
        now = asyncio.get_running_loop().time()
        assert broker.commits == [
            (now, "g", member, 1, FIRST, 1, "note", True),
            (now, "g", member, 7, SECOND, 2, "", False),
        ]

    run(main())


def test_metadata_that_is_too_long_does_not_keep_the_other_partitions_from_being_stored() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        consumer, _ = await joined(broker)
        offsets = {FIRST: CommittedOffset(1, "x" * 4097), SECOND: CommittedOffset(2, "x" * 4096)}
        with pytest.raises(MetadataTooLarge):
            await consumer.commit(offsets, consumer.generation)
        assert await consumer.committed([FIRST, SECOND]) == {SECOND: offsets[SECOND]}

    run(main())


def test_a_commit_that_arrives_after_a_rebalance_is_refused() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        consumer, _ = await joined(broker)
        broker.faults.commits.close()
        under_way = asyncio.create_task(consumer.commit({FIRST: CommittedOffset(1)}, consumer.generation))
        await member_of(broker)
        await asyncio.sleep(2)
        assert consumer.generation == 2
        broker.faults.commits.open()
        with pytest.raises(CommitRejected):
            await under_way
        assert await consumer.committed([FIRST]) == {}
        assert consumer.generation == 2, "a refused commit of an earlier generation says nothing about this one"

    run(main())


def test_a_commit_that_gets_no_answer_is_given_up_after_the_request_timeout() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        consumer, _ = await joined(broker)
        broker.faults.commits.close()
        started = asyncio.get_running_loop().time()
        with pytest.raises(Unreachable):
            await consumer.commit({FIRST: CommittedOffset(1)}, consumer.generation)
        assert asyncio.get_running_loop().time() - started == pytest.approx(SETTINGS.request_timeout)

    run(main())


# Producing


def test_after_a_failed_batch_the_producer_is_broken_for_every_partition() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        producer = MemoryProducer(broker, SETTINGS)
        broker.faults.fail_produces(1, RecordTooLarge("no"))
        with pytest.raises(RecordTooLarge):
            await (await send(producer, b"refused"))
        with pytest.raises(TransportError, match="broken"):
            await (await send(producer, b"too late", SECOND))
        await producer.stop()
        await (await send(MemoryProducer(broker, SETTINGS), b"stored"))
        assert values(broker) == [b"stored"]

    run(main())


def test_a_batch_queued_behind_a_failed_one_fails_too() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        producer = MemoryProducer(broker, SETTINGS)
        broker.faults.fail_produces(1, TransportError("no"))
        outcomes = await asyncio.gather(await send(producer), await send(producer), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [TransportError, TransportError]
        assert values(broker) == []

    run(main())


def test_a_batch_can_be_stored_though_its_acknowledgement_is_lost() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        broker.faults.fail_produces(1, Unreachable("lost"), stored=True)
        with pytest.raises(Unreachable):
            await (await send(MemoryProducer(broker, SETTINGS)))
        assert values(broker) == [b"v"]

    run(main())


def test_one_topic_can_be_made_to_refuse_until_it_is_made_to_accept() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        broker.create_topic("other")
        broker.faults.refuse("t")
        for _ in range(3):
            with pytest.raises(Refused, match="topic 't' takes nothing"):
                await (await send(MemoryProducer(broker, SETTINGS)))
        await (await send(MemoryProducer(broker, SETTINGS), partition=TopicPartition("other", 0)))
        broker.faults.refuse("t", RecordTooLarge("no"))
        with pytest.raises(RecordTooLarge):
            await (await send(MemoryProducer(broker, SETTINGS)))
        assert values(broker) == []
        broker.faults.accept("t")
        await (await send(MemoryProducer(broker, SETTINGS)))
        assert values(broker) == [b"v"]

    run(main())


def test_held_acknowledgements_come_when_they_are_released() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        broker.faults.acknowledgements.close()
        acknowledged = await send(MemoryProducer(broker, SETTINGS))
        await asyncio.sleep(1000)
        assert not acknowledged.done()
        assert values(broker) == [b"v"]
        broker.faults.acknowledgements.open()
        stored: object = await acknowledged
        assert stored == ("t", 0, 0, 1)

    run(main())


def test_a_third_batch_of_a_partition_waits_until_the_second_is_under_way() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        broker.faults.acknowledgements.close()
        producer = MemoryProducer(broker, SETTINGS)
        under_way = [await send(producer, b"1")]
        await asyncio.sleep(1)
        under_way.append(await send(producer, b"2"))
        third = asyncio.create_task(send(producer, b"3"))
        other = await send(producer, b"other", SECOND)
        await asyncio.sleep(1)
        assert not third.done()
        broker.faults.acknowledgements.open()
        await asyncio.gather(*under_way, await third, other)
        assert values(broker) == [b"1", b"2", b"3", b"other"]

    run(main())


def test_stopping_a_producer_fails_what_is_not_acknowledged_within_two_seconds() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        broker.faults.acknowledgements.close()
        producer = MemoryProducer(broker, SETTINGS)
        first = await send(producer)
        await asyncio.sleep(1)
        second = await send(producer)
        started = asyncio.get_running_loop().time()
        await producer.stop()
        assert asyncio.get_running_loop().time() - started == pytest.approx(2.0)
        for acknowledged in (first, second):
            with pytest.raises(TransportError, match="stopped"):
                await acknowledged

    run(main())


def test_stopping_a_producer_waits_for_what_is_under_way() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        broker.latency = 0.5
        producer = MemoryProducer(broker, SETTINGS)
        acknowledged = await send(producer)
        await producer.stop()
        assert acknowledged.done()
        assert values(broker) == [b"v"]

    run(main())


def test_sending_to_a_topic_that_does_not_exist_raises() -> None:
    async def main() -> None:
        with pytest.raises(TopicMissing):
            await send(MemoryProducer(MemoryBroker(), SETTINGS))

    run(main())


def test_headers_that_are_not_a_list_are_refused_as_aiokafka_refuses_them() -> None:
    batch = MemoryProducer(MemoryBroker(), SETTINGS).batch(100)
    with pytest.raises(TypeError):
        batch.append(key=None, value=b"", timestamp=1, headers=())  # type: ignore[arg-type]  # pyright: ignore


def test_append_time_is_the_clock_that_was_given() -> None:
    async def main() -> None:
        broker = broker_with_topic(message_timestamp_type="LogAppendTime")
        await (await send(MemoryProducer(broker, SETTINGS)))
        assert [record.timestamp for record in broker.records("t")] == [1_700_000_000_000]

    run(main())


# The network


def test_a_broker_out_of_reach_is_reported_after_the_request_timeout() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        broker.faults.network.close()
        transport = MemoryTransport(broker, SETTINGS)
        for client in (transport.consumer("g"), transport.producer(), transport.admin()):
            started = asyncio.get_running_loop().time()
            with pytest.raises(Unreachable):
                await client.start()
            assert asyncio.get_running_loop().time() - started == pytest.approx(SETTINGS.request_timeout)

    run(main())


def test_out_of_reach_nothing_is_polled_and_the_member_comes_back_when_it_can() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        consumer, listener = await joined(broker)
        broker.append("t", b"x")
        broker.faults.network.close()
        assert await consumer.poll([FIRST], max_records=10, timeout=1.0) == {}
        with pytest.raises(Unreachable):
            await consumer.commit({FIRST: CommittedOffset(1)}, consumer.generation)
        await asyncio.sleep(SETTINGS.session_timeout)
        assert asyncio.get_running_loop().time() > consumer.lease
        assert broker.group("g").members == {}
        assert listener.calls[-1][0] == "assigned", "it has not been told yet"
        broker.faults.network.open()
        await asyncio.sleep(1)
        assert listener.calls[-2:] == [
            ("revoked", [FIRST, SECOND], True),
            ("assigned", [FIRST, SECOND], False),
        ]
        assert list(await consumer.poll([FIRST], max_records=10, timeout=1.0)) == [FIRST]

    run(main())


def test_stopping_is_bounded_when_the_broker_is_out_of_reach() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        consumer, _ = await joined(broker)
        broker.faults.network.close()
        started = asyncio.get_running_loop().time()
        await consumer.stop()
        assert asyncio.get_running_loop().time() - started <= 5.0

    run(main())


# Sessions


def test_a_frozen_member_is_thrown_out_one_session_after_its_last_heartbeat() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        consumer, listener = await joined(broker)
        await asyncio.sleep(3.5)
        broker.faults.freeze(consumer.member)
        lease = consumer.lease
        await asyncio.sleep(lease - asyncio.get_running_loop().time() - 0.001)
        assert list(broker.group("g").members) == [consumer.member]
        assert consumer.lease == lease, "no heartbeat has succeeded since"
        await asyncio.sleep(0.002)
        assert not broker.group("g").members
        assert consumer.generation == 1, "it does not know yet"
        broker.faults.thaw(consumer.member)
        await asyncio.sleep(1.5)
        assert listener.calls[1] == ("revoked", [FIRST, SECOND], True)
        assert consumer.generation == 3  # the second was that of the empty group

    run(main())


def test_heartbeats_go_on_while_revoked_runs() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        patient = replace(SETTINGS, drain_timeout=60.0)
        consumer, listener = await joined(broker, patient)
        listener.in_revoked = lambda: asyncio.sleep(3 * patient.session_timeout)
        await member_of(broker, patient)
        await asyncio.sleep(2.5 * patient.session_timeout)
        assert asyncio.get_running_loop().time() < consumer.lease
        assert consumer.member in broker.group("g").members

    run(main())


def test_heartbeats_stop_while_assigned_runs_so_a_long_one_costs_the_membership() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        consumer, listener = await member_of(broker)
        listener.in_assigned = lambda: asyncio.sleep(SETTINGS.session_timeout + 1)
        await asyncio.sleep(SETTINGS.session_timeout + 0.5)
        assert not broker.group("g").members
        assert asyncio.get_running_loop().time() > consumer.lease

    run(main())


def test_a_member_that_joins_late_is_a_stranger_and_told_so_only_once() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        _consumer, listener = await joined(broker)
        waits = SETTINGS.drain_timeout + 2 * SETTINGS.request_timeout  # of the group, for its members
        listener.in_revoked = lambda: asyncio.sleep(waits + 5)
        other, _ = await member_of(broker)
        await asyncio.sleep(waits + 3)
        assert list(broker.group("g").members) == [other.member]
        listener.in_revoked = None
        await asyncio.sleep(10)
        assert len(broker.group("g").members) == 2
        assert [call[0] for call in listener.calls] == ["assigned", "revoked", "assigned"]

    run(main())


# Polling


def test_polling_what_was_never_sought_raises() -> None:
    class Forgetful(Listener):
        async def assigned(self, partitions: Collection[TopicPartition]) -> None:
            self.consumer.seek(FIRST, 0)

    async def main() -> None:
        broker = broker_with_topic()
        consumer = consumer_of(broker)
        consumer.subscribe(["t"], Forgetful(consumer))
        await asyncio.sleep(1)
        assert await consumer.poll([FIRST], max_records=1, timeout=0) == {}
        with pytest.raises(RuntimeError, match="before it was sought"):
            await consumer.poll([SECOND], max_records=1, timeout=0)
        with pytest.raises(RuntimeError, match="no position"):
            consumer.position(SECOND)
        with pytest.raises(RuntimeError, match="not assigned"):
            consumer.seek(TopicPartition("other", 0), 0)

    run(main())


def test_a_poll_returns_records_of_a_new_assignment_while_assigned_still_runs() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        broker.append("t", b"x")
        consumer, listener = await member_of(broker)

        async def seeks_and_goes_on() -> None:
            consumer.seek(FIRST, 0)
            await asyncio.sleep(5)

        listener.in_assigned = seeks_and_goes_on
        polled = await consumer.poll([FIRST, SECOND], max_records=10, timeout=1.0)
        assert [record.value for record in polled[FIRST]] == [b"x"]
        assert asyncio.get_running_loop().time() < 1

    run(main())


def test_a_poll_that_was_waiting_before_a_rebalance_may_return_what_comes_after_it() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        consumer, _ = await joined(broker)
        poll = asyncio.create_task(consumer.poll([FIRST], max_records=10, timeout=60.0))
        await asyncio.sleep(0.1)
        await member_of(broker)
        await asyncio.sleep(2)
        assert consumer.generation == 2
        broker.append("t", b"after")
        assert list(await poll) == [FIRST]

    run(main())


def test_a_poll_ends_when_the_consumer_is_stopped() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        consumer, _ = await joined(broker)
        poll = asyncio.create_task(consumer.poll([FIRST], max_records=1, timeout=60.0))
        await asyncio.sleep(0)
        await consumer.stop()
        assert await poll == {}

    run(main())


def test_partitions_take_turns() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        for value, partition in itertools.product((b"1", b"2", b"3"), (0, 1)):
            broker.append("t", value, partition=partition)
        consumer, _ = await joined(broker)
        served = [list(await consumer.poll([FIRST, SECOND], max_records=1, timeout=0)) for _ in range(4)]
        assert served == [[FIRST], [SECOND], [FIRST], [SECOND]]

    run(main())


def test_holes_and_markers_are_passed_over() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        for value in (b"0", b"1", b"2"):
            broker.append("t", value)
        broker.log(FIRST).punch(1)
        broker.append_marker("t")
        consumer, _ = await joined(broker)
        polled = await consumer.poll([FIRST], max_records=10, timeout=0)
        assert [record.offset for record in polled[FIRST]] == [0, 2]
        assert consumer.position(FIRST) == 4

    run(main())


# Topics


def test_a_deleted_topic_is_polled_in_vain_and_then_taken_away_with_its_offsets() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        consumer, listener = await joined(broker)
        await consumer.commit({FIRST: CommittedOffset(1)}, consumer.generation)
        broker.delete_topic("t")
        assert await consumer.poll([FIRST], max_records=1, timeout=0.01) == {}
        await asyncio.sleep(1)
        assert consumer.partition_count("t") == 0
        assert listener.calls[-1] == ("assigned", [], False)
        assert await consumer.committed([FIRST]) == {}

    run(main())


def test_a_topic_that_appears_is_assigned_after_the_metadata_s_age() -> None:
    async def main() -> None:
        broker = MemoryBroker()
        consumer, listener = await joined(broker)
        broker.create_topic("t", 2)
        await asyncio.sleep(SETTINGS.metadata_max_age)
        assert listener.calls[-1] == ("assigned", [FIRST, SECOND], False)
        assert consumer.partition_count("t") == 2

    run(main())


@pytest.mark.parametrize("members", range(1, 6))
@pytest.mark.parametrize("partitions", range(8))
def test_ranges_are_those_of_the_range_assignor(members: int, partitions: int) -> None:
    counts = {"a": partitions, "b": 3}
    # The first member does not read b, if there are others who do.
    topics = {f"m{number}": ["a", "b"] if number or members == 1 else ["a"] for number in range(members)}
    metadata = {name: RangePartitionAssignor.metadata(subscribed) for name, subscribed in topics.items()}
    cluster: Any = SimpleNamespace(partitions_for_topic=lambda topic: set(range(counts[topic])))
    theirs = RangePartitionAssignor.assign(cluster, metadata)
    assert {name: sorted(assigned) for name, assigned in assign_ranges(topics, counts).items()} == {
        name: sorted(TopicPartition(*each) for each in assigned.partitions()) for name, assigned in theirs.items()
    }


# The broker


def test_a_named_broker_is_one_for_the_process_and_lives_as_long_as_it_is_held() -> None:
    transport = MemoryTransport(named_broker("memory://test"), SETTINGS)
    transport.broker.create_topic("t")
    assert "t" in named_broker("memory://test").topics
    assert "t" not in named_broker("memory://other").topics
    del transport
    gc.collect()
    assert "t" not in named_broker("memory://test").topics


def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="memory://"):
        named_broker("localhost:9092")


def test_a_broker_outlives_an_event_loop_and_its_members_expire_in_the_next() -> None:
    broker = broker_with_topic()
    consumer = consumer_of(broker)
    loops = (asyncio.new_event_loop(), asyncio.new_event_loop())

    async def abandons_its_membership() -> None:
        group = broker.group("g")
        joining = {"topics": ["t"], "session_timeout": 0.05, "rebalance_timeout": 1.0, "known": False}
        await group.join(group.name_member(), **joining)  # type: ignore[arg-type]

    async def joins() -> None:
        broker.append("t", b"x")
        consumer.subscribe(["t"], Listener(consumer))
        polled: Collection[TopicPartition] = ()
        while not polled:
            polled = await consumer.poll([FIRST], max_records=1, timeout=1.0)
        assert len(broker.group("g").members) == 1
        await consumer.stop()

    try:
        loops[0].run_until_complete(abandons_its_membership())
        loops[1].run_until_complete(joins())
    finally:
        for loop in loops:
            loop.close()


def test_a_thread_of_its_own_may_look_at_the_broker_and_wait_for_its_network() -> None:
    broker = broker_with_topic()
    broker.append("t", b"x")
    waiting = threading.Event()

    async def look() -> int:
        admin = MemoryTransport(broker, SETTINGS).admin()
        asyncio.get_running_loop().call_later(0.01, waiting.set)
        await admin.start()
        return (await admin.log_ranges([FIRST]))[FIRST].end

    broker.faults.network.close()
    started = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(asyncio.run, look())
        waiting.wait()
        broker.faults.network.open()
        assert outcome.result() == 1
    assert time.monotonic() - started < SETTINGS.request_timeout, "it was woken, and did not wait for its timeout"


def test_thousands_of_rebalances_leave_no_task_behind() -> None:
    async def main() -> None:
        broker = broker_with_topic()
        consumer, listener = await joined(broker)
        for _ in range(1000):
            other, _other_listener = await member_of(broker)
            await asyncio.sleep(1.5)
            await other.stop()
            await asyncio.sleep(1.5)
        assert listener.calls[-1] == ("assigned", [FIRST, SECOND], False)
        assert consumer.generation == 2001
        await consumer.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert broker.group("g").members == {}

    run(main())


def test_the_same_run_twice_does_the_same() -> None:
    def history() -> list[object]:
        broker = broker_with_topic()

        async def main() -> None:
            members = [await member_of(broker) for _ in range(3)]
            for step in range(20):
                consumer, _ = members[step % 3]
                if step % 7 == 3:
                    broker.faults.freeze(consumer.member)
                with contextlib.suppress(CommitRejected):
                    await consumer.commit({FIRST: CommittedOffset(step)}, consumer.generation)
                await asyncio.sleep(1.3)

        run(main())
        return [*broker.commits, broker.group("g").generation]

    assert history() == history()
