"""`streamkit worker`: the agents of an app on Kafka."""

import click

from streamkit.cli.options import EXIT_CODES, OTHER_SETTINGS, Command, target, worker_options


@click.command(cls=Command, epilog=OTHER_SETTINGS + EXIT_CODES)
@target
@click.option(
    "--brokers",
    metavar="HOST:PORT,...",
    help="Kafka brokers to start from.  [default: localhost:9092]",
)
@click.option("--create-topics", is_flag=True, help="Create declared topics that are missing.")
@worker_options
def worker(target: str, agents: tuple[str, ...], create_topics: bool, **settings: str | None) -> None:
    """Run the agents of TARGET until stopped.

    TARGET is module:app, or just module when it holds one App. SIGTERM or Ctrl-C stops in order: running handlers are
    drained, their offsets committed.
    """
    import os

    from streamkit.cli.launch import launch
    from streamkit.cli.target import chosen_agents, load_app

    app = load_app(target)
    chosen = chosen_agents(app, agents)
    code = launch(app, chosen, app.topics.values(), app.settings(settings, os.environ), create_topics=create_topics)
    raise SystemExit(code)
