"""`streamkit dev`: the agents of an app on a broker that is started with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from streamkit.cli.options import EXIT_CODES, OTHER_SETTINGS, Command, target, worker_options

if TYPE_CHECKING:
    from streamkit.topic import Topic

DEFAULT_PARTITIONS = 4


@click.command(cls=Command, epilog=OTHER_SETTINGS + EXIT_CODES)
@target
@click.option("--port", type=click.IntRange(1, 65_535), help="The broker's port on 127.0.0.1.  [default: a free one]")
@worker_options
def dev(target: str, agents: tuple[str, ...], port: int | None, **settings: str | None) -> None:
    """Run the agents of TARGET on an embedded broker: no Kafka, Docker or Java needed.

    TARGET is module:app, or just module when it holds one App. Topics are created, with 4 partitions where none are
    declared. The broker keeps its records in memory, and ends with the worker.
    """
    import logging
    import os
    from contextlib import ExitStack

    from streamkit.cli.embedded import EmbeddedBroker
    from streamkit.cli.launch import launch
    from streamkit.cli.logs import configure_logs
    from streamkit.cli.target import chosen_agents, load_app
    from streamkit.errors import ConfigurationError
    from streamkit.settings import Settings, without_security

    app = load_app(target)
    chosen = chosen_agents(app, agents)
    broker = EmbeddedBroker(port)
    resolved = Settings.load(
        {**settings, "brokers": broker.brokers}, without_security(os.environ), without_security(app.given_settings)
    )
    configure_logs(resolved.log_format, resolved.log_level)
    with ExitStack() as stack:
        try:
            stack.enter_context(broker)
        except RuntimeError as error:
            raise ConfigurationError(str(error)) from error
        logging.getLogger("streamkit").info("embedded broker at %s; it keeps nothing when it ends", broker.brokers)
        topics = [_on_one_broker(topic) for topic in app.topics.values()]
        code = launch(app, chosen, topics, resolved, create_topics=True, clean_up=broker.stop)
    raise SystemExit(code)


def _on_one_broker(topic: Topic[Any, Any]) -> Topic[Any, Any]:
    from dataclasses import replace

    return replace(topic, partitions=topic.partitions or DEFAULT_PARTITIONS, replication=1)
