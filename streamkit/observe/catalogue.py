"""Every metric that a worker exports: the one place where its name, type, labels and meaning stand.

The collector makes its families from it, and `python docs/metrics.py` the tables of docs/metrics.md. Base units,
counters end in `_total`, times are timestamps and not ages, and no label holds what nobody bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]
Detail = Literal["topic", "lag", "full"]
"""How much is told of each partition: nothing but sums by topic, how far it is behind, or everything."""

DETAILS: Final[tuple[Detail, ...]] = ("topic", "lag", "full")  # each tells what the one before does

LABELS: Final = frozenset(
    {"group", "topic", "partition", "agent", "tier", "process", "version"}
    | {"result", "reason", "stage", "error", "status", "phase", "activity", "state"}
)
"""There are no others."""


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric. `name` is as it is scraped, `help` is one or two sentences.

    Of a metric of partitions, `detail` is the least at which it is exported for each; with less, `by_topic` says what
    stands for those of a topic under the same name, without the label `partition`. Empty: nothing does.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    area: str
    detail: Detail = "topic"
    by_topic: Literal["", "sum", "max", "min"] = ""


_throughput, _latency, _lag, _order, _commits, _membership, _process, _retries = (
    partial(MetricSpec, area=area)
    for area in (
        "Throughput",
        "Latency",
        "Lag",
        "In flight and order",
        "Commits",
        "Membership",
        "Errors and the process",
        "Retries, dead letters and breakers",
    )
)

_GROUP = ("group",)
_AGENT = ("group", "agent")
_AGENT_TOPIC = ("group", "agent", "topic")
_TOPIC = ("group", "topic")
_PARTITION = ("group", "topic", "partition")
_TIER = ("group", "tier")

CATALOGUE: Final[tuple[MetricSpec, ...]] = (
    _throughput(
        "streamkit_records_consumed_total",
        "counter",
        _TOPIC,
        "Records read from the log, those that are delivered again included.",
    ),
    _throughput("streamkit_consumed_bytes_total", "counter", _TOPIC, "Bytes of their keys and values."),
    _throughput(
        "streamkit_records_processed_total",
        "counter",
        (*_AGENT_TOPIC, "result"),
        "How deliveries ended: success, error, cancelled (by a revoke or a stop), skipped (settled before a restart), "
        "filtered (by the handler), retried (a tier has them), dead_lettered.",
    ),
    _throughput(
        "streamkit_records_produced_total",
        "counter",
        ("topic", "result"),
        "Outputs that the brokers acknowledged (success) or that failed for good (error).",
    ),
    _throughput(
        "streamkit_produce_duration_seconds",
        "histogram",
        ("topic",),
        "From the sending of a batch of outputs to its acknowledgement.",
    ),
    _throughput(
        "streamkit_consumer_time_seconds_total",
        "counter",
        (*_GROUP, "activity"),
        "What the task that reads did: poll (waiting for records), dispatch (queueing them), backpressure (enough was "
        "read), rebalance.",
    ),
    _latency(
        "streamkit_processing_duration_seconds",
        "histogram",
        _AGENT_TOPIC,
        "From the start of the handler to its end.",
    ),
    _latency(
        "streamkit_queue_wait_seconds",
        "histogram",
        _AGENT,
        "From when a record was there, or was due if it was to wait, to the start of its handler.",
    ),
    _latency(
        "streamkit_end_to_end_latency_seconds",
        "histogram",
        _AGENT_TOPIC,
        "From a record's timestamp, for retries the original one, to when it was settled; one that goes to a tier is "
        "told of when it leaves the last one.",
    ),
    _latency(
        "streamkit_event_timestamp_seconds",
        "gauge",
        _AGENT,
        "The latest timestamp of a record that was settled, and not by going to a tier. Absent before the first.",
    ),
    _latency(
        "streamkit_event_watermark_timestamp_seconds",
        "gauge",
        _AGENT,
        "The least, over the partitions in which records wait, of the latest timestamp that was settled there and that "
        "of the oldest record that waits. Tiers do not count. Absent while nothing waits.",
    ),
    _lag(
        "streamkit_consumer_lag_records",
        "gauge",
        _PARTITION,
        "Offsets between what the group has committed and the end of the log. Absent when not known.",
        detail="lag",
        by_topic="sum",
    ),
    _lag(
        "streamkit_consumer_lag_seconds",
        "gauge",
        _PARTITION,
        "Age of the oldest record that is not settled; of a tier, how long it is overdue. 0 if there is none, absent "
        "when not known.",
        detail="lag",
        by_topic="max",
    ),
    _lag(
        "streamkit_oldest_unprocessed_timestamp_seconds",
        "gauge",
        _PARTITION,
        "When the oldest record that is not settled was written; of a tier, when it is due. Absent if there is none.",
        detail="lag",
        by_topic="min",
    ),
    _lag(
        "streamkit_log_end_offset",
        "gauge",
        _PARTITION,
        "The end of the log; for readers of committed transactions, the stable one.",
        detail="full",
    ),
    _lag("streamkit_committed_offset", "gauge", _PARTITION, "What the group has committed.", detail="full"),
    _lag("streamkit_position_offset", "gauge", _PARTITION, "The next offset to fetch.", detail="full"),
    _lag(
        "streamkit_consumer_lead_records",
        "gauge",
        _PARTITION,
        "Offsets between the start of the log and what is committed: how far retention is from what is not settled.",
        detail="lag",
        by_topic="min",
    ),
    _lag(
        "streamkit_unstable_records",
        "gauge",
        _TOPIC,
        "Offsets at the ends of the logs that belong to open transactions, or lie behind such: nobody sees them yet, "
        "and they are no lag. Absent when not known.",
    ),
    _lag(
        "streamkit_lag_sample_timestamp_seconds",
        "gauge",
        _GROUP,
        "When the lag was last read from the brokers. Absent while nothing is assigned.",
    ),
    _lag(
        "streamkit_partition_status",
        "gauge",
        (*_PARTITION, "status", "reason"),
        "1 for the present status (ok, falling_behind, stalled, stopped, rewound, paused) and its reason.",
        detail="lag",
    ),
    _lag(
        "streamkit_last_progress_timestamp_seconds",
        "gauge",
        _PARTITION,
        "When the lowest offset that is not settled last moved; at first, when the partition was assigned.",
        detail="lag",
        by_topic="min",
    ),
    _order("streamkit_in_flight_records", "gauge", _AGENT, "Records whose handler runs at present."),
    _order(
        "streamkit_concurrency_limit",
        "gauge",
        _AGENT,
        "How many handlers may run at a time. Of the loop shape, one for each assigned partition.",
    ),
    _order(
        "streamkit_buffered_records",
        "gauge",
        _TOPIC,
        "Records that were fetched, and neither run nor are settled: they wait for their turn, for their retry, or for "
        "the acknowledgement of what they sent.",
    ),
    _order(
        "streamkit_buffered_bytes",
        "gauge",
        _TOPIC,
        "Bytes of memory of the records that were fetched and are not settled.",
    ),
    _order(
        "streamkit_settled_ahead_records",
        "gauge",
        _PARTITION,
        "Records that are settled behind one that is not.",
        detail="full",
        by_topic="sum",
    ),
    _order(
        "streamkit_oldest_in_flight_timestamp_seconds",
        "gauge",
        _PARTITION,
        "When the handler of the oldest unsettled record started. Absent if it does not run.",
        detail="full",
        by_topic="min",
    ),
    _order(
        "streamkit_active_keys",
        "gauge",
        _AGENT,
        "Keys that have records waiting or running; of batches and loops, partitions.",
    ),
    _order(
        "streamkit_closed_partitions",
        "gauge",
        (*_TOPIC, "reason"),
        "Partitions that are not read at present, by why: backpressure, breaker, rebalance.",
    ),
    _order(
        "streamkit_partition_closings_total",
        "counter",
        (*_GROUP, "reason"),
        "How often a partition was closed, but for rebalances: backpressure, breaker.",
    ),
    _commits("streamkit_commits_total", "counter", (*_GROUP, "result"), "Offset commits sent: success, error."),
    _commits("streamkit_commit_duration_seconds", "histogram", _GROUP, "From sending a commit to its answer."),
    _commits(
        "streamkit_last_commit_timestamp_seconds",
        "gauge",
        _GROUP,
        "When the latest commit was stored. Absent before the first.",
    ),
    _membership(
        "streamkit_rebalances_total",
        "counter",
        (*_GROUP, "result"),
        "Assignments received (success), and those that ended because the group had thrown this worker out (lost).",
    ),
    _membership(
        "streamkit_rebalance_duration_seconds",
        "histogram",
        (*_GROUP, "phase"),
        "Of a rebalance: drain (waiting for what runs, and the last commit), join (until the group has assigned anew), "
        "assign (until reading goes on).",
    ),
    _membership(
        "streamkit_last_heartbeat_timestamp_seconds",
        "gauge",
        _GROUP,
        "When the latest heartbeat was sent that the group has answered; joining is one. Absent before the first.",
    ),
    _membership("streamkit_assigned_partitions", "gauge", _TOPIC, "Partitions assigned to this worker."),
    _membership(
        "streamkit_topic_partitions", "gauge", _TOPIC, "Partitions that the topic has. Absent while it is not known."
    ),
    _membership(
        "streamkit_partitions_lost_total",
        "counter",
        _GROUP,
        "Partitions that were taken away without a chance to commit.",
    ),
    _membership(
        "streamkit_redelivery_risk_records_total",
        "counter",
        _GROUP,
        "Records of which something had run when their partition was given up, and that are not committed as settled: "
        "they run again.",
    ),
    _membership(
        "streamkit_offset_resets_total",
        "counter",
        (*_TOPIC, "reason"),
        "Starts without a committed offset (no_offset), or with one that the log does not hold (out_of_range).",
    ),
    _process(
        "streamkit_errors_total",
        "counter",
        (*_AGENT, "stage", "error"),
        "Errors by stage (decode-key, decode-value, handle, sink, commit, fetch) and class; beyond 20 classes, _OTHER.",
    ),
    _process("streamkit_agent_up", "gauge", _AGENT, "1 while the agent runs, else 0."),
    _process(
        "streamkit_event_loop_heartbeat_timestamp_seconds",
        "gauge",
        (),
        "When the event loop last ran its tick of 250 ms. Absent before the first.",
    ),
    _process("streamkit_event_loop_lag_seconds", "histogram", (), "How late the ticks were."),
    _process(
        "streamkit_event_loop_blocked_seconds_total",
        "counter",
        (),
        "How much later than 100 ms the ticks were, together.",
    ),
    _process("streamkit_worker_info", "gauge", ("version",), "1, with the version of streamkit that it runs."),
    _process(
        "streamkit_worker_state",
        "gauge",
        ("state",),
        "1 for the present state, 0 for the others: starting, running, draining, stopped.",
    ),
    _process(
        "streamkit_collect_duration_seconds",
        "gauge",
        (),
        "How long the scrape before this one took. Absent in the first.",
    ),
    _retries(
        "streamkit_retries_total",
        "counter",
        (*_AGENT, "tier"),
        "Records that a tier has taken over, by the tier's number; runs in place are the tier in_place.",
    ),
    _retries(
        "streamkit_retry_failures_total",
        "counter",
        _TIER,
        "Attempts to hand a record to a tier that failed. Each is made again, and the record's key waits meanwhile.",
    ),
    _retries(
        "streamkit_retry_pending_records",
        "gauge",
        _TIER,
        "Lag of this worker's partitions of a tier: records that wait for their retry. Absent when not known.",
    ),
    _retries(
        "streamkit_retry_oldest_due_timestamp_seconds",
        "gauge",
        _TIER,
        "When the first of the records that wait in a tier is due; past if overdue. Absent if none waits.",
    ),
    _retries(
        "streamkit_retry_delay_error_seconds",
        "histogram",
        _TIER,
        "From when a record of a tier was due to the start of its handler. Early ones are in the bucket 0.",
    ),
    _retries(
        "streamkit_dead_letters_total",
        "counter",
        (*_AGENT, "reason"),
        "Records that a dead letter topic has taken, by why they went there.",
    ),
    _retries(
        "streamkit_dead_letter_failures_total",
        "counter",
        _GROUP,
        "Attempts to hand a record to a dead letter topic that failed. Each is made again, and the record's key waits "
        "meanwhile.",
    ),
    _retries(
        "streamkit_blocked_records",
        "gauge",
        _AGENT,
        "Records that failed and that neither a tier nor a dead letter topic has taken yet; their keys wait.",
    ),
    _retries(
        "streamkit_breaker_open",
        "gauge",
        _AGENT,
        "1 while so much fails that the agent holds its records and only probes, else 0.",
    ),
    _retries("streamkit_breaker_openings_total", "counter", _AGENT, "How often the breaker has opened."),
    _retries(
        "streamkit_held_records",
        "gauge",
        _AGENT,
        "Records that failed and wait in their places until the breaker closes.",
    ),
)

BY_NAME: Final[Mapping[str, MetricSpec]] = MappingProxyType({spec.name: spec for spec in CATALOGUE})
