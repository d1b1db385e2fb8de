"""Records that have become settled, on their way to the windows."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Mapping, MutableMapping, Sequence

from streamkit.observe.slots import AgentSlots
from streamkit.record import TopicPartition
from streamkit.runtime.delivery import AssignedPartition, Bundle, Owner
from streamkit.runtime.publisher import OutputItem
from streamkit.runtime.stamps import FORGET_AT

MANY = 32  # records that are settled together: looking each of them up costs more than sorting them


class Settlement:
    """Notes what is settled record by record, and moves the windows for many at a time.

    What is noted in a step of the loop reaches the windows in that step or the next; a commit never waits for it,
    because it asks for the partitions here.
    """

    def __init__(self, partitions: Callable[[], Mapping[TopicPartition, AssignedPartition]], slots: AgentSlots) -> None:
        self._partitions = partitions
        self._slots = slots
        self._end_to_end = slots.end_to_end
        self._scheduled = False
        self.on_settled: Callable[[int], None] = lambda records: None
        self.on_acknowledged: Callable[[], None] = lambda: None
        self.on_cases: Callable[[AssignedPartition], None] = lambda mine: None
        self.failing: MutableMapping[Hashable, float] = {}  # the breaker's keys whose last run has failed
        # Of those that had outputs: how many, and how many of them are the breaker's probes.
        self.on_succeeded: Callable[[int, int], None] = lambda records, probes: None

    def note(self, owner: Owner) -> None:
        """It is handled, and everything it sent is acknowledged."""
        for delivery in owner.deliveries if type(owner) is Bundle else (owner,):
            mine = delivery.partition  # of a batch, some may be of tiers
            mine.settling.append(delivery.sequence)
            mine.bytes -= delivery.size
            if delivery.record.headers and delivery.sequence not in mine.retried:
                mine.traced.append(delivery.record)

    def let_go(self, bundle: Bundle) -> None:
        """What the batch has sent is answered: those that were taken out of it wait for it no more."""
        for delivery in bundle.leaving:
            delivery.outputs -= 1
            if not delivery.outputs and delivery.handled and not delivery.failed:
                self.note(delivery)
        bundle.leaving = ()
        self.soon()

    def acknowledged(self, items: Sequence[OutputItem]) -> None:
        """The brokers have these outputs."""
        succeeded = probes = 0
        for item in items:
            owner = item.owner
            if owner is None:
                continue
            mine = owner.partition
            mine.outputs -= 1
            owner.outputs -= 1
            if type(owner) is Bundle and owner.leaving and not owner.outputs:
                self.let_go(owner)
            if not owner.outputs and owner.handled and not owner.failed:
                if type(owner) is Bundle:
                    self.note(owner)
                    succeeded += len(owner.deliveries)
                    probes += len(owner.deliveries) if owner.probe else 0
                    for delivery in owner.deliveries if self.failing else ():
                        self.failing.pop(delivery.record.key, None)
                else:  # the commonest case, without a call
                    if not owner.left:  # else its copy counts, and not what its run had sent
                        succeeded += 1
                        probes += owner.probe
                        if self.failing:
                            self.failing.pop(owner.record.key, None)
                    mine.settling.append(owner.sequence)
                    mine.bytes -= owner.size
                    if owner.record.headers and owner.sequence not in mine.retried:
                        mine.traced.append(owner.record)
        self.settle()
        if succeeded:
            self.on_succeeded(succeeded, probes)
        self.on_acknowledged()

    def soon(self) -> None:
        """Settle once for all handlers that end in this step of the loop."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self.settle)

    def settle(self) -> None:
        """Move the windows by what was noted."""
        self._scheduled = False
        settled, now = 0, 0.0
        for mine in self._partitions().values():
            if mine.settling:
                if mine.cases:
                    self.on_cases(mine)
                changed = mine.window.settle_all(mine.settling)
                settled += changed
                if not now:
                    now = asyncio.get_running_loop().time() + self._slots.clock.since_1970
                self._observe(mine, changed, now)
                mine.settling.clear()
        if settled:
            self.on_settled(settled)

    def _observe(self, mine: AssignedPartition, changed: int, now: float) -> None:
        """How old those are that are settled now (in seconds since 1970; so many of them were not settled before), and
        whether the window's head has moved."""
        slots, end_to_end, settling = self._slots, self._end_to_end, mine.settling
        if mine.retried:
            settling = [sequence for sequence in settling if sequence not in mine.retried]
            mine.retried.difference_update(mine.settling)
        first, stamps = mine.stamps.held
        head = mine.window.head
        if len(settling) < MANY:
            # On the hot path: handlers that wait are settled one by one.
            counts, bounds, latest = end_to_end.counts, end_to_end.bounds, mine.event_timestamp
            for sequence in settling:
                stamp = stamps[sequence - first] if sequence >= first else 0
                if stamp > 0:  # else of a producer that states none
                    age = now - stamp / 1000
                    counts[bisect_left(bounds, age)] += 1
                    if age > 0:
                        end_to_end.sum += age
                    if stamp > latest:
                        latest = stamp
        else:
            # Nothing is settled ahead, so it is all that the head has passed: copied in one piece.
            in_a_row = not mine.window.ahead and head - mine.head == changed == len(settling)
            moments = mine.stamps.between(mine.head, head) if in_a_row else mine.stamps.of(settling)
            moments.sort()
            if moments and moments[0] <= 0:
                moments = moments[bisect_right(moments, 0) :]
            end_to_end.observe_ages(moments, now * 1000, 1000)
            latest = moments[-1] if moments else 0
        if latest > mine.event_timestamp:
            mine.event_timestamp = latest
            slots.event_timestamp = max(slots.event_timestamp, latest)
        if mine.traced:
            for record in mine.traced:
                if record.timestamp > 0:
                    end_to_end.trace(max(0.0, now - record.timestamp / 1000), record.headers, now)
            mine.traced.clear()
        if head != mine.head:
            mine.head, mine.progressed_at = head, now
            if head - first >= FORGET_AT:
                mine.stamps.forget(head)
                if mine.dues is not None:
                    mine.dues.forget(head)

    def to_commit(self) -> list[AssignedPartition]:
        """The assigned partitions, with everything settled that has been noted."""
        self.settle()
        return list(self._partitions().values())
