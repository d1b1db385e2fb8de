"""What the commands have in common: options, and how their errors end the process."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from streamkit.cli.failures import plain_report
from streamkit.errors import ConfigurationError, StreamkitError
from streamkit.settings import refuse_secret

INTERRUPTED = 130

Function = Callable[..., Any]


def epilog(example: str) -> str:
    """What stands below the options of every command."""
    return f"""\b
Example: {example}
Exit codes: 0 done; 1 failed; 2 usage; 78 configuration; 130, 143 signals.
docs/cli.md says more, docs/settings.md lists the settings (STREAMKIT_NAME)."""


class Command(click.Command):
    """Ends the process by an error's exit code, its message on standard error."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            for argument in args:
                refuse_secret(argument.partition("=")[0])
        except StreamkitError as error:
            plain_report(error)
            ctx.exit(error.exit_code)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            _refuse_optimized_python()
            return super().invoke(ctx)
        except StreamkitError as error:
            plain_report(error)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


class Group(click.Group):
    """Suggests the command that was meant, as click does for options."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            close = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {close[0]!r}?" if close else ""))
        return super().resolve_command(ctx, args)


def target(function: Function) -> Function:
    return click.argument("target")(function)


def brokers_option(function: Function) -> Function:
    return click.option("--brokers", metavar="HOST:PORT,...", help="Brokers to start from.  [default: localhost:9092]")(
        function
    )


def worker_options(function: Function) -> Function:
    """Values are checked by the settings, which name what is wrong and where it came from."""
    for option in reversed(_WORKER_OPTIONS):
        function = option(function)
    return function


_WORKER_OPTIONS = (
    click.option("--agent", "agents", multiple=True, metavar="NAME", help="Run only this agent; may be repeated."),
    click.option("--http", metavar="HOST:PORT|off", help="Metrics and health.  [default: 127.0.0.1:9464]"),
    click.option("--stop-when-idle", metavar="DURATION", help="Exit 0 when all is settled for this long."),
    click.option("--log-format", metavar="text|json", help="For people or for machines.  [default: text]"),
    click.option("--log-level", metavar="LEVEL", help="debug, info, warning, error.  [default: info]"),
)


def as_arguments(agents: Sequence[str], settings: Mapping[str, str | None]) -> list[str]:
    """The same options once more, for another process."""
    given = {name.replace("_", "-"): value for name, value in settings.items() if value is not None}
    return [*(f"--agent={name}" for name in agents), *(f"--{name}={value}" for name, value in given.items())]


def _refuse_optimized_python() -> None:
    if not __debug__:
        raise ConfigurationError(
            "streamkit does not run under python -O or PYTHONOPTIMIZE: they remove assert statements, by which the "
            "Kafka client reports its fatal states, and records would be lost in silence"
        )
