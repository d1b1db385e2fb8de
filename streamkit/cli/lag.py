"""`streamkit lag`: how far groups are behind, asked of the brokers."""

from __future__ import annotations

import click

from streamkit.cli.options import Command, brokers_option, epilog


@click.command(cls=Command, epilog=epilog("streamkit lag shop --watch"))
@click.argument("target", required=False)
@click.option("--group", "-g", "groups", multiple=True, metavar="NAME", help="This group, without an app.")
@click.option("--agent", "agents", multiple=True, metavar="NAME", help="Only of this agent; may be repeated.")
@brokers_option
@click.option("--all", "every", is_flag=True, help="Partitions that are not behind, too.")
@click.option(
    "--for", "span", metavar="DURATION", help="Look so long, to tell the status.  [default: 5s; --watch: no end]"
)
@click.option("--watch", "-w", is_flag=True, help="Go on until Ctrl-C.")
@click.option("--exporter", metavar="HOST:PORT", help="Serve it to Prometheus, until it is stopped.")
@click.option("--json", "as_json", is_flag=True, help="One object; with --watch one a line.")
def lag(
    target: str | None,
    groups: tuple[str, ...],
    agents: tuple[str, ...],
    brokers: str | None,
    every: bool,
    span: str | None,
    watch: bool,
    exporter: str | None,
    as_json: bool,
) -> None:
    """Show how far the agents of TARGET, or groups, are behind.

    By partition: records, seconds, status and cause, and who has it. Needs no worker, and joins no group.
    """
    import asyncio

    from streamkit.cli.lag_view import Look, watched

    settings, found = watched(target, groups, agents, brokers)
    if exporter is not None:
        from streamkit.cli.lag_exporter import export

        asyncio.run(export(settings, found, _address(exporter)))
        return
    length = None if span is None else _seconds(span)
    look = Look(settings, found, span=length, every=every, watch=watch, as_json=as_json)
    raise SystemExit(asyncio.run(look.run()))


def _address(text: str) -> str:
    from streamkit.errors import UsageError
    from streamkit.setting_values import parse_address

    try:
        return parse_address(text)
    except ValueError as error:
        raise UsageError(f"--exporter {text!r}: {error}") from error


def _seconds(text: str) -> float:
    from streamkit.durations import parse_duration
    from streamkit.errors import UsageError

    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--for {text!r}: {error}") from error
