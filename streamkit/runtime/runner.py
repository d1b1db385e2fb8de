"""One agent at work: its parts, how they end, and what happens when one fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Any

from streamkit.agent import Agent
from streamkit.core.breaker import Breaker, BreakerLimits
from streamkit.core.commits import CommitSchedule
from streamkit.core.sparing import Sparing
from streamkit.errors import LostRange, RecordFailed, Stage, StreamkitError, TransportError, UserCodeFailed, named
from streamkit.observe.slots import AgentSlots, WorkerSlots
from streamkit.record import Record, TopicPartition
from streamkit.runtime.batch_pool import BatchPool
from streamkit.runtime.case_runs import CaseRuns
from streamkit.runtime.committer import Committer
from streamkit.runtime.copier import Copier
from streamkit.runtime.delivery import AssignedPartition, Bundle, Delivery, Owner
from streamkit.runtime.emitter import Emitter
from streamkit.runtime.failures import Failures
from streamkit.runtime.gate import Gate
from streamkit.runtime.intake import Intake
from streamkit.runtime.invoke import as_far_as_decodable
from streamkit.runtime.log_fields import about, of_record
from streamkit.runtime.loops import Loops
from streamkit.runtime.membership import Membership
from streamkit.runtime.pool import Pool
from streamkit.runtime.publisher import OutputItem, Publisher, Route
from streamkit.runtime.readings import readings
from streamkit.runtime.retry_topics import AgentTopics
from streamkit.runtime.settlement import Settlement
from streamkit.runtime.waiting import unless
from streamkit.settings import Settings
from streamkit.shapes import Shape
from streamkit.transport.base import Admin, LogRange, Transport

log = logging.getLogger(__name__)

OnError = Callable[[BaseException, Record[Any, Any] | None], object]

WATCH_EVERY = 0.25
TOLD_AT_ONCE, TOLD_EVERY = 20, 10.0  # dead letters in the log, and seconds
GONE_AFTER = 3.0  # as often a missing topic is looked for, not at once: metadata may be wrong for a moment (R32)


_POOLS: dict[Shape, type[Pool | BatchPool | Loops]] = {
    "value": Pool,
    "record": Pool,
    "batch": BatchPool,
    "loop": Loops,
}


class Runner:
    """Runs one agent until it is stopped or fails.

    Whatever fails stops the agent in order: what runs is drained, what is settled is committed, the group is left;
    `run` then raises the first failure.
    """

    def __init__(
        self,
        agent: Agent[Any, Any],
        settings: Settings,
        transport: Transport,
        admin: Admin,
        slots: WorkerSlots,
        on_error: OnError | None = None,
        *,
        topics: AgentTopics,
        wait_for_retries: bool = True,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`topics` are those of the agent's copies. `wall` tells the seconds since 1970."""
        tiers = topics.tiers
        self.agent = agent
        self._on_error = on_error
        self._admin = admin
        self._brokers = ",".join(settings.brokers)
        self._session_timeout = settings.session_timeout
        self._log_payloads = settings.log_payloads
        self._dead_letters_told = Sparing(TOLD_AT_ONCE, TOLD_EVERY)
        self._vitals = slots.vitals
        sources = tuple(topic.name for topic in agent.topics)
        self._topics = (*sources, *tiers)
        self.slots: AgentSlots = slots.agent(agent.name, agent.group, sources, agent.concurrency)
        self.slots.add_tiers({name: tier.number for name, tier in tiers.items()})
        breaker = _breaker(agent, settings)
        self.slots.declare(
            tiers=len(agent.retry.tier_waits) if agent.retry else 0,
            in_place=bool(agent.retry and agent.retry.times_in_place),
            dead_letters=bool(agent.dead_letters),
            breaker=breaker is not None,
        )
        self._consumer = transport.consumer(agent.group)
        self._settlement = Settlement(self._assigned, self.slots)
        self.publisher = Publisher(
            transport.producer,
            settings,
            slots,
            nothing_ready=lambda: not self._pool.ready,
            acknowledged=self._settlement.acknowledged,
            rejected=self._rejected,
        )
        # Apart from the outputs: a dead letter topic that takes nothing must not hold them up.
        self.copies = Publisher(
            transport.producer,
            settings,
            slots,
            nothing_ready=lambda: True,
            acknowledged=lambda items: self._copier.acknowledged(items),
            rejected=lambda item, route, error: self._copier.rejected(item, route, error),
            placed=lambda items, partition, first: self._copier.placed(items, partition, first),
        )
        for name, info in topics.routes.items():
            # Not bounded by max_request_size: what came in must go out again, with its headers.
            self.copies.add_route(name, info.partitions, info.max_message_bytes, info.max_message_bytes)
        self.emitter = Emitter(
            self.publisher, agent.sink, wall, agent=agent.name, group=agent.group, log_payloads=settings.log_payloads
        )
        self._gate = Gate(agent, breaker, self.slots, wall)
        self.permit, self.failing = self._gate.permit, self._gate.failing
        self.returned, self.succeeded = self._gate.returned, self._gate.succeeded
        self._committer = Committer(
            self._consumer,
            CommitSchedule(settings.commit_interval, settings.commit_records),
            self.slots,
            self._settlement.to_commit,
            timeout=settings.request_timeout,
            refused=self.fail,
        )
        self._pool: Pool | BatchPool | Loops = _POOLS[agent.shape](
            agent, self.emitter, self._settlement, self.slots, self
        )
        self._copier: Copier = Copier(agent, self.copies, self.slots, wall, self.progressed, lambda: self._pool.plenty)
        self._case_runs = CaseRuns(agent, settings, admin, transport.producer, wall)
        self._failures = Failures(
            agent,
            self._pool,
            self._copier,
            self._gate,
            self._settlement,
            self.slots,
            stop=self._stop_at,
            report=self._report,
            case_moved=self._case_runs.moved,
            wait_for_retries=wait_for_retries,
            wall=wall,
        )
        self.membership = Membership(
            agent,
            settings,
            self._consumer,
            admin,
            self._pool.queue,
            self._committer,
            self.emitter,
            self.slots,
            tiers=tiers,
            opened=self._pool.opened,
            halted=self._halted,
            running=self._pool.running,
        )
        self._intake = Intake(
            agent,
            settings,
            self._consumer,
            self.membership,
            self._pool,
            self._committer,
            self.slots,
            note_cases=self._case_runs.note if agent.dead_letters else None,
            tripped=lambda: self._gate.tripped,
            wait_for_retries=wait_for_retries,
            wall=wall,
        )
        self.slots.oldest_due = self._intake.returning.oldest_due
        self._settlement.on_settled = self._settled
        self._settlement.on_cases = self._case_runs.settled
        self._settlement.on_acknowledged = self.membership.progressed
        self.failed, self.failed_batch = self._failures.failed, self._failures.failed_batch
        self.failed_before = self._failures.failed_before
        self.slots.in_flight = lambda: self._pool.in_flight
        self.slots.last_heartbeat = self._last_heartbeat
        self.slots.active_keys = lambda: self._pool.keys
        self.slots.partitions = partial(readings, self.membership, self._pool, self._copier, self.slots.clock)
        if agent.shape == "loop":
            self.slots.concurrency_limit = lambda: sum(tp.topic in sources for tp in self.slots.assigned)
        self._stopping = asyncio.Event()
        self._failure: Exception | None = None
        self.abandoned = 0  # handlers that ignored their cancellation

    async def run(self, partitions: Collection[TopicPartition]) -> None:
        """Raises the agent's failure. These partitions of its topics are known to exist."""
        self.slots.up = True
        try:
            if await unless(self._stopping, self._connect(partitions)):
                await self._work()
        finally:
            self.slots.up = False
            self._gate.stop()
            self.abandoned = await self._pool.end()
            await self.publisher.stop()
            await self.copies.stop()
            await self._consumer.stop()
            await self._case_runs.stop()  # last: others need not wait for it
        if self._failure is not None:
            raise self._failure

    async def _connect(self, partitions: Collection[TopicPartition]) -> bool:
        """True when that is done."""
        await self._consumer.start()
        if self.agent.sink is not None:
            await self.publisher.start()
        await self.membership.look_back(partitions)
        return True

    async def _work(self) -> None:
        """From joining the group to leaving it."""
        self._pool.start()
        async with asyncio.TaskGroup() as group:
            engine = [
                group.create_task(self._guarded(work))
                for work in (
                    self._intake.run(),
                    self._committer.run(),
                    self.publisher.run(),
                    self.copies.run(),
                    self._case_runs.run(),
                    self._watch(),
                )
            ]
            self._consumer.subscribe(self._topics, self.membership)
            await self._stopping.wait()
            await self.membership.leave()
            for task in engine:
                task.cancel()

    def stop(self) -> None:
        """Begin the ordered end of `run`."""
        self._stopping.set()

    def fail(self, error: Exception) -> None:
        """Stop because of an error; the first one counts."""
        if self._failure is None:
            self._failure = error
        elif error is not self._failure:
            log.error("agent %s: another failure while stopping: %s", self.agent.name, error)
        self.membership.halt()
        self._stopping.set()

    def settled_to(self, ranges: Mapping[TopicPartition, LogRange]) -> bool:
        """Whether everything up to these ends is settled, or nothing is assigned. Not while that changes."""
        return self.membership.gate.is_set() and all(
            mine.window.committable >= ranges[partition].end if partition in ranges else False
            for partition, mine in self.membership.partitions.items()
        )

    # Events of the pool

    @property
    def lease(self) -> float:
        return self._consumer.lease

    def progressed(self) -> None:
        self.membership.progressed()

    def starved(self) -> None:
        self._intake.hungry.set()
        self._copier.hurry()

    @property
    def tripped(self) -> bool:
        return self._gate.tripped

    @property
    def counted(self) -> bool:
        return self._gate.counted

    def _halted(self) -> None:
        """Nothing more of what is assigned may start."""
        self._intake.returning.clear()
        self._failures.clear()

    def _report(self, delivery: Delivery, cause: BaseException) -> None:
        """Of a record that becomes a dead letter."""
        record = delivery.record
        untold = self._dead_letters_told.told(asyncio.get_running_loop().time())
        if untold is not None:
            log.warning(
                "agent %s: %s[%d] offset %d goes to %s: %s%s",
                self.agent.name,
                record.topic,
                record.partition,
                record.offset,
                self.agent.dead_letters[record.topic],
                named(cause),
                f" (and {untold:,} others since the last of these lines)" if untold else "",
                extra=about(delivery, "record_dead_lettered") | {"suppressed": untold},
            )
        if self._on_error is not None:
            self._on_error(cause, as_far_as_decodable(self.agent, record))

    def _stop_at(self, owner: Owner, stage: Stage, cause: BaseException, raw: bytes | None = None, /) -> None:
        """It stays where it is: unsettled, and never released, so its key is blocked. The agent stops."""
        owner.handled = owner.failed = True
        self.progressed()
        records = [owner.record] if type(owner) is Delivery else [each.record for each in owner.deliveries]
        if not records:  # of a loop, outside of its records
            self.fail(UserCodeFailed(f"an output of agent {self.agent.name!r} outside of a record", cause))
            return
        self.slots.processed_error += len(records)
        record = records[0]
        failure = RecordFailed(
            self.agent.name,
            stage,
            record.topic,
            record.partition,
            record.offset,
            record.key,
            cause,
            group=self.agent.group,
            brokers=self._brokers,
            raw=raw,
            batch=0 if type(owner) is Delivery else len(records),
        )
        failure.__cause__ = cause
        failure.log_fields = of_record(record, payloads=self._log_payloads)
        if self._on_error is not None:
            self._on_error(cause, as_far_as_decodable(self.agent, record))
        self.fail(failure)

    # Settling

    def _assigned(self) -> Mapping[TopicPartition, AssignedPartition]:
        return self.membership.partitions

    def _settled(self, records: int) -> None:
        self._committer.settled(records)
        self._intake.room.set()
        self.progressed()

    def _rejected(self, item: OutputItem, route: Route, error: TransportError) -> None:
        owner = item.owner
        if owner is None:
            self.fail(error)
            return
        owner.outputs -= 1
        owner.partition.outputs -= 1
        if type(owner) is Bundle and owner.leaving and not owner.outputs:
            self._settlement.let_go(owner)
        if owner.partition.window.closed:
            # The record runs again where its partition is now, and fails there if it must.
            log.warning(
                "agent %s: an output of a record that was given back: %s",
                self.agent.name,
                error,
                extra=about(owner, "late_output_refused"),
            )
        else:
            self._failures.rejected(owner, error)
        self.progressed()

    # Watching

    @property
    def answered(self) -> float:
        """Loop time of a broker's last answer to its consumer."""
        return self._consumer.answered

    def _last_heartbeat(self) -> float | None:
        heard = self._consumer.lease - self._session_timeout
        return self.slots.clock.since_1970 + heard if heard > 0 else None

    @property
    def leased(self) -> bool:
        """Whether the group is known to count this member in."""
        return asyncio.get_running_loop().time() < self._consumer.lease

    async def _watch(self) -> None:
        """What no event tells: a lease that has run out or come back, a topic that is gone."""
        loop = asyncio.get_running_loop()
        missing_since: dict[str, float] = {}
        while True:
            await asyncio.sleep(WATCH_EVERY)
            if self.leased:
                self._pool.wake(1)
            for topic in self._topics:
                count = self._consumer.partition_count(topic)
                if count:
                    self.slots.topic_partitions[topic] = count
                    missing_since.pop(topic, None)
                    continue
                self.slots.topic_partitions.pop(topic, None)
                if loop.time() - missing_since.setdefault(topic, loop.time()) >= GONE_AFTER:
                    missing_since[topic] = loop.time()
                    await self._check_topic(topic)

    async def _check_topic(self, topic: str) -> None:
        try:
            found = await self._admin.topics([topic])
        except TransportError:
            return
        if topic not in found:
            reached = {tp.partition: offset for tp, offset in self.membership.reached().items() if tp.topic == topic}
            first, offset = min(reached.items(), default=(0, 0))
            lost = LostRange(self.agent.group, topic, first, committed=offset, start=None, end=None)
            if self.agent.on_gap == "stop":
                raise lost
            log.warning("%s", lost)  # it may be made anew

    async def _guarded(self, work: Awaitable[None]) -> None:
        """Every failure ends the agent in order, and not by tearing down its task group."""
        try:
            await work
            self._vitals.ended = f"a part of agent {self.agent.name!r}"
            raise RuntimeError("a task that must go on until the agent stops has ended")
        except StreamkitError as error:
            self.fail(error)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # A client library's task was cancelled, not this one: a task group would take that for a quiet end.
            self.fail(TransportError("the transport's work was cancelled from within"))
        except Exception as error:
            log.exception("agent %s: unexpected error in the engine", self.agent.name)
            self.fail(error)


def _breaker(agent: Agent[Any, Any], settings: Settings) -> Breaker | None:
    """Only for agents that would go on failing: the others stop at the first failure."""
    if not settings.breaker_failures or (not agent.dead_letters and not (agent.retry and agent.retry.tier_waits)):
        return None
    return Breaker(
        BreakerLimits(
            failures=settings.breaker_failures,
            keys=settings.breaker_keys,
            ratio=settings.breaker_ratio,
            window=settings.breaker_window,
        )
    )
