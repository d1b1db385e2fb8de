from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from streamkit.core.lag import Found, Oldest
from streamkit.core.lag_status import Reason, Status
from streamkit.observe.assigned import Assigned
from streamkit.observe.lag import LagTable, Offsets, PartitionLag, Unread
from streamkit.observe.lag_metrics import LAG_GAUGES, lag_metrics
from streamkit.observe.partition_state import PartitionState
from streamkit.observe.slots import AgentSlots
from streamkit.record import TopicPartition
from tests.observe.support import FIRST_TIER, ORDERS, Sample, behind, retrying_worker, running_worker, series

GROUP = "billing.charge"
NOW = 1_790_000_000.0
FIRST, SECOND, THIRD = ORDERS
TIER = TopicPartition(FIRST_TIER, 0)


def state(unsettled: int, **given: float | bool | str | None) -> PartitionState:
    """Of a partition whose head is not in memory, unless given."""
    made = PartitionState(unsettled, unsettled, None, None, None, False, 0, 0, "", NOW - 60)
    return made._replace(**given)  # type: ignore[arg-type]


def an_agent(**states: PartitionState) -> AgentSlots:
    """With states of partitions of orders, as in `p0=state(5)`."""
    _, agent = running_worker()
    found = {TopicPartition("orders", int(name[1:])): one for name, one in states.items()}
    agent.assigned = frozenset(found)
    agent.partitions = lambda: found
    return agent


class Clock:
    """Both clocks of a table."""

    def __init__(self) -> None:
        self.now = NOW

    def table(self) -> LagTable:
        return LagTable(clock=lambda: self.now, wall=lambda: self.now)


def scraped(table: LagTable, *agents: AgentSlots) -> dict[Sample, float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in lag_metrics([Assigned.read(agent) for agent in agents], table)
        for sample in family.samples
    }


def of_first(name: str, **labels: str) -> Sample:
    return series(f"streamkit_{name}", group=GROUP, topic="orders", partition="0", **labels)


def test_a_lag_grows_stale_after_a_minute_without_a_sample() -> None:
    now = 1_000.0
    table = LagTable(clock=lambda: now)
    table.record(GROUP, {ORDERS[0]: behind(5), ORDERS[1]: behind(6)}, at=1.0)
    now += 40.0
    table.record(GROUP, {ORDERS[1]: behind(7)}, at=41.0)
    now += 20.0
    assert table.current(GROUP, ORDERS) == {ORDERS[0]: 5, ORDERS[1]: 7}
    now += 0.1
    assert table.current(GROUP, ORDERS) == {ORDERS[1]: 7}
    assert table.sampled_at(GROUP) == 41.0


def test_a_partition_has_all_its_series_when_everything_is_known() -> None:
    clock, agent = Clock(), an_agent(p0=state(40, head_timestamp=NOW - 7.5))
    table = clock.table()
    table.record(GROUP, {FIRST: Offsets(10, 100, 35, 104)}, at=NOW - 1)
    table.judge(agent)
    assert scraped(table, agent) == {
        of_first("consumer_lag_records"): 65,
        of_first("consumer_lag_seconds"): 7.5,
        of_first("oldest_unprocessed_timestamp_seconds"): NOW - 7.5,
        of_first("log_end_offset"): 100,
        of_first("committed_offset"): 35,
        of_first("consumer_lead_records"): 25,
        of_first("partition_status", status="ok", reason=""): 1,
        series("streamkit_unstable_records", group=GROUP, topic="orders"): 4,
        series("streamkit_event_watermark_timestamp_seconds", group=GROUP, agent="charge"): NOW - 7.5,
        series("streamkit_lag_sample_timestamp_seconds", group=GROUP): NOW - 1,
    }


def test_a_partition_that_is_caught_up_has_a_lag_of_0_and_no_oldest_record() -> None:
    clock, agent = Clock(), an_agent(p0=state(100))
    table = clock.table()
    table.record(GROUP, {FIRST: Offsets(10, 100, 100)}, at=NOW)
    samples = scraped(table, agent)
    assert (samples[of_first("consumer_lag_records")], samples[of_first("consumer_lag_seconds")]) == (0, 0)
    assert of_first("oldest_unprocessed_timestamp_seconds") not in samples


