"""`streamkit dlq`: the commands for dead letters under one name."""

from __future__ import annotations

import click

from streamkit.cli.dlq.export import export
from streamkit.cli.dlq.groups import groups
from streamkit.cli.dlq.ls import ls
from streamkit.cli.dlq.search import search
from streamkit.cli.options import Group, epilog


@click.group(cls=Group, epilog=epilog("streamkit dlq groups shop"))
def dlq() -> None:
    """Look at dead letters: the records that have failed for good.

    Of the agents of TARGET, or of --topic. Needs no worker, and changes nothing.
    """


for command in (ls, groups, search, export):
    dlq.add_command(command)
