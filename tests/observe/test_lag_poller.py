from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import pytest

from streamkit.errors import TransportError
from streamkit.observe import lag_poller
from streamkit.observe.assigned import Assigned
from streamkit.observe.lag import LagTable
from streamkit.observe.lag_poller import LagPoller
from streamkit.observe.partition_state import PartitionState
from streamkit.observe.slots import AgentSlots, WorkerSlots
from streamkit.record import TopicPartition
from streamkit.transport.base import LogRange, Reader
from streamkit.transport.memory import MemoryBroker, MemoryTransport
from tests.observe.support import ORDERS, Brokers, FakeAdmin, running_worker
from tests.runtime.support import SETTINGS, simulated

GROUP = "billing.charge"


def assigned_worker(*partitions: TopicPartition) -> tuple[WorkerSlots, AgentSlots]:
    slots, agent = running_worker()
    agent.assigned = frozenset(partitions)
    return slots, agent


def sampled(slots: WorkerSlots, brokers: Brokers, table: LagTable | None = None) -> LagTable:
    """The table after one sample."""
    table = table or LagTable()
    asyncio.run(LagPoller(slots, brokers.admin, table, 10.0).sample())
    return table


def polling(slots: WorkerSlots, brokers: Brokers, watch: Callable[[LagTable], Awaitable[None]]) -> None:
    """Run a poller that samples by itself only when assignments change, until `watch` returns; 10 s at most."""

    async def main() -> None:
        table = LagTable()
        poller = asyncio.create_task(LagPoller(slots, brokers.admin, table, 600.0).run())
        try:
            async with asyncio.timeout(10):
                await watch(table)
        finally:
            poller.cancel()
            with suppress(asyncio.CancelledError):
                await poller

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  a table announces nothing
        await asyncio.sleep(0.005)


def test_lag_is_what_lies_between_the_commit_and_the_end() -> None:
    slots, agent = assigned_worker(*ORDERS)
    brokers = Brokers(
        committed={ORDERS[0]: 40, ORDERS[1]: 5},
        ranges={ORDERS[0]: LogRange(0, 100), ORDERS[1]: LogRange(30, 100), ORDERS[2]: LogRange(90, 100)},
    )
    table = sampled(slots, brokers)
    # A commit below the log's start counts from the start, and so does none at all: what is gone will not be read.
    assert table.current(GROUP, agent.assigned) == {ORDERS[0]: 60, ORDERS[1]: 70, ORDERS[2]: 10}


def test_the_commit_is_read_before_the_end_so_lag_is_never_too_low() -> None:
    slots, agent = assigned_worker(ORDERS[0])
    brokers = Brokers(committed={ORDERS[0]: 50}, ranges={ORDERS[0]: LogRange(0, 100)})

    def a_producer_and_the_group_move_on() -> None:
        brokers.ranges[ORDERS[0]] = LogRange(0, 1_000)
        brokers.committed[ORDERS[0]] = 990

    brokers.before_ranges = a_producer_and_the_group_move_on
    assert sampled(slots, brokers).current(GROUP, agent.assigned) == {ORDERS[0]: 950}


def test_what_is_written_while_the_lag_is_read_does_not_look_like_an_open_transaction() -> None:
    slots, _ = assigned_worker(ORDERS[0])
    brokers = Brokers(ranges={ORDERS[0]: LogRange(0, 100)})

    def somebody_writes() -> None:
        brokers.ranges[ORDERS[0]] = LogRange(0, brokers.ranges[ORDERS[0]].end + 10)

    brokers.before_ranges = brokers.after_ranges = somebody_writes
    (offsets,) = sampled(slots, brokers).samples(GROUP).values()
    assert offsets.unstable == 0


