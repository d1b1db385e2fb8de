"""The app as its users run it: fed, run by `streamkit worker`, and its topics compared with the csv."""

import asyncio
import json
import subprocess
import sys
from collections import Counter, defaultdict
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from apps.flights.data import read_flights
from apps.flights.feed import feed
from apps.flights.report import read_findings
from apps.flights.strange import HEADERS, STRANGE
from apps.flights.weather import TOO_OFTEN, faults
from tests.apps.flights.truth import Truth, without_weather
from tests.kafka.server import ExistingKafka

GROUPS = ("flights.rotation", "flights.delay", "flights.cancelled", "flights.gate", "flights.weather")
WRITTEN = (
    "nyc.gates.v1",
    "nyc.turns.v1",
    "nyc.delays.v1",
    "nyc.cancellations.v1",
    "nyc.weather.v1",
    "nyc.flights.v1.dlq",
)
WORKER = [sys.executable, "-m", "streamkit.cli", "worker", "apps.flights:app", "--http", "127.0.0.1:0"]


@pytest.mark.parametrize(("kafka", "count"), [("embedded", 2_000), ("genuine", 5_000)], ids=["embedded", "genuine"])
def test_what_the_agents_write_is_what_the_csv_says(kafka: str, count: int, request: pytest.FixtureRequest) -> None:
    cluster = request.getfixturevalue(kafka)
    if isinstance(cluster, ExistingKafka):
        pytest.skip("the app's topics may hold records already on the cluster that STREAMKIT_TEST_BROKERS names")
    brokers: str = cluster.brokers
    rows = read_flights()[:count]
    wanted = {flight.id for flight in rows}
    truth = Truth(wanted)
    asyncio.run(feed(brokers, rows))
    worker = [*WORKER, "--brokers", brokers, "--create-topics", "--stop-when-idle", "1s"]
    done = subprocess.run(worker, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr

    topics = asyncio.run(read(brokers, *WRITTEN))
    assert gates_by_aircraft(topics["nyc.gates.v1"]) == truth.by_aircraft
    assert len(topics["nyc.gates.v1"]) == count
    assert turns_by_flight(topics["nyc.turns.v1"]) == truth.turns
    assert delays_by_key(topics["nyc.delays.v1"]) == {key: sorted(minutes) for key, minutes in truth.delays.items()}
    assert cancelled(topics["nyc.cancellations.v1"]) == truth.cancelled
    assert asyncio.run(lag(brokers)) == {group: [0] * 6 for group in GROUPS}

    unknown, unanswered = without_weather(wanted), {flight for flight in wanted if faults(flight) == TOO_OFTEN}
    known = wanted - unknown - unanswered
    assert attempts_by_flight(topics["nyc.weather.v1"]) == {flight: 1 + faults(flight) for flight in known}
    letters = topics["nyc.flights.v1.dlq"]
    expected = {group: {"DecodeError": 2, "ValidationError": 3} for group in GROUPS}
    expected["flights.weather"] |= {"NotObserved": len(unknown), "TimeoutError": len(unanswered)}
    assert errors_by_group(letters) == {group: +Counter(errors) for group, errors in expected.items()}
    undecodable = [letter for letter in letters if header(letter, "sk-stage") == "decode-value"]
    assert sorted({letter.value for letter in undecodable}) == sorted(STRANGE)
    assert all(list(letter.headers)[: len(HEADERS)] == HEADERS for letter in undecodable)

    found = asyncio.run(read_findings(brokers))
    assert found.turns.keys() == truth.turns.keys()
    assert sorted(found.cancelled) == truth.cancelled
    assert len(found.delays) == sum(map(len, truth.delays.values()))


Records = list[Any]  # of aiokafka, which has no types


def attempts_by_flight(records: Records) -> dict[str, int]:
    weathers = [json.loads(record.value) for record in records]
    found = {weather["flight"]: weather["attempts"] for weather in weathers}
    assert len(found) == len(weathers)
    return found


def errors_by_group(letters: Records) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for letter in letters:
        found[header(letter, "sk-group")][header(letter, "sk-error-class").rpartition(".")[2]] += 1
    return found


def header(record: Any, name: str) -> str:
    (value,) = [value for each, value in record.headers if each == name]
    text: str = value.decode()
    return text


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
