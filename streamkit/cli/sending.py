"""One run of `streamkit send`, from its lines to its exit code."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import click

from streamkit.cli.destination import BadRecord
from streamkit.cli.failures import exit_code, plain_report
from streamkit.cli.lines import lines_of
from streamkit.cli.outgoing import Form, Outgoing
from streamkit.cli.progress import progress
from streamkit.cli.sender import connected
from streamkit.cli.signals import SIGNALLED
from streamkit.cli.transports import transport_for
from streamkit.errors import StreamkitError, UsageError
from streamkit.runtime.waiting import unless
from streamkit.setting_values import MIB
from streamkit.settings import Settings


class BadLine(StreamkitError):
    """A line that cannot become a record of the topic."""


class Recipient(Protocol):
    put_count: int
    acknowledged: int

    async def put(self, topic: str, record: Outgoing) -> None: ...
    async def flush(self) -> None: ...


class Checked:
    """Takes records and sends nothing: `--dry-run`."""

    def __init__(self) -> None:
        self.put_count = self.acknowledged = 0

    async def put(self, topic: str, record: Outgoing) -> None:
        self.put_count = self.acknowledged = self.put_count + 1

    async def flush(self) -> None: ...


@dataclass
class Sending:
    """`records` or the lines of `descriptor`, called `source`, go to `topic`. `rate` is in records a second."""

    topic: str
    settings: Settings
    creation: str  # the command that creates the topic
    form: Form
    records: list[Outgoing] = field(default_factory=list[Outgoing])
    descriptor: int | None = None
    source: str = ""
    rate: float | None = None
    skip_bad: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        self._bad = 0
        self._stopping = asyncio.Event()
        self._signal: signal.Signals | None = None

    def stop(self, number: signal.Signals) -> None:
        """Send no more, but what is queued."""
        self._signal = number
        self._stopping.set()

    async def run(self) -> int:
        """The exit code. What went wrong has been reported; raises StreamkitError when nothing was begun."""
        started, failure = time.monotonic(), None
        async with self._recipient() as recipient, progress(lambda: recipient.acknowledged):
            try:
                await unless(self._stopping, self._feed(recipient))
            except StreamkitError as error:
                failure = error
            try:
                await recipient.flush()
            except StreamkitError as error:
                failure = failure or error
        click.echo(self._summary(recipient, time.monotonic() - started), err=True)
        if failure is not None:
            plain_report(failure)
            return exit_code(failure)
        if self._signal is not None:
            return SIGNALLED + self._signal
        return 1 if self._bad else 0

    @asynccontextmanager
    async def _recipient(self) -> AsyncIterator[Recipient]:
        if self.dry_run:
            yield Checked()
            return
        async with connected(self.topic, self.settings, transport_for(self.settings), self.creation) as sender:
            yield sender

    async def _feed(self, recipient: Recipient) -> None:
        for record in self.records:
            try:
                await recipient.put(self.topic, record)
            except BadRecord as error:
                raise UsageError(str(error)) from error
        if self.descriptor is not None:
            await self._feed_lines(recipient, self.descriptor)

    async def _feed_lines(self, recipient: Recipient, descriptor: int) -> None:
        pace, number = Pace(self.rate), 0
        try:
            async for lines in lines_of(descriptor, max(16 * MIB, 8 * self.settings.max_request_size)):
                for line in lines:
                    number += 1
                    if line.strip():
                        await self._put(recipient, number, line.removesuffix(b"\r"))
                        await pace.keep(recipient.put_count)
                await asyncio.sleep(0)  # a file never makes one wait, and the publisher has to come to its turn
        except BadRecord as error:
            raise self._bad_line(number + 1, error) from error
        except OSError as error:
            raise StreamkitError(f"{self.source}: {error.strerror}, after line {number}") from error

    async def _put(self, recipient: Recipient, number: int, line: bytes) -> None:
        try:
            await recipient.put(self.topic, self.form.read(line))
        except BadRecord as error:
            if not self.skip_bad:
                raise self._bad_line(number, error) from error
            self._bad += 1
            click.echo(str(self._bad_line(number, error)), err=True)

    def _bad_line(self, number: int, error: BadRecord) -> BadLine:
        return BadLine(f"{self.source}:{number}: {error}")

    def _summary(self, recipient: Recipient, seconds: float) -> str:
        sent = recipient.acknowledged
        records = f"{sent:,} record{'' if sent == 1 else 's'}"
        text = f"checked {records} for {self.topic}" if self.dry_run else f"sent {records} to {self.topic}"
        text += f" in {seconds:.1f} s"
        if lost := recipient.put_count - sent:
            text += f"; {lost:,} more may or may not have arrived"
        if self._bad:
            text += f"; {self._bad:,} bad line{'' if self._bad == 1 else 's'} left out"
        return text


class Pace:
    """At most `rate` records a second."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._started = time.monotonic()

    async def keep(self, count: int) -> None:
        """Wait until the next after `count` is due."""
        if self._rate is not None:
            wait = self._started + count / self._rate - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
