"""`streamkit dlq resume`: what was cut off goes on, or is given up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from streamkit.cli.dlq.options import json_option, where_options
from streamkit.cli.options import Command, epilog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamkit.cli.dlq.reading import DeadLetters


@click.command(cls=Command, epilog=epilog("streamkit dlq resume shop"))
@click.argument("target", required=False)
@where_options
@click.option("--give-up", is_flag=True, help="Leave the rest as it is.")
@json_option("The result as one object.")
def resume(
    target: str | None, topic: str | None, agent: str | None, brokers: str | None, give_up: bool, as_json: bool
) -> None:
    """Go on with a command that was cut off by a crash.

    It does the rest of what it was to do; what it had sent and not noted is sent once more, with the same ID.
    """
    from streamkit.cli.dlq.changing import carry_out
    from streamkit.cli.dlq.jobs import resumed
    from streamkit.cli.dlq.reading import with_dead_letters
    from streamkit.cli.dlq.where import where
    from streamkit.cli.sender import Sender
    from streamkit.cli.signals import Stop

    place = where(target, topic, agent, brokers)
    codes: list[int] = []

    async def each(topics: Sequence[DeadLetters]) -> None:
        stop = Stop()
        for letters in topics:
            if stop.signal is not None:
                return
            if not letters.state.jobs.jobs:
                click.echo(f"{letters.topic}: nothing was cut off", err=True)
                continue
            stop.listen()
            sender = Sender(place.settings, letters.clients.transport)
            async with sender.running(), resumed(letters, sender, give_up=give_up, as_json=as_json) as job:
                if job is not None:
                    codes.append(await carry_out(job, place, stop, as_json=as_json))

    with_dead_letters(place, each)
    raise SystemExit(max(codes, default=0))
