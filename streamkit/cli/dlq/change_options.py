"""What the commands that change something have in common on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from streamkit.cli.dlq.options import Filters, Function, json_option
from streamkit.errors import UsageError

if TYPE_CHECKING:
    from streamkit.cli.dlq.where import Where

_ALL = click.option("--all", "every", is_flag=True, help="All that have the status that the command is for.")
_CONFIRM = (
    click.option("--reason", metavar="TEXT", default="", help="Why; `audit` shows it."),
    click.option("--dry-run", is_flag=True, help="Only show what would be done."),
    click.option("--yes", "-y", is_flag=True, help="Do not ask."),
    json_option("The result as one object."),
)


def change_options(function: Function) -> Function:
    return _ALL(confirm_options(function))


def confirm_options(function: Function) -> Function:
    """Of what is asked before it is done, and audited."""
    for option in reversed(_CONFIRM):
        function = option(function)
    return function


def run_change(command: str, given: dict[str, Any], more: Mapping[str, Any] | None = None) -> int:
    """The exit code. `given` holds the words and all options of the command line but the command's own; `more` are
    these, as JSON."""
    from streamkit.cli.dlq.changing import Change, change
    from streamkit.cli.dlq.ids import target_and_ids
    from streamkit.cli.dlq.where import where

    target, ids = target_and_ids(given.pop("words"))
    place: Where = where(target, given.pop("topic"), given.pop("agent"), given.pop("brokers"))
    options = {name: given.pop(name) for name in ("reason", "dry_run", "yes", "as_json")}
    every = given.pop("every")
    filters = Filters(**given)
    for name, text in (("--reason", options["reason"]), ("--key", filters.key), ("--header", "".join(filters.headers))):
        check_text(name, text)
    filters.selection(None)  # says what is wrong with them before anything is connected
    return change(place, Change(command=command, ids=ids, filters=filters, all=every, more=more or {}, **options))


def check_text(option: str, text: str | None) -> None:
    """What is written down, for `resume` and `audit`. Raises UsageError."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{option} {text!r}: not UTF-8, so it cannot be written down; give IDs") from error