def test_what_is_not_known_is_absent() -> None:
    clock, agent = Clock(), an_agent(p0=state(40))
    table = clock.table()
    assert scraped(table, agent) == {}
    agent.partitions = dict
    assert scraped(table, agent) == {}
    table.record(GROUP, {FIRST: Offsets(10, 100, None)}, at=NOW)
    table.judge(agent)
    assert scraped(table, agent) == {
        of_first("consumer_lag_records"): 90,
        of_first("log_end_offset"): 100,
        series("streamkit_lag_sample_timestamp_seconds", group=GROUP): NOW,
    }


def test_what_open_transactions_hold_back_is_told_only_when_it_is_known_of_all_partitions() -> None:
    unstable = series("streamkit_unstable_records", group=GROUP, topic="orders")
    clock, agent = Clock(), an_agent(p0=state(40), p1=state(40))
    table = clock.table()
    table.record(GROUP, {FIRST: Offsets(10, 100, 35, 104)}, at=NOW)
    assert unstable not in scraped(table, agent)
    table.record(GROUP, {SECOND: Offsets(10, 100, 35, 103)}, at=NOW)
    assert scraped(table, agent)[unstable] == 7
    table.record(GROUP, {SECOND: Offsets(10, 100, 35)}, at=NOW)
    assert unstable not in scraped(table, agent)


def test_the_watermark_is_the_least_event_time_of_the_partitions_in_which_something_waits() -> None:
    watermark = series("streamkit_event_watermark_timestamp_seconds", group=GROUP, agent="charge")
    clock = Clock()
    table, waiting = clock.table(), state(40, head_timestamp=NOW - 5)
    agent = an_agent(
        p0=waiting._replace(event_timestamp=NOW - 6),
        p1=state(100)._replace(event_timestamp=NOW - 500),  # idle
        p2=waiting._replace(head_timestamp=NOW - 9),  # has settled nothing yet
    )
    table.record(GROUP, {FIRST: Offsets(0, 100, 40), THIRD: Offsets(0, 100, 40)}, at=NOW)
    assert watermark not in scraped(table, agent)  # of one it is not known whether something waits
    table.record(GROUP, {SECOND: Offsets(0, 100, 100)}, at=NOW)
    assert scraped(table, agent)[watermark] == NOW - 9
    agent.tier_topics = {"orders": 1}  # were they a tier's
    assert watermark not in scraped(table, agent)
    idle = an_agent(p1=state(100)._replace(event_timestamp=NOW - 500))
    assert watermark not in scraped(table, idle)


def test_the_watermark_does_not_pass_a_record_that_hangs_while_later_ones_are_settled() -> None:
    clock = Clock()
    table = clock.table()
    table.record(GROUP, {FIRST: Offsets(0, 100, 40)}, at=NOW)
    agent = an_agent(p0=state(40, head_timestamp=NOW - 3600)._replace(event_timestamp=NOW - 1))
    watermark = series("streamkit_event_watermark_timestamp_seconds", group=GROUP, agent="charge")
    assert scraped(table, agent)[watermark] == NOW - 3600


def test_a_record_in_memory_has_its_age_before_any_sample() -> None:
    agent = an_agent(p0=state(40, head_timestamp=NOW - 7))
    assert scraped(Clock().table(), agent)[of_first("consumer_lag_seconds")] == 7


def test_what_the_brokers_said_a_minute_ago_is_absent_and_the_age_of_what_waits_goes_on() -> None:
    clock, agent = Clock(), an_agent(p0=state(40, head_timestamp=NOW - 7), p1=state(100))
    table = clock.table()
    table.record(GROUP, dict.fromkeys(ORDERS[:2], Offsets(0, 100, 40)), at=NOW)
    table.judge(agent)
    clock.now += 61
    assert scraped(table, agent) == {
        of_first("consumer_lag_seconds"): 68,
        of_first("oldest_unprocessed_timestamp_seconds"): NOW - 7,
        series("streamkit_lag_sample_timestamp_seconds", group=GROUP): NOW,
    }


def test_a_partition_that_is_not_assigned_has_no_series_though_the_engine_still_tells_of_it() -> None:
    clock, agent = Clock(), an_agent(p0=state(40, head_timestamp=NOW - 7))
    table = clock.table()
    table.record(GROUP, {FIRST: behind(5)}, at=NOW)
    table.judge(agent)
    agent.assigned = frozenset()
    assert scraped(table, agent) == {}
    table.judge(agent)
    assert table.unread(agent) == []


