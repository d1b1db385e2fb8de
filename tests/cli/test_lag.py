"""`streamkit lag`: how far groups are behind, seen from outside."""

import asyncio
import json
import random
import socket
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from streamkit.cli.embedded import free_port
from streamkit.record import TopicPartition as Partition
from streamkit.settings import Settings
from streamkit.transport.base import CommittedOffset, LogRange, NewTopic, Unreachable
from streamkit.transport.kafka import KafkaTransport
from streamkit.transport.memory import MemoryBroker, named_broker
from streamkit.transport.memory.admin import MemoryAdmin
from tests.cli.lag_support import Place, by_place, described, lag, scraped, shown
from tests.cli.support import TIMEOUT, running
from tests.kafka.server import ExistingKafka, GenuineKafka

STATES = 20
HOUR = 3_600_000  # ms
APP = """
from streamkit import App, Retry
app = App("shop")
orders = app.topic("orders", value=dict)

@app.agent(orders, retry=Retry.delays("1h"))
async def charge(order: dict) -> None: ...
"""


@pytest.fixture
def brokers() -> str:
    return f"memory://lag-{uuid4().hex[:8]}"


@pytest.fixture
def broker(brokers: str) -> MemoryBroker:
    """Group shop.charge has done 2 of 5 records of one partition, and all of the other."""
    broker = named_broker(brokers)
    broker.create_topic("orders", 2)
    broker.create_topic("orders.shop.charge.retry-1")
    for _ in range(5):
        broker.append("orders", b"{}", partition=0)
    broker.append("orders", b"{}", partition=1)
    commit(broker, {Partition("orders", 0): 2, Partition("orders", 1): 1})
    return broker


def commit(broker: MemoryBroker, offsets: dict[Partition, int]) -> None:
    found = broker.group("shop.charge")
    found.offsets.update({partition: CommittedOffset(offset) for partition, offset in offsets.items()})


def seen(brokers: str, *arguments: str) -> dict[str, Any]:
    ended = lag(brokers, *arguments, "--json")
    assert (ended.exit_code, ended.stderr) == (0, "")
    (found,) = json.loads(ended.stdout)["groups"]
    return dict(found)


@pytest.mark.usefixtures("broker")
def test_a_group_is_seen_by_its_commits(brokers: str) -> None:
    found = seen(brokers, "--group", "shop.charge", "--for", "0s")
    assert (found["group"], found["state"], found["members"], found["lag_records"]) == ("shop.charge", "Empty", 0, 3)
    behind, done = found["partitions"]
    assert (behind["partition"], behind["committed"], behind["end"], behind["lag_records"]) == (0, 2, 5, 3)
    assert 0 <= behind["lag_seconds"] < 60
    assert (done["lag_records"], done["lag_seconds"], done["status"], done["owner"]) == (0, 0, "ok", None)


@pytest.mark.usefixtures("broker")
def test_what_stands_still_without_an_owner_is_stalled(brokers: str) -> None:
    behind, _ = seen(brokers, "--group", "shop.charge", "--for", "1s")["partitions"]
    assert (behind["status"], behind["reason"]) == ("stalled", "no_owner")


def test_the_age_is_that_of_the_oldest_record_that_is_not_settled(brokers: str, broker: MemoryBroker) -> None:
    broker.create_topic("old")
    now = int(time.time() * 1000)
    for age in (3, 2, 1):
        broker.append("old", b"{}", timestamp=now - age * HOUR)
    commit(broker, {Partition("old", 0): 1})
    found = {each["topic"]: each for each in seen(brokers, "--group", "shop.charge", "--for", "0s")["partitions"]}
    assert found["old"]["lag_seconds"] == pytest.approx(7200, abs=30)


