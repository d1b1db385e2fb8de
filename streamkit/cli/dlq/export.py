"""`streamkit dlq export`: dead letters as JSON lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from streamkit.cli.dlq.options import Filters, filter_options, where_options
from streamkit.cli.options import Command, epilog
from streamkit.errors import StreamkitError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamkit.cli.dlq.reading import DeadLetters


@click.command(cls=Command, epilog=epilog("streamkit dlq export shop --output letters.jsonl"))
@click.argument("target", required=False)
@where_options
@filter_options
@click.option("--output", "-o", metavar="PATH", help="A file that is written anew.  [default: standard output]")
def export(
    target: str | None, topic: str | None, agent: str | None, brokers: str | None, output: str | None, **given: Any
) -> None:
    """Write the dead letters of TARGET that fit as JSON lines.

    Whole: keys, values and headers that are no UTF-8 are written as base64.
    """
    from streamkit.cli.dlq.jsonl import line
    from streamkit.cli.dlq.reading import with_dead_letters
    from streamkit.cli.dlq.selecting import selected
    from streamkit.cli.dlq.where import where

    place = where(target, topic, agent, brokers)
    selection = Filters(**given).selection(place.group)

    async def write(topics: Sequence[DeadLetters]) -> None:
        try:
            with click.open_file(output or "-", "wb") as file:
                for letters in topics:
                    async for case in selected(letters, selection):
                        file.write(line(letters.topic, case) + b"\n")
        except OSError as error:
            if output is None:
                raise
            raise StreamkitError(f"--output {output}: {error.strerror}") from error

    with_dead_letters(place, write)
