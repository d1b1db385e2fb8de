"""Where the commands for dead letters look, and what happens to a topic while they read it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from streamkit.cli.dlq import reading
from streamkit.cli.dlq.reading import State, records_of
from streamkit.errors import TransportError
from streamkit.record import HeaderList, TopicPartition
from streamkit.settings import Settings
from streamkit.transport.base import AccessDenied, OffsetOutOfRange, Reader, Refused
from streamkit.transport.memory import MemoryBroker, MemoryTransport, named_broker
from streamkit.transport.memory.admin import MemoryAdmin
from streamkit.transport.memory.reader import MemoryReader
from tests.cli.dlq_support import invoke as dlq

TOPIC = "orders.dlq"
FIRST, SECOND = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)

APP = """
from streamkit import App
app = App("shop")
orders = app.topic("orders", value=dict)
payments = app.topic("payments", value=dict)
@app.agent(orders, dead_letter=True)
async def charge(order: dict) -> None: ...
@app.agent(payments, dead_letter=True)
async def settle(payment: dict) -> None: ...
"""


@pytest.fixture
def broker(brokers: str) -> Iterator[MemoryBroker]:
    yield named_broker(brokers)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """TARGET of an app whose two agents have dead letter topics of their own."""
    module = f"shop_{uuid4().hex[:8]}"
    (tmp_path / f"{module}.py").write_text(APP)
    monkeypatch.syspath_prepend(tmp_path)
    return module


class Clock:
    """In the place of `time`."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def letters(broker: MemoryBroker, topic: str, agent: str, count: int, **config: str) -> None:
    broker.create_topic(topic, 1, **({"message_timestamp_type": "LogAppendTime"} | config))
    for number in range(count):
        headers: HeaderList = [("sk-group", f"shop.{agent}".encode())]
        broker.append(topic, b"%d" % number, headers=headers)


def found(brokers: str, *arguments: str) -> list[tuple[str, str]]:
    """Topic and ID of what `search` finds."""
    ended = dlq(brokers, "search", *arguments, "--json")
    assert (ended.exit_code, ended.stderr) == (0, "")
    return [(line["topic"], line["id"]) for line in map(json.loads, ended.stdout.splitlines())]


# While the topic is read


@asynccontextmanager
async def reader_of(broker: MemoryBroker) -> AsyncIterator[Reader]:
    reader = MemoryTransport(broker, Settings()).reader()
    await reader.start()
    yield reader
    await reader.stop()


def read(broker: MemoryBroker, meanwhile: Callable[[int], None]) -> dict[int, list[int]]:
    """The offsets that are read of each partition; something is done after each batch of one."""

    async def run() -> dict[int, list[int]]:
        offsets: dict[int, list[int]] = {0: [], 1: []}
        async with reader_of(broker) as reader:
            ranges = await reader.log_ranges([FIRST, SECOND])
            async for records in records_of(reader, {each: limits.start for each, limits in ranges.items()}, ranges):
                for record in records:
                    offsets[record.partition].append(record.offset)
                meanwhile(records[0].partition)
        return offsets

    return asyncio.run(run())


