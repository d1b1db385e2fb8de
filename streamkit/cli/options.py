"""What the commands that run a worker have in common: their options, and how their errors end the process."""

from collections.abc import Callable
from typing import Any

import click

from streamkit.cli.failures import plain_report
from streamkit.errors import ConfigurationError, StreamkitError
from streamkit.settings import refuse_secret

EXIT_CODES = """
Exit codes: 0 stopped in order; 1 failed while running; 2 bad target or usage; 78 configuration (settings, declarations,
a missing topic, a busy port); 130 and 143 on a second SIGINT or SIGTERM.
"""

OTHER_SETTINGS = """
Every setting can also be given as a variable STREAMKIT_NAME or as App(name=...); docs/settings.md lists them.
"""

Function = Callable[..., Any]


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


def target(function: Function) -> Function:
    return click.argument("target")(function)


def worker_options(function: Function) -> Function:
    """Values are checked by the settings, which name what is wrong and where it came from."""
    for option in reversed(_WORKER_OPTIONS):
        function = option(function)
    return function


_WORKER_OPTIONS = (
    click.option("--agent", "agents", multiple=True, metavar="NAME", help="Run only this agent; may be repeated."),
    click.option(
        "--http",
        metavar="HOST:PORT|off",
        help="Where /metrics, /livez and /readyz are served.  [default: 127.0.0.1:9464]",
    ),
    click.option(
        "--stop-when-idle",
        metavar="DURATION",
        help="Exit 0 when everything has been settled to its end for this long, for example 3s.",
    ),
    click.option("--log-format", metavar="text|json", help="Logs for people or for machines.  [default: text]"),
    click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.  [default: info]"),
)


def _refuse_optimized_python() -> None:
    if not __debug__:
        raise ConfigurationError(
            "streamkit does not run under python -O or PYTHONOPTIMIZE: they remove assert statements, by which the "
            "Kafka client reports its fatal states, and records would be lost in silence"
        )
