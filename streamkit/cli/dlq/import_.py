"""`streamkit dlq import`: what `export` wrote gets into a dead letter topic again."""

from __future__ import annotations

from typing import Any

import click

from streamkit.cli.dlq.change_options import confirm_options
from streamkit.cli.dlq.options import where_options
from streamkit.cli.options import Command, epilog


@click.command("import", cls=Command, epilog=epilog("streamkit dlq import shop --file letters.jsonl"))
@click.argument("target", required=False)
@where_options
@click.option("--file", "-f", required=True, metavar="PATH", help="The lines; - is standard input.")
@click.option("--skip", type=click.IntRange(0), metavar="N", default=0, help="Leave out the first N lines.")
@confirm_options
def import_(
    target: str | None, topic: str | None, agent: str | None, brokers: str | None, file: str, skip: int, **given: Any
) -> None:
    """Put dead letters that `export` wrote into their topic again.

    Key, value and headers byte for byte, as new dead letters: they are open. All lines are checked before the first is
    sent.
    """
    from streamkit.cli.dlq.ids import in_one_topic
    from streamkit.cli.dlq.importing import Import, opened, run_import
    from streamkit.cli.dlq.where import where
    from streamkit.errors import UsageError

    if file == "-" and not (given["yes"] or given["dry_run"]):
        raise UsageError("with --file -, nobody can be asked: give --yes or --dry-run, too")
    place = where(target, topic, agent, brokers)
    in_one_topic(place)
    with opened(file) as lines:
        raise SystemExit(run_import(place, Import(file, lines, skip, **given)))
