"""`streamkit`: the commands under one name."""

from __future__ import annotations

import os

import click

from streamkit.cli.agents import agents
from streamkit.cli.dev import dev
from streamkit.cli.dlq import dlq
from streamkit.cli.lag import lag
from streamkit.cli.options import Group
from streamkit.cli.send import send
from streamkit.cli.version import version
from streamkit.cli.worker import worker


def _show_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"streamkit {version()}")
        context.exit()


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: streamkit dev hello, for the module hello.py with an App in it.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show it and exit."
)
@click.pass_context
def group(context: click.Context) -> None:
    """Agents over typed Kafka topics: nothing is lost, nothing overtakes, nothing is hidden."""
    if os.environ.get("NO_COLOR"):  # click does not know of it
        context.color = False


for command in (worker, dev, send, agents, lag, dlq):
    group.add_command(command)
