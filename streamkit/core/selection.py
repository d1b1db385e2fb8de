"""Which dead letters a command is about."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from streamkit.core.cases import Status
from streamkit.core.copies import parse_case
from streamkit.core.letters import Letter

_ATTEMPTS = re.compile(r"\s*(<=|>=|<|>|=|)\s*([0-9]{1,18})\s*", re.ASCII)
_COMPARE: Final[dict[str, Callable[[int, int], bool]]] = {
    "": operator.eq,
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Attempts(NamedTuple):
    """A bound on how often the handler ran."""

    sign: str
    number: int

    def holds(self, attempts: int | None) -> bool:
        return attempts is not None and _COMPARE[self.sign](attempts, self.number)


def parse_attempts(text: str) -> Attempts:
    """A number of runs, alone or after one of < <= = >= >. Raises ValueError for anything else."""
    match = _ATTEMPTS.fullmatch(text)
    if match is None:
        raise ValueError('not a number of attempts: write "3", ">3", ">=3", "<3" or "<=3"')
    return Attempts(match[1], int(match[2]))


def parse_header(text: str) -> tuple[str, bytes]:
    """The name and value of "NAME=VALUE"; the value may hold further "=". Raises ValueError without a name or "="."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError("not a header: write NAME=VALUE")
    return name, value.encode(errors="surrogateescape")


def parse_error(text: str) -> re.Pattern[str]:
    """A regular expression. Raises ValueError that says what is wrong with it, and where."""
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None


def parse_id(text: str) -> str:
    """A dead letter as partition:offset. Raises ValueError for anything else."""
    case = parse_case(text.encode(errors="replace"))
    if case is None:
        raise ValueError('not the ID of a dead letter: write its partition and offset, as in "0:1234"')
    return case


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Dead letters that fit everything that is given; with nothing given, all of them."""

    error: re.Pattern[str] | None = None  # found in "class: message"
    error_class: str | None = None  # with its module, or the end of it: "TimeoutError" fits "asyncio.TimeoutError"
    key: bytes | None = None
    since: int | None = None  # ms since 1970: failed, else appended, then or later
    until: int | None = None  # and earlier than this
    attempts: Attempts | None = None
    headers: tuple[tuple[str, bytes], ...] = ()  # the user's or the framework's own: all of them are there
    ids: frozenset[str] | None = None  # partition:offset
    group: str | None = None  # of the agent that gave it up
    statuses: frozenset[Status] = field(default_factory=frozenset)  # none: any

    def matches(self, letter: Letter, status: Status) -> bool:
        """Whether a dead letter of this status fits."""
        return (
            (not self.statuses or status in self.statuses)
            and (self.ids is None or letter.id in self.ids)
            and (self.group is None or letter.group == self.group)
            and (self.key is None or letter.key == self.key)
            and (self.attempts is None or self.attempts.holds(letter.attempts))
            and self._in_time(letter)
            and self._has_headers(letter)
            and self._has_error(letter)
        )

    def _in_time(self, letter: Letter) -> bool:
        if self.since is None and self.until is None:
            return True
        when = letter.when
        return (self.since is None or when >= self.since) and (self.until is None or when < self.until)

    def _has_headers(self, letter: Letter) -> bool:
        return not self.headers or all(header in letter.headers for header in self.headers)

    def _has_error(self, letter: Letter) -> bool:
        if self.error_class is not None and not _is_class(letter.error_class, self.error_class):
            return False
        return self.error is None or bool(self.error.search(error_line(letter)))


def error_line(letter: Letter) -> str:
    """The error as Python writes it: "class: message"."""
    return ": ".join(part for part in (letter.error_class, letter.error_message) if part)


def _is_class(name: str | None, wanted: str) -> bool:
    return name is not None and (name == wanted or name.endswith(f".{wanted}"))
