"""Retries of batches: failed as a whole or in part, in place and through tiers, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from streamkit import App, Batch, BatchError, Output, Record, Reject, Retry, RetryLater, Skip
from streamkit.record import TopicPartition
from tests.runtime.retry_support import DLQ, RetryWorld, header, tier
from tests.runtime.support import rebalance, simulated, until

IN = TopicPartition("in", 0)
Records = Sequence[Record[str, bytes]]


class Broken(Exception):
    pass


class Batching:
    """An app whose agent "work" takes batches and fails as `fails` says; what came is in `batches`."""

    def __init__(
        self,
        world: RetryWorld,
        fails: Callable[[Records, int], BaseException | None],
        *,
        size: int = 4,
        within: str = "100ms",
        **options: Any,
    ) -> None:
        self.batches: list[list[int]] = []
        self.times: list[float] = []
        self.attempts: list[list[int]] = []
        self.app = App("test")
        topic = self.app.topic("in", value=bytes)

        @self.app.agent(topic, batch=Batch(size, within=within), **options)  # type: ignore[untyped-decorator]
        async def work(batch: Records) -> None:
            self.batches.append([record.offset for record in batch])
            self.times.append(asyncio.get_running_loop().time())
            self.attempts.append([record.attempt for record in batch])
            number = len(self.batches)
            for record in batch:
                world.note(record)
            await asyncio.sleep(0.01)
            error = fails(batch, number)
            failed = set(error.errors) if isinstance(error, BatchError) else range(len(batch)) if error else ()
            for place, record in enumerate(batch):
                if place not in failed:
                    world.handled(record)
            if error is not None:
                raise error


def failing_of(batch: Records, *offsets: int, error: BaseException | None = None) -> BatchError | None:
    """That these records of it have failed, as far as they are in it."""
    errors = {place: error or Broken() for place, record in enumerate(batch) if record.offset in offsets}
    return BatchError(errors) if errors else None


def in_order(batches: Sequence[Sequence[int]]) -> list[int]:
    return [offset for batch in batches for offset in batch]


@simulated
async def test_a_batch_that_fails_as_a_whole_runs_again_as_it_was_and_later_records_wait() -> None:
    world = RetryWorld()
    batching = Batching(world, lambda batch, number: Broken() if number < 3 else None, retry=Retry.in_place(2, "5s"))
    for key in "abacbb":
        world.send(key)
    async with world.working_with_topics(batching.app) as working:
        await world.settled(working)
    assert batching.batches == [[0, 1, 2, 3]] * 3 + [[4, 5]]
    assert batching.attempts[:3] == [[1] * 4, [2] * 4, [3] * 4]
    assert batching.times[1] - batching.times[0] >= 5
    assert working.agent.retries_in_place == 8


@simulated
async def test_a_batch_that_fails_to_the_last_tier_leaves_a_dead_letter_for_each_record() -> None:
    world = RetryWorld()
    retry = Retry.delays("10s", "1m", jitter=0)
    batching = Batching(world, lambda batch, number: Broken() if batch[0].offset < 4 else None, retry=retry)
    for key in "abacbb":
        world.send(key)
    async with world.working_with_topics(batching.app) as working:
        await world.settled(working)
    assert batching.batches == [[0, 1, 2, 3], [4, 5], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert 10 <= batching.times[2] - batching.times[0] < 10.5
    assert 60 <= batching.times[3] - batching.times[2] < 60.5
    assert [header(letter, "sk-origin-offset") for letter in world.dead_letters()] == list("0123")
    assert {header(letter, "sk-attempt") for letter in world.dead_letters()} == {"3"}
    assert dict(working.agent.dead_letters)["exhausted"] == 4


@simulated
async def test_of_a_batch_error_with_tiers_the_failed_ones_go_and_the_rest_is_settled() -> None:
    world = RetryWorld()
    batching = Batching(
        world,
        lambda batch, number: failing_of(batch, 0, 2) if number == 1 else None,
        retry=Retry.delays("10s", jitter=0),
    )
    for key in "abab":
        world.send(key)
    async with world.working_with_topics(batching.app) as working:
        await until(lambda: world.committed().get(0) == 4)
        assert len(batching.batches) == 1
        assert working.agent.oldest_due()
        await world.settled(working)
        assert not working.agent.oldest_due()
    assert batching.batches == [[0, 1, 2, 3], [0, 2]]
    assert batching.attempts[1] == [2, 2]
    assert working.agent.processed_success == 4
    assert dict(working.agent.retries) == {1: 2}


@simulated
async def test_of_a_batch_error_in_place_the_failed_ones_run_again_with_the_later_ones_of_their_keys() -> None:
    world = RetryWorld()
    batching = Batching(
        world,
        lambda batch, number: failing_of(batch, 1) if number == 1 else None,
        size=6,
        retry=Retry.in_place(1, "1s"),
    )
    for key in ["a", "b", "a", "b", None, "b", "b"]:
        world.send(key)
    async with world.working_with_topics(batching.app) as working:
        await until(lambda: len(batching.batches) == 1)
        await asyncio.sleep(0.5)
        assert world.committed().get(0, 0) <= 1
        await world.settled(working)
    assert batching.batches == [[0, 1, 2, 3, 4, 5], [1, 3, 5], [6]]
    assert batching.attempts[1] == [2, 1, 1]


@simulated
async def test_a_null_key_has_no_later_records_that_run_again() -> None:
    world = RetryWorld()
    batching = Batching(
        world, lambda batch, number: failing_of(batch, 0) if number == 1 else None, retry=Retry.in_place(1, "1s")
    )
    for _ in range(4):
        world.send(None)
    async with world.working_with_topics(batching.app) as working:
        await world.settled(working)
    assert batching.batches == [[0, 1, 2, 3], [0]]


@simulated
async def test_the_errors_of_a_batch_error_are_each_judged_on_their_own() -> None:
    world = RetryWorld()
    fates = {0: Skip(), 1: Reject("bad"), 2: RetryLater("50s"), 3: Broken()}

    def fails(batch: Records, number: int) -> BaseException | None:
        return BatchError({place: fates[record.offset] for place, record in enumerate(batch)}) if number == 1 else None

    batching = Batching(world, fails, retry=Retry.delays("10s", "1m", jitter=0))
    world.passed_over.add((IN, 0))
    for key in "abcd":
        world.send(key)
    async with world.working_with_topics(batching.app) as working:
        await world.settled(working)
    assert batching.batches == [[0, 1, 2, 3], [3], [2]]
    assert 10 <= batching.times[1] - batching.times[0] < 10.5
    assert 50 <= batching.times[2] - batching.times[0] < 50.5
    assert [header(letter, "sk-origin-offset") for letter in world.dead_letters()] == ["1"]
    assert working.agent.processed_filtered == 1


@simulated
async def test_records_that_run_again_wait_with_their_line_for_the_copies_of_the_others() -> None:
    world = RetryWorld()

    def fails(batch: Records, number: int) -> BaseException | None:
        if number > 1:
            return None
        return BatchError({0: Reject("bad"), 1: Broken()})

    batching = Batching(world, fails, retry=Retry.delays("10s", in_place=1, in_place_wait="1s"))
    for key in "abcdef":
        world.send(key)
    async with world.working_with_topics(batching.app) as working:
        await working.joined()
        world.broker.faults.refuse(DLQ)
        await asyncio.sleep(30)
        assert batching.batches == [[0, 1, 2, 3]]
        world.broker.faults.accept(DLQ)
        await world.settled(working)
    assert batching.batches == [[0, 1, 2, 3], [1], [4, 5]]


@pytest.mark.parametrize("place", [0, 2])
@simulated
async def test_what_cannot_be_decoded_is_a_dead_letter_and_the_batches_around_it_are_handled(place: int) -> None:
    world = RetryWorld()
    app = App("test")
    batches: list[list[int]] = []

    @app.agent(app.topic("in", value=int), batch=Batch(4, within="100ms"), retry=Retry.delays("10s"))
    async def work(batch: Sequence[int]) -> None:
        batches.append(list(batch))
        for number in batch:
            world.done[IN].add(number)

    for number in range(6):
        world.send("a", b"{" if number == place else str(number).encode())
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    assert in_order(batches) == [number for number in range(6) if number != place]
    (letter,) = world.dead_letters()
    assert (letter.value, header(letter, "sk-stage")) == (b"{", "decode-value")


@simulated
async def test_a_batch_over_its_time_limit_has_failed_as_a_whole() -> None:
    world = RetryWorld()
    app = App("test")
    begun: list[float] = []

    @app.agent(
        app.topic("in", value=bytes), batch=Batch(3, within="100ms"), timeout="2s", retry=Retry.delays("10s", jitter=0)
    )
    async def work(batch: Sequence[bytes]) -> None:
        begun.append(asyncio.get_running_loop().time())
        await asyncio.sleep(60)

    for key in "abc":
        world.send(key)
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    assert len(begun) == 2
    assert dict(working.agent.dead_letters)["timeout"] == 3


@simulated
async def test_a_batch_that_waits_holds_up_no_other_partition() -> None:
    world = RetryWorld(partitions=3)
    batching = Batching(
        world, lambda batch, number: Broken() if batch[0].partition == 1 else None, retry=Retry.in_place(1, "1h")
    )
    for partition in range(3):
        for _ in range(8):
            world.send("a", partition=partition)
    async with world.working_with_topics(batching.app):
        await until(lambda: world.committed().get(0) == world.committed().get(2) == 8)
        assert world.committed()[1] == 0
        assert batching.batches.count([0, 1, 2, 3]) == 3


@simulated
async def test_a_batch_of_a_tier_holds_what_is_due_together_and_is_late_by_no_more_than_its_own_wait() -> None:
    world = RetryWorld()
    batching = Batching(
        world, lambda batch, number: failing_of(batch, *range(0, 8, 2)), retry=Retry.delays("10s", jitter=0)
    )
    for key in "abcdefgh":
        world.send(key)
    async with world.working_with_topics(batching.app) as working:
        await world.settled(working)
    assert batching.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 2, 4, 6]]
    assert sum(working.agent.lateness[1].counts) == 4
    assert len(world.dead_letters()) == 4


@simulated
async def test_a_rebalance_while_a_batch_waits_in_place_leaves_its_partition_free() -> None:
    world = RetryWorld()
    batching = Batching(world, lambda batch, number: Broken() if number == 1 else None, retry=Retry.in_place(1, "20m"))
    for key in "abcd":
        world.send(key)
    async with world.working_with_topics(batching.app) as working:
        await until(lambda: batching.batches)
        await asyncio.sleep(1)
        rebalance(working)
        await world.settled(working, patience=60)
    assert batching.batches == [[0, 1, 2, 3]] * 2


@simulated
async def test_a_rebalance_while_a_batchs_copies_are_refused_leaves_its_partition_free() -> None:
    world = RetryWorld()
    batching = Batching(world, lambda batch, number: Broken() if number == 1 else None, dead_letter=True)
    for key in "abcd":
        world.send(key)
    async with world.working_with_topics(batching.app) as working:
        await working.joined()
        world.broker.faults.refuse(DLQ)
        await until(lambda: working.agent.blocked() > 0)
        rebalance(working)
        await world.settled(working, patience=60)
    assert batching.batches == [[0, 1, 2, 3]] * 2
    assert not world.dead_letters()


@simulated
async def test_a_batch_that_fails_while_its_partition_is_given_back_leaves_it_free() -> None:
    world = RetryWorld()
    go_on = asyncio.Event()
    app = App("test")
    runs: list[int] = []

    @app.agent(app.topic("in", value=bytes), batch=Batch(2, within="100ms"), retry=Retry.in_place(3, "10m"))
    async def work(batch: Sequence[Record[str, bytes]]) -> None:
        runs.append(len(batch))
        if len(runs) == 1:
            await go_on.wait()
            raise Broken
        for record in batch:
            world.handled(record)

    for key in "ab":
        world.send(key)
    async with world.working_with_topics(app) as working:
        await until(lambda: runs)
        rebalance(working)
        await asyncio.sleep(0.1)
        go_on.set()
        await world.settled(working, patience=60)
    assert runs == [2, 2]


@simulated
async def test_refused_after_it_was_handled_all_of_a_batch_goes_to_the_tier_at_stage_sink() -> None:
    world = RetryWorld()
    world.broker.create_topic("out", 1)
    app = App("test")
    batches: list[list[int]] = []

    @app.agent(
        app.topic("in", value=bytes),
        sink=app.topic("out", value=bytes),
        batch=Batch(2, within="100ms"),
        retry=Retry.delays("10s", jitter=0),
    )
    async def work(batch: Sequence[Record[str, bytes]]) -> list[Output[bytes]]:
        batches.append([record.offset for record in batch])
        if len(batches) > 2:
            for record in batch:
                world.handled(record)
        return [Output(b"%d" % record.offset, key=record.key) for record in batch]

    for key in "abcd":
        world.send(key)
    world.broker.faults.refuse("out")
    async with world.working_with_topics(app) as working:
        await working.joined()
        await until(lambda: sum(working.agent.retries.values()) == 4)
        world.broker.faults.accept("out")
        assert {header(record, "sk-stage") for record in world.broker.records(tier(1))} == {"sink"}
        await world.settled(working)
    assert sorted(in_order(batches)) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert sorted(record.value or b"" for record in world.broker.records("out")) == [b"0", b"1", b"2", b"3"]
