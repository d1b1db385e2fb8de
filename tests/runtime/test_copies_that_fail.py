"""Copies that a tier or the dead letter topic does not take: nothing is lost, and nothing else waits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from streamkit import App, Record, Reject, Retry
from streamkit.record import TopicPartition
from streamkit.transport.base import TopicRefused, Unreachable
from streamkit.transport.memory.broker import Acknowledgement
from streamkit.transport.memory.log import Payload
from tests.runtime.retry_support import BEGAN, DLQ, RetryWorld, flaky, header, tier
from tests.runtime.support import rebalance, simulated, until

IN = TopicPartition("in", 0)
TIERS = Retry.delays("10s", jitter=0)
REFUSALS = pytest.mark.parametrize(
    "error", [None, TopicRefused("no"), Unreachable("gone")], ids=["all", "topic", "net"]
)


class Broken(Exception):
    pass


class CountingWorld(RetryWorld):
    """Counts the batches that come to each topic."""

    def __init__(self, partitions: int = 1, **settings: Any) -> None:
        super().__init__(partitions, **settings)
        self.batches: Counter[str] = Counter()
        produce = self.broker.produce

        async def counted(
            partition: TopicPartition, payloads: Sequence[Payload], size: int, within: float
        ) -> Acknowledgement:
            self.batches[partition.topic] += 1
            return await produce(partition, payloads, size, within)

        self.broker.produce = counted  # type: ignore[method-assign]


def omitted(letter: Any) -> str | None:
    return header(letter, "sk-omitted")


@REFUSALS
@simulated
async def test_a_tier_that_takes_nothing_keeps_the_failed_ones_and_no_others(
    error: Exception | None,
) -> None:
    world = CountingWorld()
    world.broker.faults.refuse(tier(1), error)
    app = flaky(
        world,
        lambda record, number: Broken() if record.key == "bad" and number == 1 else None,
        retry=TIERS,
        concurrency=4,
    )
    for key in ("bad", "a", "bad", "b"):
        world.send(key)
    async with world.working_with_topics(app) as working:
        for _ in range(10):
            await asyncio.sleep(60)
            world.send("a")
        await asyncio.sleep(1)
        assert [each.offset for each in world.tries] == [0, 1, 3, *range(4, 14)]
        assert world.committed() == {0: 0}
        assert world.batches[tier(1)] < 300  # one in 5 s, and again by the publisher
        world.broker.faults.accept(tier(1))
        mended = asyncio.get_running_loop().time()
        await until(lambda: world.broker.records(tier(1)))
        assert asyncio.get_running_loop().time() - mended < 16
        await world.settled(working)
    again = world.tries_of(0)[1]
    assert again.began - (int(header(world.broker.records(tier(1))[0], "sk-failed-at") or 0) / 1000 - BEGAN) >= 10
    assert [each.offset for each in world.tries if each.key == "bad"][:2] == [0, 2]
    assert not world.dead_letters()


@simulated
async def test_a_dead_letter_topic_that_is_deleted_and_made_again_takes_what_waited() -> None:
    world = CountingWorld()
    app = flaky(world, lambda record, number: Broken() if record.key == "bad" else None, dead_letter=True)
    async with world.working_with_topics(app) as working:
        await working.joined()
        world.broker.delete_topic(DLQ)
        for key in ("bad", "a", "bad", "a"):
            world.send(key)
        await asyncio.sleep(60)
        assert [each.offset for each in world.tries] == [0, 1, 3]
        assert working.agent.blocked() == 1
        world.create_copies(DLQ)
        await world.settled(working)
    assert [header(letter, "sk-origin-offset") for letter in world.dead_letters()] == ["0", "2"]


@simulated
async def test_many_failing_records_ask_a_topic_that_refuses_no_oftener_than_a_few() -> None:
    world = CountingWorld(breaker_failures=0)
    world.broker.faults.refuse(DLQ, TopicRefused("no"))
    app = flaky(
        world, lambda record, number: Broken() if record.key != "good" else None, dead_letter=True, concurrency=8
    )
    for number in range(300):
        world.send(f"k{number}")
    async with world.working_with_topics(app) as working:
        await asyncio.sleep(30)
        assert working.agent.blocked() == 300
        before = world.batches[DLQ]
        assert before <= 2 * (8 + 10)  # those under way at first, and then one now and then; each is sent twice
        world.send("good")
        await until(lambda: any(each.key == "good" for each in world.tries), patience=1)
        await asyncio.sleep(60)
        assert world.batches[DLQ] - before <= 3 * 60 / 5
        before = world.batches[DLQ]
        for number in range(100):
            world.send(f"later {number}")
            await asyncio.sleep(0.1)
        assert world.batches[DLQ] - before <= 3 * 10 / 5 + 3
        world.broker.faults.accept(DLQ)
        await world.settled(working)
    assert len(world.dead_letters()) == 400


@simulated
async def test_a_topic_that_refuses_a_whole_burst_is_not_asked_twice_for_each_record() -> None:
    """A refusal that names no topic may be the fault of one record: the batch is divided to find it."""
    world = CountingWorld(breaker_failures=0)
    world.broker.faults.refuse(DLQ)
    app = flaky(world, lambda record, number: Broken(), dead_letter=True, concurrency=100)
    for number in range(100):
        world.send(f"k{number}")
    async with world.working_with_topics(app) as working:
        await asyncio.sleep(60)
        assert working.agent.blocked() == 100
        assert world.batches[DLQ] <= 2 * 100 + 2 * 20
        world.broker.faults.accept(DLQ)
        await world.settled(working)
    assert len(world.dead_letters()) == 100


@simulated
async def test_a_topic_that_refuses_holds_up_no_other_topic_of_copies() -> None:
    world = CountingWorld()
    errors = {"later": Broken(), "never": Reject("bad")}
    app = flaky(
        world, lambda record, number: errors[record.key or ""] if number == 1 else None, retry=TIERS, concurrency=4
    )
    world.broker.faults.refuse(DLQ)
    for key in ("never", "later"):
        world.send(key)
    async with world.working_with_topics(app) as working:
        await until(lambda: len(world.tries) == 3, patience=15)
        world.broker.faults.accept(DLQ)
        await world.settled(working)
    assert [each.key for each in world.tries] == ["never", "later", "later"]


# Too large


def sized(world: RetryWorld, name: str, limit: int) -> None:
    """The topic takes less than the worker has been told at start."""
    world.broker.topics[name].config["max.message.bytes"] = str(limit)


@pytest.mark.parametrize(
    ("limit", "stack", "message", "left_out"),
    [(20_000, True, True, None), (7_500, False, True, None), (6_000, False, False, None)],
    ids=["whole", "without stack", "without message"],
)
@simulated
async def test_a_dead_letter_that_is_too_large_goes_without_what_matters_least(
    limit: int, stack: bool, message: bool, left_out: str | None
) -> None:
    world = RetryWorld()
    app = App("test")

    @app.agent(app.topic("in", value=bytes), name="work", dead_letter=True)
    async def work(record: Record[str, bytes]) -> None:
        world.note(record)
        if record.offset == 0:
            deep(60, "m" * 1000)
        world.handled(record)

    world.send("a", b"v" * 5_000, headers=(("h", b"1"),))
    world.send("a")
    async with world.working_with_topics(app) as working:
        await working.joined()
        sized(world, DLQ, limit)
        await world.settled(working)
    (letter,) = world.dead_letters()
    assert (letter.key, letter.value, letter.headers[0]) == (b"a", b"v" * 5_000, ("h", b"1"))
    assert (header(letter, "sk-error-stack") is not None, header(letter, "sk-error-message") is not None) == (
        stack,
        message,
    )
    assert omitted(letter) == left_out


@pytest.mark.parametrize(("limit", "left_out"), [(4_000, "value"), (1_000, "key,value,headers")])
@simulated
async def test_what_does_not_fit_at_all_is_stored_by_where_it_is(limit: int, left_out: str) -> None:
    world = RetryWorld()
    app = flaky(world, lambda record, number: Broken("m") if record.offset == 0 else None, dead_letter=True)
    world.send("k" * 500, b"v" * 5_000, headers=(("h", b"1" * 500),))
    async with world.working_with_topics(app) as working:
        await working.joined()
        sized(world, DLQ, limit)
        await world.settled(working)
    (letter,) = world.dead_letters()
    assert letter.value is None
    assert (letter.key is None, "h" in dict(letter.headers)) == (left_out != "value", left_out == "value")
    assert omitted(letter) == left_out
    assert (header(letter, "sk-origin-partition"), header(letter, "sk-origin-offset")) == ("0", "0")


@simulated
async def test_what_is_too_large_even_so_waits_until_the_limit_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    world = RetryWorld()
    app = flaky(
        world, lambda record, number: Broken("m") if record.key == "bad" else None, dead_letter=True, concurrency=2
    )
    for key in ("bad", "good", "bad"):
        world.send(key)
    async with world.working_with_topics(app) as working:
        await working.joined()
        sized(world, DLQ, 100)
        await asyncio.sleep(120)
        assert [each.offset for each in world.tries] == [0, 1]
        assert (working.agent.blocked(), world.committed()) == (1, {0: 0})
        (warning,) = [each.getMessage() for each in caplog.records if "does not take" in each.getMessage()]
        assert warning.startswith("agent work: in.dlq does not take the copy of in[0] offset 0: ")
        assert warning.endswith(
            "; raise its max.message.bytes. Its key waits, and it is tried again until it is taken "
            "(records of the agent that wait so: 1)"
        )
        sized(world, DLQ, 100_000)
        await world.settled(working)
        assert working.agent.blocked() == 0
    assert len(world.dead_letters()) == 2


@simulated
async def test_a_record_that_is_too_large_for_a_tier_becomes_a_dead_letter(caplog: pytest.LogCaptureFixture) -> None:
    world = RetryWorld()
    app = flaky(world, lambda record, number: Broken("m" * 1000) if record.offset == 0 else None, retry=TIERS)
    world.send("a", b"v" * 5_000)
    world.send("a")
    async with world.working_with_topics(app) as working:
        await working.joined()
        sized(world, tier(1), 2_000)
        await world.settled(working)
        assert dict(working.agent.dead_letters)["too_large"] == 1
    (letter,) = world.dead_letters()
    assert letter.value == b"v" * 5_000
    assert len(world.tries) == 2
    assert "in[0] offset 0 goes to in.dlq: Broken: mmm" in caplog.text


@simulated
async def test_a_record_that_just_fits_a_tier_goes_there_without_the_message() -> None:
    world = RetryWorld()
    app = flaky(world, lambda record, number: Broken("m" * 1000) if number == 1 else None, retry=TIERS)
    world.send("a", b"v" * 5_000)
    async with world.working_with_topics(app) as working:
        await working.joined()
        sized(world, tier(1), 5_700)
        await world.settled(working)
    (copy,) = world.broker.records(tier(1))
    assert header(copy, "sk-error-message") is None
    assert copy.value == b"v" * 5_000
    assert len(world.tries) == 2


# The end of an assignment


@pytest.mark.parametrize("error", [TopicRefused("no"), Unreachable("gone")], ids=["topic", "net"])
@simulated
async def test_a_stop_while_copies_are_refused_returns_in_time_and_loses_nothing(error: Exception) -> None:
    world = RetryWorld()
    world.broker.faults.refuse(tier(1), error)
    app = flaky(world, lambda record, number: Broken() if number == 1 else None, retry=TIERS, concurrency=4)
    for key in "abab":
        world.send(key)
    async with world.working_with_topics(app) as working:
        await until(lambda: len(world.tries) == 2)
        await asyncio.sleep(20)
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < world.settings.drain_timeout + 5
    assert world.committed() == {0: 0}
    world.broker.faults.accept(tier(1))
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    assert sorted(world.done[IN]) == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [TopicRefused("no"), Unreachable("gone")], ids=["topic", "net"])
@simulated
async def test_a_rebalance_while_copies_are_refused_lets_them_run_again_and_loses_nothing(error: Exception) -> None:
    world = RetryWorld()
    world.broker.faults.refuse(DLQ, error)
    app = flaky(world, lambda record, number: Broken() if number < 3 else None, dead_letter=True, concurrency=4)
    for key in "abab":
        world.send(key)
    async with world.working_with_topics(app) as working:
        for _ in range(2):
            await asyncio.sleep(20)
            rebalance(working)
        await asyncio.sleep(20)
        world.broker.faults.accept(DLQ)
        await world.settled(working)
    assert max(world.revocations) < world.settings.drain_timeout + 2
    assert sorted(world.done[IN] | {int(header(each, "sk-origin-offset") or -1) for each in world.dead_letters()}) == [
        0,
        1,
        2,
        3,
    ]


@simulated
async def test_a_copy_that_is_acknowledged_after_its_partition_was_given_back_changes_nothing() -> None:
    world = RetryWorld(drain_timeout=1.0)
    app = flaky(world, lambda record, number: Broken() if number == 1 else None, retry=TIERS)
    for key in "aa":
        world.send(key)
    async with world.working_with_topics(app) as working:
        await working.joined()
        world.broker.faults.acknowledgements.close()
        await until(lambda: world.broker.records(tier(1)))
        rebalance(working)
        await until(lambda: len(world.tries_of(0)) == 2)
        world.broker.faults.acknowledgements.open()
        await world.settled(working)
    assert world.revocations
    # Its copy is in the tier all the same, and runs: at least once.
    assert sorted(each.offset for each in world.tries) == [0, 0, 0, 1, 1]


@simulated
async def test_a_log_that_is_cut_short_while_its_copies_are_refused_does_not_hold_up_those_of_others() -> None:
    world = RetryWorld(partitions=2)
    app = flaky(
        world, lambda record, number: Broken() if record.value == b"bad" else None, dead_letter=True, on_gap="earliest"
    )
    async with world.working_with_topics(app) as working:
        await working.joined()
        world.broker.faults.refuse(DLQ, TopicRefused("no"))
        world.send("a", b"bad")
        world.send("a")
        await until(lambda: working.agent.blocked())
        world.send("a", b"bad", partition=1)
        await asyncio.sleep(10)
        world.broker.topics["in"].partitions[0] = type(world.broker.log(IN))(IN)
        world.send("a")
        await asyncio.sleep(10)
        world.broker.faults.accept(DLQ)
        await until(lambda: working.agent.blocked() == 0, patience=60)
        await until(lambda: world.committed().get(1) == 1)
    assert [header(letter, "sk-origin-partition") for letter in world.dead_letters()] == ["1"]


def deep(depth: int, message: str) -> None:
    """Raise with a long stack."""
    if depth == 0:
        raise Broken(message)
    deep(depth - 1, message)
