"""`streamkit dlq purge`: old dead letters are removed for good."""

from __future__ import annotations

import click

from streamkit.cli.dlq.change_options import confirm_options
from streamkit.cli.options import Command, brokers_option, epilog


@click.command(cls=Command, epilog=epilog("streamkit dlq purge shop --before 90d"))
@click.argument("target", required=False)
@click.option("--topic", metavar="T", help="The topic: source or dead letters.")
@brokers_option
@click.option("--before", required=True, metavar="TIME", help="Appended before: 90d (ago), or ISO 8601.")
@confirm_options
def purge(
    target: str | None,
    topic: str | None,
    brokers: str | None,
    before: str,
    reason: str,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove all dead letters that were appended before a time.

    Of all agents of the topic, for good, and with what is said of them. Not while open ones are among them: archive,
    discard or replay those first.
    """
    import time

    from streamkit.cli.dlq.change_options import check_text
    from streamkit.cli.dlq.purging import Purge, purged
    from streamkit.cli.dlq.times import parse_time
    from streamkit.cli.dlq.where import where
    from streamkit.errors import UsageError

    check_text("--reason", reason)
    try:
        moment = parse_time(before, time.time_ns() // 1_000_000)
    except ValueError as error:
        raise UsageError(f"--before {before!r}: {error}") from error
    place = where(target, topic, None, brokers)
    raise SystemExit(purged(place, Purge(moment, reason, yes=yes, dry_run=dry_run, as_json=as_json)))
