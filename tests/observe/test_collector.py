from __future__ import annotations

import threading
from bisect import bisect_left

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import parser as openmetrics

from streamkit.observe.collector import StreamkitCollector
from streamkit.observe.lag import LagTable
from streamkit.observe.slots import DURATION_BUCKETS, AgentSlots, WorkerSlots
from streamkit.record import TopicPartition
from tests.observe.support import ORDERS, collect, get, observing, running_worker, scrape, series

CHARGE = {"group": "billing.charge", "agent": "charge"}


def take_time(agent: AgentSlots, seconds: float) -> None:
    agent.duration_counts[bisect_left(DURATION_BUCKETS, seconds)] += 1
    agent.duration_sum += seconds


def a_busy_worker() -> WorkerSlots:
    slots, agent = running_worker()
    agent.consumed["orders"] = 100
    agent.skipped = 3
    agent.processed_filtered = 5
    agent.processed_success, agent.processed_error, agent.processed_cancelled = 90, 2, 1
    for seconds in (0.001, 0.0011, 0.2, 90.0):
        take_time(agent, seconds)
    agent.in_flight = lambda: 4
    agent.commits_succeeded, agent.commits_failed = 7, 1
    agent.rebalances, agent.rebalances_lost = 5, 2
    agent.assigned = frozenset(ORDERS[:2])
    invoices = slots.output("invoices")
    invoices.acknowledged, invoices.failed = 88, 1
    return slots


def test_every_slot_is_scraped() -> None:
    with observing(a_busy_worker()) as observer:
        samples = scrape(observer)
    durations = {s: v for s, v in samples.items() if s[0].startswith("streamkit_processing_duration_seconds")}
    times = {s: v for s, v in samples.items() if s[0] == "streamkit_lag_sample_timestamp_seconds"}
    processed, group = "streamkit_records_processed_total", "billing.charge"
    assert {s: v for s, v in samples.items() if s not in durations and s not in times} == {
        series("streamkit_worker_info", version="1.2.3"): 1,
        series("streamkit_records_consumed_total", group=group, topic="orders"): 100,
        series(processed, **CHARGE, topic="orders", result="success"): 90,
        series(processed, **CHARGE, topic="orders", result="error"): 2,
        series(processed, **CHARGE, topic="orders", result="cancelled"): 1,
        series(processed, **CHARGE, topic="orders", result="skipped"): 3,
        series(processed, **CHARGE, topic="orders", result="filtered"): 5,
        series("streamkit_in_flight_records", **CHARGE): 4,
        series("streamkit_records_produced_total", topic="invoices", result="success"): 88,
        series("streamkit_records_produced_total", topic="invoices", result="error"): 1,
        series("streamkit_commits_total", group=group, result="success"): 7,
        series("streamkit_commits_total", group=group, result="error"): 1,
        series("streamkit_rebalances_total", group=group, result="success"): 5,
        series("streamkit_rebalances_total", group=group, result="lost"): 2,
        series("streamkit_assigned_partitions", group=group, topic="orders"): 2,
    }


def test_durations_are_cumulative_and_a_bound_belongs_to_its_bucket() -> None:
    with observing(a_busy_worker()) as observer:
        samples = scrape(observer)

    def bucket(le: str) -> float:
        return samples[series("streamkit_processing_duration_seconds_bucket", **CHARGE, topic="orders", le=le)]

    assert [bucket(le) for le in ("0.001", "0.0025", "0.1", "0.25", "60.0", "+Inf")] == [1, 2, 2, 3, 3, 4]
    count = samples[series("streamkit_processing_duration_seconds_count", **CHARGE, topic="orders")]
    total = samples[series("streamkit_processing_duration_seconds_sum", **CHARGE, topic="orders")]
    assert count == 4
    assert total == pytest.approx(90.2021)


