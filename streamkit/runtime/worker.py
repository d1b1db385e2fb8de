"""One process at work: connects, checks the topics, runs the agents, and ends them in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from typing import Any, Protocol

from streamkit.agent import Agent
from streamkit.errors import ConfigurationError, RecordFailed, StreamkitError, TransportError, UserCodeFailed
from streamkit.observe.slots import WorkerSlots
from streamkit.record import Record, TopicPartition
from streamkit.runtime.app_outputs import AppOutputs, SendToBrokers
from streamkit.runtime.lifespan import Lifespan
from streamkit.runtime.publisher import Publisher
from streamkit.runtime.runner import OnError, Runner
from streamkit.runtime.start_topics import Started, StartTopics
from streamkit.runtime.timers import end_timers, run_timer
from streamkit.runtime.waiting import unless
from streamkit.settings import Settings
from streamkit.timer import Timer
from streamkit.topic import PortHolder, Topic
from streamkit.transport.base import Admin, LogRange, Refused, TopicInfo, Transport

log = logging.getLogger(__name__)

BEAT_EVERY = 0.25
BLOCKED_AFTER = 0.1
IDLE_CHECK_EVERY = 0.5
ANSWERS_WITHIN = 60.0  # brokers that are silent for longer are away
RETRY_FIRST, RETRY_LAST = 0.5, 5.0


class Declared(Protocol):
    """What a worker needs of an app."""

    @property
    def name(self) -> str: ...
    @property
    def agents(self) -> Mapping[str, Agent[Any, Any]]: ...
    @property
    def topics(self) -> Mapping[str, Topic[Any, Any]]: ...
    @property
    def timers(self) -> Mapping[str, Timer]: ...
    @property
    def lifespan(self) -> Callable[[Any], AbstractAsyncContextManager[Any]] | None: ...
    @property
    def on_error(self) -> OnError | None: ...
    @property
    def port(self) -> PortHolder: ...


class Worker:
    """Runs agents until stopped, or until one of them fails: then the others are drained and the failure is raised."""

    def __init__(
        self,
        app: Declared,
        settings: Settings,
        transport: Transport,
        slots: WorkerSlots,
        *,
        agents: Collection[Agent[Any, Any]] | None = None,
        topics: Collection[Topic[Any, Any]] | None = None,
        create_topics: bool = False,
        wait_for_retries: bool = True,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`agents` and `topics` are all of the app's unless given. Topics are those that must exist: of the agents, and
        others that are sent to. Without `wait_for_retries`, what is to be tried again later is so at once. `wall` tells
        the seconds since 1970."""
        self._agents = app.agents.values() if agents is None else agents
        self._topics = StartTopics(
            app.name,
            self._agents,
            app.agents.values(),
            {topic.name: topic for topic in (app.topics.values() if topics is None else topics)},
            brokers=",".join(settings.brokers),
            create=create_topics,
        )
        self._port = app.port
        self._settings = settings
        self._transport = transport
        self._slots = slots
        self._wait_for_retries = wait_for_retries
        self._wall = wall
        self._timers = app.timers.values()
        self._lifespan = Lifespan(app.lifespan and partial(app.lifespan, app), app.port, self.fail)
        self._on_error = app.on_error
        self._runners: list[Runner] = []
        self._stopping = asyncio.Event()
        self._begun = False
        self._failure: Exception | None = None
        self._abandoned_timers = 0
        slots.vitals.startup_limit = settings.startup_limit
        self._app = AppOutputs(transport, settings, slots, self.fail)

    @property
    def abandoned(self) -> int:
        """Handlers, timers and lifespans that ignored their cancellation and still run."""
        return sum(runner.abandoned for runner in self._runners) + self._abandoned_timers + self._lifespan.abandoned

    @property
    def ready(self) -> bool:
        """The app is there, and every agent has joined its group."""
        return self._begun and all(runner.membership.joined for runner in self._runners)

    def settled_to(self, ranges: Mapping[TopicPartition, LogRange]) -> bool:
        """Whether everything up to these ends is settled by who has it, and what the app has sent is acknowledged."""
        return self._app.publisher.empty and all(runner.settled_to(ranges) for runner in self._runners)

    def unsettled(self, ranges: Mapping[TopicPartition, LogRange]) -> Counter[tuple[str, str]]:
        """By agent and topic, how far those that are assigned are from these ends, in offsets."""
        left: Counter[tuple[str, str]] = Counter()
        for runner in self._runners:
            for partition, mine in runner.membership.partitions.items():
                left[runner.agent.name, partition.topic] += ranges[partition].end - mine.window.committable
        return +left

    def stop(self) -> None:
        """Begin the ordered end of `run`: not ready, drain, commit, leave."""
        if not self._stopping.is_set():
            self._slots.vitals.stopping = True
            self._slots.state = "draining"
            self._slots.unready = "stopping"
            self._stopping.set()

    def fail(self, error: Exception) -> None:
        """Stop because of an error; the first one is raised by `run`."""
        if not isinstance(error, RecordFailed):
            self._report(error.cause if isinstance(error, UserCodeFailed) else error, None)
        if self._failure is None:
            self._failure = error
        else:
            log.error("another failure while stopping: %s", error)
        self.stop()

    async def run(self) -> None:
        """Raises the first failure, ConfigurationError among them, when everything has ended."""
        with rare_collections():
            await self._run()

    async def _run(self) -> None:
        admin = self._transport.admin()
        async with asyncio.TaskGroup() as background:
            beat = background.create_task(self._beat())
            try:
                started = await unless(self._stopping, self._start(admin))
                if started is not None:
                    await self._run_agents(admin, started)
            except Exception as error:
                self.fail(error)
            finally:
                self._port.current = None
                try:
                    await _close(admin)
                finally:
                    self._slots.state = "stopped"  # before the last beat: the watchdog looks no more
                    beat.cancel()
        if self._failure is not None:
            raise self._failure

    async def _run_agents(self, admin: Admin, started: Started) -> None:
        found = started.found
        report = self._report if self._on_error is not None else None
        self._runners = [
            Runner(
                agent,
                self._settings,
                self._transport,
                admin,
                self._slots,
                report,
                topics=started.of(agent),
                wait_for_retries=self._wait_for_retries,
                wall=self._wall,
            )
            for agent in self._agents
        ]
        publishers = [self._app.publisher, *(runner.publisher for runner in self._runners)]
        for publisher in publishers:
            for name, info in found.items():
                publisher.add_route(name, info.partitions, info.max_message_bytes)
        publishers += [runner.copies for runner in self._runners]
        self._port.current = SendToBrokers(self._app.emitter)
        async with asyncio.TaskGroup() as group:
            outputs = group.create_task(self._guarded(self._app.publisher.run()))
            try:
                if await self._lifespan.enter(self._stopping):
                    self._begun = True
                    watches = [
                        group.create_task(self._guarded(watch))
                        for watch in (self._watch(admin), self._follow_growth(publishers))
                    ]
                    await self._until_stopped(group, found)
                    for watch in watches:
                        watch.cancel()
            finally:
                await self._lifespan.leave(self._settings.drain_timeout)
            # What is sent from here on would never leave.
            self._port.current = None
            if not outputs.done():
                await self._app.flush()
            outputs.cancel()
            await asyncio.wait([outputs])  # or it might just be connecting again
            await self._app.publisher.stop()

    async def _until_stopped(self, group: asyncio.TaskGroup, found: Mapping[str, TopicInfo]) -> None:
        """Agents and timers, from their beginning to their end."""
        agents = [group.create_task(self._supervise(runner, found)) for runner in self._runners]
        # In no task group: it would wait for ever for a timer that ignores its cancellation.
        timers = [asyncio.create_task(run_timer(timer, self._stopping, self.fail)) for timer in self._timers]
        try:
            await self._stopping.wait()
        finally:
            self.stop()
            for runner in self._runners:
                runner.stop()
            if agents:  # a worker may have none, and only send
                await asyncio.wait(agents)
            self._abandoned_timers = await end_timers(timers, self._settings.drain_timeout)

    async def _guarded(self, work: Awaitable[None]) -> None:
        """Access that is denied while the worker runs ends it in order, and not by tearing down its task group."""
        try:
            await work
        except ConfigurationError as error:
            self.fail(error)

    async def _supervise(self, runner: Runner, found: Mapping[str, TopicInfo]) -> None:
        partitions = [
            TopicPartition(topic.name, number)
            for topic in runner.agent.topics
            for number in range(found[topic.name].partitions)
        ]
        try:
            await runner.run(partitions)
            if not self._stopping.is_set():
                raise self._ended(f"agent {runner.agent.name!r}")
        except Exception as error:
            if isinstance(error, TransportError):  # which cannot know whose it is
                error.add_note(f"This has stopped agent {runner.agent.name!r} of group {runner.agent.group!r}.")
            self.fail(error)

    def _report(self, error: BaseException, record: Record[Any, Any] | None) -> None:
        if self._on_error is None:
            return
        try:
            self._on_error(error, record)
        except Exception:
            where = {} if record is None else {name: getattr(record, name) for name in ("topic", "partition", "offset")}
            log.exception(
                "on_error raised while it was told of %r", error, extra={"event_name": "on_error_raised"} | where
            )

    # Start

    async def _reach(self, admin: Admin) -> None:
        """Connect, however long it takes; say so when it takes long."""
        brokers, backoff = ",".join(self._settings.brokers), RETRY_FIRST
        while True:
            try:
                async with asyncio.timeout(self._settings.connect_timeout):
                    await admin.start()
                return
            except Refused as error:
                raise ConfigurationError(f"the brokers at {brokers} refuse this client: {error}") from error
            except (TransportError, TimeoutError) as error:
                reason = str(error) or f"no answer within {self._settings.connect_timeout:g} s"
                self._slots.unready = f"cannot reach the brokers at {brokers}"
                log.error("cannot reach the brokers at %s: %s; trying again", brokers, reason)
                await _close(admin)
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, RETRY_LAST)

    async def _start(self, admin: Admin) -> Started:
        await self._reach(admin)
        deadline = asyncio.get_running_loop().time() + self._settings.start_timeout
        while True:
            try:
                return await self._topics.look_up(admin)
            except Refused:
                raise
            except (TransportError, TimeoutError) as error:
                reason = str(error) or "no answer"
                if asyncio.get_running_loop().time() > deadline:
                    limit = f"{self._settings.start_timeout:g} s (start_timeout)"
                    raise TransportError(f"the topics could not be looked up within {limit}: {reason}") from error
                log.warning("looking up the topics: %s; trying again", reason)
                await asyncio.sleep(RETRY_FIRST)

    # While it runs

    def _ended(self, what: str) -> Exception:
        """Of work that is to go on until the worker stops."""
        self._slots.vitals.ended = what
        return StreamkitError(f"{what} has ended by itself: an error in streamkit")

    async def _beat(self) -> None:
        loop, slots = asyncio.get_running_loop(), self._slots
        due: float | None = None
        while True:
            now = loop.time()
            if due is not None:
                slots.loop_lag.observe(max(0.0, now - due))
                slots.loop_blocked += max(0.0, now - due - BLOCKED_AFTER)
            slots.clock.set(self._wall(), now)
            slots.heartbeat = now
            if self._slots.state == "starting" and self.ready:
                self._slots.state = "running"
                self._slots.unready = ""
            elif self._slots.state == "starting" and self._port.current is not None:  # the topics are there
                self._slots.unready = "joining the groups" if self._begun else "beginning the app's lifespan"
            elif self._slots.state == "running":
                cut_off = [runner.agent.name for runner in self._runners if not runner.leased]
                self._slots.unready = f"out of touch with the group of {', '.join(cut_off)}" if cut_off else ""
            self._note_vitals(loop.time())
            due = loop.time() + BEAT_EVERY
            await asyncio.sleep(BEAT_EVERY)

    def _note_vitals(self, now: float) -> None:
        vitals = self._slots.vitals
        vitals.answered = max((runner.answered for runner in self._runners), default=0.0)
        if self._slots.state == "running":
            vitals.joined = True
        # Reaching the brokers takes as long as it takes, and looking up the topics has a limit of its own.
        held_up = self._port.current is None or (self._begun and now > vitals.answered + ANSWERS_WITHIN)
        if held_up or not vitals.starting_since:
            vitals.starting_since = now

    async def _watch(self, admin: Admin) -> None:
        """Stop when everything has been settled to its end for as long as `stop_when_idle` says."""
        patience = self._settings.stop_when_idle
        if patience is None:
            return
        loop = asyncio.get_running_loop()
        idle_since: float | None = None
        seen: dict[TopicPartition, LogRange] = {}
        while True:
            await asyncio.sleep(min(IDLE_CHECK_EVERY, patience / 2 or IDLE_CHECK_EVERY))
            ranges = await self._settled(admin)
            if ranges is None:
                idle_since = None
            # What came and was settled between two looks is work all the same.
            elif idle_since is None or any(seen.get(partition, now) != now for partition, now in ranges.items()):
                idle_since = loop.time()
            seen.update(ranges or {})
            if idle_since is not None and loop.time() - idle_since >= patience:
                log.info("everything is settled; stopping")
                self.stop()
                return

    async def _follow_growth(self, publishers: Sequence[Publisher]) -> None:
        """Use the partitions that output topics get while the worker runs."""
        while True:
            await asyncio.sleep(self._settings.metadata_max_age)
            for publisher in publishers:
                await publisher.look_for_growth()

    async def _settled(self, admin: Admin) -> Mapping[TopicPartition, LogRange] | None:
        """What is assigned to all agents together; None unless it is settled to its end."""
        if not self.ready:
            return None
        assigned: set[TopicPartition] = set()
        for runner in self._runners:
            assigned.update(runner.membership.partitions)
        try:
            ranges = await admin.log_ranges(assigned)
        except TransportError:
            return None
        return ranges if self.settled_to(ranges) else None


async def _close(admin: Admin) -> None:
    """What goes wrong here is said, and never takes the place of how the work itself went."""
    try:
        await admin.stop()
    except Exception:
        log.warning("a client of the brokers could not be closed in order", exc_info=True)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Let the cyclic collector run less often: records come in thousands, live for a moment, and form no cycles.

    With CPython's default it looks at the waiting ones again and again, which costs a tenth of the throughput.
    """
    before = gc.get_threshold()
    gc.set_threshold(max(20_000, before[0]), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