@pytest.mark.parametrize("error", [TransportError("the leader has moved"), KeyError("topic")])
def test_without_the_watermarks_the_lag_is_known_all_the_same(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    slots, agent = assigned_worker(*ORDERS[:2])
    brokers = Brokers(ranges=dict.fromkeys(ORDERS[:2], LogRange(0, 7)))

    def refuse() -> None:
        raise error

    brokers.before_watermarks = refuse
    table = sampled(slots, brokers)
    assert table.current(GROUP, agent.assigned) == dict.fromkeys(ORDERS[:2], 7)
    assert {offsets.unstable for offsets in table.samples(GROUP).values()} == {None}
    assert "what open transactions hold back from billing.charge cannot be read" in caplog.text


def test_brokers_that_do_not_answer_for_the_watermarks_do_not_take_the_time_for_the_lag(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lag_poller, "WATERMARK_TIMEOUT", 0.01)
    slots, agent = assigned_worker(ORDERS[0])
    brokers = Brokers(ranges={ORDERS[0]: LogRange(0, 7)})

    async def never(self: FakeAdmin, partitions: object) -> dict[TopicPartition, int]:
        await asyncio.Event().wait()
        return {}

    monkeypatch.setattr(FakeAdmin, "high_watermarks", never)
    assert sampled(slots, brokers).current(GROUP, agent.assigned) == {ORDERS[0]: 7}


def test_a_commit_beyond_the_end_is_no_lag() -> None:
    slots, agent = assigned_worker(ORDERS[0])
    brokers = Brokers(committed={ORDERS[0]: 120}, ranges={ORDERS[0]: LogRange(0, 100)})
    assert sampled(slots, brokers).current(GROUP, agent.assigned) == {ORDERS[0]: 0}


def test_a_partition_that_the_brokers_do_not_know_has_no_lag() -> None:
    slots, agent = assigned_worker(*ORDERS[:2])
    brokers = Brokers(ranges={ORDERS[1]: LogRange(0, 7)})
    assert sampled(slots, brokers).current(GROUP, agent.assigned) == {ORDERS[1]: 7}


def test_nothing_is_asked_while_nothing_is_assigned() -> None:
    slots, _ = assigned_worker()
    brokers = Brokers()
    sampled(slots, brokers)
    assert brokers.calls == []


def test_a_new_assignment_is_sampled_without_waiting_for_the_interval() -> None:
    slots, agent = assigned_worker()
    brokers = Brokers(ranges={ORDERS[0]: LogRange(0, 7), ORDERS[1]: LogRange(0, 8)})

    async def watch(table: LagTable) -> None:
        agent.assigned = frozenset(ORDERS[:1])
        await until(lambda: table.current(GROUP, agent.assigned) == {ORDERS[0]: 7})
        agent.assigned = frozenset(ORDERS[:2])
        await until(lambda: table.current(GROUP, agent.assigned) == {ORDERS[0]: 7, ORDERS[1]: 8})

    polling(slots, brokers, watch)


def test_lag_is_read_again_after_every_interval() -> None:
    slots, agent = assigned_worker(ORDERS[0])
    brokers = Brokers(ranges={ORDERS[0]: LogRange(0, 7)})

    async def main() -> None:
        table = LagTable()
        poller = asyncio.create_task(LagPoller(slots, brokers.admin, table, 0.01).run())
        await until(lambda: table.current(GROUP, agent.assigned) == {ORDERS[0]: 7})
        brokers.ranges[ORDERS[0]] = LogRange(0, 9)
        await until(lambda: table.current(GROUP, agent.assigned) == {ORDERS[0]: 9})
        poller.cancel()
        with suppress(asyncio.CancelledError):
            await poller

    asyncio.run(asyncio.wait_for(main(), 10))
    assert brokers.open == 0


def test_a_partition_that_comes_back_has_no_lag_until_it_is_sampled() -> None:
    slots, agent = assigned_worker(ORDERS[0])
    table = LagTable()
    brokers = Brokers(ranges={ORDERS[0]: LogRange(0, 7), ORDERS[1]: LogRange(0, 8)})
    sampled(slots, brokers, table)
    agent.assigned = frozenset(ORDERS[1:2])
    sampled(slots, brokers, table)
    assert table.current(GROUP, ORDERS) == {ORDERS[1]: 8}


def test_an_outage_keeps_the_last_lag_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    slots, agent = assigned_worker(ORDERS[0])
    brokers = Brokers(ranges={ORDERS[0]: LogRange(0, 7)})
    table = LagTable()

    async def main() -> None:
        poller = LagPoller(slots, brokers.admin, table, 10.0)
        await poller.sample()
        brokers.down = True
        for _ in range(3):
            await poller.sample()
        assert table.current(GROUP, agent.assigned) == {ORDERS[0]: 7}
        assert brokers.open == 0
        brokers.down = False
        brokers.ranges[ORDERS[0]] = LogRange(0, 9)
        await poller.sample()
        assert table.current(GROUP, agent.assigned) == {ORDERS[0]: 9}

    with caplog.at_level(logging.INFO, "streamkit.observe"):
        asyncio.run(main())
    assert caplog.messages == [
        f"the lag of {GROUP} cannot be read: no broker answered; trying again every 10 s",
        f"the lag of {GROUP} is read again",
    ]


def test_a_group_that_may_not_be_read_does_not_hide_the_others(caplog: pytest.LogCaptureFixture) -> None:
    slots, agent = assigned_worker(ORDERS[0])
    other = slots.agent("audit", "billing.audit", ("orders",), 1)
    other.assigned = agent.assigned
    brokers = Brokers(ranges={ORDERS[0]: LogRange(0, 7)}, refused_groups={other.group})
    table = LagTable()
    with caplog.at_level(logging.WARNING, "streamkit.observe"):
        sampled(slots, brokers, table)
    assert table.current(GROUP, agent.assigned) == {ORDERS[0]: 7}
    assert table.current(other.group, other.assigned) == {}
    assert [m.partition(":")[0] for m in caplog.messages] == ["the lag of billing.audit cannot be read"]


def test_brokers_that_never_answer_are_given_up_and_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lag_poller, "SAMPLE_TIMEOUT", 0.01)
    slots, agent = assigned_worker(ORDERS[0])
    hung, answering = Brokers(), Brokers(ranges={ORDERS[0]: LogRange(0, 7)})
    hung_admin = hung.admin()

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(hung_admin, "committed", never)
    admins = iter([hung_admin, answering.admin()])

    async def main() -> None:
        table = LagTable()
        poller = LagPoller(slots, lambda: next(admins), table, 10.0)
        await poller.sample()
        assert (table.current(GROUP, agent.assigned), hung.open) == ({}, 0)
        assert caplog.messages == [
            f"the lag of {GROUP} cannot be read: no answer within 0.01 s; trying again every 10 s"
        ]
        await poller.sample()
        assert table.current(GROUP, agent.assigned) == {ORDERS[0]: 7}

    asyncio.run(main())


