"""`streamkit dev`: the agents of an app on a broker that is started with them."""

from __future__ import annotations

import click

from streamkit.cli.options import Command, as_arguments, epilog, target, worker_options


@click.command(cls=Command, epilog=epilog("streamkit dev shop --port 19092"))
@target
@click.option("--port", type=click.IntRange(1, 65_535), help="The broker's port on 127.0.0.1.  [default: a free one]")
@click.option(
    "--reload/--no-reload",
    default=None,
    help="Start anew when the code changes.  [default: if watchfiles is installed]",
)
@worker_options
def dev(target: str, agents: tuple[str, ...], port: int | None, reload: bool | None, **settings: str | None) -> None:
    """Run the agents of TARGET (module:app) on an embedded broker.

    No Kafka, Docker or Java is needed. Topics are created, with 4 partitions where none are declared. The broker keeps
    its records in memory across reloads, and ends with the command.
    """
    from streamkit.cli.signals import exit_on_signals

    exit_on_signals()
    import logging
    import os
    from contextlib import ExitStack

    from streamkit.cli.embedded import EmbeddedBroker
    from streamkit.cli.logs import configure_logs_of_supervisor
    from streamkit.cli.processes import Processes
    from streamkit.cli.reload import Reloader
    from streamkit.cli.supervise import supervise
    from streamkit.cli.watch import can_watch, require_watchfiles, watched
    from streamkit.errors import ConfigurationError

    if reload:
        require_watchfiles()
    where = watched(target)
    broker = EmbeddedBroker(port)
    configure_logs_of_supervisor(settings, os.environ)

    def arguments(_number: int) -> list[str]:
        options = as_arguments(agents, {**settings, "brokers": broker.brokers})
        return ["worker", "--under-dev", "--create-topics", *options, "--", target]

    reloads = can_watch() if reload is None else reload
    supervised = Reloader(arguments, where) if reloads else Processes(arguments)
    with ExitStack() as stack:
        try:
            stack.enter_context(broker)
        except RuntimeError as error:
            raise ConfigurationError(str(error)) from error
        logging.getLogger("streamkit").info(
            "embedded broker at %s; other tools join it with --brokers %s; it keeps nothing when it ends",
            broker.brokers,
            broker.brokers,
        )
        code = supervise(supervised, clean_up=broker.stop)
    raise SystemExit(code)
