"""`streamkit worker`: the agents of an app on Kafka."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from streamkit.cli.options import Command, as_arguments, brokers_option, epilog, target, worker_options
from streamkit.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamkit.settings import Settings

LAST_PORT = 65_535


@click.command(cls=Command, epilog=epilog("streamkit worker shop --brokers kafka:9092 --create-topics"))
@target
@brokers_option
@click.option("--create-topics", is_flag=True, help="Create declared topics that are missing.")
@click.option("--workers", type=click.IntRange(1), default=1, metavar="N", help="Run N processes of it.")
@click.option("--reload", is_flag=True, help="Start anew when the code changes.")
@worker_options
# What a supervisor asks of its children.
@click.option("--nth", "number", type=int, default=0, hidden=True, help="Which of the processes this is.")
@click.option("--check", is_flag=True, hidden=True, help="Only load the target.")
@click.option("--under-dev", is_flag=True, hidden=True, help="The broker is that of `streamkit dev`.")
def worker(
    target: str,
    agents: tuple[str, ...],
    create_topics: bool,
    workers: int,
    reload: bool,
    number: int,
    check: bool,
    under_dev: bool,
    **settings: str | None,
) -> None:
    """Run the agents of TARGET (module:app, or module) until stopped.

    SIGTERM or Ctrl-C stops in order: running handlers are drained, their offsets committed. A second one ends at once.
    """
    if workers > 1 or reload:
        raise SystemExit(_supervise(target, agents, create_topics, workers, reload, settings))
    import os
    from dataclasses import replace

    from streamkit.cli.launch import launch
    from streamkit.cli.one_broker import for_one_broker
    from streamkit.cli.target import chosen_agents, load_app
    from streamkit.settings import Settings, without_security

    app = load_app(target)
    chosen = chosen_agents(app, agents)
    if under_dev:  # whose broker wants no login
        resolved = Settings.load(settings, without_security(os.environ), without_security(app.given_settings))
    else:
        resolved = app.settings(settings, os.environ)
    resolved = replace(resolved, http=http_of(number, resolved))
    if check:
        return
    topics = for_one_broker(app, target, resolved) if under_dev else app.topics.values()
    raise SystemExit(launch(app, chosen, topics, resolved, create_topics=create_topics))


def http_of(number: int, settings: Settings) -> str:
    """Where the worker with this number serves: at the chosen port plus its number. Raises ConfigurationError."""
    host, _, port = settings.http.rpartition(":")
    if not number or settings.is_default("http") or not host or port == "0":
        return settings.http
    if int(port) + number > LAST_PORT:
        raise ConfigurationError(f"http={settings.http}: worker {number + 1} would serve at port {int(port) + number}")
    return f"{host}:{int(port) + number}"


def _supervise(
    target: str,
    agents: tuple[str, ...],
    create_topics: bool,
    workers: int,
    reload: bool,
    settings: Mapping[str, str | None],
) -> int:
    import os

    from streamkit.cli.logs import configure_logs_of_supervisor
    from streamkit.cli.reload import Reloader
    from streamkit.cli.supervise import Workers, supervise
    from streamkit.cli.watch import require_watchfiles, watched

    if reload and workers > 1:
        raise UsageError("--reload runs one process; leave out --workers")
    configure_logs_of_supervisor(settings, os.environ)
    options = [*as_arguments(agents, settings), *["--create-topics"] * create_topics]

    def arguments(number: int) -> list[str]:
        return ["worker", *options, f"--nth={number}", "--", target]

    if reload:
        require_watchfiles()
        return supervise(Reloader(arguments, watched(target)))
    return supervise(Workers(arguments, workers))
