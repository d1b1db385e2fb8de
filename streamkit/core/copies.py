"""The headers of copies: where a record came from, what failed, and when it is due."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from traceback import format_exception
from typing import NamedTuple

from streamkit.errors import Stage, message_of
from streamkit.record import HeaderList, Headers

PREFIX = "sk-"
MAX_MESSAGE = 1024  # bytes
MAX_STACK = 8 * 1024  # bytes
CUT = "\n...\n"

_DIGITS = 19  # of a number that fits in 64 bits
_CASE = re.compile(rb"[0-9]{1,10}:[0-9]{1,19}")


class Origin(NamedTuple):
    """The record of the source topic that a copy stands for. Times are milliseconds since 1970."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    attempts: int = 0  # runs that have ended
    first_failed: int | None = None
    failed: int | None = None
    due: int | None = None
    case: str | None = None  # the dead letter that it was replayed from: partition:offset

    @property
    def fresh(self) -> bool:
        """Replayed, and not run since."""
        return self.case is not None and self.attempts == 0


class Cause(NamedTuple):
    """Why a run failed, and in which part of it."""

    error: BaseException
    stage: Stage


def read_origin(source: str, tier: int, partition: int, offset: int, timestamp: int, headers: Headers) -> Origin:
    """What the record of a tier stands for. Anyone can write to a tier: what is missing or senseless in its headers is
    taken from its own place. Each tier that it has passed is a run at least; but one that was replayed may have passed
    none."""
    found = dict(headers)
    case = parse_case(found.get("sk-dlq-id"))

    def number(name: str) -> int | None:
        return parse_number(found.get(name))

    def number_or(name: str, default: int) -> int:
        known = number(name)
        return default if known is None else known

    return Origin(
        source,
        number_or("sk-origin-partition", partition),
        number_or("sk-origin-offset", offset),
        number_or("sk-origin-timestamp", timestamp),
        max(number_or("sk-attempt", tier), tier if case is None else 0),
        number("sk-first-failed-at"),
        number("sk-failed-at"),
        number("sk-due"),
        case,
    )


def read_case(headers: Headers) -> str | None:
    """The dead letter that a record was replayed from, as partition:offset; the only one of the framework's headers
    that is believed in a source topic."""
    case = None
    for name, value in headers:  # faster than a dict of them, and asked of every record that has headers
        if name == "sk-dlq-id":
            case = value
    return None if case is None else parse_case(case)


def user_headers(headers: Headers) -> HeaderList:
    """All that are not the framework's own, as they are."""
    return [header for header in headers if not header[0].startswith(PREFIX)]


def tier_headers(
    user: HeaderList,
    origin: Origin,
    *,
    group: str,
    due_ms: int,
    failed_ms: int,
    cause: Cause,
    brief: bool = False,
) -> HeaderList:
    """The headers of a copy for a tier; `origin.attempts` counts the run that failed. `brief` leaves out the error's
    message, for a record that is too large with it."""
    headers = [*user, *_common(origin, group, failed_ms, cause), ("sk-due", b"%d" % due_ms)]
    if not brief:
        headers.append(("sk-error-message", _message(cause.error)))
    return headers


def dead_letter_headers(
    user: HeaderList,
    origin: Origin,
    *,
    group: str,
    failed_ms: int,
    cause: Cause,
    stack: bool = True,
    message: bool = True,
    omitted: str = "",
) -> HeaderList:
    """The headers of a dead letter; `origin.attempts` counts the run that failed.

    For a record that is too large with all of them: without `stack` or `message`; and `omitted` names what the copy
    itself lacks.
    """
    headers: HeaderList = [*user, *_common(origin, group, failed_ms, cause)]
    if message:
        headers.append(("sk-error-message", _message(cause.error)))
    if stack:
        headers.append(("sk-error-stack", _stack(cause.error)))
    if omitted:
        headers.append(("sk-omitted", _text(omitted)))
    return headers


def _common(origin: Origin, group: str, failed_ms: int, cause: Cause) -> HeaderList:
    first_failed = failed_ms if origin.first_failed is None else origin.first_failed
    headers: HeaderList = [
        ("sk-origin-topic", origin.topic.encode()),
        ("sk-origin-partition", b"%d" % origin.partition),
        ("sk-origin-offset", b"%d" % origin.offset),
        ("sk-origin-timestamp", b"%d" % origin.timestamp),
        ("sk-group", group.encode()),
        ("sk-attempt", b"%d" % origin.attempts),
        ("sk-first-failed-at", b"%d" % first_failed),
        ("sk-failed-at", b"%d" % failed_ms),
        ("sk-stage", cause.stage.encode()),
        ("sk-error-class", _class_name(type(cause.error))),
    ]
    if origin.case is not None:
        headers.append(("sk-dlq-id", origin.case.encode()))
    return headers


def parse_number(value: bytes | None) -> int | None:
    """A number as `str` writes it, that fits in 64 bits."""
    if value is None or len(value) > _DIGITS or not value.isdigit():  # of bytes: only 0 to 9
        return None
    number = int(value)
    return number if number < 1 << 63 else None


def parse_case(value: bytes | None) -> str | None:
    if value is None or not _CASE.fullmatch(value):
        return None
    partition, offset = map(parse_number, value.split(b":"))
    return None if partition is None or offset is None else f"{partition}:{offset}"


def _text(value: str) -> bytes:
    # An error may hold text that is no Unicode at all, such as the name of a file.
    return value.encode(errors="backslashreplace")


def _class_name(cls: type[BaseException]) -> bytes:
    return _qualified(cls.__module__, cls.__qualname__)


@lru_cache(maxsize=128)
def _qualified(module: str, name: str) -> bytes:
    return _start(name if module == "builtins" else f"{module}.{name}", MAX_MESSAGE)


def _message(error: BaseException) -> bytes:
    return _start(message_of(error), MAX_MESSAGE)


def _stack(error: BaseException) -> bytes:
    try:
        lines: Sequence[str] = format_exception(error)
    except Exception as failed:  # whatever is in a chain of exceptions, its record must get to the dead letters
        lines = (f"<its traceback raised {type(failed).__qualname__}>",)
    return _ends("".join(lines), MAX_STACK)


def _start(text: str, limit: int) -> bytes:
    """As much of it as fits in `limit` bytes, whole characters."""
    data = _text(text[:limit])
    return data if len(data) <= limit else data[:limit].decode(errors="ignore").encode()


def _ends(text: str, limit: int) -> bytes:
    """All of it if it fits in `limit` bytes, else its start and its end."""
    data = _text(text)
    if len(data) <= limit:
        return data
    half = (limit - len(CUT)) // 2
    ends = data[:half], data[-half:]
    return CUT.join(end.decode(errors="ignore") for end in ends).encode()
