"""What becomes of the records that fail: run again, moved to a tier or to the dead letters, held, or the end."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from math import inf
from typing import Any

from msgspec import UNSET

from streamkit.agent import Agent
from streamkit.core.copies import Cause
from streamkit.core.failures import HOLD, STOP, Decision, Failure, InPlace, ToDeadLetters, ToTier, decide
from streamkit.errors import Stage, named
from streamkit.observe.slots import AgentSlots
from streamkit.retry import Skip
from streamkit.runtime.copier import Copier, Copy
from streamkit.runtime.delivery import Bundle, Delivery, Owner
from streamkit.runtime.events import Fates
from streamkit.runtime.gate import Gate
from streamkit.runtime.intake import Undecodable
from streamkit.runtime.log_fields import about
from streamkit.runtime.parking import Parking
from streamkit.runtime.returned import again, attempt_of, origin_of
from streamkit.runtime.settlement import Settlement

log = logging.getLogger(__name__)

TELL_EVERY = 10.0  # seconds
EVERYBODY = 1_000_000  # as many tasks as wait
IN_PLACE = 0  # where those that run again without a tier are parked

Stop = Callable[[Owner, Stage, BaseException, bytes | None], None]


class Failures:
    """Decides for each record of an agent that has failed, and sees to it.

    Until that is done its lane waits: nothing passes it. What is in doubt stays unsettled, and so runs again.
    """

    def __init__(
        self,
        agent: Agent[Any, Any],
        pool: Fates,
        copier: Copier,
        gate: Gate,
        settlement: Settlement,
        slots: AgentSlots,
        *,
        stop: Stop,
        report: Callable[[Delivery, BaseException], None],
        case_moved: Callable[[Copy], None],
        wait_for_retries: bool,
        wall: Callable[[], float],
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`stop` is told of what ends the agent, `report` of each dead letter, `case_moved` of copies that are
        stored, some of which may be of replayed records."""
        self._agent = agent
        self._copier = copier
        self._gate = gate
        self._settlement = settlement
        self._slots = slots
        self._stop = stop
        self._report = report
        self._case_moved = case_moved
        self._wait_for_retries = wait_for_retries
        self._wall = wall
        self._chance = chance
        self._parked = Parking(self._run_again, wall)
        self._held: deque[list[Delivery]] = deque()  # by the breaker; those of a batch together
        self._told_at = -TELL_EVERY  # loop time
        self._untold = 0
        slots.held = lambda: sum(map(len, list(self._held)))
        gate.on_permit, gate.on_closed = self._let_one_start, self._let_all_go_on
        self._pool = pool
        settlement.on_succeeded, settlement.failing = gate.acknowledged, gate.failing
        self._only_stops = agent.retry is None and not agent.dead_letters

    def clear(self) -> None:
        """Nothing more may start: what waits here runs again where its partition is then."""
        self._parked.clear()
        self._copier.clear()
        self._held.clear()

    def failed(
        self,
        delivery: Delivery,
        stage: Stage,
        cause: BaseException,
        raw: bytes | None = None,
        *,
        late: bool = False,
        began: float = inf,
    ) -> None:
        self._note(stage, cause)
        self._gate.count([(delivery, cause)], began, refused=delivery.left)
        decision = self._decide(delivery, stage, cause, late)
        if decision is STOP:
            self._stop(delivery, stage, cause, raw)
        elif _runs_again(decision):
            self._repeat({delivery: decision})
        else:
            self._move(delivery, decision, Cause(cause, stage))

    def failed_batch(
        self,
        bundle: Bundle,
        errors: Mapping[int, BaseException] | BaseException,
        stage: Stage,
        *,
        late: bool = False,
        began: float = inf,
    ) -> None:
        if isinstance(errors, BaseException):
            # One run has failed, whatever it held.
            self._note(stage, errors)
            self._gate.count([(bundle.deliveries[0], errors)], began, refused=bundle.deliveries[0].left)
            self._fail_whole(bundle, errors, stage, late)
        else:
            for error in errors.values():
                self._note(stage, error)
            self._gate.count([(delivery, errors.get(place)) for place, delivery in enumerate(bundle.deliveries)], began)
            self._fail_parts(bundle, errors, stage)

    def failed_before(self, owner: Owner) -> None:
        error, owner.rejection = owner.rejection, None
        if error is None:
            return  # it has stopped the agent
        owner.failed = False
        if type(owner) is Bundle:
            self.failed_batch(owner, error, "sink")
        else:
            self.failed(owner, "sink", error)

    def rejected(self, owner: Owner, error: BaseException) -> None:
        """The brokers refuse an output of it for good."""
        if owner.failed:
            return
        if self._only_stops or (type(owner) is Bundle and not owner.deliveries):
            self._note("sink", error)
            self._stop(owner, "sink", error, None)
        elif self._pool.runs(owner):
            owner.failed, owner.rejection = True, error  # its lane is held: the handler must end first
        elif type(owner) is Bundle:
            self._fail_handled_batch(owner, error)
        elif not owner.handled or owner.left:
            record = owner.record
            self._note("sink", error)
            log.warning(
                "agent %s: %s[%d] offset %d: an output of a run that has failed is not stored: %s; the record goes on "
                "as its failure has it",
                self._agent.name,
                record.topic,
                record.partition,
                record.offset,
                error,
                extra=about(owner, "output_of_failed_run_refused"),
            )
            self._settle(owner)
        else:
            owner.left = True
            self.failed(owner, "sink", error)

    # Carrying out

    def _note(self, stage: Stage, error: BaseException) -> None:
        if not isinstance(error, Skip):  # which says that nothing is wrong
            self._slots.note_error(stage, error)

    def _decide(self, delivery: Delivery, stage: Stage, cause: BaseException, late: bool) -> Decision:
        failure = Failure(
            error=cause,
            stage=stage,
            tier=_tiers_passed(delivery),
            runs=attempt_of(delivery.record),
            in_place=delivery.in_place,
            again=not delivery.left,
            late=late,
        )
        held = self._gate.tripped
        return decide(self._agent.retry, bool(self._agent.dead_letters), failure, held=held, chance=self._chance())

    def _fail_whole(self, bundle: Bundle, error: BaseException, stage: Stage, late: bool) -> None:
        decisions = {delivery: self._decide(delivery, stage, error, late) for delivery in bundle.deliveries}
        if STOP in decisions.values():
            self._stop(bundle, stage, error, None)
            return
        bundle.handled = bundle.failed = True  # of its outputs, none settles or fails anything any more
        bundle.deliveries = ()
        _let_leave(bundle, decisions)
        self._carry_out(decisions, dict.fromkeys(decisions, Cause(error, stage)))

    def _fail_parts(self, bundle: Bundle, errors: Mapping[int, BaseException], stage: Stage) -> None:
        deliveries = bundle.deliveries
        decisions = {
            deliveries[place]: self._decide(deliveries[place], stage, errors[place], False) for place in errors
        }
        followers = _followers(deliveries, decisions)
        bundle.deliveries = [each for each in deliveries if each not in decisions and each not in followers]
        bundle.handled = bundle.failed = not bundle.deliveries
        for place, error in errors.items():
            if decisions[deliveries[place]] is STOP:
                self._stop(deliveries[place], stage, error, None)
        _let_leave(bundle, decisions)
        causes = {deliveries[place]: Cause(error, stage) for place, error in errors.items()}
        self._carry_out(decisions, causes, followers)

    def _fail_handled_batch(self, bundle: Bundle, error: BaseException) -> None:
        """Its line has gone on. Whose output was refused cannot be told, so all of it has failed."""
        for delivery in bundle.deliveries:
            delivery.left = True
        self.failed_batch(bundle, error, "sink")

    def _carry_out(
        self,
        decisions: Mapping[Delivery, Decision],
        causes: Mapping[Delivery, Cause],
        followers: Collection[Delivery] = (),
    ) -> None:
        repeated = {delivery: decision for delivery, decision in decisions.items() if _runs_again(decision)}
        for delivery, decision in decisions.items():
            if delivery not in repeated and decision is not STOP:
                self._move(delivery, decision, causes[delivery])
        if repeated:
            self._repeat(repeated, followers)

    def _move(self, delivery: Delivery, decision: Decision, cause: Cause) -> None:
        """Away from here, or out of the way."""
        if isinstance(decision, ToTier | ToDeadLetters):
            delivery.handled = False  # of one whose lane has gone on
            if isinstance(decision, ToDeadLetters):
                self._report(delivery, cause.error)
            else:
                self._tell(delivery, decision, cause.error)
            self._copier.send(delivery, decision, cause, self._moved)
        else:
            self._slots.processed_filtered += 1
            self._resolve(delivery)

    def _tell(self, delivery: Delivery, tier: ToTier, error: BaseException) -> None:
        """Of a record that is tried again later: of the first at once, and of many now and then."""
        now, record = asyncio.get_running_loop().time(), delivery.record
        if now < self._told_at + TELL_EVERY:
            self._untold += 1
            return
        log.info(
            "agent %s: %s[%d] offset %d is tried again in %.3g s, after %s%s",
            self._agent.name,
            record.topic,
            record.partition,
            record.offset,
            tier.wait,
            named(error),
            f" (and {self._untold:,} others since the last of these lines)" if self._untold else "",
            extra=about(delivery, "record_retried") | {"suppressed": self._untold},
        )
        self._told_at, self._untold = now, 0

    def _moved(self, copy: Copy) -> None:
        delivery, move = copy.delivery, copy.move
        if isinstance(move, ToTier):
            self._slots.processed_retried += 1
            self._slots.retries[move.number] += 1
            delivery.partition.retried.add(delivery.sequence)
        else:
            self._slots.processed_dead_lettered += 1
            self._slots.dead_letters[move.reason] += 1
            if move.reason == "too_large":  # it was on its way to a tier: nobody has been told yet
                self._report(delivery, copy.cause.error)
        if delivery.partition.cases:
            self._case_moved(copy)
        self._resolve(delivery)

    def _resolve(self, delivery: Delivery) -> None:
        """It counts as handled: its lane goes on."""
        if delivery.partition.window.closed:
            return  # its lane is another's already
        delivery.handled = True
        if not delivery.left:
            delivery.left = True
            self._pool.finished(delivery)
        self._settle(delivery)

    def _settle(self, delivery: Delivery) -> None:
        if delivery.handled and not delivery.outputs:
            self._settlement.note(delivery)
            self._settlement.soon()

    def _repeat(self, decisions: Mapping[Delivery, Decision], followers: Collection[Delivery] = ()) -> None:
        """Run these again, together, with those of their lanes that ran after them."""
        repeated = [*decisions, *followers]
        for delivery in repeated:
            delivery.handled = False  # of one whose lane has gone on: its other outputs must not settle it
        if any(delivery.partition.halted for delivery in repeated):  # they run again where their partition is then
            return
        waits = [decision.wait for decision in decisions.values() if isinstance(decision, InPlace)]
        failed_at = round(self._wall() * 1000)
        for delivery, decision in decisions.items():
            if isinstance(decision, InPlace):
                self._slots.retries_in_place += 1
                delivery.in_place += 1
                delivery.record = again(delivery.record, failed_at)
        if not waits:  # a run while the breaker is open does not count
            self._held.append(repeated)
            if self._gate.permitted:
                self._let_one_start()
            return
        if not self._wait_for_retries:
            self._run_again(repeated)
            return
        due = asyncio.get_running_loop().time() + max(waits)
        for delivery in repeated:
            delivery.ready_since = due
        self._parked.put(IN_PLACE, [(due, delivery) for delivery in repeated])

    def _let_one_start(self) -> None:
        """Those that have not failed yet come first: they show more."""
        while self._held and not self._pool.startable:  # one may have to wait behind another of its lane
            self._run_again(self._held.popleft())
        self._pool.wake(1)

    def _let_all_go_on(self) -> None:
        held, self._held = self._held, deque()
        for deliveries in held:
            self._run_again(deliveries)
        self._pool.wake(EVERYBODY)

    def _run_again(self, deliveries: Sequence[Delivery]) -> None:
        left = [delivery for delivery in deliveries if not delivery.partition.halted]
        for delivery in left:
            if type(delivery.argument) is not Undecodable:
                delivery.argument = UNSET
        self._pool.again([delivery for delivery in left if not delivery.left])
        rejoining = [delivery for delivery in left if delivery.left]
        for delivery in rejoining:
            delivery.left = False
        self._pool.rejoin(rejoining)