@pytest.fixture
def two_at_once(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    """Ten records in each of two partitions, which are read two at a time."""
    monkeypatch.setattr(reading, "AT_ONCE", 2)
    broker.create_topic(TOPIC, 2)
    for partition in (0, 1):
        for _ in range(10):
            broker.append(TOPIC, b"v", partition=partition)
    return broker


@pytest.mark.parametrize(("start", "left"), [(6, [6, 7, 8, 9]), (10, [])])
def test_what_retention_removes_while_it_is_read_is_passed_over(
    two_at_once: MemoryBroker, start: int, left: list[int]
) -> None:
    def remove(_: int) -> None:
        two_at_once.delete_records(TOPIC, start, partition=0)

    assert read(two_at_once, remove) == {0: [0, 1, *left], 1: list(range(10))}


def test_a_record_that_a_new_leader_does_not_show_for_a_moment_is_not_passed_over(
    two_at_once: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll, errors = MemoryReader.poll, [OffsetOutOfRange(FIRST, 2)]

    async def refused_once(self: MemoryReader, *, max_records: int, timeout: float) -> Any:
        if errors and self.position(FIRST) == 2:
            raise errors.pop()
        return await poll(self, max_records=max_records, timeout=timeout)

    monkeypatch.setattr(MemoryReader, "poll", refused_once)
    assert read(two_at_once, lambda _: None) == {0: list(range(10)), 1: list(range(10))}


def test_a_log_that_ends_earlier_than_it_did_is_not_taken_for_one_that_was_read(
    two_at_once: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SILENCE", 0.1)
    monkeypatch.setattr(reading, "WAIT", 0.01)

    def make_anew(partition: int) -> None:
        if partition == 1 and len(two_at_once.records(TOPIC)) == 20:
            two_at_once.delete_topic(TOPIC)
            two_at_once.create_topic(TOPIC, 2)
            for _ in range(10):
                two_at_once.append(TOPIC, b"v", partition=1)

    with pytest.raises(TransportError, match=r"nothing could be read for 0.1 s, at orders.dlq\[0\] offset 2"):
        read(two_at_once, make_anew)


def test_what_comes_while_it_is_read_is_left_for_the_next_time(two_at_once: MemoryBroker) -> None:
    def come(partition: int) -> None:
        two_at_once.append(TOPIC, b"new", partition=partition)

    assert read(two_at_once, come) == {0: list(range(10)), 1: list(range(10))}


def test_when_nothing_moves_for_too_long_it_says_where_it_stands(
    two_at_once: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SILENCE", 0.0)
    monkeypatch.setattr(reading, "WAIT", 0.01)

    def hang(_: int) -> None:
        two_at_once.faults.network.close()

    said = r"nothing could be read for 0 s, at orders.dlq\[0\] offset 2, orders.dlq\[1\] offset 0"
    with pytest.raises(TransportError, match=said):
        read(two_at_once, hang)


def test_who_takes_long_over_the_records_is_not_told_that_nothing_could_be_read(
    two_at_once: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(reading, "time", clock)

    def take_long(_: int) -> None:
        clock.now += 2 * reading.SILENCE

    assert read(two_at_once, take_long) == {0: list(range(10)), 1: list(range(10))}


# Who may not


@pytest.mark.parametrize("command", ["ls", "groups", "search", "export"])
@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (Refused("[Error 29] TopicAuthorizationFailedError"), "refuse this client: [Error 29] TopicAuthorization"),
        (AccessDenied("wrong password"), "error: wrong password\n"),
    ],
    ids=["refused", "denied"],
)
@pytest.mark.parametrize("call", ["start", "topics"])
def test_who_may_not_look_is_misconfigured(
    brokers: str, monkeypatch: pytest.MonkeyPatch, command: str, refusal: Exception, said: str, call: str
) -> None:
    async def refuse(*_: object) -> None:
        raise refusal

    monkeypatch.setattr(MemoryAdmin, call, refuse)
    ended = dlq(brokers, command, "--topic", "orders")
    assert (ended.exit_code, ended.stdout) == (78, "")
    assert said in ended.stderr


# Which topics


def test_a_name_that_dead_letter_gave_is_found_by_its_timestamps(broker: MemoryBroker, brokers: str) -> None:
    letters(broker, "bad.orders", "charge", 2)
    assert found(brokers, "--topic", "bad.orders") == [("bad.orders", "0:0"), ("bad.orders", "0:1")]


def test_a_source_is_not_taken_for_dead_letters(broker: MemoryBroker, brokers: str) -> None:
    letters(broker, "orders", "charge", 2, message_timestamp_type="CreateTime")
    ended = dlq(brokers, "search", "--topic", "orders")
    assert (ended.exit_code, ended.stdout) == (0, "")
    assert ended.stderr == f"no dead letters: topic 'orders.dlq' does not exist at {brokers}\n"


def test_the_dead_letters_of_a_source_come_before_itself(broker: MemoryBroker, brokers: str) -> None:
    letters(broker, "orders", "charge", 2)
    letters(broker, TOPIC, "charge", 1)
    assert found(brokers, "--topic", "orders") == [(TOPIC, "0:0")]


def test_the_dead_letters_of_all_agents_are_looked_at(broker: MemoryBroker, brokers: str, shop: str) -> None:
    letters(broker, TOPIC, "charge", 2)
    letters(broker, "payments.dlq", "settle", 1)
    everything = [(TOPIC, "0:0"), (TOPIC, "0:1"), ("payments.dlq", "0:0")]
    assert found(brokers, shop) == everything
    assert found(brokers, shop, "--limit", "2") == everything[:2]
    assert found(brokers, shop, "--agent", "settle") == found(brokers, shop, "--topic", "payments") == everything[2:]
    exported = dlq(brokers, "export", shop).stdout.splitlines()
    assert [json.loads(line)["topic"] for line in exported] == [topic for topic, _ in everything]
    for command, key in (("ls", "agents"), ("groups", "groups")):
        topics = json.loads(dlq(brokers, command, shop, "--json").stdout)["topics"]
        assert [(topic["topic"], len(topic[key])) for topic in topics] == [(TOPIC, 1), ("payments.dlq", 1)]


@pytest.mark.parametrize("command", ["ls", "groups", "search"])
def test_each_of_several_topics_stands_above_its_letters(
    broker: MemoryBroker, brokers: str, shop: str, command: str
) -> None:
    letters(broker, TOPIC, "charge", 2)
    letters(broker, "payments.dlq", "settle", 1)
    lines = dlq(brokers, command, shop).stdout.splitlines()
    assert [line for line in lines if line in (TOPIC, "payments.dlq")] == [TOPIC, "payments.dlq"]
    assert lines[0] == TOPIC


def test_one_topic_that_is_missing_does_not_hide_the_others(broker: MemoryBroker, brokers: str, shop: str) -> None:
    letters(broker, "payments.dlq", "settle", 1)
    ended = dlq(brokers, "search", shop, "--json")
    assert (ended.exit_code, json.loads(ended.stdout)["topic"]) == (0, "payments.dlq")
    assert ended.stderr == f"no dead letters: topic 'orders.dlq' does not exist at {brokers}\n"


def test_an_app_without_dead_letters_is_told_how_to_have_some(tmp_path: Path, brokers: str, shop: str) -> None:
    path = tmp_path / f"{shop}.py"
    path.write_text(path.read_text().replace(", dead_letter=True", ""))
    for arguments, who in (((), "no agent of 'shop' has"), (("--agent", "charge"), "agent 'charge' has no")):
        ended = dlq(brokers, "ls", shop, *arguments)
        assert ended.exit_code == 2
        assert f"{who} dead letters; declare retry= with tiers, or dead_letter=True" in ended.stderr


def test_a_topic_of_no_agent_is_refused_with_the_one_that_was_meant(brokers: str, shop: str) -> None:
    ended = dlq(brokers, "ls", shop, "--topic", "order.dlq")
    assert ended.exit_code == 2
    assert "--topic 'order.dlq' is neither source nor dead letter topic; did you mean 'orders.dlq'?" in ended.stderr


@pytest.mark.parametrize("audits", [False, True])
def test_audits_are_held_only_for_whom_they_are_read(broker: MemoryBroker, audits: bool) -> None:
    """Nothing ever removes them, and with what was edited each may be of 10 KB."""
    broker.create_topic(f"{TOPIC}.state", 1)
    for key in (b"audit:1:a", b"job:b", b"case:0:1"):
        broker.append(f"{TOPIC}.state", b'{"status": "archived"}', key=key)

    async def run() -> State:
        state = State(f"{TOPIC}.state", exists=True, audits=audits)
        async with reader_of(broker) as reader:
            await state.read(reader)
        return state

    state = asyncio.run(run())
    assert (len(state.jobs.audits), len(state.jobs.jobs), state.cases.stored("0:1").status) == (audits, 1, "archived")
