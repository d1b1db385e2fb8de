"""Records that have become settled, on their way to the windows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping, MutableMapping, Sequence

from streamkit.record import TopicPartition
from streamkit.runtime.delivery import AssignedPartition, Bundle, Owner
from streamkit.runtime.publisher import OutputItem


class Settlement:
    """Notes what is settled record by record, and moves the windows for many at a time.

    What is noted in a step of the loop reaches the windows in that step or the next; a commit never waits for it,
    because it asks for the partitions here.
    """

    def __init__(self, partitions: Callable[[], Mapping[TopicPartition, AssignedPartition]]) -> None:
        self._partitions = partitions
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
        settled = 0
        for mine in self._partitions().values():
            if mine.settling:
                if mine.cases:
                    self.on_cases(mine)
                settled += mine.window.settle_all(mine.settling)
                mine.settling.clear()
        if settled:
            self.on_settled(settled)

    def to_commit(self) -> list[AssignedPartition]:
        """The assigned partitions, with everything settled that has been noted."""
        self.settle()
        return list(self._partitions().values())
