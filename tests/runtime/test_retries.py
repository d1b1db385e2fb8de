"""Retries of values and whole records: tiers, dead letters, in place, in virtual time."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from streamkit import App, Record, Reject, Retry, RetryLater, Skip
from streamkit.errors import RecordFailed
from streamkit.record import TopicPartition
from tests.runtime.retry_support import DLQ, RetryWorld, flaky, header, tier, wall
from tests.runtime.support import rebalance, simulated, until

SOURCE = TopicPartition("in", 0)
TIERS = Retry.delays("10s", "1m", jitter=0)


class Broken(Exception):
    pass


class Hopeless(Exception):
    pass


@simulated
async def test_a_failed_record_goes_through_the_tiers_and_is_handled_when_it_succeeds() -> None:
    world = RetryWorld()
    app = flaky(world, lambda record, number: Broken("no") if record.offset == 0 and number < 3 else None, retry=TIERS)
    world.send("a", b"first")
    world.send("b", b"second")
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    first, second, third = (each.began for each in world.tries_of(0))
    assert 10 <= second - first < 10.3
    assert 60 <= third - second < 60.3
    assert [each.attempt for each in world.tries_of(0)] == [1, 2, 3]
    assert len(world.tries_of(1)) == 1
    assert not world.dead_letters()
    assert dict(working.agent.retries) == {1: 1, 2: 1}
    assert working.agent.processed_success == 2
    assert working.agent.processed_retried == 2


@simulated
async def test_what_fails_to_the_last_tier_is_a_dead_letter_that_says_why() -> None:
    world = RetryWorld()
    app = flaky(world, lambda record, number: Broken(f"try {number}"), retry=TIERS)
    sent = wall() - 1000
    world.send("a", b"\x00raw\xff", headers=(("h", b"1"), ("h", b"2")), timestamp=round(sent * 1000))
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    (letter,) = world.dead_letters()
    assert (letter.key, letter.value, letter.headers[:2]) == (b"a", b"\x00raw\xff", (("h", b"1"), ("h", b"2")))
    assert header(letter, "sk-origin-topic") == "in"
    assert header(letter, "sk-origin-offset") == "0"
    assert header(letter, "sk-origin-timestamp") == str(round(sent * 1000))
    assert header(letter, "sk-group") == "test.work"
    assert header(letter, "sk-attempt") == "3"
    assert header(letter, "sk-stage") == "handle"
    assert header(letter, "sk-error-message") == "try 3"
    assert "Broken" in (header(letter, "sk-error-class") or "")
    assert "raise error" in (header(letter, "sk-error-stack") or "")
    assert dict(working.agent.dead_letters)["exhausted"] == 1


@simulated
async def test_later_records_of_the_key_do_not_wait_for_one_in_a_tier() -> None:
    world = RetryWorld()
    app = flaky(world, lambda record, number: Broken() if record.offset == 0 and number == 1 else None, retry=TIERS)
    for _ in range(3):
        world.send("a")
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    assert [each.offset for each in world.tries] == [0, 1, 2, 0]


@simulated
async def test_in_place_the_key_waits_and_others_go_on() -> None:
    world = RetryWorld()
    retry = Retry.in_place(2, "5s")
    app = flaky(world, lambda record, number: Broken() if record.offset == 0 and number < 3 else None, retry=retry)
    for key in "aab":
        world.fill([key])
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    assert [each.offset for each in world.tries] == [0, 2, 0, 0, 1]
    assert [each.attempt for each in world.tries_of(0)] == [1, 2, 3]
    assert world.tries_of(0)[1].began - world.tries_of(0)[0].began >= 5
    assert working.agent.retries_in_place == 2


@simulated
async def test_in_place_without_tiers_ends_with_the_worker_stopped() -> None:
    world = RetryWorld()
    app = flaky(world, lambda record, number: Broken("always"), retry=Retry.in_place(2, "1s"))
    world.send("a")
    error = await world.failing(app)
    assert isinstance(error, RecordFailed)
    assert len(world.tries) == 3
    assert world.committed() == {0: 0}


@simulated
async def test_each_delivery_gets_its_runs_in_place_and_then_the_next_tier() -> None:
    world = RetryWorld()
    retry = Retry.delays("10s", jitter=0, in_place=1, in_place_wait="1s")
    app = flaky(world, lambda record, number: Broken(), retry=retry)
    world.send("a")
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    began = [each.began for each in world.tries]
    waits = [round(later - earlier) for earlier, later in pairwise(began)]
    assert waits == [1, 10, 1]
    assert [each.attempt for each in world.tries] == [1, 2, 3, 4]
    assert header(world.dead_letters()[0], "sk-attempt") == "4"


@simulated
async def test_skip_settles_and_reject_is_a_dead_letter_at_once() -> None:
    world = RetryWorld()
    errors = {0: Skip(), 1: Reject("bad"), 2: None}
    app = flaky(world, lambda record, number: errors[record.offset], retry=TIERS)
    world.passed_over.add((SOURCE, 0))
    for key in "abc":
        world.send(key)
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    assert [header(letter, "sk-origin-offset") for letter in world.dead_letters()] == ["1"]
    assert working.agent.processed_filtered == 1
    assert dict(working.agent.dead_letters)["rejected"] == 1
    assert len(world.tries) == 3


@simulated
async def test_skip_needs_no_retry() -> None:
    world = RetryWorld()
    app = flaky(world, lambda record, number: Skip())
    world.passed_over.add((SOURCE, 0))
    world.send("a")
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    assert world.committed() == {0: 1} or working.agent.processed_filtered == 1


@simulated
async def test_retry_later_takes_the_shortest_tier_that_is_long_enough() -> None:
    world = RetryWorld()
    app = flaky(world, lambda record, number: RetryLater("30s") if number == 1 else None, retry=TIERS)
    world.send("a")
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    first, second = (each.began for each in world.tries)
    assert 30 <= second - first < 30.3
    assert len(world.broker.records(tier(2))) == 1


@simulated
async def test_what_must_never_be_tried_again_is_a_dead_letter_at_once() -> None:
    world = RetryWorld()
    retry = Retry.delays("10s", never=(Hopeless,))
    app = flaky(world, lambda record, number: Hopeless("really"), retry=retry)
    world.send("a")
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    assert len(world.tries) == 1
    assert dict(working.agent.dead_letters)["non_retryable"] == 1


@simulated
async def test_what_cannot_be_decoded_is_a_dead_letter_at_once_with_its_bytes() -> None:
    world = RetryWorld()
    app = App("test")
    topic = app.topic("in", value=dict)
    seen: list[dict[str, object]] = []

    @app.agent(topic, retry=TIERS)
    async def work(value: dict[str, object]) -> None:
        seen.append(value)

    world.is_settled = lambda partition, offset: True
    world.send("a", b"\xff{")
    world.send("a", b'{"n": 1}')
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    (letter,) = world.dead_letters()
    assert letter.value == b"\xff{"
    assert header(letter, "sk-stage") == "decode-value"
    assert seen == [{"n": 1}]
    assert dict(working.agent.dead_letters)["deserialize"] == 1


@simulated
async def test_a_handler_over_its_time_limit_has_failed() -> None:
    world = RetryWorld()
    app = App("test")
    topic = app.topic("in", value=bytes)

    @app.agent(topic, retry=Retry.delays("10s"), timeout="2s")
    async def work(record: Record[str, bytes]) -> None:
        world.note(record)
        await asyncio.sleep(3)

    world.send("a")
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    assert len(world.tries) == 2
    assert dict(working.agent.dead_letters)["timeout"] == 1


@simulated
async def test_a_rebalance_within_the_wait_neither_loses_nor_hastens_it() -> None:
    world = RetryWorld()
    app = flaky(world, lambda record, number: Broken() if number == 1 else None, retry=Retry.delays("1m", jitter=0))
    world.send("a")
    async with world.working_with_topics(app) as working:
        await until(lambda: world.broker.topics.get(tier(1)) and world.broker.records(tier(1)))
        for _ in range(3):
            await asyncio.sleep(10)
            rebalance(working)
        await world.settled(working)
    first, second = (each.began for each in world.tries)
    assert 60 <= second - first < 60.5


@simulated
async def test_attempts_survive_a_restart() -> None:
    world = RetryWorld()
    app = flaky(world, lambda record, number: Broken(), retry=TIERS)
    world.send("a")
    async with world.working_with_topics(app):
        await until(lambda: len(world.tries) == 2)
        await asyncio.sleep(1)
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    assert [each.attempt for each in world.tries] == [1, 2, 3]
    assert len(world.dead_letters()) == 1


@simulated
async def test_a_dead_letter_topic_that_takes_nothing_holds_only_the_keys_of_what_failed() -> None:
    world = RetryWorld()
    app = flaky(world, lambda record, number: Broken() if record.offset == 0 else None, dead_letter=True, concurrency=4)
    for key in "aab":
        world.send(key)
    world.broker.faults.refuse(DLQ)
    async with world.working_with_topics(app) as working:
        await asyncio.sleep(60)
        assert [each.offset for each in world.tries] == [0, 2]
        assert world.committed() == {0: 0}
        assert working.agent.blocked() == 1
        assert working.agent.dead_letter_failures > 3
        world.broker.faults.accept(DLQ)
        await world.settled(working)
        assert working.agent.blocked() == 0
    assert [each.offset for each in world.tries] == [0, 2, 1]
    assert len(world.dead_letters()) == 1


@pytest.mark.parametrize("after", ["1s", "20m"])
@simulated
async def test_a_wait_longer_than_any_poll_interval_is_kept(after: str) -> None:
    world = RetryWorld()
    app = flaky(world, lambda record, number: Broken() if number == 1 else None, retry=Retry.delays(after, jitter=0))
    world.send("a")
    async with world.working_with_topics(app) as working:
        await world.settled(working)
    first, second = (each.began for each in world.tries)
    wait = {"1s": 1, "20m": 1200}[after]
    assert wait <= second - first <= wait + 0.25