def test_a_partition_that_comes_back_is_known_by_nothing_that_was_before() -> None:
    clock, agent = Clock(), an_agent(p0=state(40))
    table = clock.table()
    table.record(GROUP, {FIRST: Offsets(0, 100, 40)}, at=NOW)
    table.note_read(Unread(GROUP, FIRST, 40, 100), Found(40, NOW - 500))
    assert scraped(table, agent)[of_first("consumer_lag_seconds")] == 500
    table.retain({})
    table.record(GROUP, {FIRST: Offsets(0, 100, 40)}, at=NOW)
    assert of_first("consumer_lag_seconds") not in scraped(table, agent)


def test_a_topic_that_was_made_anew_is_judged_anew() -> None:
    clock, agent = Clock(), an_agent(p0=state(40))
    table = clock.table()
    for committed, end, status in ((40, 100, "ok"), (30, 100, "rewound"), (0, 5, "ok")):
        table.record(GROUP, {FIRST: Offsets(0, end, committed)}, at=clock.now)
        table.judge(agent)
        assert of_first("partition_status", status=status, reason="") in scraped(table, agent)
        clock.now += 10


def test_what_the_engine_says_goes_into_the_verdict() -> None:
    cases = [
        (state(40), False, ("stalled", "not_fetching")),
        (state(40, head_timestamp=NOW), False, ("stalled", "handler")),
        (state(40, head_timestamp=NOW, head_blocked=True), False, ("stalled", "dlq_blocked")),
        (state(40, head_timestamp=NOW, closed="rebalance"), False, ("paused", "rebalance")),
        (state(40, head_timestamp=NOW, closed="backpressure"), False, ("paused", "backpressure")),
        (state(40, head_timestamp=NOW), True, ("paused", "breaker")),
        (state(5), False, ("ok", "")),  # settled up to where the log starts
    ]
    for told, breaker_open, expected in cases:
        clock, agent = Clock(), an_agent(p0=told)
        table = clock.table()
        agent.breaker_open = breaker_open
        for _ in range(10):
            start, end = (10, 10) if told.unsettled == 5 else (10, 100)
            table.record(GROUP, {FIRST: Offsets(start, end, told.unsettled)}, at=clock.now)
            table.judge(agent)
            clock.now += 10
        assert table.partitions(Assigned.read(agent))[FIRST].verdict == expected


def test_a_tier_has_the_lag_by_which_its_head_is_overdue() -> None:
    _, agent = retrying_worker()
    agent.assigned = frozenset([TIER])
    clock = Clock()
    table = clock.table()
    table.record(GROUP, {TIER: behind(5)}, at=NOW)
    agent.partitions = lambda: {TIER: state(0, head_timestamp=NOW - 900, head_due=NOW + 30)}
    table.judge(agent)
    known = table.partitions(Assigned.read(agent))[TIER]
    assert (known.oldest, known.seconds, known.verdict) == (Oldest(NOW + 30), 0, ("ok", "retry_wait"))
    clock.now += 45
    assert table.partitions(Assigned.read(agent))[TIER].seconds == 15


def test_only_what_cannot_be_known_otherwise_is_read() -> None:
    clock = Clock()
    table = clock.table()
    agent = an_agent(p0=state(40), p1=state(40, head_timestamp=NOW), p2=state(100))
    assert table.unread(agent) == []
    table.record(GROUP, dict.fromkeys(ORDERS, Offsets(0, 100, 40)), at=NOW)
    assert table.unread(agent) == [Unread(GROUP, FIRST, 40, 100)]
    table.note_read(Unread(GROUP, FIRST, 40, 100), None)
    assert table.unread(agent) == [Unread(GROUP, FIRST, 40, 100)]
    table.note_read(Unread(GROUP, FIRST, 40, 100), Found(40, NOW - 500))
    assert table.unread(agent) == []


@pytest.mark.parametrize(("name", "value_of"), LAG_GAUGES)
def test_nothing_is_told_of_a_partition_of_which_nothing_is_known(
    name: str, value_of: Callable[[PartitionLag], float | None]
) -> None:
    assert value_of(PartitionLag()) is None


def test_the_page_explains_every_status_with_its_reasons() -> None:
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (?:`(\w+)`)? ?\| .+ \|$", page, re.MULTILINE)
    explained = [row for row in rows if row[0] in get_args(Status)]
    assert {status for status, _ in explained} == set(get_args(Status))
    assert {reason for _, reason in explained} == set(get_args(Reason))
