"""Records that have become settled, on their way to the windows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

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

    def note(self, owner: Owner) -> None:
        """It is handled, and everything it sent is acknowledged."""
        mine = owner.partition
        for delivery in owner.deliveries if type(owner) is Bundle else (owner,):
            mine.settling.append(delivery.sequence)
            mine.bytes -= delivery.size

    def acknowledged(self, items: Sequence[OutputItem]) -> None:
        """The brokers have these outputs."""
        for item in items:
            owner = item.owner
            if owner is None:
                continue
            mine = owner.partition
            mine.outputs -= 1
            owner.outputs -= 1
            if not owner.outputs and owner.handled and not owner.failed:
                if type(owner) is Bundle:
                    self.note(owner)
                else:  # the commonest case, without a call
                    mine.settling.append(owner.sequence)
                    mine.bytes -= owner.size
        self.settle()
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
                settled += mine.window.settle_all(mine.settling)
                mine.settling.clear()
        if settled:
            self.on_settled(settled)

    def to_commit(self) -> list[AssignedPartition]:
        """The assigned partitions, with everything settled that has been noted."""
        self.settle()
        return list(self._partitions().values())
