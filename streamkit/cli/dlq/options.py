"""What the commands for dead letters have in common: whose letters, and which of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
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
    click.option("--agent", metavar="NAME", help="Of this agent; without TARGET: group."),
    brokers_option,
)
_FILTERS = (
    click.option("--error", metavar="REGEX", help='Found in "class: message".'),
    click.option("--class", "error_class", metavar="NAME", help="The error's class, with or without module."),
    click.option("--key", metavar="TEXT", help="The record's key."),
    click.option("--from", "since", metavar="TIME", help="Failed since: 2h (ago), or ISO 8601."),
    click.option("--to", "until", metavar="TIME", help="Failed before."),
    click.option("--attempts", metavar="N", help="Runs: 3, '>3', '<=2'."),
    click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="A header; may be repeated."),
    click.option(
        "--status",
        "statuses",
        multiple=True,
        metavar="S",
        type=click.Choice(STATUSES),
        help="May be repeated.",
    ),
)


def where_options(function: Function) -> Function:
    return _with(_WHERE, function)


def filter_options(function: Function) -> Function:
    return _with(_FILTERS, function)


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

    def selection(self, group: str | None) -> Selection:
        """The same, understood. Raises UsageError that names the option."""
        from streamkit.cli.dlq.times import parse_time
        from streamkit.core.selection import Selection, parse_attempts, parse_error, parse_header

        now = time.time_ns() // 1_000_000
        return Selection(
            error=_parsed("--error", self.error, parse_error),
            error_class=self.error_class,
            key=None if self.key is None else os.fsencode(self.key),
            since=_parsed("--from", self.since, lambda text: parse_time(text, now)),
            until=_parsed("--to", self.until, lambda text: parse_time(text, now)),
            attempts=_parsed("--attempts", self.attempts, parse_attempts),
            headers=tuple(_parsed("--header", text, parse_header) for text in self.headers),
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
