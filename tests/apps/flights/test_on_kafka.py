"""The app as its users run it: fed, run by `streamkit worker`, and its topics compared with the csv."""

import asyncio
import json
import subprocess
import sys
from collections import defaultdict
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from apps.flights.data import read_flights
from apps.flights.feed import feed
from apps.flights.report import read_findings
from tests.apps.flights.truth import Truth
from tests.kafka.server import ExistingKafka

GROUPS = ("flights.rotation", "flights.delay", "flights.cancelled", "flights.gate")
WORKER = [sys.executable, "-m", "streamkit.cli", "worker", "apps.flights:app", "--http", "127.0.0.1:0"]


@pytest.mark.parametrize(("kafka", "count"), [("embedded", 2_000), ("genuine", 5_000)], ids=["embedded", "genuine"])
def test_what_the_agents_write_is_what_the_csv_says(kafka: str, count: int, request: pytest.FixtureRequest) -> None:
    cluster = request.getfixturevalue(kafka)
    if isinstance(cluster, ExistingKafka):
        pytest.skip("the app's topics may hold records already on the cluster that STREAMKIT_TEST_BROKERS names")
    brokers: str = cluster.brokers
    rows = read_flights()[:count]
    truth = Truth({flight.id for flight in rows})
    asyncio.run(feed(brokers, rows))
    worker = [*WORKER, "--brokers", brokers, "--create-topics", "--stop-when-idle", "1s"]
    done = subprocess.run(worker, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr

    topics = asyncio.run(read(brokers, "nyc.gates.v1", "nyc.turns.v1", "nyc.delays.v1", "nyc.cancellations.v1"))
    assert gates_by_aircraft(topics["nyc.gates.v1"]) == truth.by_aircraft
    assert len(topics["nyc.gates.v1"]) == count
    assert turns_by_flight(topics["nyc.turns.v1"]) == truth.turns
    assert delays_by_key(topics["nyc.delays.v1"]) == {key: sorted(minutes) for key, minutes in truth.delays.items()}
    assert cancelled(topics["nyc.cancellations.v1"]) == truth.cancelled
    assert asyncio.run(lag(brokers)) == {group: [0] * 6 for group in GROUPS}

    found = asyncio.run(read_findings(brokers))
    assert found.turns.keys() == truth.turns.keys()
    assert sorted(found.cancelled) == truth.cancelled
    assert len(found.delays) == sum(map(len, truth.delays.values()))


Records = list[Any]  # of aiokafka, which has no types


def gates_by_aircraft(records: Records) -> dict[str, list[str]]:
    """In the order of the log: an aircraft's flights are in one partition."""
    flights: dict[str, list[str]] = defaultdict(list)
    for record in records:
        if record.key is not None:
            flights[record.key.decode()].append(json.loads(record.value)["flight"])
    return flights


def turns_by_flight(records: Records) -> dict[str, tuple[bool, bool, int]]:
    turns = [json.loads(record.value) for record in records]
    found = {identity(t["flight"]): (t["arrived_late"], t["departed_late"], len(t["chain"])) for t in turns}
    assert len(found) == len(turns)
    return found


def delays_by_key(records: Records) -> dict[str, list[int]]:
    delays: dict[str, list[int]] = defaultdict(list)
    for record in records:
        delays[record.key.decode()].append(json.loads(record.value)["minutes"])
    return {key: sorted(minutes) for key, minutes in delays.items()}


def cancelled(records: Records) -> list[str]:
    return sorted(identity(json.loads(record.value)) for record in records)


def identity(flight: dict[str, Any]) -> str:
    return f"{flight['carrier']}{flight['number']} {flight['origin']} {flight['scheduled'].replace('Z', '+00:00')}"


async def read(brokers: str, *topics: str) -> dict[str, Records]:
    """Everything that is in the topics, partition by partition in the order of the log."""
    found: dict[str, Records] = {topic: [] for topic in topics}
    async with AIOKafkaConsumer(*topics, bootstrap_servers=brokers, auto_offset_reset="earliest") as consumer:
        partitions = consumer.assignment()
        ends = await consumer.end_offsets(partitions)
        for partition in partitions:
            while await consumer.position(partition) < ends[partition]:
                for records in (await consumer.getmany(partition, timeout_ms=1_000)).values():
                    found[partition.topic].extend(records)
    return found


async def lag(brokers: str) -> dict[str, list[int]]:
    """By group, of the six partitions, asked without streamkit."""
    partitions = [TopicPartition("nyc.flights.v1", number) for number in range(6)]
    async with AIOKafkaConsumer(bootstrap_servers=brokers) as consumer:
        ends = await consumer.end_offsets(partitions)
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    try:
        found = {}
        for group in GROUPS:
            committed = await admin.list_consumer_group_offsets(group)
            found[group] = [ends[partition] - committed[partition].offset for partition in partitions]
        return found
    finally:
        await admin.close()
