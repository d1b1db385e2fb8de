from __future__ import annotations

import threading

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import parser as openmetrics

from streamkit.observe.collector import StreamkitCollector
from streamkit.observe.lag import LagTable
from streamkit.observe.slots import WorkerSlots
from streamkit.record import TopicPartition
from tests.observe.support import (
    AT_REST,
    ORDERS,
    a_reading,
    behind,
    collect,
    get,
    observing,
    running_worker,
    scrape,
    series,
)

CHARGE = {"group": "billing.charge", "agent": "charge"}


def a_busy_worker() -> WorkerSlots:
    slots, agent = running_worker()
    slots.heartbeat, slots.clock.since_1970 = 1_000.0, 1_790_000_000.0
    slots.loop_lag.observe(0.002)
    slots.loop_blocked = 0.25
    agent.up = True
    agent.consumed["orders"], agent.consumed_bytes["orders"] = 100, 5_000
    agent.activities = {"poll": 1.0, "dispatch": 2.0, "backpressure": 3.0, "rebalance": 4.0}
    agent.skipped = 3
    agent.processed_filtered = 5
    agent.processed_success, agent.processed_error, agent.processed_cancelled = 90, 2, 1
    for seconds in (0.001, 0.0011, 0.2, 90.0):
        agent.processing.observe(seconds)
    agent.queue_wait.observe(0.5)
    agent.end_to_end.observe(3.0)
    agent.event_timestamp = 1_789_999_999_500
    agent.in_flight, agent.active_keys = lambda: 4, lambda: 6
    agent.closings["backpressure"] = 9
    agent.commits_succeeded, agent.commits_failed = 7, 1
    agent.commit_duration.observe(0.01)
    agent.last_commit = 1_790_000_001.0
    agent.rebalances, agent.rebalances_lost, agent.partitions_lost, agent.redelivery_risk = 5, 2, 6, 12
    agent.rebalance_durations["drain"].observe(1.5)
    agent.topic_partitions["orders"] = 3
    agent.note_reset("orders", "no_offset")
    agent.note_error("handle", KeyError("total"))
    agent.assigned = frozenset(ORDERS[:2])
    agent.partitions = lambda: {ORDERS[0]: a_reading(), ORDERS[1]: a_reading(**AT_REST), ORDERS[2]: a_reading()}
    invoices = slots.output("invoices")
    invoices.acknowledged, invoices.failed = 88, 1
    invoices.duration.observe(0.004)
    return slots


