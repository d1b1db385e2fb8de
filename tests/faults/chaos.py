"""Workers under attack: a driver that starts, kills, pauses and resumes worker processes while records arrive.

What happened is judged afterwards by `oracles`, from the ledgers of the workers, from what a reader outside of the
group saw committed, and from what lies in the sink.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from math import inf
from pathlib import Path

from aiokafka import AIOKafkaProducer

from streamkit.errors import TransportError
from streamkit.record import TopicPartition
from streamkit.transport.base import NewTopic
from tests.faults.ledger import Committed, History, LedgerReader
from tests.faults.oracles import (
    RecordId,
    Seen,
    Sent,
    Violation,
    all_violations,
    committed_unsettled,
    output_violations,
    report,
)
from tests.faults.support import admin_of, create, processes, producer_of, program, read_all, unique, until

PARTITIONS = 6
STEP_SECONDS = 45.0  # for the group to come to terms with one fault
END_SECONDS = 60.0
BATCH = 50
LOOK_EVERY = 0.05
NULL_KEYS = 0.02  # of the records
CLOCK_SLACK = 0.002  # the sink's timestamps are whole milliseconds


@dataclass(frozen=True)
class Load:
    records: int
    keys: int
    concurrency: int
    shape: str = "record"  # of the agent, whose batches and loops go by partition
    at_once: float = 0.4  # of the records, before the workers start
    per_second: int = 150  # of the others, while the faults go on


@dataclass
class Evidence:
    history: History
    log: dict[int, list[str | None]]
    seen: list[Seen]
    sink: list[list[Sent]]
    appended: dict[RecordId, float]  # when each record's first output was appended, by the wall clock
    wall: float  # what to add to the monotonic clock for the wall clock

    def violations(self) -> list[Violation]:
        seen_by_wall = [one._replace(answered=one.answered + self.wall) for one in self.seen]
        return [
            *all_violations(self.history, self.log, self.seen),
            *committed_unsettled(
                seen_by_wall, self.log, lambda record: self.appended.get(record, inf), slack=CLOCK_SLACK
            ),
            *output_violations(self.log, self.sink),
        ]


@dataclass
class Chaos:
    """One run. The methods are the faults; each returns when the group has dealt with the one before."""

    brokers: str
    directory: Path
    load: Load
    seed: int
    source: str = field(default_factory=lambda: unique("chaos"))
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])
    deaths: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.ledger = LedgerReader(self.directory)
        self.faults_over = asyncio.Event()
        self.began = time.monotonic()
        self.log: dict[int, list[str | None]] = {number: [] for number in range(PARTITIONS)}
        self.seen: list[Seen] = []

    @property
    def sink(self) -> str:
        return f"{self.source}.out"

    @property
    def group(self) -> str:
        return f"{self.source}.group"

    # Faults

    def start(self) -> subprocess.Popen[bytes]:
        command = program(self.brokers, self.source, self.directory, self.load.concurrency, self.seed, self.load.shape)
        process = self._spawn(command, self.directory)
        self.processes.append(process)
        self._tell(f"started {process.pid}")
        return process

    async def kill_and_restart(self) -> None:
        victim = await self._busy()
        victim.kill()
        victim.wait()
        self.processes.remove(victim)
        self._tell(f"killed {victim.pid}")
        newcomer = self.start()
        await self._owner(newcomer.pid)

    async def pause_beyond_the_session(self) -> None:
        """SIGSTOP a worker until the others have all its partitions and go on with them, then SIGCONT."""
        victim = await self._busy()
        paused = time.monotonic()
        victim.send_signal(signal.SIGSTOP)
        self._tell(f"stopped {victim.pid}")
        try:
            await self._wait(lambda: self._all_assigned_to_others(victim.pid, paused), "the others did not take over")
            over = time.monotonic()
            await self._wait(lambda: self._goes_on(victim.pid, over), "the others do not go on")
        finally:
            victim.send_signal(signal.SIGCONT)
        resumed = time.monotonic()
        self._tell(f"continued {victim.pid} after {resumed - paused:.1f} s")
        await self._owner(victim.pid, since=resumed)

    async def join(self) -> subprocess.Popen[bytes]:
        newcomer = self.start()
        await self._owner(newcomer.pid)
        return newcomer

    async def leave(self, process: subprocess.Popen[bytes]) -> None:
        """SIGTERM: an ordered end."""
        process.terminate()
        self.processes.remove(process)
        code = await asyncio.to_thread(process.wait, STEP_SECONDS)
        self._tell(f"{process.pid} left")
        if code:
            self.deaths.append(f"process {process.pid} left with exit code {code}")

    # The run

    @asynccontextmanager
    async def running(self, workers: int) -> AsyncIterator[None]:
        """Records arrive, a reader looks on, workers work; at the end of the block all of it is brought to its end."""
        sink_config = {"message.timestamp.type": "LogAppendTime"}
        await create(
            self.brokers,
            NewTopic(self.source, PARTITIONS, 1),
            NewTopic(self.sink, PARTITIONS, 1, sink_config),
        )
        with processes() as self._spawn:
            async with asyncio.TaskGroup() as group, producer_of(self.brokers, linger_ms=5) as producer:
                records = self._records()
                await self._send(producer, records[: int(len(records) * self.load.at_once)])
                look = group.create_task(self._look())
                feed = group.create_task(self._feed(producer, records[int(len(records) * self.load.at_once) :]))
                for _ in range(workers):
                    self.start()
                yield
                self.faults_over.set()
                await feed
                await self._settled_to_the_end()
                for process in list(self.processes):
                    await self.leave(process)
                look.cancel()

    async def evidence(self) -> Evidence:
        history = self.ledger.finish()
        wall = time.time() - time.monotonic()
        appended: dict[RecordId, float] = {}
        sink: list[list[Sent]] = []
        for records in (await read_all(self.brokers, self.sink, PARTITIONS)).values():
            outputs = []
            for record in records:
                sent = Sent(*map(int, (record.value or b"").split()))
                appended[sent] = min(record.timestamp / 1000, appended.get(sent, inf))
                outputs.append(sent)
            sink.append(outputs)
        return Evidence(history, self.log, self.seen, sink, appended, wall)

    def failed(self, violations: list[Violation]) -> str:
        """What to print about a run that went wrong."""
        tail = (self.directory / "workers.log").read_text(errors="replace").splitlines()[-40:]
        return "\n".join([f"seed {self.seed}", *self.deaths, report(violations, self.ledger.history), "", *tail])

    def _records(self) -> list[tuple[int, bytes | None]]:
        """Partition and key of every record; keys follow Zipf's law."""
        keys = [b"k%d" % number for number in range(self.load.keys)]
        weights = list(accumulate(1 / (rank + 1) for rank in range(len(keys))))
        records: list[tuple[int, bytes | None]] = []
        for _ in range(self.load.records):
            if self.chance.random() < NULL_KEYS:
                records.append((self.chance.randrange(PARTITIONS), None))
            else:
                number = bisect_left(weights, self.chance.uniform(0, weights[-1]))
                records.append((number % PARTITIONS, keys[number]))
        return records

    async def _send(self, producer: AIOKafkaProducer, records: list[tuple[int, bytes | None]]) -> None:
        sent = [await producer.send(self.source, b"x", key=key, partition=number) for number, key in records]
        for (number, key), acknowledged in zip(records, sent, strict=True):
            offset = (await acknowledged).offset
            assert offset == len(self.log[number]), "somebody else writes to the topic"
            self.log[number].append(None if key is None else key.decode())

    async def _feed(self, producer: AIOKafkaProducer, records: list[tuple[int, bytes | None]]) -> None:
        """A batch now and then while faults go on, so that there is always work; then the rest at once."""
        reserve = len(records) // 5
        while len(records) > reserve and not self.faults_over.is_set():
            await self._send(producer, records[:BATCH])
            del records[:BATCH]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.faults_over.wait(), BATCH / self.load.per_second)
        while not self.faults_over.is_set():
            await self._send(producer, records[:1])
            del records[:1]
            await asyncio.sleep(0.1)
        await self._send(producer, records)

    async def _look(self) -> None:
        """Note every change of what is committed, as somebody outside of the group sees it."""
        wanted = [TopicPartition(self.source, number) for number in range(PARTITIONS)]
        last: dict[int, Committed] = {}
        async with admin_of(self.brokers) as admin:
            while True:
                asked = time.monotonic()
                with contextlib.suppress(TransportError):
                    for partition, offset in (await admin.committed(self.group, wanted)).items():
                        number, committed = partition.partition, Committed(*offset)
                        if last.get(number) != committed:
                            last[number] = committed
                            self.seen.append(Seen(asked, time.monotonic(), number, committed))
                await asyncio.sleep(LOOK_EVERY)

    # Waiting

    async def _wait(self, condition: Callable[[], object], what: str, seconds: float = STEP_SECONDS) -> None:
        def check() -> bool:
            self.ledger.refresh()
            self._check_alive()
            return bool(condition())

        await until(check, seconds, lambda: f"{what}; seed {self.seed}\n{self._tail()}")

    async def _busy(self) -> subprocess.Popen[bytes]:
        """A worker that is in the middle of something, chosen by chance."""
        victim = self.chance.choice(self.processes)
        began = time.monotonic()
        await self._wait(lambda: self._at_work(victim.pid, began), f"{victim.pid} has nothing to do")
        return victim

    def _at_work(self, process: int, since: float) -> bool:
        events = self.ledger.history.in_order.get(process, [])
        recent = sum(1 for event in events[-100:] if event.at > since)
        committed = any(c.process == process and c.accepted and c.sent > since for c in self.ledger.history.commits)
        return recent >= 20 and committed

    async def _owner(self, process: int, since: float = 0.0) -> None:
        """Wait until a process has partitions and has worked on them."""

        def works() -> bool:
            assigned = [a for a in self.ledger.history.assigned if a.process == process and a.at > since]
            return bool(assigned and assigned[-1].partitions) and self._at_work(process, assigned[-1].at)

        await self._wait(works, f"{process} got nothing to do")

    def _all_assigned_to_others(self, process: int, since: float) -> bool:
        mine: dict[int, tuple[int, ...]] = {}
        for assigned in self.ledger.history.assigned:
            if assigned.process != process and assigned.at > since:
                mine[assigned.process] = assigned.partitions
        alive = {each.pid for each in self.processes}
        return sum(len(partitions) for pid, partitions in mine.items() if pid in alive) == PARTITIONS

    def _goes_on(self, process: int, since: float) -> bool:
        return any(
            commit.process != process and commit.accepted and commit.sent > since
            for commit in self.ledger.history.commits
        )

    async def _settled_to_the_end(self) -> None:
        ends = {number: len(keys) for number, keys in self.log.items()}

        def settled() -> bool:
            last = {one.partition: one.committed.offset for one in self.seen}
            return last == ends

        await self._wait(settled, "not everything was committed", END_SECONDS)

    def _check_alive(self) -> None:
        for process in self.processes:
            if process.poll() is not None:
                raise AssertionError(
                    f"process {process.pid} ended by itself, exit code {process.returncode}; seed {self.seed}\n"
                    f"{self._tail()}"
                )

    def _tail(self) -> str:
        log = self.directory / "workers.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-60:])

    def _tell(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:6.1f} s  {text}", flush=True)


def new_seed() -> int:
    """From STREAMKIT_TEST_SEED, to see a run again, or else a new one."""
    return int(os.environ.get("STREAMKIT_TEST_SEED") or random.randrange(2**32))