def test_a_tier_is_behind_by_what_is_overdue(brokers: str, broker: MemoryBroker, tmp_path: Path) -> None:
    now = int(time.time() * 1000)
    tier = "orders.shop.charge.retry-1"
    broker.append(tier, b"{}", headers=[("sk-due", b"%d" % (now + HOUR))])
    (tmp_path / f"lag_{brokers[-8:]}.py").write_text(APP)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.syspath_prepend(tmp_path)
        found = {
            (e["topic"], e["partition"]): e for e in seen(brokers, f"lag_{brokers[-8:]}", "--for", "1s")["partitions"]
        }
        waiting = found[tier, 0]
        assert (waiting["lag_records"], waiting["lag_seconds"], waiting["status"]) == (1, 0, "ok")
        assert waiting["reason"] == "retry_wait"
        broker.append(tier, b"{}", headers=[("sk-due", b"%d" % (now - HOUR))])
        commit(broker, {Partition(tier, 0): 1})
        found = {
            (e["topic"], e["partition"]): e for e in seen(brokers, f"lag_{brokers[-8:]}", "--for", "0s")["partitions"]
        }
        assert found[tier, 0]["lag_seconds"] == pytest.approx(3600, abs=30)


@pytest.mark.usefixtures("broker")
def test_people_see_what_is_behind_in_80_columns(brokers: str) -> None:
    ended = lag(brokers, "-g", "shop.charge", "--for", "1s")
    assert ended.exit_code == 0
    first, headings, row, last = ended.stdout.splitlines()
    assert first.startswith("shop.charge: Empty, 0 members, 3 records behind, the oldest for ")
    assert headings.split() == ["records", "seconds", "partition", "status", "owner"]
    assert row.split()[0] == "3"
    assert row.split()[2:] == ["orders", "0", "stalled", "(no_owner)", "nobody"]
    assert last == "1 partition without lag"
    assert max(map(len, ended.stdout.splitlines())) <= 80
    assert "orders 1" in lag(brokers, "-g", "shop.charge", "--for", "0s", "--all").stdout


