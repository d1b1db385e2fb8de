"""Dead letters are replayed with the values that a script of the user makes of theirs."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from streamkit.cli.destination import BadRecord
from streamkit.cli.dlq import document
from streamkit.cli.dlq.document import content_of
from streamkit.cli.dlq.jobs import PAYLOAD
from streamkit.cli.dlq.jsonl import text_of
from streamkit.cli.dlq.replaying import Replaying, declared
from streamkit.cli.dlq.scripts import DeadRecord, Script, decoded, encoded, read_script
from streamkit.cli.dlq.selecting import Case, Unfit
from streamkit.cli.dlq.values import Values
from streamkit.cli.dlq.where import Where
from streamkit.cli.outgoing import Outgoing
from streamkit.cli.sender import Sender
from streamkit.core.cases import Status, StoredStatus
from streamkit.core.letters import Letter
from streamkit.core.replays import changed, kept_headers
from streamkit.record import EPOCH
from streamkit.retry import Skip
from streamkit.topic import Topic
from streamkit.transport.base import Admin

SAMPLES = 3
SAMPLE_LINES, SAMPLE_WIDTH = 20, 79


def script_arguments(path: str) -> dict[str, Any]:
    """What a job is told of a script: all of it, so that going on does the same. Raises UsageError."""
    text, whole = read_script(path), str(Path(path).resolve())
    Script(whole, text)
    return {"script": whole, "sha256": _digest(text), PAYLOAD: text}


class Transforming:
    status: StoredStatus = "replayed"
    of: frozenset[Status] = frozenset({"open"})
    done = "replayed"

    def __init__(self, arguments: Mapping[str, Any], place: Where, admin: Admin, sender: Sender) -> None:
        self._to = arguments["to"]
        self._place = place
        self._script = Script(arguments["script"], arguments[PAYLOAD])
        self._replaying = Replaying(arguments, place, admin, sender)
        self._values: dict[Topic[Any, Any] | None, Values] = {}
        self._samples: list[str] = []
        self._same = 0
        _say_if_changed(arguments["script"], arguments["sha256"])

    async def copy(self, case: Case) -> tuple[str, Outgoing]:
        letter = case.letter
        values = self._values_of(letter)
        value = await self._transformed(letter, values)
        copy = await self._replaying.copy(
            case._replace(letter=changed(letter, letter.key, value, kept_headers(letter)))
        )
        self._same += value == letter.value
        if len(self._samples) < SAMPLES and value != letter.value:
            self._samples.append(_sample(letter, value, values))
        return copy

    def notes(self) -> list[str]:
        same = [f"{self._same:,} are sent as they are: the script does not change them"] if self._same else []
        return [*self._samples, *same, *self._replaying.notes()]

    def warnings(self) -> list[str]:
        return self._replaying.warnings()

    def _values_of(self, letter: Letter) -> Values:
        topic = declared(self._place, self._to, letter)
        if topic not in self._values:
            self._values[topic] = Values(topic)
        return self._values[topic]

    async def _transformed(self, letter: Letter, values: Values) -> bytes | None:
        record = _record(letter, decoded(letter.value, values))
        try:
            # In a thread: however long it takes, the signs of life of this command must not wait.
            result = await asyncio.to_thread(self._run, record)
        except Skip as error:
            raise Unfit(f"the script leaves it out: {error}" if str(error) else "the script leaves it out") from error
        except (Exception, SystemExit) as error:
            raise Unfit(f"the script fails in {self._script.where(error)}") from error
        try:
            return encoded(result, letter.value, values)
        except BadRecord as error:
            raise Unfit(str(error)) from error

    def _run(self, record: DeadRecord) -> Any:
        with contextlib.redirect_stdout(sys.stderr):  # where --json does not write
            return self._script.transform(record)


def _record(letter: Letter, value: Any) -> DeadRecord:
    timestamp = letter.origin_timestamp
    key, encoding = text_of(letter.key)
    return DeadRecord(
        value=value,
        raw=letter.value,
        key=letter.key if encoding == "base64" else key,
        headers=kept_headers(letter),
        error_class=letter.error_class,
        error_message=letter.error_message,
        timestamp=None if timestamp is None else EPOCH + timedelta(milliseconds=timestamp),
        id=letter.id,
    )


def _sample(letter: Letter, value: bytes | None, values: Values) -> str:
    """The start of the difference."""
    before = content_of(letter)
    lines = document.diff(document.text(before, values), document.text(before._replace(value=value), values))
    shown = [f"{letter.id}:", *(_cut(line) for line in lines[2:][:SAMPLE_LINES])]
    return "\n".join([*shown, "  ..."] if len(lines) > SAMPLE_LINES + 2 else shown)


def _cut(line: str) -> str:
    return line if len(line) <= SAMPLE_WIDTH else line[: SAMPLE_WIDTH - 1] + "…"


def _say_if_changed(path: str, digest: str) -> None:
    try:
        same = _digest(Path(path).read_text(encoding="utf-8")) == digest
    except (OSError, UnicodeDecodeError):
        same = False
    if not same:
        click.echo(f"{path} is not what it was when this was begun; the script goes on as it was then", err=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
