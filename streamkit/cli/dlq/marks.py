"""`streamkit dlq archive`, `restore` and `discard`: they change what is said of dead letters, and send nothing."""

from __future__ import annotations

from typing import Any

import click

from streamkit.cli.dlq.change_options import change_options, run_change
from streamkit.cli.dlq.options import hidden_filter_options, where_options
from streamkit.cli.options import Command, epilog


def _command(name: str, example: str, doc: str) -> click.Command:
    @click.argument("words", nargs=-1, metavar="[TARGET] [ID]...")
    @where_options
    @hidden_filter_options
    @change_options
    def run(**given: Any) -> None:
        raise SystemExit(run_change(name, given))

    run.__doc__ = doc
    return click.command(name, cls=Command, epilog=epilog(example))(run)


archive = _command(
    "archive",
    "streamkit dlq archive shop --class BadOrder --reason 'worth nothing'",
    """Set open dead letters aside: by ID, filters or --all.

    They are no longer open, and `restore` opens them again. Filters are those of `search`: --error, --class, --key,
    --from, --until, --attempts, --header, --status.
    """,
)
restore = _command(
    "restore",
    "streamkit dlq restore shop 0:12 0:15",
    """Open archived or discarded letters: by ID, filters or --all.

    Filters are those of `search`: --error, --class, --key, --from, --until, --attempts, --header, --status.
    """,
)
discard = _command(
    "discard",
    "streamkit dlq discard shop --until 2026-01-31 --reason refunded",
    """Give up open or archived letters: by ID, filters or --all.

    They stay in the topic until `purge` or its retention removes them. Filters are those of `search`: --error, --class,
    --key, --from, --until, --attempts, --header, --status.
    """,
)
