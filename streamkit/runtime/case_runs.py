"""Tells the state topics of dead letters how the runs of replayed ones have ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from typing import Any, Final

import msgspec

from streamkit.agent import Agent
from streamkit.core.cases import Outcome, run_key, run_value
from streamkit.core.copies import read_case
from streamkit.core.failures import ToTier
from streamkit.errors import ConfigurationError, TransportError
from streamkit.retry import state_topic
from streamkit.runtime.copier import Copy
from streamkit.runtime.delivery import AssignedPartition, Delivery
from streamkit.runtime.returned import attempt_of, case_of
from streamkit.runtime.waiting import asked_to_end
from streamkit.settings import Settings
from streamkit.transport.base import Admin, BatchBuilder, Producer, RecordTooLarge, Refused, TopicMissing

log = logging.getLogger(__name__)

MOST_WAITING: Final = 10_000  # runs
REMEMBERED: Final = 10_000  # cases
GATHER_FOR, ENOUGH = 0.1, 100  # seconds; runs that wait for no others
FIRST_BACKOFF, LAST_BACKOFF = 0.2, 5.0  # seconds
PATIENCE = 60.0  # seconds of failures until what waits for a topic is forgotten
AGAIN_AFTER = 60.0  # seconds until a topic that was given up is tried again
STOP_WITHIN = 2.0  # seconds

Run = tuple[str, str]  # the latest of a case: the state topic, and the case


class CaseRuns:
    """How the runs of cases have ended, on their way to the state topics.

    A *case* is a record that was replayed from a dead letter. What is told is information and nothing else: no record
    waits for it, and of what cannot be told soon the oldest is forgotten. Nothing is connected before the first case.
    """

    def __init__(
        self,
        agent: Agent[Any, Any],
        settings: Settings,
        admin: Admin,
        make_producer: Callable[[], Producer],
        wall: Callable[[], float],
    ) -> None:
        """`wall` tells the seconds since 1970."""
        self._agent = agent
        self._settings = settings
        self._admin = admin
        self._make_producer = make_producer
        self._wall = wall
        self._topics = {source: state_topic(letters) for source, letters in agent.dead_letters.items()}
        self._producer: Producer | None = None  # connected
        self._found: set[str] = set()  # topics that are there
        self._waiting: dict[Run, bytes] = {}  # the oldest first
        self._told: dict[Run, int] = {}  # when the last run ended, in ms since 1970
        self._given_up: dict[str, float] = {}  # topics, until this loop time
        self._warned: set[str] = set()
        self._wake = asyncio.Event()
        self.lost = 0

    def note(self, mine: AssignedPartition, deliveries: Sequence[Delivery]) -> None:
        """Remember those that are cases, until they are settled. They are as they were read."""
        source = mine.partition.topic if mine.tier is None else mine.tier.source
        if source not in self._topics:
            return
        for delivery in deliveries:
            headers = delivery.record.headers
            for name, _ in headers:
                if name == "sk-dlq-id":
                    if read_case(headers) is not None:
                        mine.cases[delivery.sequence] = delivery
                    break

    def settled(self, mine: AssignedPartition) -> None:
        """What is to be settled now has been handled, unless it has `moved` before."""
        for sequence in mine.settling:
            delivery = mine.cases.pop(sequence, None)
            if delivery is not None:
                self._tell(delivery, "handled", round(self._wall() * 1000))

    def moved(self, copy: Copy) -> None:
        """The brokers have this copy."""
        mine = copy.delivery.partition
        delivery = mine.cases.pop(copy.delivery.sequence, None)
        if delivery is None or mine.window.closed:  # it runs again where its partition is now
            return
        if isinstance(copy.move, ToTier):
            self._tell(delivery, "retried", copy.failed_at)
        else:
            self._tell(delivery, "dead", copy.failed_at, copy.place)

    def _tell(self, delivery: Delivery, outcome: Outcome, at: int, letter: tuple[int, int] | None = None) -> None:
        record = delivery.record
        topic, case = self._topics[record.topic], case_of(record)
        assert case is not None
        run = topic, case
        # A copy may have run before its acknowledgement came: what has come of it counts.
        if at < self._told.get(run, at):
            return
        self._told.pop(run, None)
        self._told[run] = at
        if len(self._told) > REMEMBERED:
            del self._told[next(iter(self._told))]
        if asyncio.get_running_loop().time() < self._given_up.get(topic, -inf):
            self.lost += 1
            return
        self._waiting.pop(run, None)
        value = run_value(group=self._agent.group, outcome=outcome, attempt=attempt_of(record), at=at, letter=letter)
        self._waiting[run] = msgspec.json.encode(value)
        self._wake.set()
        if len(self._waiting) > MOST_WAITING:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            self._lose(oldest[0], 1, f"more than {MOST_WAITING:,} wait")

    async def run(self) -> None:
        """Raises nothing."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._send_all(gather_for=GATHER_FOR)

    async def stop(self) -> None:
        """Send what waits, if that can be done soon, and close."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_WITHIN):
                    await self._send_all(gather_for=0)
            if self._waiting:
                self._lose(next(iter(self._waiting))[0], len(self._waiting), "the agent has stopped")
        finally:
            await self._disconnect()

    async def _send_all(self, gather_for: float) -> None:
        clock, backoff = asyncio.get_running_loop().time, FIRST_BACKOFF
        well_at = clock()
        while self._waiting:
            if len(self._waiting) < ENOUGH:  # a request for each would cost the agent as much as running the record
                await asyncio.sleep(gather_for)
            topic = next(iter(self._waiting))[0]
            error = await self._attempt(topic)
            if error is None:
                well_at, backoff = clock(), FIRST_BACKOFF
                continue
            await self._disconnect()
            hopeless = isinstance(error, TopicMissing | Refused | RecordTooLarge | ConfigurationError)
            if hopeless or clock() >= well_at + PATIENCE:
                self._give_up(topic, error)
            else:
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, LAST_BACKOFF)

    async def _attempt(self, topic: str) -> BaseException | None:
        """Send as much of what waits for a topic as fits into a batch; what went wrong. Raises nothing of its own."""
        try:
            if topic not in self._found:  # sending to one that is missing would ask for it again and again
                if topic not in await self._admin.topics([topic]):
                    raise TopicMissing(topic)
                self._found.add(topic)
            if self._producer is None:
                producer = self._make_producer()
                await producer.start()
                self._producer = producer
            await self._send(topic, self._producer)
        except asyncio.CancelledError as error:
            if asked_to_end(error):
                raise
            return error  # a client library's own task was cancelled
        except Exception as error:  # whatever it is, the agent does not end for it
            return error
        return None

    async def _send(self, topic: str, producer: Producer) -> None:
        async with asyncio.timeout(self._settings.send_timeout):
            batch = producer.batch(self._settings.batch_size)
            sent = self._fill(batch, topic)
            if not sent:  # forgotten meanwhile: too many wait
                return
            stored = await producer.send(batch, topic, 0)
            stored.add_done_callback(lambda done: done.cancelled() or done.exception())  # or asyncio would report it
            await asyncio.wait([stored])
        if stored.cancelled():
            raise TransportError("the producer was closed")
        stored.result()
        for run, value in sent.items():
            if self._waiting.get(run) is value:  # else a later one of the case waits now
                del self._waiting[run]

    def _fill(self, batch: BatchBuilder, topic: str) -> dict[Run, bytes]:
        sent: dict[Run, bytes] = {}
        moment = round(self._wall() * 1000)
        for run, value in self._waiting.items():
            if run[0] == topic:
                key = run_key(run[1], self._agent.group)
                if batch.append(key=key, value=value, timestamp=moment, headers=[]) is None:
                    break
                sent[run] = value
        return sent

    def _give_up(self, topic: str, error: BaseException) -> None:
        """For a while: it may be made anew, or allowed."""
        self._given_up[topic] = asyncio.get_running_loop().time() + AGAIN_AFTER
        forgotten = [run for run in self._waiting if run[0] == topic]
        for run in forgotten:
            del self._waiting[run]
        self._lose(topic, len(forgotten), str(error) or repr(error))

    def _lose(self, topic: str, runs: int, why: str) -> None:
        self.lost += runs
        if topic not in self._warned:
            self._warned.add(topic)
            log.warning(
                "agent %s: %s is not told how replayed records have fared: %s. The records are handled all the same",
                self._agent.name,
                topic,
                why,
            )

    async def _disconnect(self) -> None:
        producer, self._producer = self._producer, None
        self._found.clear()
        if producer is None:
            return
        try:
            await producer.stop()
        except asyncio.CancelledError as error:
            if asked_to_end(error):
                raise
        except Exception as error:  # as in `_attempt`
            log.debug("agent %s: closing a producer: %r", self._agent.name, error)
