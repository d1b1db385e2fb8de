"""Random schedules of failures, rebalances, restarts and refusals: nothing that was promised breaks."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest

from streamkit import App, Batch, BatchError, Record, Reject, Retry, Skip, Stream
from streamkit.record import TopicPartition
from streamkit.transport.base import TopicRefused, Unreachable
from streamkit.transport.memory.log import MemoryRecord
from tests.runtime.retry_support import BEGAN, DLQ, RetryWorld, header, tier, wall
from tests.runtime.support import Working, rebalance, simulated

WAITS = (3.0, 8.0)
ROUNDING = 0.002  # headers hold milliseconds
PARTITIONS = 3


class Broken(Exception):
    pass


@dataclass(frozen=True)
class Plan:
    """What a record does: it fails in all attempts up to this one, and then ends like that."""

    failures: int
    end: type[BaseException] | None


class Schedule:
    def __init__(self, seed: int, shape: str, *, breaker_failures: int = 0) -> None:
        self.chance = random.Random(seed)
        self.sick = False  # everything fails
        self.shape = shape
        self.in_place = self.chance.choice([0, 0, 1])
        self.world = RetryWorld(PARTITIONS, breaker_failures=breaker_failures, breaker_keys=1, drain_timeout=1.0)
        self.world.create_copies(tier(1), self.chance.choice([PARTITIONS, 2]))
        self.retry = Retry.delays(
            *(f"{wait:g}s" for wait in WAITS), jitter=0.1, in_place=self.in_place, in_place_wait="500ms"
        )
        self.plans: dict[tuple[int, int], Plan] = {}
        self.faultless: dict[tuple[int, str], list[int]] = defaultdict(list)  # offsets of keys that never fail
        self.failed: dict[tuple[int, int], list[tuple[int, float]]] = defaultdict(list)  # attempt and time
        self.workers: list[Working] = []

    @property
    def runs_of_each_delivery(self) -> int:
        return self.in_place + 1

    @property
    def runs(self) -> int:
        return (len(WAITS) + 1) * self.runs_of_each_delivery

    def plan(self, key: str) -> Plan:
        if key.startswith("good"):
            return Plan(0, None)
        failures = self.chance.choice([0, 0, 1, 2, 3, 99])
        return Plan(failures, self.chance.choice([None, None, None, Skip, Reject]))

    def send(self) -> None:
        key, partition = (
            self.chance.choice(["good1", "good2", "bad1", "bad2", "bad3"]),
            self.chance.randrange(PARTITIONS),
        )
        offset = self.world.send(key, partition=partition)
        plan = self.plans[partition, offset] = self.plan(key)
        if key.startswith("good"):
            self.faultless[partition, key].append(offset)
        if plan.end is Skip:
            self.world.passed_over.add((TopicPartition("in", partition), offset))

    def app(self, worker: str) -> App:
        app = App("test")
        topic = app.topic("in", value=bytes)
        if self.shape == "record":

            @app.agent(topic, name="work", concurrency=8, retry=self.retry)
            async def work(record: Record[str, bytes]) -> None:
                await self.run(record, worker)

        elif self.shape == "loop":

            @app.agent(topic, name="work", retry=self.retry)
            async def work_loop(stream: Stream[Record[str, bytes]]) -> None:
                async for record in stream:
                    await self.run(record, worker)

        else:

            @app.agent(topic, name="work", batch=Batch(5, within="100ms"), concurrency=2, retry=self.retry)
            async def work_batch(batch: Sequence[Record[str, bytes]]) -> None:
                await self.run_batch(batch, worker)

        return app

    async def run(self, record: Record[str, bytes], worker: str) -> None:
        self.judge_start(record)
        with self.world.running_alone(record, worker):
            await asyncio.sleep(self.chance.choice([0, 0.001, 0.05, 0.4]))
        if error := self.outcome(record):
            raise error

    async def run_batch(self, batch: Sequence[Record[str, bytes]], worker: str) -> None:
        with ExitStack() as stack:
            for first in {(record.partition, record.key): record for record in batch}.values():
                stack.enter_context(self.world.running_alone(first, worker))
            await asyncio.sleep(self.chance.choice([0, 0.001, 0.05, 0.4]))
        errors = {}
        for place, record in enumerate(batch):
            self.judge_start(record)
            if error := self.outcome(record):
                errors[place] = error
        if errors:
            raise BatchError(errors)

    def outcome(self, record: Record[str, bytes]) -> BaseException | None:
        """What its run ends with, now."""
        where = record.partition, record.offset
        self.world.note(record)
        plan = self.plans[where]
        if self.sick or record.attempt <= plan.failures:
            self.failed[where].append((record.attempt, asyncio.get_running_loop().time()))
            return Broken()
        if plan.end is not None:
            return plan.end()
        self.world.handled(record)
        return None

    def judge_start(self, record: Record[str, bytes]) -> None:
        faults, where, attempt = self.world.faults, (record.partition, record.offset), record.attempt
        now = asyncio.get_running_loop().time()
        done = self.world.done[TopicPartition("in", record.partition)]
        for earlier in self.faultless.get((record.partition, str(record.key)), ()):
            if earlier < record.offset and earlier not in done:
                faults.append(f"{where} of {record.key} began before {earlier} was handled")
        if attempt == 1:
            return
        before = [moment for run, moment in self.failed[where] if run == attempt - 1]
        number, in_place = divmod(attempt - 1, self.runs_of_each_delivery)
        wait = 0.5 if in_place else WAITS[number - 1] if number <= len(WAITS) else 0.0
        if not before:
            faults.append(f"{where}: attempt {attempt}, but {attempt - 1} has not failed")
        elif now < min(before) + wait - ROUNDING:
            faults.append(f"{where}: attempt {attempt} came {min(before) + wait - now:g} s early")

    def start(self) -> None:
        name = f"worker {len(self.workers)}"
        options: dict[str, Any] = {"create_topics": True, "wall": wall}
        self.workers.append(Working(self.world, self.app(name), replace(self.world.settings), **options))

    @property
    def running(self) -> list[Working]:
        return [each for each in self.workers if not each.task.done() and not each.worker._stopping.is_set()]

    async def disturb(self) -> None:
        faults = self.world.broker.faults
        joined = [each for each in self.running if each.worker.ready]
        copies = [name for name in self.world.broker.topics if name != "in"]
        what = self.chance.randrange(8)
        if what == 0 and joined:
            rebalance(self.chance.choice(joined))
        elif what == 1 and len(self.running) < 3:
            self.start()
        elif what == 2 and len(joined) > 1:
            self.chance.choice(joined).worker.stop()
        elif what == 3 and joined:
            await self.chance.choice(joined).stopped()
            if not self.running:
                self.start()
        elif what == 4:
            error = self.chance.choice([None, TopicRefused("no"), Unreachable("gone")])
            faults.refuse(self.chance.choice(copies), error)
        elif what == 5:
            for name in copies:
                faults.accept(name)
        elif what == 6:
            faults.fail_produces(1, Unreachable("answer lost"), stored=self.chance.random() < 0.5)
        elif what == 7 and joined:
            consumer = self.chance.choice(joined).consumer
            faults.freeze(consumer.member)
            await asyncio.sleep(self.chance.choice([2, 12]))
            faults.thaw(consumer.member)

    async def until_settled(self) -> None:
        for name in list(self.world.broker.topics):
            self.world.broker.faults.accept(name)
        deadline = asyncio.get_running_loop().time() + 200
        while not self.settled():
            assert asyncio.get_running_loop().time() < deadline, "not everything is settled"
            await asyncio.sleep(0.25)

    def settled(self) -> bool:
        ranges = {log.partition: log.range for topic in self.world.broker.topics.values() for log in topic.partitions}
        assigned = sum(len(each.agent.assigned) for each in self.running if each.slots.agents)
        read = sum(len(topic.partitions) for name, topic in self.world.broker.topics.items() if name != DLQ)
        return assigned == read and all(each.worker.ready and each.worker.settled_to(ranges) for each in self.running)

    def judge_end(self) -> None:
        """Every record has come to its end, and to no other."""
        letters = {
            (int(header(each, "sk-origin-partition") or -1), int(header(each, "sk-origin-offset") or -1)): each
            for each in self.world.dead_letters()
        }
        for (partition, offset), plan in self.plans.items():
            letter = letters.pop((partition, offset), None)
            handled = offset in self.world.done[TopicPartition("in", partition)]
            exhausted = plan.failures >= self.runs
            if exhausted or plan.end is Reject:
                assert letter is not None, f"{partition}, {offset} of {plan} is no dead letter"
                assert not handled
                if exhausted:
                    assert header(letter, "sk-attempt") == str(self.runs)
                    assert float(header(letter, "sk-first-failed-at") or 0) / 1000 > BEGAN - 1
            else:
                assert letter is None, f"{partition}, {offset} of {plan} is a dead letter"
                assert handled == (plan.end is None)
        assert not letters

    def judge_offsets(self) -> None:
        offsets = self.world.broker.group("test.work").offsets
        for name, topic in self.world.broker.topics.items():
            for log in topic.partitions if name != DLQ else ():
                assert log.partition not in offsets or offsets[log.partition].offset == log.range.end


async def run(schedule: Schedule) -> None:
    """To its end, with all promises judged that can be on the way."""
    schedule.start()
    try:
        for _ in range(25):
            for _ in range(schedule.chance.randrange(4)):
                schedule.send()
            await asyncio.sleep(schedule.chance.choice([0.01, 0.3, 1.0, 2.0]))
            await schedule.disturb()
        schedule.sick = False
        await schedule.until_settled()
    finally:
        for working in schedule.running:
            working.worker.stop()
        await asyncio.gather(*(each.task for each in schedule.workers))
    assert not schedule.world.faults, schedule.world.faults
    schedule.judge_offsets()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", ["record", "batch", "loop"])
@simulated
async def test_nothing_is_lost_early_or_out_of_its_order(shape: str, seed: int) -> None:
    schedule = Schedule(seed, shape)
    await run(schedule)
    schedule.judge_end()


class Epidemic(Schedule):
    """Everything fails at times, and the breakers of the workers open and close."""

    def plan(self, key: str) -> Plan:
        return Plan(0, None)

    def judge_start(self, record: Record[str, bytes]) -> None:
        """What was moved away while all was sick is not in order any more."""

    async def disturb(self) -> None:
        if self.chance.random() < 0.3:
            self.sick = not self.sick
        await super().disturb()

    def judge_end(self) -> None:
        letters = {
            (header(each, "sk-origin-partition"), header(each, "sk-origin-offset")): each for each in self.letters
        }
        for partition, offset in self.plans:
            handled = offset in self.world.done[TopicPartition("in", partition)]
            assert handled or (str(partition), str(offset)) in letters
        assert {header(each, "sk-attempt") for each in self.letters} <= {str(self.runs)}

    @property
    def letters(self) -> list[MemoryRecord]:
        return self.world.dead_letters()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", ["record", "batch", "loop"])
@simulated
async def test_nothing_is_lost_while_breakers_open_and_close(shape: str, seed: int) -> None:
    schedule = Epidemic(seed, shape, breaker_failures=3)
    await run(schedule)
    schedule.judge_end()
    assert any(each.agent.breaker_openings for each in schedule.workers if each.slots.agents)
