"""What the embedded broker of `streamkit dev` needs of an app's topics."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from streamkit.app import App
from streamkit.settings import Settings
from streamkit.topic import Topic

log = logging.getLogger("streamkit")

DEFAULT_PARTITIONS = 4


def for_one_broker(app: App, target: str, settings: Settings) -> list[Topic[Any, Any]]:
    """The app's topics, each with partitions and without copies. Says which they are and how to send to them."""
    from streamkit.cli.logs import configure_logs

    configure_logs(settings.log_format, settings.log_level)
    # Dead letter topics take over the partitions of their sources.
    dead_letters = {name for agent in app.agents.values() for name in agent.dead_letters.values()}
    topics = [
        replace(each, partitions=each.partitions or _partitions(each, dead_letters), replication=1)
        for each in app.topics.values()
    ]
    log.info("topics: %s", ", ".join(map(_with_partitions, topics)) or "none")
    sources = dict.fromkeys(topic.name for agent in app.agents.values() for topic in agent.topics)
    for name in list(sources)[:1]:
        module = target.partition(":")[0]
        brokers = ",".join(settings.brokers)
        log.info("from another terminal: streamkit send %s:%s VALUE --brokers %s", module, name, brokers)
    return topics


def _partitions(topic: Topic[Any, Any], dead_letters: Collection[str]) -> int | None:
    return None if topic.name in dead_letters else DEFAULT_PARTITIONS


def _with_partitions(topic: Topic[Any, Any]) -> str:
    if topic.partitions is None:
        return topic.name
    return f"{topic.name} ({topic.partitions} partition{'' if topic.partitions == 1 else 's'})"