def test_what_an_agent_of_several_topics_does_is_counted_for_all_of_them_together() -> None:
    slots = WorkerSlots("1.2.3")
    agent = slots.agent("charge", "billing.charge", ("orders", "returns"), 8)
    agent.consumed["returns"] = 5
    agent.processed_success = 5
    with observing(slots) as observer:
        samples = scrape(observer)
    processed = "streamkit_records_processed_total"
    assert samples[series(processed, **CHARGE, topic="orders,returns", result="success")] == 5
    assert samples[series("streamkit_records_consumed_total", group="billing.charge", topic="returns")] == 5
    assert samples[series("streamkit_records_consumed_total", group="billing.charge", topic="orders")] == 0


def test_a_worker_without_agents_has_only_its_version() -> None:
    with observing(WorkerSlots("1.2.3")) as observer:
        assert scrape(observer) == {series("streamkit_worker_info", version="1.2.3"): 1}


def test_the_series_of_a_revoked_partition_end_at_once() -> None:
    slots, agent = running_worker()
    lag = LagTable()
    agent.assigned = frozenset(ORDERS)
    lag.record(agent.group, {ORDERS[0]: 10, ORDERS[1]: 20}, at=1.0)
    assert lags(slots, lag) == {"0": 10, "1": 20}
    agent.assigned = frozenset(ORDERS[1:])
    assert lags(slots, lag) == {"1": 20}


def test_a_topic_without_partitions_still_counts_as_none_assigned() -> None:
    slots, agent = running_worker()
    agent.assigned = frozenset([TopicPartition("other", 0)])
    with observing(slots) as observer:
        samples = scrape(observer)
    assert samples[series("streamkit_assigned_partitions", group=agent.group, topic="orders")] == 0
    assert samples[series("streamkit_assigned_partitions", group=agent.group, topic="other")] == 1


def test_openmetrics_is_rendered_for_those_who_ask_for_it() -> None:
    with observing(a_busy_worker()) as observer:
        assert observer.address is not None
        answer = get(f"{observer.address.url}/metrics", accept="application/openmetrics-text; version=1.0.0, */*;q=0.1")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    parsed = openmetrics.text_string_to_metric_families(answer.text)  # type: ignore[no-untyped-call]
    families = {family.name: family for family in parsed}
    assert families["streamkit_records_consumed"].type == "counter"
    assert families["streamkit_processing_duration_seconds"].type == "histogram"


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=1.0.0", "text/plain"])
def test_there_are_no_created_series_and_no_nan(accept: str) -> None:
    with observing(a_busy_worker()) as observer:
        assert observer.address is not None
        lines = get(f"{observer.address.url}/metrics", accept=accept).text.splitlines()
    own = [line for line in lines if line.startswith("streamkit_")]
    assert len(own) > 25
    assert not [line for line in own if "_created" in line or line.endswith("NaN")]


def test_a_scrape_agrees_with_itself_while_the_worker_goes_on() -> None:
    slots, agent = running_worker()
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            take_time(agent, 0.003)
            slots.output(f"topic-{len(slots.produced) % 50}").acknowledged += 1

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(100):
            assert_histogram_is_consistent(slots)
    finally:
        done.set()
        worker.join()


def assert_histogram_is_consistent(slots: WorkerSlots) -> None:
    samples = collect(slots)
    buckets = [v for (name, _), v in samples.items() if name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == next(v for (name, _), v in samples.items() if name.endswith("_seconds_count"))


def lags(slots: WorkerSlots, lag: LagTable) -> dict[str, float]:
    return {
        dict(labels)["partition"]: value
        for (name, labels), value in collect(slots, lag).items()
        if name == "streamkit_consumer_lag_records"
    }


def test_registering_the_collector_does_not_collect() -> None:
    slots = WorkerSlots("1.2.3")
    registry = CollectorRegistry(auto_describe=True)
    registry.register(StreamkitCollector(slots, LagTable()))
    slots.output("invoices").acknowledged = 5
    assert b'streamkit_records_produced_total{result="success",topic="invoices"} 5.0' in generate_latest(registry)
