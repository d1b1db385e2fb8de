"""Retries and order: keys, lanes and partitions, tiers with fewer partitions, agents beside each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest

from streamkit import App, Record, Reject, Retry
from streamkit.record import TopicPartition
from tests.runtime.retry_support import RetryWorld, flaky, header, tier
from tests.runtime.support import GROUP, rebalance, simulated, until

IN = TopicPartition("in", 0)
TIERS = Retry.delays("10s", jitter=0)


class Broken(Exception):
    pass


def judged(
    world: RetryWorld,
    fails: Callable[[Record[str, bytes], int], BaseException | None],
    *,
    worker: str = "w",
    takes: float = 0.001,
    **options: Any,
) -> App:
    """As `flaky`; no two records of a key may run at a time in one worker, tiers included."""
    app = App("test")

    @app.agent(app.topic("in", value=bytes), name="work", **options)  # type: ignore[untyped-decorator]
    async def work(record: Record[str, bytes]) -> None:
        number = world.note(record)
        with world.running_alone(record, worker):
            await asyncio.sleep(takes)
        error = fails(record, number)
        if error is not None:
            raise error
        world.handled(record)

    return app


@simulated
async def test_records_of_a_tier_and_of_the_source_take_turns_in_the_lane_of_their_key() -> None:
    world = RetryWorld()
    app = judged(world, lambda record, number: Broken() if number < 3 else None, takes=0.4, concurrency=16, retry=TIERS)
    for _ in range(5):
        world.send("a")
        world.send("b")
    async with world.working_with_topics(app) as working:
        for _ in range(40):
            await asyncio.sleep(0.5)
            world.send("a")
        await world.settled(working)
        assert world.most_at_once == 2


@simulated
async def test_a_partition_in_order_takes_its_tiers_records_into_its_one_lane() -> None:
    world = RetryWorld()
    app = judged(
        world,
        lambda record, number: Broken() if number == 1 and record.offset % 2 else None,
        takes=0.1,
        concurrency=8,
        order_by="partition",
        retry=TIERS,
    )
    for number in range(20):
        world.send(f"k{number}")
    async with world.working_with_topics(app) as working:
        await asyncio.sleep(9.9)
        for number in range(20):
            world.send(f"k{number}")
        await world.settled(working)
    assert world.most_at_once == 1
    assert [each.offset for each in world.tries[:20]] == list(range(20))


@simulated
async def test_without_an_order_nothing_waits_for_a_record_that_runs_again() -> None:
    world = RetryWorld()
    app = flaky(
        world,
        lambda record, number: Broken() if record.offset == 0 and number < 3 else None,
        concurrency=4,
        order_by="none",
        retry=Retry.in_place(2, "5s"),
    )
    for _ in range(4):
        world.send("a")
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    assert [each.offset for each in world.tries] == [0, 1, 2, 3, 0, 0]


@simulated
async def test_a_function_orders_the_records_of_tiers_as_it_does_those_of_the_source() -> None:
    world = RetryWorld()
    asked: list[tuple[int, int]] = []

    def order(record: Record[str, bytes]) -> str:
        asked.append((record.offset, record.attempt))
        return record.value.decode()

    app = flaky(world, lambda record, number: Broken() if number == 1 else None, order_by=order, retry=TIERS)
    for key in "abcd":
        world.send(key, b"one lane")
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    assert asked == [(offset, 1) for offset in range(4)] + [(offset, 2) for offset in range(4)]


@simulated
async def test_a_function_that_raises_makes_a_dead_letter_at_once() -> None:
    world = RetryWorld()

    def order(record: Record[str, bytes]) -> str:
        if record.value == b"bad":
            raise Broken("no lane")
        return "lane"

    app = flaky(world, lambda record, number: None, order_by=order, retry=TIERS)
    world.send("a", b"bad")
    world.send("a", b"good")
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    assert [each.offset for each in world.tries] == [1]
    (letter,) = world.dead_letters()
    assert (header(letter, "sk-stage"), header(letter, "sk-error-message")) == ("decode-value", "no lane")


@simulated
async def test_records_without_a_key_or_a_value_are_copied_as_they_are() -> None:
    world = RetryWorld()
    app = App("test")

    @app.agent(app.topic("in", value=bytes | None), name="work", retry=Retry.delays("1s", "2s", jitter=0))
    async def work(record: Record[str, bytes | None]) -> None:
        world.note(record)
        raise Broken

    sent: list[tuple[bytes | None, bytes | None]] = [
        (None, b"v"),
        (b"k", None),
        (None, None),
        (b"", b""),
        (b"k", b"\xff"),
    ]
    for key, value in sent:
        world.broker.append("in", value, key=key)
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    for name in (tier(1), tier(2), "in.dlq"):
        copies = world.broker.records(name)
        by_offset = {int(header(copy, "sk-origin-offset") or -1): (copy.key, copy.value) for copy in copies}
        assert by_offset == dict(enumerate(sent))
    assert len(world.tries) == 3 * len(sent)


@simulated
async def test_an_undecodable_key_is_a_dead_letter_with_its_raw_key() -> None:
    world = RetryWorld()
    app = flaky(world, lambda record, number: None, retry=TIERS)
    world.broker.append("in", b"v", key=b"\xff\xfe")
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    (letter,) = world.dead_letters()
    assert (letter.key, letter.value, header(letter, "sk-stage")) == (b"\xff\xfe", b"v", "decode-key")


@simulated
async def test_each_topic_of_an_agent_has_its_own_tiers_and_dead_letters() -> None:
    world = RetryWorld()
    world.broker.create_topic("other", 1)
    app = App("test")

    @app.agent(app.topic("in", value=bytes), app.topic("other", value=bytes), name="work", retry=TIERS)
    async def work(record: Record[str, bytes]) -> None:
        world.note(record)
        if record.key == "bad":
            raise Broken

    world.is_settled = lambda partition, offset: True
    for topic in ("in", "other"):
        world.send("good", topic=topic)
        world.send("bad", topic=topic)
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    assert len(world.tries) == 6
    for topic in ("in", "other"):
        (letter,) = world.dead_letters(f"{topic}.dlq")
        (copy,) = world.broker.records(tier(1, topic))
        assert header(letter, "sk-origin-topic") == header(copy, "sk-origin-topic") == topic


@simulated
async def test_two_agents_on_one_topic_retry_apart_from_each_other() -> None:
    world = RetryWorld()
    app = App("test")
    topic = app.topic("in", value=bytes)
    tries: dict[str, list[tuple[int, int]]] = {"one": [], "two": []}

    @app.agent(topic, name="one", retry=Retry.delays("10s", jitter=0))
    async def one(record: Record[str, bytes]) -> None:
        tries["one"].append((record.offset, record.attempt))
        if record.offset == 0:
            raise Broken

    @app.agent(topic, name="two", retry=Retry.delays("5s", jitter=0))
    async def two(record: Record[str, bytes]) -> None:
        tries["two"].append((record.offset, record.attempt))
        if record.offset == 1 and record.attempt == 1:
            raise Broken

    world.send("a")
    world.send("a")
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    assert tries == {"one": [(0, 1), (1, 1), (0, 2)], "two": [(0, 1), (1, 1), (1, 2)]}
    (letter,) = world.dead_letters()
    assert header(letter, "sk-group") == "test.one"
    assert len(world.broker.records(tier(1, group="test.one"))) == 1
    assert len(world.broker.records(tier(1, group="test.two"))) == 1


@simulated
async def test_the_success_of_one_partition_never_resets_the_attempts_of_another() -> None:
    world = RetryWorld(partitions=3)
    app = flaky(
        world,
        lambda record, number: Broken() if record.partition == 1 else None,
        retry=Retry.delays("1s", "2s", "3s", jitter=0, in_place=1, in_place_wait="100ms"),
        concurrency=3,
    )
    world.send("bad", partition=1)
    async with world.working_with_topics(app) as working:
        await working.joined()
        for number in range(200):
            world.send("a", partition=2 * (number % 2))
            await asyncio.sleep(0.05)
        await world.settled(working)
    assert [each.attempt for each in world.tries_of(0, 1)] == list(range(1, 9))
    assert len(world.dead_letters()) == 1


@simulated
async def test_after_a_rebalance_a_key_waits_for_the_run_of_its_tiers_record_that_ignores_its_cancellation() -> None:
    world = RetryWorld(drain_timeout=1.0)
    app = App("test")
    stubborn = asyncio.Event()

    @app.agent(app.topic("in", value=bytes), name="work", retry=TIERS, concurrency=4)
    async def work(record: Record[str, bytes]) -> None:
        number = world.note(record)
        with world.running_alone(record):
            if record.offset == 0 and number == 2:
                while not stubborn.is_set():
                    with suppress(asyncio.CancelledError):
                        await stubborn.wait()
                return
        if record.offset == 0 and number == 1:
            raise Broken
        world.handled(record)

    world.send("a")
    async with world.working_with_topics(app) as working:
        await until(lambda: len(world.tries) == 2)
        rebalance(working)
        await until(lambda: working.agent.rebalances == 2)
        world.send("a")
        world.send("b")
        await until(lambda: any(each.key == "b" for each in world.tries))
        await asyncio.sleep(20)
        assert [each.offset for each in world.tries] == [0, 0, 2]
        stubborn.set()
        await world.settled(working)
    assert sorted(each.offset for each in world.tries[3:]) == [0, 1]


# Partitions


@simulated
async def test_with_fewer_partitions_in_the_tier_a_key_still_runs_one_at_a_time() -> None:
    """Wherever its source's partition is: two tiers' records of it share a lane too."""
    world = RetryWorld(partitions=4)
    world.create_copies(tier(1), partitions=2)
    world.create_copies(tier(2), partitions=2)
    retry = Retry.delays("5s", "5s", jitter=0)
    one, two = (
        judged(
            world,
            lambda record, number: Broken() if number < 2 + record.offset % 2 else None,
            worker=name,
            takes=0.7,
            concurrency=16,
            retry=retry,
        )
        for name in ("one", "two")
    )
    async with world.working_with_topics(one) as first, world.working_with_topics(two) as second:
        await first.joined()
        await second.joined()
        await until(lambda: len(first.agent.assigned) == len(second.agent.assigned) == 4)
        for _ in range(12):
            for partition in range(4):
                world.send("a", partition=partition)
        await until(lambda: sum(map(len, world.done.values())) == 48)
    assert not world.dead_letters()


@simulated
async def test_a_source_that_grows_while_tiers_do_not_loses_nothing_and_keeps_its_partition_numbers() -> None:
    world = RetryWorld(partitions=3)
    app = flaky(world, lambda record, number: Broken() if number == 1 else None, retry=TIERS, concurrency=4)
    for partition in range(3):
        world.send("a", partition=partition)
    async with world.working_with_topics(app) as working:
        await until(lambda: len(world.tries) == 3)
        world.broker.add_partitions("in", 6)
        for partition in range(6):
            world.send("b", partition=partition)
        await until(lambda: working.partitions == set(range(6)))
        await world.settled(working)
    assert len(world.broker.topics[tier(1)].partitions) == 3
    copies = world.broker.records(tier(1))
    assert {(int(header(copy, "sk-origin-partition") or -1), copy.partition) for copy in copies} == {
        (partition, partition % 3) for partition in range(6)
    }
    assert sum(map(len, world.done.values())) == 9
    assert all(len(world.tries_of(0, partition)) == 2 for partition in range(6))


@simulated
async def test_a_tiers_record_that_waits_in_its_lane_is_not_forgotten_when_the_log_begins_anew() -> None:
    world = RetryWorld(partitions=2)
    world.is_settled = lambda partition, offset: True
    app = App("test")
    runs: list[bytes] = []

    @app.agent(app.topic("in", value=bytes), name="work", retry=Retry.delays("10s", jitter=0), on_gap="earliest")
    async def work(record: Record[str, bytes]) -> None:
        runs.append(record.value)
        if record.value == b"slow":
            await asyncio.sleep(15)
        elif record.value == b"bad" and record.attempt == 1:
            raise Broken

    async with world.working_with_topics(app) as working:
        await working.joined()
        world.send("a", b"bad")
        for key in ("a", "b"):
            world.send(key, b"other", partition=1)
        await asyncio.sleep(5)
        world.send("a", b"slow")
        await asyncio.sleep(10)  # the copy is due, and waits behind the slow one
        world.broker.topics["in"].partitions[0] = type(world.broker.log(IN))(IN)
        world.send("a", b"new")
        await until(lambda: runs.count(b"bad") == 2, patience=60)
        await until(lambda: world.committed(topic=tier(1)).get(0) == 1)
    assert (runs.count(b"other"), b"new" in runs) == (2, True)


# Tiers that are declared no more


@pytest.mark.parametrize("now", ["fewer", "none"])
@simulated
async def test_tiers_that_are_declared_no_more_are_read_until_they_are_empty(now: str) -> None:
    world = RetryWorld()
    before = flaky(world, lambda record, number: Broken(), retry=Retry.delays("1s", "20s", "30s", jitter=0))
    for key in "abc":
        world.send(key)
    async with world.working_with_topics(before):
        await until(lambda: tier(2) in world.broker.topics and len(world.broker.records(tier(2))) == 3)
    options: dict[str, Any] = {"retry": Retry.delays("1s", jitter=0)} if now == "fewer" else {"dead_letter": True}
    after = flaky(world, lambda record, number: Broken() if record.key == "a" else None, **options)
    began = asyncio.get_running_loop().time()
    async with world.working_with_topics(after) as working:
        await world.settled(working)
    for offset in range(3):  # and no sooner than who put them there had said
        _, second, third = (each.began for each in world.tries_of(offset))
        assert 20 <= third - second < 21
    assert world.committed(topic=tier(2)) == {0: 3}
    assert [each.attempt for each in world.tries if each.began >= began] == [3, 3, 3]
    (letter,) = world.dead_letters()
    assert (letter.key, header(letter, "sk-attempt")) == (b"a", "3")
    assert GROUP in world.broker.groups


@simulated
async def test_headers_stay_as_many_and_all_bytes_as_they_were_after_fifty_hops() -> None:
    world = RetryWorld()
    hops = [f"{number + 1}ms" for number in range(50)]
    app = flaky(world, lambda record, number: Broken("x" * 5000), retry=Retry.delays(*hops, jitter=0))
    world.send("a", b"\x00\xff", headers=(("h", b"\x80"), ("h", None)))
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    copies = [world.broker.records(tier(number))[0] for number in range(1, 51)]
    assert len({len(copy.headers) for copy in copies}) == 1
    for copy, following in pairwise([*copies, *world.dead_letters()]):
        assert (copy.key, copy.value, copy.headers[:2]) == (following.key, following.value, following.headers[:2])
        assert header(copy, "sk-first-failed-at") == header(following, "sk-first-failed-at")
    (letter,) = world.dead_letters()
    assert header(letter, "sk-attempt") == "51"
    assert letter.headers[:2] == (("h", b"\x80"), ("h", None))


@simulated
async def test_a_rejected_record_goes_at_once_even_from_a_tier() -> None:
    world = RetryWorld()
    app = flaky(world, lambda record, number: Broken() if number == 1 else Reject("seen twice"), retry=TIERS)
    world.send("a")
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    assert dict(working.agent.dead_letters)["rejected"] == 1
    assert len(world.tries) == 2