def test_every_slot_is_scraped() -> None:
    with observing(a_busy_worker()) as observer:
        samples = scrape(observer)
    histograms = {s for s in samples if s[0].endswith(("_bucket", "_count", "_sum"))}
    times = {s for s in samples if s[0] in ("streamkit_lag_sample_timestamp_seconds", "streamkit_consumer_lag_seconds")}
    processed, group, orders = "streamkit_records_processed_total", {"group": "billing.charge"}, {"topic": "orders"}
    first, second = ({**group, **orders, "partition": number} for number in "01")
    assert {s: v for s, v in samples.items() if s not in histograms | times} == {
        series("streamkit_worker_info", version="1.2.3"): 1,
        series("streamkit_worker_state", state="starting"): 0,
        series("streamkit_worker_state", state="running"): 1,
        series("streamkit_worker_state", state="draining"): 0,
        series("streamkit_worker_state", state="stopped"): 0,
        series("streamkit_event_loop_heartbeat_timestamp_seconds"): 1_790_001_000.0,
        series("streamkit_event_loop_blocked_seconds_total"): 0.25,
        series("streamkit_agent_up", **CHARGE): 1,
        series("streamkit_records_consumed_total", **group, **orders): 100,
        series("streamkit_consumed_bytes_total", **group, **orders): 5_000,
        series("streamkit_consumer_time_seconds_total", **group, activity="poll"): 1,
        series("streamkit_consumer_time_seconds_total", **group, activity="dispatch"): 2,
        series("streamkit_consumer_time_seconds_total", **group, activity="backpressure"): 3,
        series("streamkit_consumer_time_seconds_total", **group, activity="rebalance"): 4,
        series(processed, **CHARGE, **orders, result="success"): 90,
        series(processed, **CHARGE, **orders, result="error"): 2,
        series(processed, **CHARGE, **orders, result="cancelled"): 1,
        series(processed, **CHARGE, **orders, result="skipped"): 3,
        series(processed, **CHARGE, **orders, result="filtered"): 5,
        series("streamkit_event_timestamp_seconds", **CHARGE): 1_789_999_999.5,
        series("streamkit_in_flight_records", **CHARGE): 4,
        series("streamkit_concurrency_limit", **CHARGE): 8,
        series("streamkit_active_keys", **CHARGE): 6,
        series("streamkit_partition_closings_total", **group, reason="backpressure"): 9,
        series("streamkit_records_produced_total", topic="invoices", result="success"): 88,
        series("streamkit_records_produced_total", topic="invoices", result="error"): 1,
        series("streamkit_commits_total", **group, result="success"): 7,
        series("streamkit_commits_total", **group, result="error"): 1,
        series("streamkit_last_commit_timestamp_seconds", **group): 1_790_000_001.0,
        series("streamkit_rebalances_total", **group, result="success"): 5,
        series("streamkit_rebalances_total", **group, result="lost"): 2,
        series("streamkit_partitions_lost_total", **group): 6,
        series("streamkit_redelivery_risk_records_total", **group): 12,
        series("streamkit_offset_resets_total", **group, **orders, reason="no_offset"): 1,
        series("streamkit_errors_total", **CHARGE, stage="handle", error="KeyError"): 1,
        series("streamkit_assigned_partitions", **group, **orders): 2,
        series("streamkit_topic_partitions", **group, **orders): 3,
        series("streamkit_position_offset", **first): 150,
        series("streamkit_position_offset", **second): 7,
        series("streamkit_last_progress_timestamp_seconds", **first): 1_790_000_003.0,
        series("streamkit_last_progress_timestamp_seconds", **second): 1_790_000_003.0,
        series("streamkit_settled_ahead_records", **first): 20,
        series("streamkit_settled_ahead_records", **second): 0,
        series("streamkit_oldest_in_flight_timestamp_seconds", **first): 1_790_000_001.5,
        series("streamkit_oldest_unprocessed_timestamp_seconds", **first): 1_790_000_000.5,
        series("streamkit_buffered_records", **group, **orders): 30,
        series("streamkit_buffered_bytes", **group, **orders): 9_000,
        series("streamkit_closed_partitions", **group, **orders, reason="backpressure"): 1,
        series("streamkit_closed_partitions", **group, **orders, reason="rebalance"): 0,
    }
    counts = {s[0].removesuffix("_count"): samples[s] for s in histograms if s[0].endswith("_count") and samples[s]}
    assert counts == {
        "streamkit_processing_duration_seconds": 4,
        "streamkit_queue_wait_seconds": 1,
        "streamkit_end_to_end_latency_seconds": 1,
        "streamkit_produce_duration_seconds": 1,
        "streamkit_commit_duration_seconds": 1,
        "streamkit_rebalance_duration_seconds": 1,
        "streamkit_event_loop_lag_seconds": 1,
    }


def test_the_scrape_after_tells_how_long_one_took() -> None:
    collector = StreamkitCollector(a_busy_worker(), LagTable())
    for took in (False, True):
        names = {sample.name for family in collector.collect() for sample in family.samples}
        assert ("streamkit_collect_duration_seconds" in names) is took


@pytest.mark.parametrize(
    ("detail", "lag", "progress", "ahead", "position"),
    [
        ("full", {"0": 10, "1": 20}, {"0": 5, "1": 3}, {"0": 20, "1": 0}, {"0": 150, "1": 7}),
        ("lag", {"0": 10, "1": 20}, {"0": 5, "1": 3}, {"": 20}, {}),
        ("topic", {"": 30}, {"": 3}, {"": 20}, {}),
    ],
)
def test_the_detail_says_what_is_told_of_each_partition_and_what_of_their_topic(
    detail: str, lag: dict[str, int], progress: dict[str, int], ahead: dict[str, int], position: dict[str, int]
) -> None:
    slots = a_worker_with_two_partitions(detail)
    table = LagTable()
    table.record("billing.charge", {ORDERS[0]: behind(10), ORDERS[1]: behind(20)}, at=1.0)
    assert by_partition(slots, table, "streamkit_consumer_lag_records") == lag
    assert by_partition(slots, table, "streamkit_last_progress_timestamp_seconds") == progress
    assert by_partition(slots, table, "streamkit_settled_ahead_records") == ahead
    assert by_partition(slots, table, "streamkit_position_offset") == position


def test_a_sum_by_topic_is_absent_while_a_part_of_it_is_not_known() -> None:
    slots = a_worker_with_two_partitions("topic")
    table = LagTable()
    table.record("billing.charge", {ORDERS[0]: behind(10)}, at=1.0)
    assert by_partition(slots, table, "streamkit_consumer_lag_records") == {}


