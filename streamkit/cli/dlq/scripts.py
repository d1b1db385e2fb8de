"""The user's script that makes new values: what it is given, and what it may return."""

from __future__ import annotations

import inspect
import json
import linecache
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Final, final

import msgspec

from streamkit.cli.destination import BadRecord
from streamkit.cli.dlq.values import Values
from streamkit.cli.failures import ImportFailed
from streamkit.errors import UsageError, named
from streamkit.record import UNSET, Headers, Unset

MODULE: Final = "streamkit_dlq_script"
LARGEST: Final = 256 * 1024  # bytes of a script: it has to fit into a record of the state topic


@final
@dataclass(frozen=True)
class DeadRecord:
    """What `transform(record)` is given. It returns the new value:

    - what JSON can say, or a dataclass, msgspec.Struct and the like: written as JSON;
    - a `str` in the place of a value that was no JSON: its text; `bytes`: as they are;
    - `record.TOMBSTONE`: the record is sent with a null value.

    None is no value, but for a record whose value was None: it is what a function returns that forgot to. To leave a
    record out, `raise Skip("why")` (of streamkit); it stays open, as it does after any other exception.
    """

    TOMBSTONE: ClassVar[Unset] = UNSET

    value: Any  # the decoded JSON; bytes if it is none; None if it is null
    raw: bytes | None  # the value as it is
    key: str | bytes | None  # text if it is UTF-8
    headers: Headers  # the user's own: pairs of name and bytes
    error_class: str | None
    error_message: str | None
    timestamp: datetime | None  # of the original record, in UTC
    id: str  # of the dead letter: partition:offset


class ScriptFailed(ImportFailed):
    """The script raised while it was loaded; the cause says what."""

    def __init__(self, path: str) -> None:
        UsageError.__init__(self, f"--script {path} cannot be loaded")


class Script:
    """One that was loaded from its text, whatever its file holds by now."""

    def __init__(self, path: str, text: str) -> None:
        """Raises UsageError for a script without a function `transform`, ScriptFailed if it raises."""
        self.path = path
        # The lines that a traceback shows are those of this text.
        linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
        module = sys.modules[MODULE] = ModuleType(MODULE)  # dataclasses look their annotations up there
        module.__file__ = path
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
        try:
            exec(compile(text, path, "exec"), module.__dict__)
        except (Exception, SystemExit) as error:
            raise ScriptFailed(path) from error
        transform = getattr(module, "transform", None)
        if not callable(transform) or inspect.iscoroutinefunction(transform) or inspect.isgeneratorfunction(transform):
            raise UsageError(f"--script {path} has to define a plain function: def transform(record)")
        self.transform: Callable[[DeadRecord], Any] = transform

    def where(self, error: BaseException) -> str:
        """What it raised, and in which line."""
        lines = [each.lineno for each in traceback.extract_tb(error.__traceback__) if each.filename == self.path]
        return f"line {lines[-1]}: {named(error)}" if lines else named(error)


def read_script(path: str) -> str:
    """Its text. Raises UsageError."""
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise UsageError(f"--script {path}: it has more than {LARGEST // 1024} KiB; import the rest from a module")
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"--script {path}: it is not UTF-8 ({error})") from error
    except OSError as error:
        raise UsageError(f"--script {path}: {error.strerror}") from error


def decoded(raw: bytes | None, values: Values) -> Any:
    """The value that a script is given."""
    shown = values.shown(raw)
    if shown.encoding not in ("json", "tombstone"):
        return raw
    try:
        return json.loads(shown.json)
    except (ValueError, RecursionError):  # a number of thousands of digits, or brackets without end
        return raw


def encoded(result: Any, raw: bytes | None, values: Values) -> bytes | None:
    """The value to send; the bytes that it was if the script has not changed it. Raises BadRecord."""
    before = decoded(raw, values)
    if result is None and before is not None:
        raise BadRecord("transform returned None: it has to return the value, or record.TOMBSTONE")
    if result is UNSET:
        return raw if raw is None else values.of_bytes(None)
    if isinstance(result, bytes):
        return raw if result == raw else values.of_bytes(result)
    if isinstance(result, str) and isinstance(before, bytes):
        return values.of_bytes(result.encode())
    if result is None:
        return raw
    text = _json(result)
    return raw if not isinstance(before, bytes) and text == _json(before) else values.of_json(text)


def _json(value: Any) -> bytes:
    try:
        # Not msgspec's: whole numbers of any size are kept.
        return json.dumps(
            value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=msgspec.to_builtins
        ).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRecord(f"transform returned what is no JSON: {error}") from error
