"""`streamkit`: the commands under one name."""

import click

from streamkit.cli.dev import dev
from streamkit.cli.send import send
from streamkit.cli.version import version
from streamkit.cli.worker import worker


def _show_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"streamkit {version()}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show it and exit."
)
def group() -> None:
    """Agents over typed Kafka topics: nothing is lost, nothing overtakes, nothing is hidden."""


group.add_command(worker)
group.add_command(dev)
group.add_command(send)
