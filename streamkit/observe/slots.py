"""The numbers that the engine keeps while it runs: plain slots, written by the loop's thread only.

A slot costs the hot path 0.02 to 0.1 µs where prometheus_client's metrics cost 0.3 to 1 µs. The observer reads them
from its own thread at scrape; a reading may miss the last few records, never more.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Final, Literal, get_args

from streamkit.buckets import DEFAULT_BUCKETS, Bounds, Buckets
from streamkit.core.failures import Reason
from streamkit.observe.histogram import Histogram
from streamkit.observe.partition_state import PartitionState
from streamkit.observe.vitals import Vitals
from streamkit.record import TopicPartition

# Why a record goes to the dead letters.
REASONS: tuple[Reason, ...] = get_args(Reason)
Activity = Literal["poll", "dispatch", "backpressure", "rebalance"]
Closing = Literal["backpressure", "breaker"]
Phase = Literal["drain", "join", "assign"]
Reset = Literal["no_offset", "out_of_range"]
STATES: Final = ("starting", "running", "draining", "stopped")
ErrorStage = Literal["decode-key", "decode-value", "handle", "sink", "commit", "fetch"]

MOST_ERROR_CLASSES: Final = 20
OTHER_ERRORS: Final = "_OTHER"


class WallClock:
    """Tells the wall's time from the loop's, so that the hot path reads one clock only."""

    __slots__ = ("since_1970",)

    def __init__(self) -> None:
        self.since_1970 = time.time() - time.monotonic()  # the wall clock when the loop's was 0

    def set(self, wall: float, loop_time: float) -> None:
        """What both of them show now, in seconds."""
        self.since_1970 = wall - loop_time


class AgentSlots:
    """What one agent of this worker did since it started.

    What is counted by tier, reason or topic may take a key that is new. What is called at scrape is called from the
    observer's thread.
    """

    __slots__ = (
        "_buckets",
        "active_keys",
        "activities",
        "agent",
        "assigned",
        "blocked",
        "breaker_open",
        "breaker_openings",
        "breaker_since",
        "clock",
        "closings",
        "commit_duration",
        "commits_failed",
        "commits_succeeded",
        "concurrency",
        "concurrency_limit",
        "consumed",
        "consumed_bytes",
        "dead_letter_failures",
        "dead_letters",
        "end_to_end",
        "errors",
        "event_timestamp",
        "group",
        "has_breaker",
        "has_dead_letters",
        "has_in_place",
        "held",
        "in_flight",
        "last_commit",
        "last_heartbeat",
        "lateness",
        "offset_resets",
        "oldest_due",
        "partitions",
        "partitions_lost",
        "processed_cancelled",
        "processed_dead_lettered",
        "processed_error",
        "processed_filtered",
        "processed_retried",
        "processed_success",
        "processing",
        "queue_wait",
        "read_at",
        "rebalance_durations",
        "rebalances",
        "rebalances_lost",
        "redelivery_risk",
        "retries",
        "retries_in_place",
        "retry_failures",
        "skipped",
        "tier_topics",
        "topic_partitions",
        "topics",
        "up",
    )

    def __init__(
        self,
        agent: str,
        group: str,
        topics: tuple[str, ...],
        concurrency: int,
        buckets: Mapping[str, Bounds] = DEFAULT_BUCKETS,
        clock: WallClock | None = None,
    ) -> None:
        self.agent = agent
        self.group = group
        self.topics = topics
        self.concurrency = concurrency  # 0: it runs elsewhere, and is looked at from here
        self.clock = WallClock() if clock is None else clock
        self._buckets = buckets
        self.up = False  # from its beginning to its end
        self.consumed: dict[str, int] = defaultdict(int, dict.fromkeys(topics, 0))  # records handed over by poll
        self.consumed_bytes: dict[str, int] = defaultdict(int, dict.fromkeys(topics, 0))  # of their keys and values
        self.skipped = 0  # of them, settled before according to the offset map: not run again
        self.processed_success = 0
        self.processed_error = 0
        self.processed_cancelled = 0  # by revoke or stop: they run again, here or elsewhere
        self.processed_filtered = 0  # Skip
        self.processed_retried = 0  # gone to a tier
        self.processed_dead_lettered = 0
        self.processing = self._histogram("streamkit_processing_duration_seconds")
        self.queue_wait = self._histogram("streamkit_queue_wait_seconds")
        self.end_to_end = self._histogram("streamkit_end_to_end_latency_seconds")
        self.event_timestamp = 0  # the latest of a settled record, in ms since 1970
        self.activities: dict[Activity, float] = dict.fromkeys(get_args(Activity), 0.0)  # seconds of the reading task
        self.errors: dict[tuple[ErrorStage, str], int] = {}  # by stage and class
        self.in_flight: Callable[[], int] = int  # read at scrape
        self.concurrency_limit: Callable[[], int] = lambda: self.concurrency  # read at scrape
        self.active_keys: Callable[[], int] = int  # read at scrape
        self.partitions: Callable[[], Mapping[TopicPartition, PartitionState]] = dict  # at scrape, and for the lag
        self.closings: dict[Closing, int] = dict.fromkeys(get_args(Closing), 0)
        self.commits_succeeded = 0
        self.commits_failed = 0
        self.commit_duration = self._histogram("streamkit_commit_duration_seconds")
        self.last_commit = 0.0  # that was stored, in seconds since 1970
        # When the group last heard from this member, in seconds since 1970; at scrape.
        self.last_heartbeat: Callable[[], float | None] = lambda: None
        self.rebalances = 0  # assignments received
        self.rebalances_lost = 0  # assignments that ended because the group had thrown this member out
        rebalance = "streamkit_rebalance_duration_seconds"
        self.rebalance_durations: dict[Phase, Histogram] = {
            phase: self._histogram(rebalance) for phase in get_args(Phase)
        }
        self.partitions_lost = 0
        self.redelivery_risk = 0  # records that run again although something of them had run
        self.offset_resets: dict[tuple[str, Reset], int] = {}  # by topic
        self.topic_partitions: dict[str, int] = {}  # that the topics have; of those that are known
        self.assigned: frozenset[TopicPartition] = frozenset()
        self.read_at = inf  # loop time of the reading task's last round; inf while it need not read
        self.has_in_place = False
        self.has_dead_letters = False
        self.has_breaker = False
        self.tier_topics: Mapping[str, int] = {}  # number by topic name; of those that are read
        self.retries: dict[int, int] = defaultdict(int)  # copies acknowledged on a tier, by its number
        self.retries_in_place = 0
        self.retry_failures: dict[int, int] = defaultdict(int)  # copies that a tier did not take; each attempt counts
        self.dead_letters: dict[str, int] = defaultdict(int)  # acknowledged, by reason
        self.dead_letter_failures = 0  # each attempt counts
        self.lateness: dict[int, Histogram] = {}  # by tier
        self.oldest_due: Callable[[], Mapping[int, float]] = dict  # by tier, s since 1970; at scrape
        self.blocked: Callable[[], int] = int  # records whose copy is not taken, so that their keys wait; at scrape
        self.held: Callable[[], int] = int  # records that failed and wait for the breaker; at scrape
        self.breaker_open = False
        self.breaker_openings = 0
        self.breaker_since = 0.0  # when it last opened or closed, in seconds since 1970; written before breaker_open

    @property
    def makes_copies(self) -> bool:
        """Whether failed records may go to a tier or a dead letter topic."""
        return bool(self.retries) or self.has_dead_letters

    def declare(
        self, *, tiers: int = 0, in_place: bool = False, dead_letters: bool = False, breaker: bool = False
    ) -> None:
        """Say what the agent has: it is scraped from 0 on, and what it has not is not scraped.

        `tiers` is the number of those that are declared.
        """
        self.has_in_place, self.has_dead_letters, self.has_breaker = in_place, dead_letters, breaker
        numbers = range(1, tiers + 1)
        self.retries.update(dict.fromkeys(numbers, 0))
        self.retry_failures.update(dict.fromkeys(numbers, 0))
        if dead_letters:
            self.dead_letters.update(dict.fromkeys(REASONS, 0))

    def add_topics(self, names: Iterable[str]) -> None:
        """Count what is read of these topics too, from 0 on."""
        for name in names:
            self.consumed.setdefault(name, 0)
            self.consumed_bytes.setdefault(name, 0)

    def add_tiers(self, topics: Mapping[str, int]) -> None:
        """Count what is read of these tiers too, undeclared ones included: their numbers by topic name."""
        self.add_topics(topics)
        self.tier_topics = {**self.tier_topics, **topics}
        for number in topics.values():
            self._lateness(number)

    def observe_lateness(self, tier: int, seconds: float) -> None:
        """Take in how long after its due time the handler of a retried record started; negative if before."""
        lateness = self._lateness(tier)
        lateness.observe(seconds)
        lateness.sum -= min(seconds, 0.0)  # what came early counts as 0

    def note_error(self, stage: ErrorStage, error: BaseException) -> None:
        """Count an error by its class; those of ever more classes together."""
        key = stage, type(error).__qualname__
        if key not in self.errors:
            classes = {name for _, name in self.errors} - {OTHER_ERRORS}
            if key[1] not in classes and len(classes) >= MOST_ERROR_CLASSES:
                key = stage, OTHER_ERRORS
        self.errors[key] = self.errors.get(key, 0) + 1

    def note_reset(self, topic: str, reason: Reset) -> None:
        self.offset_resets[topic, reason] = self.offset_resets.get((topic, reason), 0) + 1

    def _lateness(self, tier: int) -> Histogram:
        found = self.lateness.get(tier)
        if found is None:
            found = self.lateness[tier] = self._histogram("streamkit_retry_delay_error_seconds")
        return found

    def _histogram(self, name: str) -> Histogram:
        return Histogram(self._buckets[name])


class ProducedSlots:
    """Outputs of this worker to one topic."""

    __slots__ = ("acknowledged", "duration", "failed", "topic")

    def __init__(self, topic: str, bounds: Bounds = DEFAULT_BUCKETS["streamkit_produce_duration_seconds"]) -> None:
        self.topic = topic
        self.acknowledged = 0
        self.failed = 0
        self.duration = Histogram(bounds)  # of batches, from sending to acknowledgement


class WorkerSlots:
    """Everything that is scraped, and what /livez and /readyz answer from.

    `state` goes starting → running → draining → stopped. `heartbeat` is `time.monotonic()`, written by the loop every
    250 ms. `unready` says why the worker takes no work at present, empty when it does. `detail` and `buckets` are the
    settings `metrics_detail` and `metrics_buckets`.
    """

    __slots__ = (
        "_buckets",
        "agents",
        "clock",
        "detail",
        "heartbeat",
        "loop_blocked",
        "loop_lag",
        "produced",
        "state",
        "unready",
        "version",
        "vitals",
    )

    def __init__(self, version: str, *, detail: str = "auto", buckets: Buckets = ()) -> None:
        self.version = version
        self.detail = detail
        self._buckets: Mapping[str, Bounds] = {**DEFAULT_BUCKETS, **dict(buckets)}
        self.clock = WallClock()
        self.state = "starting"
        self.heartbeat = 0.0
        self.loop_lag = Histogram(self._buckets["streamkit_event_loop_lag_seconds"])  # of the heartbeats
        self.loop_blocked = 0.0  # seconds that they were later than they may be
        self.unready = "not started"
        self.vitals = Vitals()
        self.agents: dict[str, AgentSlots] = {}
        self.produced: dict[str, ProducedSlots] = {}

    def agent(self, agent: str, group: str, topics: tuple[str, ...], concurrency: int) -> AgentSlots:
        """Add the slots of an agent."""
        slots = self.agents[agent] = AgentSlots(agent, group, topics, concurrency, self._buckets, self.clock)
        return slots

    def output(self, topic: str) -> ProducedSlots:
        """The slots of an output topic, made on first use."""
        slots = self.produced.get(topic)
        if slots is None:
            bounds = self._buckets["streamkit_produce_duration_seconds"]
            slots = self.produced[topic] = ProducedSlots(topic, bounds)
        return slots
