"""What becomes of replayed records: their workers tell it in the state topic."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Literal

from streamkit.cli.dlq.reading import State
from streamkit.cli.dlq.selecting import Case
from streamkit.core.cases import Outcome, Runs, run_of
from streamkit.record import ConsumedRecord
from streamkit.transport.base import Reader

EVERY = 0.1  # seconds


class Watch:
    """Follows cases from before they are sent until their handler has run."""

    def __init__(self, state: State, reader: Reader) -> None:
        self._state = state
        self._reader = reader
        self._latest = Runs[Outcome | Literal["sent"]]()
        self._failed = Runs[bool]()
        state.on_record = self._heard
        self.pending = 0  # sent, and not heard of
        self.handled = 0
        self.failed = 0  # again, at least once

    def expect(self, cases: Iterable[Case]) -> None:
        """These are about to be sent."""
        for case in cases:
            run = case.id, case.letter.group or ""
            if self._latest.get(*run) is None:
                self._latest.put(*run, "sent")
                self.pending += 1

    async def look(self) -> None:
        """Take in what has been told until now."""
        await self._state.read(self._reader)

    async def answered(self, within: float, stop: asyncio.Event, check: Callable[[], None]) -> bool:
        """Wait until nothing is pending; False if for `within` seconds nothing was heard, or `stop` is set."""
        pending, heard = self.pending, time.monotonic()
        while self.pending and not stop.is_set():
            if self.pending != pending:
                pending, heard = self.pending, time.monotonic()
            elif time.monotonic() - heard > within:
                return False
            check()
            await asyncio.sleep(EVERY)
            await self.look()
        return not self.pending

    def _heard(self, record: ConsumedRecord) -> None:
        run = run_of(record.key or b"")
        if run is None:
            return
        before, after = self._latest.get(*run), self._state.cases.run(*run)
        if before is None or after is None:
            return
        self.pending -= before == "sent"
        self.handled += (after == "handled") - (before == "handled")
        if after != "handled" and not self._failed.get(*run):
            self._failed.put(*run, True)
            self.failed += 1
        self._latest.put(*run, after)