@pytest.mark.usefixtures("broker")
def test_what_cannot_be_read_is_not_taken_for_nothing(brokers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(admin: MemoryAdmin, partitions: object) -> dict[Partition, LogRange]:
        raise Unreachable("no leader")

    monkeypatch.setattr(MemoryAdmin, "log_ranges", silent)
    arguments = "--group", "shop.charge", "--for", "0s"
    (found,) = json.loads(lag(brokers, *arguments, "--json").stdout)["groups"]
    assert found["lag_records"] is None
    assert [(each["end"], each["lag_records"], each["status"]) for each in found["partitions"]] == [(None,) * 3] * 2
    first, _, *rows = lag(brokers, *arguments).stdout.splitlines()
    assert first == "shop.charge: Empty, 0 members, 0 records behind, 2 partitions not known"
    assert [row.split() for row in rows] == [["–", "–", "orders", str(number), "–", "nobody"] for number in range(2)]


def test_a_group_that_nobody_knows_is_not_taken_for_one_that_is_caught_up(brokers: str) -> None:
    named_broker(brokers)
    ended = lag(brokers, "--group", "nobody", "--for", "0s", "--json")
    assert ended.exit_code == 1
    assert json.loads(ended.stdout)["groups"] == [
        {
            "group": "nobody",
            "error": None,
            "last_seen": None,
            "state": "Dead",
            "members": 0,
            "missing_topics": [],
            "lag_records": None,
            "lag_seconds": None,
            "partitions": [],
        }
    ]
    ended = lag(brokers, "--group", "nobody", "--for", "0s")
    assert (ended.exit_code, ended.stdout) == (1, "nobody: there is no such group\n")


def test_a_topic_that_is_not_there_is_named(brokers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named_broker(brokers)
    module = f"lag_{brokers[-8:]}"
    (tmp_path / f"{module}.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    ended = lag(brokers, module, "--for", "0s")
    assert ended.exit_code == 1
    assert "there is no topic orders\n" in ended.stdout
    (found,) = json.loads(lag(brokers, module, "--for", "0s", "--json").stdout)["groups"]
    assert (found["missing_topics"], found["lag_records"], found["partitions"]) == (["orders"], None, [])


@pytest.mark.parametrize("address", ["foo", "127.0.0.1", "127.0.0.1:x", "off", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_refused(brokers: str, address: str) -> None:
    ended = lag(brokers, "--group", "shop.charge", "--exporter", address)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr.endswith(f"--exporter {address!r}: write HOST:PORT\n")


def test_a_port_that_is_taken_is_named_with_what_can_be_done(brokers: str) -> None:
    named_broker(brokers)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = lag(brokers, "--group", "shop.charge", "--exporter", address)
    assert ended.exit_code == 78
    assert address in ended.stderr
    assert "Choose another with --exporter HOST:PORT." in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "whose lag?"),
        (("--agent", "charge"), "whose lag?"),
        (("shop", "--group", "g"), "TARGET says which groups"),
        (("--group", "g", "--for", "soon"), "--for 'soon'"),
    ],
)
def test_what_cannot_be_meant_exits_2(brokers: str, arguments: tuple[str, ...], message: str) -> None:
    ended = lag(brokers, *arguments)
    assert (ended.exit_code, message in ended.stderr) == (2, True)


def test_without_a_broker_one_line_says_so() -> None:
    ended = lag("127.0.0.1:1", "--group", "g")
    assert ended.exit_code == 1
    assert ended.stderr.startswith("error: cannot reach the brokers at 127.0.0.1:1: ")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.timeout(180)
def test_it_agrees_with_kafka(genuine: GenuineKafka | ExistingKafka, tmp_path: Path) -> None:
    """In 20 random states, with the kafka-consumer-groups.sh of Kafka itself; and so does what the exporter serves."""
    if isinstance(genuine, ExistingKafka):
        pytest.skip("Kafka's own tool is asked of the Kafka that the tests start")
    chance = random.Random(4711)
    names = [f"agree-{uuid4().hex[:8]}" for _ in range(STATES)]
    asyncio.run(make_states(genuine.brokers, names, chance))
    theirs = described(genuine.consumer_groups("--describe", *(f"--group={name}" for name in names)))
    assert len(theirs) >= STATES
    assert any(row.lag for row in theirs.values())
    assert shown(genuine.brokers, names) == theirs
    port = free_port()
    arguments = [word for name in names for word in ("--group", name)]
    with running(
        tmp_path, "lag", *arguments, "--brokers", genuine.brokers, "--exporter", f"127.0.0.1:{port}"
    ) as exporter:
        exporter.await_text("is on http")
        assert served(port, len(theirs)) == {place: row.lag for place, row in theirs.items()}


def served(port: int, count: int) -> dict[Place, int]:
    """The lags at /metrics, once so many are there."""
    deadline = time.monotonic() + TIMEOUT
    while len(found := by_place(scraped(f"http://127.0.0.1:{port}"), "streamkit_consumer_lag_records")) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count}"
        time.sleep(0.1)
    return found


async def make_states(brokers: str, names: list[str], chance: random.Random) -> None:
    """Topics with some records, some of them in transactions, and groups that have committed some of them."""
    counts = {name: chance.randint(1, 3) for name in names}
    admin = KafkaTransport(Settings.load({"brokers": brokers}, {}, {})).admin()
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, count, 1) for name, count in counts.items()])
    finally:
        await admin.stop()
    plain = AIOKafkaProducer(bootstrap_servers=brokers)
    transactional = AIOKafkaProducer(bootstrap_servers=brokers, transactional_id=names[0])
    async with plain, transactional:
        for name, count in counts.items():
            ends = [chance.randint(0, 30) for _ in range(count)]
            for number, end in enumerate(ends):
                for _ in range(end):
                    await plain.send(name, b"x", partition=number)
            await plain.flush()
            if chance.random() < 0.5:
                async with transactional.transaction():
                    await transactional.send(name, b"x", partition=0)
            offsets = {
                TopicPartition(name, number): chance.randint(0, end)
                for number, end in enumerate(ends)
                if number == 0 or chance.random() < 0.8
            }
            consumer = AIOKafkaConsumer(bootstrap_servers=brokers, group_id=name, enable_auto_commit=False)
            async with consumer:
                consumer.assign(list(offsets))
                await consumer.commit(offsets)