def test_above_a_thousand_partitions_only_topics_are_told_of_which_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    slots, agent = running_worker()
    collector = StreamkitCollector(slots, LagTable())

    def labels_of_progress(partitions: int) -> set[str]:
        assigned = [TopicPartition("orders", number) for number in range(partitions)]
        agent.assigned = frozenset(assigned)
        agent.partitions = lambda: dict.fromkeys(assigned, a_reading())
        return {
            label
            for family in collector.collect()
            for sample in family.samples
            if sample.name == "streamkit_last_progress_timestamp_seconds"
            for label in sample.labels
        }

    assert labels_of_progress(1_000) == {"group", "topic", "partition"}
    for partitions in (1_001, 1_500):
        assert labels_of_progress(partitions) == {"group", "topic"}
    assert caplog.messages == [
        "1,001 partitions are assigned: metrics tell only totals by topic; metrics_detail says otherwise"
    ]
    slots.detail = "full"
    assert labels_of_progress(1_001) == {"group", "topic", "partition"}


def test_a_reading_of_a_partition_that_was_given_back_since_is_not_shown() -> None:
    slots = a_worker_with_two_partitions("full")
    slots.agents["charge"].assigned = frozenset(ORDERS[1:2])
    assert by_partition(slots, LagTable(), "streamkit_position_offset") == {"1": 7}


def test_other_buckets_are_those_that_are_scraped() -> None:
    slots = WorkerSlots("1", buckets=(("streamkit_queue_wait_seconds", (0.5, 2.0)),))
    agent = slots.agent("charge", "billing.charge", ("orders",), 8)
    agent.queue_wait.observe(1.0)
    samples = collect(slots)
    name = "streamkit_queue_wait_seconds_bucket"
    assert {dict(labels)["le"]: v for (n, labels), v in samples.items() if n == name} == {"0.5": 0, "2.0": 1, "+Inf": 1}
    assert len(agent.processing.bounds) == 15


def test_classes_of_errors_beyond_twenty_are_counted_together() -> None:
    _, agent = running_worker()
    classes = [type(f"Error{number}", (Exception,), {}) for number in range(25)]
    for each in classes * 2:
        agent.note_error("handle", each())
    agent.note_error("sink", classes[0]())
    agent.note_error("sink", classes[24]())
    assert len(agent.errors) == 20 + 3
    assert agent.errors["handle", "Error19"] == 2
    assert agent.errors["handle", "_OTHER"] == 10
    assert (agent.errors["sink", "Error0"], agent.errors["sink", "_OTHER"]) == (1, 1)


def test_only_openmetrics_shows_which_traces_a_bucket_has_seen() -> None:
    slots, agent = running_worker()
    agent.processing.observe(0.2)
    agent.processing.trace(0.2, [("traceparent", b"00-" + b"ab" * 16 + b"-00f067aa0ba902b7-01")], 1_790_000_000.5)
    with observing(slots) as observer:
        assert observer.address is not None
        url = f"{observer.address.url}/metrics"
        shown = get(url, accept="application/openmetrics-text; version=1.0.0").text
        plain = get(url).text
    (line,) = [line for line in shown.splitlines() if " # {" in line]
    assert line.startswith("streamkit_processing_duration_seconds_bucket{")
    assert 'le="0.25"' in line
    assert line.endswith(f'# {{trace_id="{"ab" * 16}"}} 0.2 1790000000.5')
    assert "trace_id" not in plain


def a_worker_with_two_partitions(detail: str) -> WorkerSlots:
    slots, agent = running_worker()
    slots.detail = detail
    agent.assigned = frozenset(ORDERS[:2])
    first, second = a_reading(progressed_at=5.0), a_reading(**AT_REST, progressed_at=3.0)
    agent.partitions = lambda: {ORDERS[0]: first, ORDERS[1]: second}
    return slots


def by_partition(slots: WorkerSlots, lag: LagTable, name: str) -> dict[str, float]:
    """The values of a metric by partition; without that label under the empty text."""
    found = {labels: value for (each, labels), value in collect(slots, lag).items() if each == name}
    return {dict(labels).get("partition", ""): value for labels, value in found.items()}


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


def test_a_worker_without_agents_tells_of_itself_only() -> None:
    names = {name for name, _ in collect(WorkerSlots("1.2.3"))}
    assert {name.removeprefix("streamkit_") for name in names if not name.startswith("streamkit_event_loop_lag")} == {
        "worker_info",
        "worker_state",
        "event_loop_blocked_seconds_total",
    }


def test_the_series_of_a_revoked_partition_end_at_once() -> None:
    slots, agent = running_worker()
    lag = LagTable()
    agent.assigned = frozenset(ORDERS)
    lag.record(agent.group, {ORDERS[0]: behind(10), ORDERS[1]: behind(20)}, at=1.0)
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
            agent.processing.observe(0.003)
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
    name = "streamkit_processing_duration_seconds"
    buckets = [v for (each, _), v in samples.items() if each == f"{name}_bucket"]
    assert buckets == sorted(buckets)
    assert buckets[-1] == next(v for (each, _), v in samples.items() if each == f"{name}_count")


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
