"""`streamkit dlq transform`: dead letters are mended by a script and sent again."""

from __future__ import annotations

from typing import Any

import click

from streamkit.cli.dlq.change_options import change_options, run_change
from streamkit.cli.dlq.options import hidden_filter_options, where_options
from streamkit.cli.dlq.replay import replay_arguments, replay_options
from streamkit.cli.options import Command, epilog


@click.command(cls=Command, epilog=epilog("streamkit dlq transform shop --all --script fix.py --to origin"))
@click.argument("words", nargs=-1, metavar="[TARGET] [ID]...")
@where_options
@hidden_filter_options
@click.option("--script", required=True, metavar="FILE", help="Defines transform(record).")
@replay_options
@change_options
def transform(script: str, **given: Any) -> None:
    """Send open letters with new values: by ID, filters or --all.

    For the rest it is `replay`, with the filters of `search`. The script runs for the preview, too. docs/cli.md says
    what it is given.
    """
    from streamkit.cli.dlq.transforming import script_arguments

    more = replay_arguments(given)
    more |= script_arguments(script)
    given["reason"] = f"transformed by {script}" + (f": {given['reason']}" if given["reason"] else "")
    raise SystemExit(run_change("transform", given, more))
