"""What the tests of the observer share: a worker's slots, brokers that need no network, and a scraper."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from streamkit.observe.collector import StreamkitCollector
from streamkit.observe.lag import LagTable, Offsets
from streamkit.observe.observer import Observer
from streamkit.observe.partition_state import PartitionState
from streamkit.observe.slots import AgentSlots, WorkerSlots
from streamkit.record import TopicPartition
from streamkit.transport.base import CommittedOffset, GroupInfo, LogRange, NewTopic, TopicInfo, Unreachable

ORDERS = [TopicPartition("orders", n) for n in range(3)]
FIRST_TIER, SECOND_TIER = "orders.billing.charge.retry-1", "orders.billing.charge.retry-2"

Sample = tuple[str, frozenset[tuple[str, str]]]


def running_worker() -> tuple[WorkerSlots, AgentSlots]:
    """The slots of a worker that runs one agent and has no partitions yet."""
    slots = WorkerSlots("1.2.3")
    slots.state, slots.unready, slots.heartbeat = "running", "", time.monotonic()
    return slots, slots.agent("charge", "billing.charge", ("orders",), 8)


def retrying_worker() -> tuple[WorkerSlots, AgentSlots]:
    """The same, of an agent with two tiers, dead letters and a breaker."""
    slots, agent = running_worker()
    agent.declare(tiers=2, in_place=True, dead_letters=True, breaker=True)
    agent.add_tiers({FIRST_TIER: 1, SECOND_TIER: 2})
    return slots, agent


def worker_with_every_metric() -> tuple[WorkerSlots, LagTable]:
    """One whose every metric has samples."""
    slots, agent = retrying_worker()
    agent.assigned = frozenset([ORDERS[0], TopicPartition(FIRST_TIER, 0)])
    agent.oldest_due = lambda: {1: 1_790_000_000.5}
    agent.observe_lateness(1, 0.02)
    agent.event_timestamp, agent.last_commit = 1_790_000_000_000, 1_790_000_000.0
    agent.last_heartbeat = lambda: 1_790_000_000.0
    agent.topic_partitions["orders"] = 3
    agent.note_reset("orders", "no_offset")
    agent.note_error("handle", KeyError())
    agent.partitions = lambda: dict.fromkeys(agent.assigned, a_reading())
    slots.output("invoices")
    lag = LagTable()
    lag.record(agent.group, dict.fromkeys(agent.assigned, behind(7)), at=1_790_000_000.0)
    lag.judge(agent)
    return slots, lag


def behind(records: int) -> Offsets:
    """A sample of a partition whose lag this is."""
    return Offsets(0, records, 0, records)


AT_REST: dict[str, Any] = {
    "unsettled": 7,
    "position": 7,
    "head_timestamp": None,
    "head_started": None,
    "buffered": 0,
    "settled_ahead": 0,
    "closed": "",
    "buffered_bytes": 0,
}
"""What is different of a partition in which all is settled."""


def a_reading(**other: Any) -> PartitionState:
    """Of a partition at work, closed for back-pressure, whose oldest record runs."""
    state = PartitionState(
        unsettled=100,
        position=150,
        head_timestamp=1_790_000_000.5,
        head_started=1_790_000_001.5,
        head_due=None,
        head_blocked=False,
        buffered=30,
        settled_ahead=20,
        closed="backpressure",
        progressed_at=1_790_000_003.0,
        buffered_bytes=9_000,
    )
    return state._replace(**other)


@dataclass
class Brokers:
    """What an admin is told. `calls` is every question in order, `open` counts admins that want to be stopped."""

    committed: dict[TopicPartition, int] = field(default_factory=dict[TopicPartition, int])
    ranges: dict[TopicPartition, LogRange] = field(default_factory=dict[TopicPartition, LogRange])
    down: bool = False
    refused_groups: set[str] = field(default_factory=set[str])
    calls: list[str] = field(default_factory=list[str])
    open: int = 0
    before_ranges: Callable[[], None] = lambda: None
    after_ranges: Callable[[], None] = lambda: None
    before_watermarks: Callable[[], None] = lambda: None

    def admin(self) -> FakeAdmin:
        return FakeAdmin(self)


class FakeAdmin:
    def __init__(self, brokers: Brokers) -> None:
        self._brokers = brokers

    async def start(self) -> None:
        self._brokers.open += 1
        self._ask("start")

    async def stop(self) -> None:
        self._brokers.open -= 1

    async def topics(self, names: Collection[str]) -> dict[str, TopicInfo]:
        raise NotImplementedError

    async def all_topics(self) -> frozenset[str]:
        raise NotImplementedError

    async def group(self, name: str) -> GroupInfo:
        raise NotImplementedError

    async def all_groups(self) -> frozenset[str]:
        raise NotImplementedError

    async def create_topics(self, topics: Sequence[NewTopic]) -> None:
        raise NotImplementedError

    async def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        raise NotImplementedError

    async def log_ranges(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, LogRange]:
        self._ask("log_ranges")
        self._brokers.before_ranges()
        found = {p: r for p, r in self._brokers.ranges.items() if p in partitions}
        self._brokers.after_ranges()
        return found

    async def high_watermarks(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        self._ask("high_watermarks")
        self._brokers.before_watermarks()
        return {p: r.end for p, r in self._brokers.ranges.items() if p in partitions}

    async def committed(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, CommittedOffset]:
        self._ask("committed")
        if group in self._brokers.refused_groups:
            raise PermissionError(f"group {group}")
        return {p: CommittedOffset(o) for p, o in self._brokers.committed.items() if p in partitions}

    def _ask(self, call: str) -> None:
        self._brokers.calls.append(call)
        if self._brokers.down:
            raise Unreachable("no broker answered")


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    text: str


def get(url: str, *, method: str = "GET", accept: str = "*/*") -> Answer:
    request = urllib.request.Request(url, method=method, headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return Answer(response.status, dict(response.headers), response.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, dict(error.headers), error.read().decode())


def scrape(observer: Observer) -> dict[Sample, float]:
    """Every sample of the worker's own metrics, by name and labels."""
    assert observer.address is not None
    text = get(f"{observer.address.url}/metrics").text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("streamkit_")
    }


def collect(slots: WorkerSlots, lag: LagTable | None = None) -> dict[Sample, float]:
    """What a scrape would show, without a server."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in StreamkitCollector(slots, lag or LagTable()).collect()
        for sample in family.samples
    }


def series(name: str, **labels: str) -> Sample:
    return name, frozenset(labels.items())


@contextmanager
def observing(slots: WorkerSlots, brokers: Brokers | None = None, *, lag_interval: float = 600.0) -> Iterator[Observer]:
    """An observer on a free port. With its interval it samples when assignments change, and then when told."""
    brokers = brokers or Brokers()
    with Observer(slots, brokers.admin, http="127.0.0.1:0", http_is_default=False, lag_interval=lag_interval) as it:
        yield it
