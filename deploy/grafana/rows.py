"""What the dashboard shows.

The panels ask for recording rules of deploy/prometheus/rules where a sum needs care, so these must be loaded too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from deploy.grafana.panels import Panel, Query, lines, stat, states, table

# What the variables choose. Recorded series have no instance.
I = 'instance=~"$instance"'  # noqa: E741
G = f'group=~"$group", {I}'
GA = f'{G}, agent=~"$agent"'
GT = f'{G}, topic=~"$topic"'
RECORDED = 'group=~"$group"'
RECORDED_AGENT = f'{RECORDED}, agent=~"$agent"'
RECORDED_TOPIC = f'{RECORDED}, topic=~"$topic"'
PARTITION = "group, topic, partition"
RATE = "$__rate_interval"


def per_second(counter: str, by: str, selector: str) -> str:
    return f"sum by ({by}) (rate({counter}{{{selector}}}[{RATE}]))"


def quantile(share: float, metric: str, by: str, selector: str) -> str:
    return f"histogram_quantile({share}, {per_second(f'{metric}_bucket', f'{by}, le', selector)})"


STATUSES = ("ok", "paused", "falling_behind", "rewound", "stalled", "stopped")
STATUS_COLOURS = ("green", "blue", "yellow", "purple", "orange", "red")


def status_numbers() -> str:
    """The present status as its place in STATUSES."""
    parts = [f'{n} * streamkit_partition_status{{{GT}, status="{status}"}}' for n, status in enumerate(STATUSES)]
    return f"max by ({PARTITION}) ({' or '.join(parts)})"


def of_worst(metric: str, by: str = PARTITION) -> str:
    """A metric of the ten partitions whose oldest record is the oldest."""
    worst = f"topk(10, max by ({PARTITION}) (streamkit_consumer_lag_seconds{{{GT}}}))"
    return f"max by ({by}) ({metric}) and on ({PARTITION}) {worst}"


OVERVIEW = (
    stat(
        "Workers",
        "Workers that run.",
        f'sum(streamkit_worker_state{{{I}, state="running"}})',
        steps=[(0, "red"), (1, "green")],
    ),
    stat(
        "Do not answer",
        "Targets of jobs named streamkit… that cannot be scraped.",
        'count(up{job=~"streamkit.*"} == 0) or vector(0)',
        steps=[(1, "red")],
    ),
    stat(
        "Oldest record",
        "Age of the oldest record that is not settled; of tiers, how long the most overdue one is overdue.",
        f"max(streamkit_consumer_lag_seconds{{{GT}}})",
        "s",
        steps=[(120, "yellow"), (900, "red")],
    ),
    stat(
        "Lag",
        "Records between what is committed and the ends of the logs, those of tiers included.",
        f"sum(streamkit:lag_records:sum{{{RECORDED_TOPIC}}})",
    ),
    stat(
        "Fail",
        "Of what was handled in the last five minutes, the share that failed, of the agent with the highest.",
        f"max(streamkit:error_ratio:rate5m{{{RECORDED_AGENT}}}) or vector(0)",
        "percentunit",
        steps=[(0.01, "yellow"), (0.05, "red")],
    ),
    stat(
        "Alerts",
        "Alerts on streamkit that fire. Each has a page in docs/runbooks.",
        'count(ALERTS{alertname=~"Streamkit.+", alertstate="firing"}) or vector(0)',
        steps=[(1, "red")],
    ),
    stat("Read", "Records a second.", f"sum(rate(streamkit_records_consumed_total{{{GT}}}[{RATE}]))", "cps"),
    stat(
        "Handled",
        "Records a second that a handler has handled.",
        f'sum(rate(streamkit_records_processed_total{{{GA}, result=~"success|filtered"}}[{RATE}]))',
        "cps",
    ),
    stat(
        "Dead letters",
        "Given up in the last hour.",
        f"sum(increase(streamkit_dead_letters_total{{{GA}}}[1h]))",
        steps=[(0.5, "yellow")],
    ),
    stat(
        "Breakers open",
        "Workers' agents that hold their records and only probe.",
        f"sum(streamkit_breaker_open{{{GA}}})",
        steps=[(1, "red")],
    ),
    stat(
        "Without a worker",
        "Partitions that no worker has. Right only with all instances chosen.",
        f"sum(clamp_min(max by (group, topic) (streamkit_topic_partitions{{{GT}}}) "
        f"- sum by (group, topic) (streamkit_assigned_partitions{{{GT}}}), 0))",
        steps=[(1, "red")],
    ),
    stat(
        "Age of the lag",
        "How long ago the lag was last read from the brokers, of the worker that knows least.",
        f"time() - min(streamkit_lag_sample_timestamp_seconds{{{G}}})",
        "s",
        steps=[(60, "yellow"), (120, "red")],
    ),
)

THROUGHPUT = (
    lines(
        "Records",
        "A second: appended to the topics (if metrics_detail is full), read, and brought to an end, good or bad. Read "
        "above ended: more is read than is done, or a rebalance cut off what ran.",
        (f"sum(streamkit:arrival:rate5m{{{RECORDED_TOPIC}}})", "appended"),
        (f"sum(rate(streamkit_records_consumed_total{{{GT}}}[{RATE}]))", "read"),
        (f'sum(rate(streamkit_records_processed_total{{{GA}, result!~"cancelled"}}[{RATE}]))', "ended"),
        unit="cps",
    ),
    lines(
        "Processed, by result",
        "How deliveries ended. docs/metrics.md explains the results.",
        (per_second("streamkit_records_processed_total", "result", GA), "{{result}}"),
        unit="cps",
        stacked=True,
    ),
    lines(
        "Outputs",
        "That the brokers acknowledged, or that failed for good. By topic of the output, of all agents.",
        (
            per_second("streamkit_records_produced_total", "topic, result", I),
            "{{topic}} {{result}}",
        ),
        unit="cps",
    ),
    lines(
        "Bytes read",
        "Keys and values, by topic.",
        (per_second("streamkit_consumed_bytes_total", "topic", GT), "{{topic}}"),
        unit="Bps",
    ),
    lines(
        "Until nothing waits",
        "If it goes on as in the last ten minutes. No line: the lag does not fall.",
        (f"streamkit:drain_eta_seconds{{{RECORDED_TOPIC}}}", "{{group}} {{topic}}"),
        unit="s",
    ),
    lines(
        "Sending",
        "From sending a batch of outputs to its acknowledgement, 95th percentile.",
        (quantile(0.95, "streamkit_produce_duration_seconds", "topic", I), "{{topic}}"),
        unit="s",
    ),
)

LATENCY = (
    lines(
        "From timestamp to settled",
        "For retries from the timestamp of the first delivery.",
        *(
            (quantile(share, "streamkit_end_to_end_latency_seconds", "group", GA), f"{{{{group}}}} p{share * 100:.0f}")
            for share in (0.5, 0.95, 0.99)
        ),
        unit="s",
    ),
    Panel(
        "heatmap",
        "From timestamp to settled",
        "How many records took how long.",
        (
            Query(
                f"sum by (le) (increase(streamkit_end_to_end_latency_seconds_bucket{{{GA}}}[{RATE}]))",
                "{{le}}",
                heatmap=True,
            ),
        ),
        options={"calculate": False, "yAxis": {"unit": "s"}, "color": {"mode": "scheme", "scheme": "Oranges"}},
    ),
    lines(
        "Later than 5 s",
        "The share of records, over five minutes and over an hour. The alert is on both.",
        (f"streamkit:late_ratio:rate5m{{{RECORDED_AGENT}}}", "{{agent}} 5m"),
        (f"streamkit:late_ratio:rate1h{{{RECORDED_AGENT}}}", "{{agent}} 1h"),
        unit="percentunit",
        steps=[(0.144, "red")],
        maximum=1,
    ),
    lines(
        "Handler",
        "From its start to its end, 95th percentile.",
        (quantile(0.95, "streamkit_processing_duration_seconds", "agent", GA), "{{agent}}"),
        unit="s",
    ),
    lines(
        "Waiting for a handler",
        "From when a record was there, or was due, to the start of its handler, 95th percentile.",
        (quantile(0.95, "streamkit_queue_wait_seconds", "agent", GA), "{{agent}}"),
        unit="s",
    ),
    lines(
        "Behind the time of the records",
        "How old the latest record that was settled is, which grows while a topic is idle; and the same of the last "
        "of the partitions in which records wait, if any.",
        (f"time() - max by (group, agent) (streamkit_event_timestamp_seconds{{{GA}}})", "{{agent}}"),
        (
            f"time() - min by (group, agent) (streamkit_event_watermark_timestamp_seconds{{{GA}}})",
            "{{agent}}: where records wait",
        ),
        unit="s",
    ),
)

LAG = (
    lines(
        "Oldest record",
        "Age of the oldest record that is not settled; of tiers, how long it is overdue.",
        (f"max by (group, topic) (streamkit_consumer_lag_seconds{{{GT}}})", "{{group}} {{topic}}"),
        unit="s",
        steps=[(900, "red")],
        width=12,
    ),
    lines(
        "Lag",
        "Records between what is committed and the end of the log.",
        (f"streamkit:lag_records:sum{{{RECORDED_TOPIC}}}", "{{group}} {{topic}}"),
        width=12,
    ),
    table(
        "The ten partitions with the oldest records",
        "Ahead: settled behind a record that is not, so that it cannot be committed plainly. Still: since something "
        "was last settled without a gap.",
        {
            "Value #A": "oldest record, age",
            "Value #B": "lag",
            "Value #C": "end",
            "Value #D": "committed",
            "Value #E": "position",
            "Value #F": "ahead",
            "Value #G": "still, age",
        },
        ("Value #H",),
        A=f"topk(10, max by ({PARTITION}) (streamkit_consumer_lag_seconds{{{GT}}}))",
        B=of_worst(f"streamkit_consumer_lag_records{{{GT}}}"),
        C=of_worst(f"streamkit_log_end_offset{{{GT}}}"),
        D=of_worst(f"streamkit_committed_offset{{{GT}}}"),
        E=of_worst(f"streamkit_position_offset{{{GT}}}"),
        F=of_worst(f"streamkit_settled_ahead_records{{{GT}}}"),
        G=of_worst(f"time() - streamkit_last_progress_timestamp_seconds{{{GT}}}"),
        H=of_worst(f"streamkit_partition_status{{{GT}}}", f"{PARTITION}, status, reason"),
    ),
    states(
        "Status of partitions",
        "The reason is in the table above, and a label of streamkit_partition_status.",
        status_numbers(),
        "{{topic}}-{{partition}} {{group}}",
        list(zip(STATUSES, STATUS_COLOURS, strict=True)),
    ),
    lines(
        "Until retention",
        "Records between the start of the log and what is committed, of the partition with the fewest. What falls to 0 "
        "while there is lag is lost.",
        (f"min by (group, topic) (streamkit_consumer_lead_records{{{GT}}})", "{{group}} {{topic}}"),
        width=12,
    ),
    lines(
        "In open transactions",
        "Records that nobody may read yet, because a transaction before them is open. What stands for minutes hangs.",
        (f"max by (topic) (streamkit_unstable_records{{{GT}}})", "{{topic}}"),
        width=12,
    ),
)

SATURATION = (
    lines(
        "Use",
        "The share of what an agent may do at a time that it does.",
        (f"streamkit:utilization:rate5m{{{RECORDED_AGENT}}}", "{{agent}}"),
        unit="percentunit",
        steps=[(0.9, "yellow")],
    ),
    lines(
        "In flight",
        "Records whose handler runs, and how many handlers may. Of batches a handler has many records.",
        (f"sum by (agent) (streamkit_in_flight_records{{{GA}}})", "{{agent}}"),
        (f"sum by (agent) (streamkit_concurrency_limit{{{GA}}})", "{{agent}}: limit"),
    ),
    lines(
        "What the readers do",
        "Share of the time: waiting for records (poll), waiting because enough is in memory (backpressure), and so on.",
        (
            per_second("streamkit_consumer_time_seconds_total", "group, activity", G)
            + " / ignoring (activity) group_left () "
            + per_second("streamkit_consumer_time_seconds_total", "group", G),
            "{{group}} {{activity}}",
        ),
        unit="percentunit",
        maximum=1,
    ),
    lines(
        "Waiting in memory",
        "Records that were fetched, and neither run nor are settled: for their turn, for their retry, or for the "
        "acknowledgement of what they sent.",
        (f"sum by (group, topic) (streamkit_buffered_records{{{GT}}})", "{{group}} {{topic}}"),
    ),
    lines(
        "Memory of records",
        "Of those that were fetched and are not settled. At most max_bytes for each agent of a worker.",
        (f"sum by (group, topic) (streamkit_buffered_bytes{{{GT}}})", "{{group}} {{topic}}"),
        unit="bytes",
    ),
    lines(
        "Closed partitions",
        "Not read at present, by why; and how often that began.",
        (f"sum by (group, reason) (streamkit_closed_partitions{{{GT}}})", "{{group}} {{reason}}"),
        (
            per_second("streamkit_partition_closings_total", "group, reason", G),
            "{{group}} {{reason}}: times a second",
        ),
    ),
    lines(
        "Event loop",
        "How late its ticks are, 99th percentile; and the share of the time that it is blocked for longer than 100 ms.",
        (quantile(0.99, "streamkit_event_loop_lag_seconds", "instance", I), "{{instance}}: seconds late"),
        (f"rate(streamkit_event_loop_blocked_seconds_total{{{I}}}[{RATE}])", "{{instance}}: share blocked"),
        unit="none",
    ),
    lines(
        "Processor",
        "Of the process; 1 is all that one process can use.",
        (
            f"rate(process_cpu_seconds_total{{{I}}}[{RATE}]) and on (instance) streamkit_worker_info",
            "{{instance}}",
        ),
        unit="percentunit",
        steps=[(0.9, "red")],
    ),
    lines(
        "Memory",
        "Of the process.",
        (f"process_resident_memory_bytes{{{I}}} and on (instance) streamkit_worker_info", "{{instance}}"),
        unit="bytes",
    ),
)

ORDER = (
    lines(
        "Settled ahead",
        "Records that are settled behind one that is not, of the ten partitions with the most.",
        (
            f"topk(10, max by ({PARTITION}) (streamkit_settled_ahead_records{{{GT}}}))",
            "{{group}} {{topic}}-{{partition}}",
        ),
    ),
    lines(
        "Longest run",
        "How long the handler of the oldest unsettled record runs, by topic. No line: none runs.",
        (
            f"time() - min by (group, topic) (streamkit_oldest_in_flight_timestamp_seconds{{{GT}}})",
            "{{group}} {{topic}}",
        ),
        unit="s",
        steps=[(300, "red")],
    ),
    lines(
        "Keys",
        "That have records waiting or running; of batches and loops, partitions.",
        (f"sum by (agent) (streamkit_active_keys{{{GA}}})", "{{agent}}"),
    ),
    lines(
        "Commits",
        "A second, by result.",
        (per_second("streamkit_commits_total", "group, result", G), "{{group}} {{result}}"),
        unit="cps",
    ),
    lines(
        "Time of a commit",
        "From sending it to its answer, 95th percentile.",
        (quantile(0.95, "streamkit_commit_duration_seconds", "group", G), "{{group}}"),
        unit="s",
    ),
    lines(
        "Since the last commit",
        "Of the worker that has not committed for the longest. Grows while there is nothing to commit.",
        (f"time() - min by (group) (streamkit_last_commit_timestamp_seconds{{{G}}})", "{{group}}"),
        unit="s",
    ),
)

GROUP = (
    lines(
        "Partitions",
        "Assigned to each worker, tiers included.",
        (f"sum by (group, instance) (streamkit_assigned_partitions{{{GT}}})", "{{group}} {{instance}}"),
        stacked=True,
    ),
    lines(
        "Rebalances",
        "In the last 30 minutes; lost: the group had thrown a worker out. Of the worker that has seen the most.",
        (f"max by (group, result) (increase(streamkit_rebalances_total{{{G}}}[30m]))", "{{group}} {{result}}"),
    ),
    lines(
        "Since the last heartbeat",
        "That the group has answered, of the worker that waits for the longest. At session_timeout the group gives its "
        "partitions away.",
        (f"time() - min by (group) (streamkit_last_heartbeat_timestamp_seconds{{{G}}})", "{{group}}"),
        unit="s",
    ),
    lines(
        "Time of a rebalance",
        "Drain: waiting for what runs; join: until the group has assigned anew; assign: until reading goes on. 95th "
        "percentile of the last 30 minutes.",
        (
            f"histogram_quantile(0.95, sum by (group, phase, le) "
            f"(increase(streamkit_rebalance_duration_seconds_bucket{{{G}}}[30m])))",
            "{{group}} {{phase}}",
        ),
        unit="s",
        steps=[(30, "red")],
    ),
    lines(
        "Cut off",
        "In the last 30 minutes: partitions that were taken away without a chance to commit, and records that run "
        "again.",
        (f"sum by (group) (increase(streamkit_partitions_lost_total{{{G}}}[30m]))", "{{group}}: partitions"),
        (f"sum by (group) (increase(streamkit_redelivery_risk_records_total{{{G}}}[30m]))", "{{group}}: records"),
        width=12,
    ),
    lines(
        "Starts without an offset",
        "Since the workers started: no_offset, there was none; out_of_range, the log did not hold it.",
        (f"sum by (group, topic, reason) (streamkit_offset_resets_total{{{GT}}})", "{{group}} {{topic}} {{reason}}"),
        width=12,
    ),
)

RETRIES = (
    lines(
        "Retries",
        "A second, by tier; in_place are runs within the handler's turn.",
        (per_second("streamkit_retries_total", "agent, tier", GA), "{{agent}} {{tier}}"),
        unit="cps",
    ),
    lines(
        "Waiting in tiers",
        "Records, by tier.",
        (f"sum by (group, tier) (streamkit_retry_pending_records{{{G}}})", "{{group}} {{tier}}"),
    ),
    lines(
        "Overdue",
        "How long the first of those that wait has been due. No line: none waits.",
        (
            f"clamp_min(time() - min by (group, tier) (streamkit_retry_oldest_due_timestamp_seconds{{{G}}}), 0)",
            "{{group}} {{tier}}",
        ),
        unit="s",
        steps=[(60, "red")],
    ),
    lines(
        "Late",
        "From when a record of a tier was due to the start of its handler, 95th percentile.",
        (quantile(0.95, "streamkit_retry_delay_error_seconds", "group, tier", G), "{{group}} {{tier}}"),
        unit="s",
    ),
    lines(
        "Dead letters",
        "In the last 15 minutes, by why. `streamkit dlq groups` tells the causes.",
        (
            f"sum by (agent, reason) (increase(streamkit_dead_letters_total{{{GA}}}[15m]))",
            "{{agent}} {{reason}}",
        ),
    ),
    lines(
        "Refused copies",
        "Attempts to hand a failed record to a tier or to a dead letter topic that failed, a second.",
        (per_second("streamkit_retry_failures_total", "group, tier", G), "{{group}} tier {{tier}}"),
        (per_second("streamkit_dead_letter_failures_total", "group", G), "{{group}} dead letters"),
        unit="cps",
    ),
    states(
        "Breakers",
        "Open: so much fails that the agent holds its records and only probes.",
        f"max by (group, agent) (streamkit_breaker_open{{{GA}}})",
        "{{agent}} {{group}}",
        [("closed", "green"), ("open", "red")],
    ),
    lines(
        "Held and blocked",
        "Held: failed, and waiting for the breaker. Blocked: neither a tier nor a dead letter topic has taken it yet. "
        "And how often breakers opened in the last hour.",
        (f"sum by (agent) (streamkit_held_records{{{GA}}})", "{{agent}}: held"),
        (f"sum by (agent) (streamkit_blocked_records{{{GA}}})", "{{agent}}: blocked"),
        (f"sum by (agent) (increase(streamkit_breaker_openings_total{{{GA}}}[1h]))", "{{agent}}: openings"),
        width=12,
    ),
)

ERRORS = (
    lines(
        "Errors",
        "A second, of the ten most frequent, by stage and class.",
        (
            f"topk(10, {per_second('streamkit_errors_total', 'agent, stage, error', GA)})",
            "{{agent}} {{stage}} {{error}}",
        ),
        unit="cps",
        width=12,
    ),
    states(
        "Agents",
        "Whether they run, by worker.",
        f"max by (agent, instance) (streamkit_agent_up{{{GA}}})",
        "{{agent}} {{instance}}",
        [("down", "red"), ("up", "green")],
    ),
)

META = (
    lines(
        "Scrapes",
        "How long a worker took to collect its metrics, and how long the scrape took in all.",
        (f"max by (instance) (streamkit_collect_duration_seconds{{{I}}})", "{{instance}}: collected"),
        (f"scrape_duration_seconds{{{I}}} and on (job, instance) streamkit_worker_info", "{{instance}}: scraped"),
        unit="s",
    ),
    lines(
        "Heartbeat of the event loop",
        "How long before the scrape it last ran.",
        (
            f"timestamp(streamkit_event_loop_heartbeat_timestamp_seconds{{{I}}}) "
            f"- streamkit_event_loop_heartbeat_timestamp_seconds{{{I}}}",
            "{{instance}}",
        ),
        unit="s",
        steps=[(10, "red")],
    ),
    table(
        "Workers",
        "What each runs, its state, and since when.",
        {"Value #B": "running, age"},
        ("Value #A",),
        A=f"max by (instance, version, state) (streamkit_worker_info{{{I}}} * on (job, instance) group_left (state) "
        f"(streamkit_worker_state{{{I}}} == 1))",
        B=f"max by (instance) (time() - process_start_time_seconds{{{I}}} "
        f"and on (job, instance) streamkit_worker_info)",
    ),
)

ROWS: Final[Mapping[str, Sequence[Panel]]] = {
    "Overview": OVERVIEW,
    "Throughput": THROUGHPUT,
    "Latency": LATENCY,
    "Lag": LAG,
    "Saturation": SATURATION,
    "Order and commits": ORDER,
    "Group": GROUP,
    "Retries, dead letters, breakers": RETRIES,
    "Errors": ERRORS,
    "Workers and scrapes": META,
}
