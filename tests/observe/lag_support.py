"""What the tests of lag share: a worker on a broker whose wall clock is the loop's, and someone who watches its lag."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any
from unittest import mock

from streamkit.observe.assigned import Assigned
from streamkit.observe.lag import LagTable
from streamkit.observe.lag_metrics import lag_metrics
from streamkit.observe.lag_poller import LagPoller
from streamkit.observe.partition_state import PartitionState
from streamkit.observe.slots import AgentSlots, WorkerSlots
from streamkit.record import ConsumedRecord, TopicPartition
from streamkit.runtime.delivery import AssignedPartition
from streamkit.runtime.intake import Intake
from streamkit.runtime.runner import Runner
from streamkit.transport.base import Transport
from tests.observe.support import Sample
from tests.runtime.retry_support import wall
from tests.runtime.support import Working, World, until

IN = TopicPartition("in", 0)
INTERVAL = 10.0

Times = dict[tuple[TopicPartition, int], float]


@contextmanager
def noted_times() -> Iterator[Times]:
    """The times of all records that engines take in."""
    times: Times = {}
    register = Intake._register

    def noting(self: Intake, mine: AssignedPartition, records: Sequence[ConsumedRecord], *more: Any) -> None:
        times.update({(mine.partition, record.offset): record.timestamp / 1000 for record in records})
        register(self, mine, records, *more)

    with mock.patch.object(Intake, "_register", noting):
        yield times


def states_from(runner: Runner, times: Times) -> Mapping[TopicPartition, PartitionState]:
    """What the engine says of its partitions."""
    states: dict[TopicPartition, PartitionState] = {}
    agent, tiers = runner.slots, runner.slots.tier_topics
    for partition, mine in list(runner.membership.partitions.items()):
        window = mine.window
        offset = window.committable
        states[partition] = PartitionState(
            unsettled=offset,
            position=window.next_offset,
            head_timestamp=times[partition, offset] if window.size else None,
            head_started=None,
            head_due=agent.oldest_due().get(tiers[partition.topic]) if partition.topic in tiers else None,
            head_blocked=agent.blocked() > 0,
            buffered=0,
            settled_ahead=window.ahead,
            closed="",
            progressed_at=0.0,
        )
    return states


def tell(agent: AgentSlots, runner: Runner, times: Times) -> None:
    """Let the agent's slots say how its partitions are, unless the engine does so itself."""
    if agent.partitions is dict:
        agent.partitions = lambda: states_from(runner, times)


class Watch:
    """The lag of one worker, as it is scraped."""

    def __init__(self, slots: WorkerSlots, table: LagTable, poller: LagPoller) -> None:
        self.slots = slots
        self.table = table
        self.poller = poller

    def scrape(self) -> dict[Sample, float]:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in lag_metrics([Assigned.read(agent) for agent in self.slots.agents.values()], self.table)
            for sample in family.samples
        }

    def values(self, name: str, topic: str = "in") -> dict[int, float]:
        """By partition."""
        labelled = [(dict(labels), value) for (each, labels), value in self.scrape().items() if each == name]
        return {int(labels["partition"]): value for labels, value in labelled if labels["topic"] == topic}

    def records(self, partition: TopicPartition = IN) -> float | None:
        return self.values("streamkit_consumer_lag_records", partition.topic).get(partition.partition)

    def seconds(self, partition: TopicPartition = IN) -> float | None:
        return self.values("streamkit_consumer_lag_seconds", partition.topic).get(partition.partition)

    def status(self, partition: TopicPartition = IN) -> tuple[str, str] | None:
        """With its reason."""
        found = [
            (dict(labels)["status"], dict(labels)["reason"])
            for (name, labels), value in self.scrape().items()
            if name == "streamkit_partition_status"
            and (dict(labels)["topic"], dict(labels)["partition"]) == (partition.topic, str(partition.partition))
            and value == 1
        ]
        assert len(found) <= 1, found
        return found[0] if found else None


@asynccontextmanager
async def watching(working: Working, times: Times) -> AsyncIterator[Watch]:
    """From when the worker has joined; sampled every 10 s."""
    await until(lambda: working.slots.agents and working.worker._runners, "the worker begins")
    tell(working.agent, working.runner, times)
    await working.joined()
    table = LagTable(clock=asyncio.get_running_loop().time, wall=wall, interval=INTERVAL)
    async with sampling(working.slots, working.transport, table, INTERVAL) as watch:
        yield watch


@asynccontextmanager
async def sampling(slots: WorkerSlots, transport: Transport, table: LagTable, interval: float) -> AsyncIterator[Watch]:
    """A poller, until the end of the block."""
    poller = LagPoller(slots, transport.admin, table, interval, transport.reader)
    polling = asyncio.create_task(poller.run())
    try:
        yield Watch(slots, table, poller)
    finally:
        polling.cancel()
        with suppress(asyncio.CancelledError):
            await polling


class LagWorld(World):
    """Its wall clock is the loop's, and it knows the true lag: by what the handlers have done."""

    def __init__(self, partitions: int = 1, **settings: Any) -> None:
        super().__init__(partitions, **settings)
        self.broker.clock = lambda: round(wall() * 1000)
        self._first_waiting: Counter[TopicPartition] = Counter()  # index in the log

    def truth(self, partition: TopicPartition = IN) -> float:
        """Seconds since the first record was written that is not settled; 0 if there is none."""
        records, at, done = self.broker.log(partition).records, self._first_waiting[partition], self.done[partition]
        while at < len(records) and records[at].offset in done:
            at += 1
        self._first_waiting[partition] = at
        return wall() - records[at].timestamp / 1000 if at < len(records) else 0.0

    async def compare(self, watch: Watch, seconds: int, partition: TopicPartition = IN) -> list[float]:
        """Second by second, the error of the lag in seconds; it must be known."""
        errors: list[float] = []
        for _ in range(seconds):
            await asyncio.sleep(1)
            shown = watch.seconds(partition)
            assert shown is not None, "the lag is not known"
            errors.append(abs(shown - self.truth(partition)))
        return errors

    async def arrivals(self, every: float, count: int, partition: int = 0) -> None:
        for n in range(count):
            self.fill([f"k{n % 7}"], partition=partition)
            await asyncio.sleep(every)


def silenced(runner: Runner) -> Any:
    """Its polls find nothing, as those of a consumer that has stopped to fetch without saying so."""

    async def poll(*_: Any, timeout: float, **__: Any) -> Mapping[Any, Any]:
        await asyncio.sleep(max(timeout, 0.01))
        return {}

    return mock.patch.object(runner._consumer, "poll", poll)
