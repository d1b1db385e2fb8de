"""`streamkit dlq replay`: dead letters are sent again."""

from __future__ import annotations

from typing import Any

import click

from streamkit.cli.dlq.change_options import change_options, run_change
from streamkit.cli.dlq.options import Function, hidden_filter_options, where_options
from streamkit.cli.options import Command, epilog

_OPTIONS = (
    click.option("--to", required=True, metavar="WHERE", help="origin, retry or topic:NAME."),
    click.option("--rate", type=click.FloatRange(0, min_open=True), metavar="N", help="At most N a second."),
    click.option("--batch", metavar="N,...", help="So many, then wait for what comes of them: 1,5,20,100."),
    click.option("--stop-on-failures", type=click.IntRange(1), metavar="N", help="Stop when N have failed again."),
    click.option("--wait", metavar="DURATION", default="60s", help="With --batch, for a sign.  [default: 60s]"),
)


def replay_options(function: Function) -> Function:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def replay_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """What these options say, taken out of `given`, as JSON. Raises UsageError."""
    from streamkit.cli.dlq.replaying import check_destination, parse_batches, parse_wait
    from streamkit.errors import UsageError

    to, batch, most_failures = check_destination(given.pop("to")), given.pop("batch"), given.pop("stop_on_failures")
    if to.startswith("topic:") and (batch or most_failures):
        raise UsageError(
            f"--to {to}: nobody tells what becomes of records there, so leave out --batch and --stop-on-failures"
        )
    return {
        "to": to,
        "rate": given.pop("rate"),
        "batch": parse_batches(batch),
        "stop_on_failures": most_failures,
        "wait": parse_wait(given.pop("wait")),
    }


@click.command(cls=Command, epilog=epilog("streamkit dlq replay shop --error 'timed out' --to retry"))
@click.argument("words", nargs=-1, metavar="[TARGET] [ID]...")
@where_options
@hidden_filter_options
@replay_options
@change_options
def replay(**given: Any) -> None:
    """Send open dead letters again: by ID, filters or --all.

    To `retry`: the agent that gave them up; to `origin`: all agents of the topic. Filters are those of `search`:
    --error, --class, --key, --from, --until, --attempts, --header, --status.
    """
    more = replay_arguments(given)
    raise SystemExit(run_change("replay", given, more))
