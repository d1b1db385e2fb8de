"""`streamkit dlq search`: the dead letters that fit, a line each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from streamkit.cli.dlq.options import Filters, filter_options, json_option, where_options
from streamkit.cli.options import Command, epilog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamkit.cli.dlq.reading import DeadLetters
    from streamkit.cli.dlq.selecting import Case


@click.command(cls=Command, epilog=epilog("streamkit dlq search shop --error 'timed out'"))
@click.argument("target", required=False)
@where_options
@filter_options
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Stop after so many.")
@json_option("One object a line, as `export` writes.")
def search(
    target: str | None,
    topic: str | None,
    agent: str | None,
    brokers: str | None,
    limit: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """List the dead letters of TARGET that fit all filters.

    A line each: ID, time of the failure, runs, status, error. --from seeks by time.
    """
    from streamkit.cli.dlq.reading import with_dead_letters
    from streamkit.cli.dlq.selecting import selected
    from streamkit.cli.dlq.where import where

    place = where(target, topic, agent, brokers)
    selection = Filters(**given).selection(place.group)

    async def find(topics: Sequence[DeadLetters]) -> None:
        count = 0
        for letters in topics:
            line = _json_line if as_json else _text_line(letters.topic, several=len(topics) > 1)
            async for case in selected(letters, selection):
                click.echo(line(letters.topic, case))
                count += 1
                if count == limit:
                    return

    with_dead_letters(place, find)


def _json_line(topic: str, case: Case) -> bytes:
    from streamkit.cli.dlq.jsonl import line

    return line(topic, case)


def _text_line(topic: str, *, several: bool) -> Callable[[str, Case], str]:
    from streamkit.cli.dlq.times import shown
    from streamkit.cli.paper import console, short
    from streamkit.core.selection import error_line

    if several:
        click.echo(topic)
    width = console().width

    def text(_topic: str, case: Case) -> str:
        letter = case.letter
        runs = "–" if letter.attempts is None else str(letter.attempts)
        start = f"{letter.id:<9} {shown(letter.when)} {runs:>3} {case.status.status:<9} "
        return start + short(error_line(letter) or "(no error stated)", max(width - len(start), 20))

    return text
