"""What the tests of the engine share: a broker and a record of what ran, both with judges, in virtual time."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple, ParamSpec

from streamkit import App, Record
from streamkit.core.offset_map import decode
from streamkit.observe.slots import AgentSlots, WorkerSlots
from streamkit.record import TopicPartition
from streamkit.runtime.runner import Runner
from streamkit.runtime.worker import Worker
from streamkit.settings import Settings
from streamkit.transport.base import CommittedOffset, Consumer, RebalanceListener
from streamkit.transport.memory import MemoryBroker, MemoryConsumer, MemoryTransport
from tests.transport import virtual_time

P = ParamSpec("P")

SETTINGS = Settings(
    session_timeout=10.0,
    heartbeat_interval=1.0,
    request_timeout=3.0,
    drain_timeout=5.0,
    metadata_max_age=1.0,
)
PATIENCE = 300.0  # virtual seconds until what must happen is given up
GROUP = "test.work"
LATENCY = 0.002


def simulated(case: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in virtual time. No task may outlive it, and no error may go unnoticed."""

    @functools.wraps(case)
    def test(*args: P.args, **kwargs: P.kwargs) -> None:
        virtual_time.run(_judged(case(*args, **kwargs)))

    return test


async def _judged(case: Coroutine[Any, Any, None]) -> None:
    unnoticed: list[Mapping[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unnoticed.append(context))
    async with asyncio.timeout(10 * PATIENCE):
        await case
    await asyncio.sleep(1)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks outlive the test: {left}"
    assert not unnoticed, unnoticed


async def until(holds: Callable[[], object], what: str = "", patience: float = PATIENCE) -> None:
    deadline = asyncio.get_running_loop().time() + patience
    while not holds():
        assert asyncio.get_running_loop().time() < deadline, f"did not come to pass: {what or holds}"
        await asyncio.sleep(0.01)


class Run(NamedTuple):
    worker: str
    partition: int
    key: str | None
    offset: int
    began: float


class World:
    """A broker with one watched topic "in", and everything that the watched handlers did with its records.

    Judged at once: nothing is committed that is not settled, offsets never go down in a generation, a key's records
    start in order and never two at a time in one worker. `faults` holds what was wrong; the end of `working` asserts
    that it is empty.
    """

    def __init__(self, partitions: int = 1, *, latency: float = LATENCY, **settings: Any) -> None:
        self.broker = JudgedBroker(self, latency)
        self.broker.create_topic("in", partitions)
        self.settings = replace(SETTINGS, **settings)
        self.runs: list[Run] = []
        self.faults: list[str] = []
        self.is_settled: Callable[[TopicPartition, int], bool] = lambda partition, offset: (
            offset in self.done[partition]
        )
        self.done: dict[TopicPartition, set[int]] = defaultdict(set)
        self.revocations: list[float] = []  # how many seconds each took
        self.most_at_once = 0
        self._running: Counter[tuple[str, TopicPartition, str | None]] = Counter()
        self._of_key: dict[tuple[TopicPartition, str | None], list[int]] = defaultdict(list)
        self._first_open: Counter[tuple[TopicPartition, str | None]] = Counter()

    @property
    def offsets_run(self) -> list[int]:
        return [run.offset for run in self.runs]

    def fill(self, keys: Iterable[str | None], *, partition: int = 0, value: bytes = b"{}") -> None:
        """One record a key."""
        for key in keys:
            raw = None if key is None else key.encode()
            offset = self.broker.append("in", value, key=raw, partition=partition)
            self._of_key[TopicPartition("in", partition), key].append(offset)

    @contextmanager
    def running(self, record: Record[str, Any], worker: str = "w") -> Iterator[None]:
        """Around a handler's body."""
        partition, key = TopicPartition(record.topic, record.partition), record.key
        self.runs.append(Run(worker, record.partition, key, record.offset, asyncio.get_running_loop().time()))
        if key is not None:
            self._judge_start(worker, partition, key, record.offset)
        self._running[worker, partition, key] += 1
        self.most_at_once = max(self.most_at_once, self._running.total())
        try:
            yield
            self.done[partition].add(record.offset)
        finally:
            self._running[worker, partition, key] -= 1

    def _judge_start(self, worker: str, partition: TopicPartition, key: str, offset: int) -> None:
        offsets, at, done = self._of_key[partition, key], self._first_open[partition, key], self.done[partition]
        while at < len(offsets) and offsets[at] in done:
            at += 1
        self._first_open[partition, key] = at
        if at < len(offsets) and offset > offsets[at]:
            self.faults.append(f"{partition} {key}: {offset} started before {offsets[at]} was handled")
        if self._running[worker, partition, key]:
            self.faults.append(f"{partition} {key}: {offset} started while another record of the key ran")

    @asynccontextmanager
    async def working(
        self, app: App, *, options: Mapping[str, Any] = MappingProxyType({}), **settings: Any
    ) -> AsyncIterator[Working]:
        """A worker of the app. Stopped at the end, which raises its failure."""
        working = Working(self, app, replace(self.settings, **settings), **options)
        try:
            yield working
        except BaseException:
            working.task.cancel()
            await asyncio.wait([working.task])
            raise
        working.worker.stop()
        await working.task
        assert not self.faults, self.faults

    async def failing(
        self, app: App, *, options: Mapping[str, Any] = MappingProxyType({}), **settings: Any
    ) -> Exception:
        """Run a worker of the app until it fails by itself; how."""
        working = Working(self, app, replace(self.settings, **settings), **options)
        await asyncio.wait([working.task], timeout=PATIENCE)
        if not working.task.done():
            working.worker.stop()
        await asyncio.wait([working.task])
        assert not self.faults, self.faults
        error = working.task.exception()
        assert isinstance(error, Exception), "the worker did not fail"
        return error

    def committed(self, group: str = GROUP) -> dict[int, int]:
        return {tp.partition: committed.offset for tp, committed in self.broker.group(group).offsets.items()}

    def ends(self) -> dict[int, int]:
        return {log.partition.partition: log.range.end for log in self.broker.topics["in"].partitions}


class Working:
    """A worker that runs."""

    def __init__(self, world: World, app: App, settings: Settings, **options: Any) -> None:
        self.slots = WorkerSlots("test")
        self.transport = JudgedTransport(world, settings)
        self.worker = Worker(app, settings, self.transport, self.slots, **options)
        self.task = asyncio.ensure_future(self.worker.run())

    @property
    def agent(self) -> AgentSlots:
        (slots,) = self.slots.agents.values()
        return slots

    @property
    def runner(self) -> Runner:
        (runner,) = self.worker._runners
        return runner

    @property
    def consumer(self) -> MemoryConsumer:
        consumer = self.runner._consumer
        assert isinstance(consumer, MemoryConsumer)
        return consumer

    @property
    def partitions(self) -> set[int]:
        return {tp.partition for tp in self.agent.assigned} if self.slots.agents else set()

    async def joined(self) -> None:
        await until(lambda: self.worker.ready, "the worker joins")

    async def stopped(self) -> None:
        """Stop it, and wait until it has ended; raises its failure."""
        self.worker.stop()
        await self.task


def rebalance(working: Working) -> None:
    """Make the group rebalance: all partitions of the worker go, and come back or go elsewhere."""
    working.consumer._rejoin.set()


class JudgedTransport(MemoryTransport):
    """Its consumers tell when `revoked` has returned: from then on, nothing of that generation may be committed."""

    def __init__(self, world: World, settings: Settings) -> None:
        super().__init__(world.broker, settings)
        self._world = world

    def consumer(self, group: str) -> Consumer:
        return JudgedConsumer(self._world, self._settings, group)


class JudgedConsumer(MemoryConsumer):
    def __init__(self, world: World, settings: Settings, group: str) -> None:
        super().__init__(world.broker, settings, group)
        self._world = world

    def subscribe(self, topics: Collection[str], listener: RebalanceListener) -> None:
        super().subscribe(topics, JudgedListener(self._world, self, listener))


class JudgedListener:
    def __init__(self, world: World, consumer: MemoryConsumer, listener: RebalanceListener) -> None:
        self._world = world
        self._consumer = consumer
        self._listener = listener

    async def revoked(self, partitions: Collection[TopicPartition], *, lost: bool) -> None:
        began = asyncio.get_running_loop().time()
        name = self._consumer.member, self._consumer.generation
        await self._listener.revoked(partitions, lost=lost)
        self._world.revocations.append(asyncio.get_running_loop().time() - began)
        self._world.broker.over.add(name)
        if self._world.broker.in_flight[name]:
            self._world.faults.append(f"{name}: a commit was in flight when revoked returned")

    async def assigned(self, partitions: Collection[TopicPartition]) -> None:
        await self._listener.assigned(partitions)


class JudgedBroker(MemoryBroker):
    """Looks at each commit when it is sent, and when it is stored."""

    def __init__(self, world: World, latency: float) -> None:
        super().__init__(latency=latency)
        self.over: set[tuple[str, int]] = set()  # members in generations whose `revoked` has returned
        self.in_flight: Counter[tuple[str, int]] = Counter()
        self._world = world
        self._committable: dict[TopicPartition, int] = {}

    async def commit(
        self,
        group: str,
        member: str,
        generation: int,
        offsets: Mapping[TopicPartition, CommittedOffset],
        within: float,
    ) -> None:
        name = member, generation
        if name in self.over:
            self._world.faults.append(f"{name}: a commit after revoked had returned: {offsets}")
        self.in_flight[name] += 1
        try:
            await super().commit(group, member, generation, offsets, within)
        finally:
            self.in_flight[name] -= 1

    def _commit(
        self, group: str, member: str, generation: int, offsets: Mapping[TopicPartition, CommittedOffset]
    ) -> None:
        before = dict(self.group(group).offsets)
        super()._commit(group, member, generation, offsets)
        if group == GROUP:
            for partition, committed in offsets.items():
                self._judge(partition, committed, before.get(partition))

    def _judge(self, partition: TopicPartition, now: CommittedOffset, before: CommittedOffset | None) -> None:
        faults, settled = self._world.faults, self._world.is_settled
        at = self._committable.get(partition, before.offset if before else now.offset)
        at = max(at, self.log(partition).range.start)
        offsets = (record.offset for record in self.log(partition).read(at, max(0, now.offset - at))[0])
        for offset in offsets:
            if offset < now.offset and not settled(partition, offset):
                faults.append(f"{partition}: {now.offset} committed, but {offset} is not settled")
        self._committable[partition] = max(at, now.offset)
        if before is not None and now.offset < before.offset:
            faults.append(f"{partition}: committed {now.offset} after {before.offset}")
        for start, end in decode(now.metadata, now.offset, self.log(partition).range.end):
            for record in self.log(partition).read(start, end - start)[0]:
                if record.offset < end and not settled(partition, record.offset):
                    faults.append(f"{partition}: the map says {record.offset} is settled")


def recording(
    world: World,
    body: Callable[[Record[str, bytes]], Coroutine[Any, Any, None]] | None = None,
    *,
    worker: str = "w",
    **options: Any,
) -> App:
    """An app with one agent, "work", that notes what it runs."""
    app = App("test")
    topic = app.topic("in", value=bytes)

    @app.agent(topic, **options)  # type: ignore[untyped-decorator]
    async def work(record: Record[str, bytes]) -> None:
        with world.running(record, worker):
            if body is not None:
                await body(record)

    return app
