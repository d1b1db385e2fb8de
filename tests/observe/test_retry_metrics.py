from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from prometheus_client.core import CollectorRegistry
from prometheus_client.exposition import generate_latest

from streamkit.buckets import DEFAULT_BUCKETS
from streamkit.observe.collector import StreamkitCollector
from streamkit.observe.lag import LagTable
from streamkit.observe.slots import REASONS, AgentSlots, WorkerSlots
from streamkit.record import TopicPartition
from tests.observe.support import (
    FIRST_TIER,
    ORDERS,
    SECOND_TIER,
    Sample,
    behind,
    collect,
    observing,
    retrying_worker,
    running_worker,
    scrape,
    series,
)

GROUP = "billing.charge"
CHARGE = {"group": GROUP, "agent": "charge"}
PENDING = "streamkit_retry_pending_records"


def of_retries(samples: dict[Sample, float]) -> dict[Sample, float]:
    prefixes = ("retr", "dead_letter", "blocked", "breaker", "held")
    return {s: v for s, v in samples.items() if s[0].removeprefix("streamkit_").startswith(prefixes)}


def text_of(slots: WorkerSlots) -> str:
    registry = CollectorRegistry()
    registry.register(StreamkitCollector(slots, LagTable()))
    return generate_latest(registry).decode()


def test_an_agent_without_retry_has_none_of_it() -> None:
    slots, _ = running_worker()
    assert of_retries(collect(slots)) == {}
    text = text_of(slots)
    for word in (
        "streamkit_retr",
        "dead_letter_",
        "dead_letters_",
        "streamkit_blocked",
        "streamkit_breaker",
        "streamkit_held",
    ):
        assert word not in text
    assert 'reason="breaker"' not in text
    assert 'result="retried"' not in text
    assert 'result="dead_lettered"' not in text


def test_everything_that_is_declared_is_counted_from_0_on() -> None:
    slots, _ = retrying_worker()
    samples = of_retries(collect(slots))
    lateness = {s: v for s, v in samples.items() if s[0].startswith("streamkit_retry_delay_error_seconds")}
    assert {s: v for s, v in samples.items() if s not in lateness} == {
        series("streamkit_retries_total", **CHARGE, tier="in_place"): 0,
        series("streamkit_retries_total", **CHARGE, tier="1"): 0,
        series("streamkit_retries_total", **CHARGE, tier="2"): 0,
        series("streamkit_retry_failures_total", group=GROUP, tier="1"): 0,
        series("streamkit_retry_failures_total", group=GROUP, tier="2"): 0,
        **{series("streamkit_dead_letters_total", **CHARGE, reason=reason): 0 for reason in REASONS},
        series("streamkit_dead_letter_failures_total", group=GROUP): 0,
        series("streamkit_blocked_records", **CHARGE): 0,
        series("streamkit_breaker_open", **CHARGE): 0,
        series("streamkit_breaker_openings_total", **CHARGE): 0,
        series("streamkit_held_records", **CHARGE): 0,
    }
    assert set(lateness.values()) == {0}
    assert {dict(labels)["tier"] for _, labels in lateness} == {"1", "2"}


def test_every_slot_of_retries_is_scraped() -> None:
    slots, agent = retrying_worker()
    agent.retries[1], agent.retries[2], agent.retries_in_place = 11, 12, 13
    agent.retry_failures[2] = 14
    agent.dead_letters["rejected"] = 15
    agent.dead_letter_failures = 16
    agent.blocked, agent.held = lambda: 17, lambda: 18
    agent.breaker_open, agent.breaker_openings = True, 19
    agent.oldest_due = lambda: {2: 1_790_000_000.5}
    agent.processed_filtered, agent.processed_retried, agent.processed_dead_lettered = 20, 21, 22
    with observing(slots) as observer:
        samples = scrape(observer)
    processed = {"name": "streamkit_records_processed_total", **CHARGE, "topic": "orders"}
    expected = {
        series("streamkit_retries_total", **CHARGE, tier="1"): 11,
        series("streamkit_retries_total", **CHARGE, tier="2"): 12,
        series("streamkit_retries_total", **CHARGE, tier="in_place"): 13,
        series("streamkit_retry_failures_total", group=GROUP, tier="1"): 0,
        series("streamkit_retry_failures_total", group=GROUP, tier="2"): 14,
        series("streamkit_dead_letters_total", **CHARGE, reason="rejected"): 15,
        series("streamkit_dead_letters_total", **CHARGE, reason="exhausted"): 0,
        series("streamkit_dead_letter_failures_total", group=GROUP): 16,
        series("streamkit_blocked_records", **CHARGE): 17,
        series("streamkit_held_records", **CHARGE): 18,
        series("streamkit_breaker_open", **CHARGE): 1,
        series("streamkit_breaker_openings_total", **CHARGE): 19,
        series("streamkit_retry_oldest_due_timestamp_seconds", group=GROUP, tier="2"): 1_790_000_000.5,
        series(**processed, result="filtered"): 20,
        series(**processed, result="retried"): 21,
        series(**processed, result="dead_lettered"): 22,
    }
    assert {s: samples.get(s) for s in expected} == expected
    assert series("streamkit_retry_oldest_due_timestamp_seconds", group=GROUP, tier="1") not in samples