def _let_leave(bundle: Bundle, decisions: Mapping[Delivery, Decision]) -> None:
    """Those that are moved or passed over are not settled before what their batch has sent is acknowledged."""
    if bundle.outputs:
        bundle.leaving = [delivery for delivery, decision in decisions.items() if not _runs_again(decision)]
        for delivery in bundle.leaving:
            delivery.outputs += 1


def _tiers_passed(delivery: Delivery) -> int:
    """By the topic that it was read from. What was replayed into the first tier, and has not run but here, has all of
    them before it; its copy says that it has run, so that no header leads around in a circle."""
    tier, origin = delivery.partition.tier, origin_of(delivery.record)
    if tier is None or (origin.case is not None and origin.attempts == delivery.in_place):
        return 0
    return tier.number


def _runs_again(decision: Decision) -> bool:
    return decision is HOLD or isinstance(decision, InPlace)


def _followers(deliveries: Sequence[Delivery], decisions: Mapping[Delivery, Decision]) -> set[Delivery]:
    """Those that were handled in the batch after one of their key that is to run again: their order is kept."""
    keys: set[bytes] = set()
    followers: set[Delivery] = set()
    for delivery in deliveries:
        key, decision = delivery.record.key, decisions.get(delivery)
        if key is None:
            continue
        if decision is None and key in keys:
            followers.add(delivery)
        elif decision is not None and _runs_again(decision):
            keys.add(key)
    return followers
