"""What the embedded broker of `streamkit dev` needs of an app's topics."""

from __future__ import annotations

import logging
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
    topics = [
        replace(each, partitions=each.partitions or DEFAULT_PARTITIONS, replication=1) for each in app.topics.values()
    ]
    log.info("topics: %s", ", ".join(map(_with_partitions, topics)) or "none")
    sources = dict.fromkeys(topic.name for agent in app.agents.values() for topic in agent.topics)
    for name in list(sources)[:1]:
        module = target.partition(":")[0]
        brokers = ",".join(settings.brokers)
        log.info("from another terminal: streamkit send %s:%s VALUE --brokers %s", module, name, brokers)
    return topics


def _with_partitions(topic: Topic[Any, Any]) -> str:
    return f"{topic.name} ({topic.partitions} partition{'' if topic.partitions == 1 else 's'})"
