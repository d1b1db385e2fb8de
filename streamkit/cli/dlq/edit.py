"""`streamkit dlq edit`: a dead letter is mended by hand and sent again."""

from __future__ import annotations

import click

from streamkit.cli.dlq.change_options import confirm_options
from streamkit.cli.dlq.options import where_options
from streamkit.cli.options import Command, epilog


@click.command(cls=Command, epilog=epilog("streamkit dlq edit shop 0:12 --to retry --reason 'wrong currency'"))
@click.argument("words", nargs=-1, metavar="[TARGET] ID")
@where_options
@click.option("--to", required=True, metavar="WHERE", help="origin, retry or topic:NAME.")
@confirm_options
def edit(
    words: tuple[str, ...],
    topic: str | None,
    agent: str | None,
    brokers: str | None,
    to: str,
    reason: str,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Change an open dead letter in an editor, and send it.

    The editor is $VISUAL or $EDITOR; it is sent as `replay` does, with the same ID. With TARGET the value has to be of
    the topic's type. The dead letter itself stays as it is.
    """
    from streamkit.cli.dlq.editor import edit
    from streamkit.cli.dlq.ids import in_one_topic, target_and_id
    from streamkit.cli.dlq.replaying import check_destination
    from streamkit.cli.dlq.where import where

    target, id = target_and_id(words)
    check_destination(to)
    place = where(target, topic, agent, brokers)
    in_one_topic(place)
    raise SystemExit(edit(place, id, to, reason=reason, yes=yes, dry_run=dry_run, as_json=as_json))
