"""The whole app as its users run it: fed, run by `streamkit worker`, and its topics read."""

import asyncio
import json
import sqlite3
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from apps.orders import agents
from streamkit import Topic
from tests.cli.support import ROOT, Finished, streamkit
from tests.kafka.server import ExistingKafka

ORDERS = [json.loads(line) for line in (ROOT / "apps/orders/orders.jsonl").read_text().splitlines()]
IMPORTED = {**ORDERS[0], "id": "old-1"}


class Stored(NamedTuple):
    key: str | None
    value: Any
    headers: dict[str, bytes]
    timestamp: int


class Run(NamedTuple):
    ended: Finished
    topics: dict[str, list[Stored]]
    ledger: Path


@pytest.fixture(scope="module", params=["embedded", "genuine"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    cluster = request.getfixturevalue(request.param)
    if isinstance(cluster, ExistingKafka):
        pytest.skip("the app's topics may hold records already on the cluster that STREAMKIT_TEST_BROKERS names")
    brokers: str = cluster.brokers
    directory = tmp_path_factory.mktemp("orders")
    asyncio.run(feed(brokers))
    options = ["--brokers", brokers, "--create-topics", "--stop-when-idle", "2s", "--http", "off"]
    ended = streamkit(directory, "worker", "apps.orders:app", *options)
    return Run(ended, asyncio.run(read_all(brokers)), directory / "orders.sqlite")


async def feed(brokers: str) -> None:
    sources: list[Topic[Any, Any]] = [agents.orders, agents.imported, agents.customers]
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic.name, topic.partitions, 1) for topic in sources])
    finally:
        await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=brokers) as producer:
        for order in ORDERS:
            key, value = order["customer"].encode(), json.dumps(order).encode()
            await producer.send(agents.orders.name, value, key=key)
        await producer.send(agents.imported.name, json.dumps(IMPORTED).encode(), key=b"ada")
        await producer.send(agents.customers.name, b'{"name": "Ada"}', key=b"ada")
        await producer.send(agents.customers.name, None, key=b"zoe")


async def read_all(brokers: str) -> dict[str, list[Stored]]:
    """What each topic of the app holds, partition by partition, in the order of the log."""
    found: dict[str, list[Stored]] = defaultdict(list)
    async with AIOKafkaConsumer(bootstrap_servers=brokers) as consumer:
        partitions = [
            TopicPartition(each.name, n) for each in agents.app.topics.values() for n in range(partitions_of(each))
        ]
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(partitions)
        for partition in partitions:
            while await consumer.position(partition) < ends[partition]:
                records = await consumer.getmany(partition, timeout_ms=1000)
                for record in records.get(partition, []):
                    key = None if record.key is None else record.key.decode()
                    found[partition.topic].append(
                        Stored(key, decoded(record.value), dict(record.headers), record.timestamp)
                    )
    return found


def partitions_of(topic: Topic[Any, Any]) -> int:
    assert topic.partitions is not None
    return topic.partitions


def decoded(value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        return json.loads(value)
    except ValueError:
        return value.decode()


def test_the_worker_ends_by_itself_without_an_error(run: Run) -> None:
    assert run.ended.code == 0, run.ended.errors
    assert "everything is settled; stopping" in run.ended.errors


def test_every_order_that_costs_something_has_an_invoice_under_its_customer(run: Run) -> None:
    invoices = run.topics["shop.invoices.v1"]
    assert {(each.key, each.value["order"], each.value["cents"]) for each in invoices} == {
        ("ada", "1", 3000),
        ("bob", "2", 2300),
        ("ada", "3", 125_000),
        ("ada", "5", 400),
        ("bob", "6", 1500),
    }
    assert [each.value["order"] for each in invoices if each.key == "ada"] == ["1", "3", "5"]


def test_every_line_is_a_movement_under_its_article_and_the_demand_sums_them_up(run: Run) -> None:
    movements = run.topics["shop.movements.v1"]
    lines = [(str(line["article"]), order["id"]) for order in ORDERS for line in order["lines"]]
    assert sorted((each.key, each.value["order"]) for each in movements) == sorted(lines)
    pieces = Counter[str | None]()
    for each in run.topics["shop.demand.v1"]:
        assert each.key == str(each.value["article"])
        pieces[each.key] += each.value["pieces"]
    assert pieces == {"7": 4, "9": 6, "12": 1, "3": 4}


def test_the_audit_has_a_line_of_csv_for_each_order_of_both_topics(run: Run) -> None:
    entries = run.topics["shop.audit.v1"]
    lines = {f"{order['id']},shop.orders.v1,{sum(line['cents'] for line in order['lines'])}" for order in ORDERS}
    assert {each.value for each in entries} == lines | {"old-1,shop.orders.imported.v1,3000"}
    assert all(each.headers["placed-at"].startswith(b"20") for each in entries)


def test_every_order_is_confirmed_and_a_large_one_raises_an_alert_and_a_second_mail(run: Run) -> None:
    mails = [(each.key, each.value) for each in run.topics["shop.mails.v1"]]
    confirmations = [(order["email"], f"We have got your order {order['id']}.") for order in ORDERS]
    assert sorted(mails) == sorted([*confirmations, ("office@example.com", "We look at your order 3: case 0.")])
    assert [each.value for each in run.topics["shop.alerts.v1"]] == [{"order": "3", "cents": 125_000}]


def test_the_totals_run_and_a_customer_who_has_left_has_a_tombstone(run: Run) -> None:
    totals: dict[str | None, list[Any]] = defaultdict(list)
    for each in run.topics["shop.totals.v1"]:
        totals[each.key].append(each.value)
    assert totals["ada"] == [
        {"orders": 1, "cents": 3000},
        {"orders": 2, "cents": 128_000},
        {"orders": 3, "cents": 128_400},
    ]
    assert totals["bob"][-1] == {"orders": 2, "cents": 3800}
    assert totals["zoe"] == [None]


def test_the_invoices_are_in_the_database_and_the_timer_has_told_their_sum(run: Run) -> None:
    with sqlite3.connect(run.ledger) as connection:
        rows = connection.execute("select order_id, cents from invoices order by order_id").fetchall()
    connection.close()
    assert rows == [("1", 3000), ("2", 2300), ("3", 125_000), ("5", 400), ("6", 1500)]
    assert run.topics["shop.revenue.v1"][-1].value == {"cents": 132_200}
