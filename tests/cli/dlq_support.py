"""Dead letters in a memory broker, and `streamkit dlq` on them."""

import asyncio
import json
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

from aiokafka import AIOKafkaProducer
from click.testing import CliRunner, Result

from streamkit.cli.group import group
from streamkit.cli.signals import SIGNALS
from streamkit.record import ConsumedRecord, HeaderList
from streamkit.retry import dead_letter_topic, tier_topic
from streamkit.settings import Settings
from streamkit.transport.base import NewTopic
from streamkit.transport.kafka import KafkaTransport
from streamkit.transport.memory import MemoryBroker

DEAD, STATE, TIER = "orders.dlq", "orders.dlq.state", "orders.shop.charge.retry-1"
FAILED = 1_700_000_000_000  # ms: 2023-11-14 22:13:20 UTC
SENT = FAILED - 3_600_000
STATE_CONFIG = {"cleanup_policy": "compact", "message_timestamp_type": "LogAppendTime"}
AGENT = "shop.charge"


def letter_headers(number: int, **changed: str | None) -> HeaderList:
    """As the engine writes them. `changed` with underscores for hyphens; None leaves one out."""
    found: dict[str, str | None] = {
        "sk-origin-topic": "orders",
        "sk-origin-partition": "2",
        "sk-origin-offset": str(number),
        "sk-origin-timestamp": str(SENT + number),
        "sk-group": AGENT,
        "sk-attempt": "6",
        "sk-first-failed-at": str(FAILED),
        "sk-failed-at": str(FAILED + number),
        "sk-stage": "handle",
        "sk-error-class": "pay.Slow",
        "sk-error-message": f"call {number} timed out",
    }
    found |= {name.replace("_", "-"): value for name, value in changed.items()}
    user: HeaderList = [("tenant", b"red"), ("traceparent", b"00-1"), ("TraceState", b"x=1"), ("tenant", b"\xff")]
    return [*user, *((name, value.encode()) for name, value in found.items() if value is not None)]


def bury(broker: MemoryBroker, number: int, partition: int = 0, **changed: str | None) -> str:
    """One dead letter; its ID."""
    headers = letter_headers(number, **changed)
    offset = broker.append(DEAD, b'{"id": %d}' % number, key=b"k%d" % number, partition=partition, headers=headers)
    return f"{partition}:{offset}"


def filled(broker: MemoryBroker, count: int = 3) -> None:
    """The topics of an agent with tiers, and dead letters 0:0, 0:1 and so on."""
    broker.create_topic("orders", 3)
    broker.create_topic(TIER, 3, message_timestamp_type="LogAppendTime")
    broker.create_topic(DEAD, 3, message_timestamp_type="LogAppendTime")
    for number in range(count):
        bury(broker, number)


def dlq(brokers: str, *arguments: str, given: str | None = None, topic: str | None = "orders") -> Result:
    """`given` is the answer to the question."""
    return invoke(brokers, *arguments, *(() if topic is None else ("--topic", topic)), given=given)


def invoke(brokers: str, *arguments: str, given: str | bytes | None = None) -> Result:
    command = ["dlq", *arguments, "--brokers", brokers]
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        ended = CliRunner().invoke(group, command, prog_name="streamkit", input=given)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return ended


def told(ended: Result) -> dict[str, Any]:
    """The result as JSON."""
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def statuses(brokers: str, topic: str = "orders") -> dict[str, str]:
    """Of each dead letter, by ID."""
    lines = dlq(brokers, "search", "--json", "--limit", "100000", topic=topic).stdout.splitlines()
    return {found["id"]: found["status"] for found in map(json.loads, lines)}


def audits(brokers: str, topic: str = "orders") -> list[dict[str, Any]]:
    return [json.loads(line) for line in dlq(brokers, "audit", "--json", topic=topic).stdout.splitlines()]


def state(broker: MemoryBroker) -> dict[str, Any]:
    """What the state topic says in the end, by key; without the audit."""
    latest: dict[str, Any] = {}
    for record in broker.records(STATE):
        key = (record.key or b"").decode()
        latest[key] = None if record.value is None else json.loads(record.value)
    return {key: value for key, value in latest.items() if value is not None and not key.startswith("audit:")}


def say(broker: MemoryBroker, key: str, value: object) -> None:
    """Write to the state topic."""
    if STATE not in broker.topics:
        broker.create_topic(STATE, 1, **STATE_CONFIG)
    broker.append(STATE, None if value is None else json.dumps(value).encode(), key=key.encode())


def cases(records: Sequence[ConsumedRecord]) -> list[str]:
    """The case that each record carries."""
    return [(dict(record.headers)["sk-dlq-id"] or b"").decode() for record in records]


def with_worker(broker: MemoryBroker, outcomes: Callable[[str], str | None]) -> list[str]:
    """From now on a worker tells at once how each replayed record has ended, or nothing for None; the cases that it
    got."""
    produce, seen = broker.produce, list[str]()

    async def produced(partition: Any, payloads: Any, size: int, within: float) -> Any:
        stored = await produce(partition, payloads, size, within)
        for payload in payloads if partition.topic != STATE else ():
            case = (dict(payload.headers)["sk-dlq-id"] or b"").decode()
            seen.append(case)
            if outcome := outcomes(case):
                say(broker, f"run:{case}:{AGENT}", {"group": AGENT, "outcome": outcome, "attempt": 1})
        return stored

    broker.produce = produced  # type: ignore[method-assign]
    return seen


def job_record(**changed: Any) -> Mapping[str, Any]:
    """Of a replay of all to the origin that was cut off. None leaves a field out."""
    filters: dict[str, Any] = {"headers": [], "statuses": []}
    found = {
        "command": "replay",
        "arguments": {"group": None, "ids": [], "filters": filters, "to": "origin", "wait": 60.0},
        "reason": "because",
        "who": "ann@far",
        "began": "2026-01-31T12:00:00.000Z",
        "within": {"0": [0, 3], "1": [0, 0], "2": [0, 0]},
        **changed,
    }
    return {name: value for name, value in found.items() if value is not None}


def letters_on(brokers: str, count: int, source: str | None = None, **changed: str) -> tuple[str, str]:
    """So many dead letters of a topic, of its own unless one is given; the topic's name and the tier's."""
    source = source or f"orders-{uuid4().hex[:10]}"
    tier, dead = tier_topic(source, AGENT, 1), dead_letter_topic(source)

    async def fill() -> None:
        admin = KafkaTransport(Settings.load({"brokers": brokers}, {}, {})).admin()
        await admin.start()
        try:
            stamped = {"message.timestamp.type": "LogAppendTime"}
            await admin.create_topics([NewTopic(name, 1, None, stamped) for name in (tier, dead)])
        finally:
            await admin.stop()
        async with AIOKafkaProducer(bootstrap_servers=brokers) as producer:
            for number in range(count):
                origin = {"sk_origin_topic": source, "sk_origin_partition": "0"}
                headers = letter_headers(number, **{**origin, **changed})
                await producer.send(dead, b"%d" % number, key=b"k", headers=headers)

    asyncio.run(fill())
    return source, tier
