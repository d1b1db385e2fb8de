"""Points between the steps of moving a record, at which a worker process kills itself.

They are set from outside, by replacing functions of the engine in the test's own process: the engine knows none.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from streamkit.core.failures import ToDeadLetters
from streamkit.record import TopicPartition
from streamkit.runtime.copier import Copier, Copy
from streamkit.runtime.delivery import Delivery
from streamkit.runtime.failures import Failures
from streamkit.runtime.pool import Pool
from streamkit.runtime.publisher import OutputBatch, Publisher
from streamkit.transport.base import CommittedOffset
from streamkit.transport.kafka.consumer import KafkaConsumer

Step = Literal["decided", "put", "stored", "acknowledged", "released", "settled", "committed"]
Way = Literal["source to tier", "source to dead letters", "tier to dead letters", "tier to handled"]

STEPS: tuple[Step, ...] = get_args(Step)
KILLED = "killed.json"  # what was in hand, in the case's directory


class Victim(msgspec.Struct):
    """The record that was in hand: where it was read."""

    topic: str
    partition: int
    offset: int


class Failpoint(msgspec.Struct):
    """SIGKILL at the n-th passage of the point behind a step, by records that go a certain way.

    decided: its copy is not made yet. put: it is queued and nothing is sent. stored: the broker has it, and who sent it
    does not know. acknowledged: its lane still waits. released: it is not settled. settled: that is not committed.
    committed: it is.
    """

    step: Step
    way: Way
    passage: int = 1

    def set(self, directory: Path) -> None:
        _Trap(self, directory).set()


def place_of(delivery: Delivery) -> tuple[str, int, int]:
    """Where the record that runs was read, be it a tier."""
    mine = delivery.partition
    window: Any = mine.window  # which knows the offset while the record is not settled
    return mine.partition.topic, mine.partition.partition, window._offsets[delivery.sequence - window._first]


def _replace(owner: type, name: str, function: Callable[..., Any]) -> None:
    setattr(owner, name, function)


class _Trap:
    def __init__(self, point: Failpoint, directory: Path) -> None:
        self._point = point
        self._file = directory / KILLED
        self._left = point.passage
        self._settling: Delivery | None = None  # while its copy's acknowledgement is dealt with
        self._armed: Delivery | None = None  # settled, and so part of the next commit

    def set(self) -> None:
        match self._point.step:
            case "decided":
                self._before_put()
            case "put":
                self._after_put()
            case "stored":
                self._before_answer()
            case "acknowledged":
                self._before_moved()
            case "released":
                self._between_release_and_settling()
            case "settled" | "committed":
                self._arm()
                self._at_commit(after=self._point.step == "committed")

    def _passes(self, delivery: Delivery) -> None:
        self._left -= 1
        if not self._left:
            self._kill(delivery)

    def _kill(self, delivery: Delivery) -> None:
        self._file.write_bytes(msgspec.json.encode(Victim(*place_of(delivery))))
        os.kill(os.getpid(), signal.SIGKILL)

    def _goes(self, delivery: Delivery, dead: bool) -> bool:
        start = "source" if delivery.partition.tier is None else "tier"
        return self._point.way == f"{start} to {'dead letters' if dead else 'tier'}"

    def _before_put(self) -> None:
        put = Copier._put

        def watched(copier: Copier, copy: Copy) -> Any:
            if self._goes(copy.delivery, isinstance(copy.move, ToDeadLetters)):
                self._passes(copy.delivery)
            return put(copier, copy)

        _replace(Copier, "_put", watched)

    def _after_put(self) -> None:
        put = Copier._put

        def watched(copier: Copier, copy: Copy) -> Any:
            stored = put(copier, copy)
            if self._goes(copy.delivery, isinstance(copy.move, ToDeadLetters)):
                self._passes(copy.delivery)
            return stored

        _replace(Copier, "_put", watched)

    def _before_answer(self) -> None:
        answered: Any = Publisher._answered

        def watched(publisher: Publisher, future: Any, pipe: Any, deadline: Any) -> None:
            batch: OutputBatch | None = publisher._sent.get(future)
            if batch is not None and not future.cancelled() and future.exception() is None:
                for item in batch.items:
                    if type(item.owner) is Delivery and self._goes(item.owner, pipe.route.topic.endswith(".dlq")):
                        self._passes(item.owner)
            answered(publisher, future, pipe, deadline)

        _replace(Publisher, "_answered", watched)

    def _before_moved(self) -> None:
        moved = Failures._moved

        def watched(failures: Failures, copy: Copy) -> None:
            if self._goes(copy.delivery, isinstance(copy.move, ToDeadLetters)):
                self._passes(copy.delivery)
            moved(failures, copy)

        _replace(Failures, "_moved", watched)

    def _between_release_and_settling(self) -> None:
        moved, settle = Failures._moved, Failures._settle

        def watched(failures: Failures, copy: Copy) -> None:
            self._settling = copy.delivery if self._goes(copy.delivery, isinstance(copy.move, ToDeadLetters)) else None
            moved(failures, copy)
            self._settling = None

        def settled(failures: Failures, delivery: Delivery) -> None:
            if self._settling is delivery:
                self._passes(delivery)
            settle(failures, delivery)

        _replace(Failures, "_moved", watched)
        _replace(Failures, "_settle", settled)

    def _arm(self) -> None:
        if self._point.way == "tier to handled":
            self._arm_when_handled()
        else:
            self._arm_when_moved()

    def _arm_when_handled(self) -> None:
        handled = Pool._handled

        def watched(pool: Pool, delivery: Delivery, now: float) -> None:
            handled(pool, delivery, now)
            if delivery.partition.tier is not None:
                self._note_settled(delivery)

        _replace(Pool, "_handled", watched)

    def _arm_when_moved(self) -> None:
        moved = Failures._moved

        def watched(failures: Failures, copy: Copy) -> None:
            moved(failures, copy)
            if self._goes(copy.delivery, isinstance(copy.move, ToDeadLetters)):
                self._note_settled(copy.delivery)

        _replace(Failures, "_moved", watched)

    def _note_settled(self, delivery: Delivery) -> None:
        self._left -= 1
        if not self._left:
            self._armed = delivery

    def _at_commit(self, after: bool) -> None:
        commit = KafkaConsumer.commit

        async def watched(
            consumer: KafkaConsumer, offsets: Mapping[TopicPartition, CommittedOffset], generation: int
        ) -> None:
            settled = self._armed
            if settled is not None and not after:
                self._kill(settled)
            await commit(consumer, offsets, generation)
            if settled is not None:
                self._kill(settled)

        _replace(KafkaConsumer, "commit", watched)
