"""What the commands for dead letters have in common: whose letters, and which of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import click

from streamkit.cli.options import brokers_option
from streamkit.core.cases import STATUSES
from streamkit.errors import UsageError

if TYPE_CHECKING:
    from streamkit.core.selection import Selection

Function = Callable[..., Any]

_WHERE = (
    click.option("--topic", metavar="T", help="The topic: source or dead letters."),
    click.option("--agent", metavar="NAME", help="Only this agent's; without TARGET its group."),
    brokers_option,
)
_FILTERS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("--error",), {"metavar": "REGEX", "help": 'Found in "class: message".'}),
    (("--class", "error_class"), {"metavar": "NAME", "help": "The error's class, with or without module."}),
    (("--key",), {"metavar": "TEXT", "help": "The record's key."}),
    (("--from", "since"), {"metavar": "TIME", "help": "Failed since: 2h (ago), or ISO 8601."}),
    (("--until", "until"), {"metavar": "TIME", "help": "Failed before."}),
    (("--attempts",), {"metavar": "N", "help": "Runs: 3, '>3', '<=2'."}),
    (("--header", "headers"), {"multiple": True, "metavar": "NAME=VALUE", "help": "A header; may be repeated."}),
    (
        ("--status", "statuses"),
        {"multiple": True, "metavar": "STATUS", "type": click.Choice(STATUSES), "help": f"{', '.join(STATUSES)}."},
    ),
)


def where_options(function: Function) -> Function:
    return _with(_WHERE, function)


def filter_options(function: Function) -> Function:
    """`--to` is `--until`, too: nothing is sent anywhere."""
    options = [click.option(*_and_to(names), **given) for names, given in _FILTERS]
    return _with(tuple(options), function)


def hidden_filter_options(function: Function) -> Function:
    """The same for commands that change something and whose list of options is long without them."""
    return _with(tuple(click.option(*names, hidden=True, **given) for names, given in _FILTERS), function)


def _and_to(names: tuple[str, ...]) -> tuple[str, ...]:
    return ("--to", *names) if names[0] == "--until" else names


def json_option(help: str) -> Callable[[Function], Function]:
    return click.option("--json", "as_json", is_flag=True, help=help)


def _with(options: tuple[Callable[[Function], Function], ...], function: Function) -> Function:
    for option in reversed(options):
        function = option(function)
    return function


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which letters, as text from the command line."""

    error: str | None = None
    error_class: str | None = None
    key: str | None = None
    since: str | None = None
    until: str | None = None
    attempts: str | None = None
    headers: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()

    @property
    def any(self) -> bool:
        return any(getattr(self, each.name) for each in fields(self) if each.name != "statuses")

    @classmethod
    def of_json(cls, given: Mapping[str, Any]) -> Filters:
        """What `vars` gave, after a way through JSON."""
        known: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
        }
        return cls(**known)

    def as_of(self, now: int) -> Filters:
        """With times that stay what they are. Raises UsageError."""
        from streamkit.cli.dlq.times import iso

        selection = self.selection(None, now)
        return replace(self, since=iso(selection.since), until=iso(selection.until))

    def selection(self, group: str | None, now: int | None = None, ids: Sequence[str] = ()) -> Selection:
        """The same, understood. Raises UsageError that names the option."""
        from streamkit.cli.dlq.times import parse_time
        from streamkit.core.selection import Selection, parse_attempts, parse_error, parse_header

        now = time.time_ns() // 1_000_000 if now is None else now
        return Selection(
            error=_parsed("--error", self.error, parse_error),
            error_class=self.error_class,
            key=None if self.key is None else os.fsencode(self.key),
            since=_parsed("--from", self.since, lambda text: parse_time(text, now)),
            until=_parsed("--until", self.until, lambda text: parse_time(text, now)),
            attempts=_parsed("--attempts", self.attempts, parse_attempts),
            headers=tuple(_parsed("--header", text, parse_header) for text in self.headers),
            ids=frozenset(ids) or None,
            group=group,
            statuses=frozenset(status for status in STATUSES if status in self.statuses),
        )


def _parsed(option: str, text: str | None, parse: Callable[[str], Any]) -> Any:
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{option} {text!r}: {error}") from error