DeclaredParts = tuple[Callable[[AgentSlots], None], set[str]]

IN_PLACE: DeclaredParts = (lambda agent: agent.declare(in_place=True), {"retries_total"})
DEAD_LETTERS: DeclaredParts = (
    lambda agent: agent.declare(dead_letters=True),
    {"dead_letters_total", "dead_letter_failures_total", "blocked_records"},
)
BREAKER: DeclaredParts = (
    lambda agent: agent.declare(breaker=True),
    {"breaker_open", "breaker_openings_total", "held_records"},
)
TIERS: DeclaredParts = (
    lambda agent: agent.declare(tiers=1),
    {"retries_total", "retry_failures_total", "blocked_records"},
)
UNDECLARED_TIERS: DeclaredParts = (
    lambda agent: agent.add_tiers({FIRST_TIER: 1}),
    {f"retry_delay_error_seconds_{part}" for part in ("bucket", "count", "sum")},
)


@pytest.mark.parametrize(("declare", "names"), [IN_PLACE, DEAD_LETTERS, BREAKER, TIERS, UNDECLARED_TIERS])
def test_only_what_the_agent_has_is_scraped(declare: Callable[[AgentSlots], None], names: set[str]) -> None:
    slots, agent = running_worker()
    declare(agent)
    assert {name.removeprefix("streamkit_") for name, _ in of_retries(collect(slots))} == names


def test_two_agents_are_told_apart_by_their_groups() -> None:
    slots, charge = retrying_worker()
    refund = slots.agent("refund", "billing.refund", ("orders",), 1)
    refund.declare(tiers=1)
    charge.retry_failures[1], refund.retry_failures[1] = 3, 4
    samples = collect(slots)
    assert samples[series("streamkit_retry_failures_total", group=GROUP, tier="1")] == 3
    assert samples[series("streamkit_retry_failures_total", group="billing.refund", tier="1")] == 4
    assert series("streamkit_held_records", group="billing.refund", agent="refund") not in samples


def test_a_reason_or_a_tier_that_nobody_declared_is_counted_too() -> None:
    slots, agent = running_worker()
    agent.dead_letters["new"] += 1
    agent.retries[7] += 1
    agent.retry_failures[7] += 1
    samples = collect(slots)
    assert samples[series("streamkit_dead_letters_total", **CHARGE, reason="new")] == 1
    assert samples[series("streamkit_retries_total", **CHARGE, tier="7")] == 1
    assert samples[series("streamkit_retry_failures_total", group=GROUP, tier="7")] == 1


def pending(slots: WorkerSlots, lag: LagTable) -> dict[str, float]:
    return {dict(labels)["tier"]: value for (name, labels), value in collect(slots, lag).items() if name == PENDING}


def test_what_waits_in_a_tier_is_the_lag_of_its_assigned_partitions() -> None:
    slots, agent = retrying_worker()
    agent.add_tiers({"returns.billing.charge.retry-1": 1})
    lag = LagTable()
    first = [TopicPartition(FIRST_TIER, n) for n in range(3)]
    other, second = TopicPartition("returns.billing.charge.retry-1", 0), TopicPartition(SECOND_TIER, 0)
    agent.assigned = frozenset([*ORDERS, *first[:2], other, second])
    waiting = {first[0]: 10, first[1]: 20, other: 3, second: 0}
    lag.record(GROUP, {p: behind(n) for p, n in {**dict.fromkeys(ORDERS, 1_000), **waiting}.items()}, at=1.0)
    assert pending(slots, lag) == {"1": 33, "2": 0}
    lag.record(GROUP, {first[2]: behind(500)}, at=2.0)
    assert pending(slots, lag) == {"1": 33, "2": 0}


