"""The numbers that the engine keeps while it runs: plain slots, written by the loop's thread only.

A slot costs the hot path 0.02 to 0.1 µs where prometheus_client's metrics cost 0.3 to 1 µs. The observer reads them
from its own thread at scrape; a reading may miss the last few records, never more.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import get_args

from streamkit.core.failures import Reason
from streamkit.record import TopicPartition

# Upper bounds in seconds, inclusive; one more bucket holds what is slower.
DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# The first one holds what came early.
LATENESS_BUCKETS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

# Why a record goes to the dead letters.
REASONS: tuple[Reason, ...] = get_args(Reason)


class AgentSlots:
    """What one agent of this worker did since it started.

    What is counted by tier, reason or topic may take a key that is new. What is called at scrape is called from the
    observer's thread.
    """

    __slots__ = (
        "agent",
        "assigned",
        "blocked",
        "breaker_open",
        "breaker_openings",
        "breaker_since",
        "commits_failed",
        "commits_succeeded",
        "concurrency",
        "consumed",
        "dead_letter_failures",
        "dead_letters",
        "duration_counts",
        "duration_sum",
        "group",
        "has_breaker",
        "has_dead_letters",
        "has_in_place",
        "held",
        "in_flight",
        "late_counts",
        "late_sum",
        "oldest_due",
        "processed_cancelled",
        "processed_dead_lettered",
        "processed_error",
        "processed_filtered",
        "processed_retried",
        "processed_success",
        "rebalances",
        "rebalances_lost",
        "retries",
        "retries_in_place",
        "retry_failures",
        "skipped",
        "tier_topics",
        "topics",
    )

    def __init__(self, agent: str, group: str, topics: tuple[str, ...], concurrency: int) -> None:
        self.agent = agent
        self.group = group
        self.topics = topics
        self.concurrency = concurrency
        self.consumed: dict[str, int] = defaultdict(int, dict.fromkeys(topics, 0))  # records handed over by poll
        self.skipped = 0  # of them, settled before according to the offset map: not run again
        self.processed_success = 0
        self.processed_error = 0
        self.processed_cancelled = 0  # by revoke or stop: they run again, here or elsewhere
        self.processed_filtered = 0  # Skip
        self.processed_retried = 0  # gone to a tier
        self.processed_dead_lettered = 0
        self.duration_counts = [0] * (len(DURATION_BUCKETS) + 1)  # not cumulative
        self.duration_sum = 0.0  # seconds
        self.in_flight: Callable[[], int] = int  # read at scrape
        self.commits_succeeded = 0
        self.commits_failed = 0
        self.rebalances = 0  # assignments received
        self.rebalances_lost = 0  # assignments that ended because the group had thrown this member out
        self.assigned: frozenset[TopicPartition] = frozenset()
        self.has_in_place = False
        self.has_dead_letters = False
        self.has_breaker = False
        self.tier_topics: Mapping[str, int] = {}  # number by topic name; of those that are read
        self.retries: dict[int, int] = defaultdict(int)  # copies acknowledged on a tier, by its number
        self.retries_in_place = 0
        self.retry_failures: dict[int, int] = defaultdict(int)  # copies that a tier did not take; each attempt counts
        self.dead_letters: dict[str, int] = defaultdict(int)  # acknowledged, by reason
        self.dead_letter_failures = 0  # each attempt counts
        self.late_counts: dict[int, list[int]] = {}  # by tier; not cumulative
        self.late_sum: dict[int, float] = {}  # by tier; seconds, what came early as 0
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

    def add_tiers(self, topics: Mapping[str, int]) -> None:
        """Count what is read of these tiers too, undeclared ones included: their numbers by topic name."""
        self.add_topics(topics)
        self.tier_topics = {**self.tier_topics, **topics}
        for number in topics.values():
            self._lateness(number)

    def observe_lateness(self, tier: int, seconds: float) -> None:
        """Take in how long after its due time the handler of a retried record started; negative if before."""
        self._lateness(tier)[bisect_left(LATENESS_BUCKETS, seconds)] += 1
        self.late_sum[tier] += max(seconds, 0.0)

    def _lateness(self, tier: int) -> list[int]:
        self.late_sum.setdefault(tier, 0.0)  # first: who sees the counts finds the sum
        return self.late_counts.setdefault(tier, [0] * (len(LATENESS_BUCKETS) + 1))


class ProducedSlots:
    """Outputs of this worker to one topic."""

    __slots__ = ("acknowledged", "failed", "topic")

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.acknowledged = 0
        self.failed = 0


class WorkerSlots:
    """Everything that is scraped, and what /livez and /readyz answer from.

    `state` goes starting → running → draining → stopped. `heartbeat` is `time.monotonic()`, written by the loop every
    250 ms. `unready` says why the worker takes no work at present, empty when it does.
    """

    __slots__ = ("agents", "heartbeat", "produced", "state", "unready", "version")

    def __init__(self, version: str) -> None:
        self.version = version
        self.state = "starting"
        self.heartbeat = 0.0
        self.unready = "not started"
        self.agents: dict[str, AgentSlots] = {}
        self.produced: dict[str, ProducedSlots] = {}

    def agent(self, agent: str, group: str, topics: tuple[str, ...], concurrency: int) -> AgentSlots:
        """Add the slots of an agent."""
        slots = self.agents[agent] = AgentSlots(agent, group, topics, concurrency)
        return slots

    def output(self, topic: str) -> ProducedSlots:
        """The slots of an output topic, made on first use."""
        slots = self.produced.get(topic)
        if slots is None:
            slots = self.produced[topic] = ProducedSlots(topic)
        return slots