def waiting_worker(count: int) -> tuple[WorkerSlots, AgentSlots, Brokers]:
    """With so many partitions of which nothing is in memory, and records 0 to 9 in each."""
    slots, agent = assigned_worker(*(TopicPartition("orders", n) for n in range(count)))
    found = {p: PartitionState(0, 0, None, None, None, False, 0, 0, "", progressed_at=0.0) for p in agent.assigned}
    agent.partitions = lambda: found
    return slots, agent, Brokers(ranges=dict.fromkeys(agent.assigned, LogRange(0, 10)))


def logs(count: int) -> MemoryBroker:
    broker = MemoryBroker()
    broker.create_topic("orders", count)
    for number in range(10 * count):
        broker.append("orders", b"{}", partition=number % count, timestamp=1_000_000)
    return broker


def read_times(table: LagTable, agent: AgentSlots) -> dict[int, float | None]:
    known = {p.partition: lag.oldest for p, lag in table.partitions(Assigned.read(agent)).items()}
    return {number: oldest.since for number, oldest in known.items() if oldest is not None}


@simulated
async def test_a_sample_reads_the_oldest_records_that_are_not_known_a_few_at_a_time_and_each_once() -> None:
    slots, agent, brokers = waiting_worker(25)
    table, readers = LagTable(), []
    transport = MemoryTransport(logs(25), SETTINGS)

    def make() -> Reader:
        readers.append(transport.reader())
        return readers[-1]

    poller = LagPoller(slots, brokers.admin, table, 10.0, make)
    for known in (10, 20, 25, 25):
        await poller.sample()
        assert read_times(table, agent) == dict.fromkeys(read_times(table, agent), 1_000.0)
        assert len(read_times(table, agent)) == known
    assert len(readers) == 3


@simulated
async def test_a_verdict_comes_after_what_was_read_for_it() -> None:
    slots, agent, brokers = waiting_worker(1)
    broker = MemoryBroker()
    broker.create_topic("orders")
    for _ in range(10):
        broker.append_marker("orders")
    table = LagTable()
    await LagPoller(slots, brokers.admin, table, 10.0, MemoryTransport(broker, SETTINGS).reader).sample()
    ((known),) = table.partitions(Assigned.read(agent)).values()
    assert (known.seconds, known.verdict) == (0.0, ("ok", ""))


@simulated
async def test_records_that_cannot_be_read_are_told_of_once_and_leave_a_lower_bound(
    caplog: pytest.LogCaptureFixture,
) -> None:
    slots, agent, brokers = waiting_worker(1)
    broker = logs(1)
    now = 5_000.0
    table = LagTable(wall=lambda: now)
    poller = LagPoller(slots, brokers.admin, table, 10.0, MemoryTransport(broker, SETTINGS).reader)
    broker.delete_records("orders", 5)
    for _ in range(3):
        await poller.sample()
    assert read_times(table, agent) == {0: 5_000.0}
    broker.delete_records("orders", 0)
    brokers.ranges = dict.fromkeys(agent.assigned, LogRange(5, 10))
    await poller.sample()
    assert read_times(table, agent) == {0: 1_000.0}
    reason = "orders[0] holds no offset 0"
    assert caplog.messages == [
        f"the oldest records that wait cannot be read: {reason}; until they are, lag in seconds is too low"
    ]


def test_a_group_whose_sample_failed_is_not_judged() -> None:
    slots, agent, brokers = waiting_worker(1)
    brokers.down = True
    table = sampled(slots, brokers)
    ((known),) = table.partitions(Assigned.read(agent)).values()
    assert (known.seconds, known.verdict) == (None, None)


def test_a_fault_in_what_the_engine_tells_is_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    slots, agent, brokers = waiting_worker(1)
    told = agent.partitions

    def fail() -> Mapping[TopicPartition, PartitionState]:
        raise RuntimeError("dictionary changed size during iteration")

    agent.partitions = fail

    async def watch(table: LagTable) -> None:
        await until(lambda: "could not be sampled" in caplog.text)
        agent.partitions = told
        agent.assigned = frozenset([*agent.assigned, TopicPartition("orders", 1)])  # so that it samples again
        await until(lambda: any(known.verdict for known in table.partitions(Assigned.read(agent)).values()))

    polling(slots, brokers, watch)