def test_what_waits_in_a_tier_is_absent_when_a_part_of_it_is_not_known() -> None:
    slots, agent = retrying_worker()
    lag = LagTable()
    agent.assigned = frozenset(
        [TopicPartition(FIRST_TIER, 0), TopicPartition(FIRST_TIER, 1), TopicPartition(SECOND_TIER, 0)]
    )
    lag.record(GROUP, {TopicPartition(FIRST_TIER, 0): behind(10), TopicPartition(SECOND_TIER, 0): behind(4)}, at=1.0)
    assert pending(slots, lag) == {"2": 4}


def test_what_waits_in_a_tier_is_absent_where_none_of_it_is_assigned() -> None:
    slots, agent = retrying_worker()
    lag = LagTable()
    agent.assigned = frozenset(ORDERS)
    lag.record(GROUP, {**dict.fromkeys(ORDERS, behind(1)), TopicPartition(FIRST_TIER, 0): behind(5)}, at=1.0)
    assert pending(slots, lag) == {}


def test_when_the_first_is_due_is_asked_at_every_scrape() -> None:
    slots, agent = retrying_worker()
    due = {1: 5.0}
    agent.oldest_due = lambda: due
    oldest = series("streamkit_retry_oldest_due_timestamp_seconds", group=GROUP, tier="1")
    assert collect(slots)[oldest] == 5.0
    due[1] = 6.0
    assert collect(slots)[oldest] == 6.0
    due.clear()
    assert oldest not in collect(slots)


def test_lateness_is_cumulative_a_bound_belongs_to_its_bucket_and_early_is_seen() -> None:
    slots, agent = retrying_worker()
    for seconds in (-0.5, 0.0, 0.25, 0.2501, 1_000.0):
        agent.observe_lateness(1, seconds)
    samples = collect(slots)

    def value(part: str, **more: str) -> float:
        return samples[series(f"streamkit_retry_delay_error_seconds_{part}", group=GROUP, tier="1", **more)]

    assert [value("bucket", le=le) for le in ("0.0", "0.1", "0.25", "0.5", "300.0", "+Inf")] == [2, 2, 3, 4, 4, 5]
    assert value("count") == 5
    assert value("sum") == pytest.approx(1_000.5001)


def test_lateness_of_a_tier_that_nobody_announced_is_taken_in() -> None:
    _, agent = running_worker()
    agent.observe_lateness(4, 0.02)
    assert list(agent.lateness) == [4]
    assert agent.lateness[4].sum == 0.02
    assert sum(agent.lateness[4].counts) == 1
    assert agent.lateness[4].bounds == DEFAULT_BUCKETS["streamkit_retry_delay_error_seconds"]


def test_what_is_read_of_tiers_is_counted_by_their_names() -> None:
    slots, agent = retrying_worker()
    agent.consumed["orders"] += 100
    agent.consumed[FIRST_TIER] += 5
    agent.consumed["unforeseen"] += 1
    agent.add_topics(["orders", FIRST_TIER, SECOND_TIER])
    name = "streamkit_records_consumed_total"
    read = {dict(labels)["topic"]: value for (n, labels), value in collect(slots).items() if n == name}
    assert read == {"orders": 100, FIRST_TIER: 5, SECOND_TIER: 0, "unforeseen": 1}


def test_a_scrape_goes_on_while_new_topics_tiers_and_reasons_come_up() -> None:
    slots, agent = retrying_worker()
    done = threading.Event()

    def work() -> None:
        number = 0
        while not done.is_set():
            number += 1
            agent.consumed[f"topic-{number % 5_000}"] += 1
            agent.retries[number % 500] += 1
            agent.dead_letters[f"reason-{number % 500}"] += 1
            agent.observe_lateness(number % 500, 0.1)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(20):
            samples = collect(slots)
            counts = {labels: v for (name, labels), v in samples.items() if name.endswith("delay_error_seconds_count")}
            assert all(
                samples["streamkit_retry_delay_error_seconds_bucket", labels | {("le", "+Inf")}] == count
                for labels, count in counts.items()
            )
    finally:
        done.set()
        worker.join()
