"""Whether topics that exist can hold retries and dead letters; pure. What the brokers do not say is not looked at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from streamkit.durations import show_duration
from streamkit.runtime.retry_topics import APPEND_TIME, Wanted
from streamkit.transport.base import TopicInfo

FOR_EVER = -1


class Misfit(NamedTuple):
    """Why an existing topic cannot hold copies, and the settings that mend it."""

    topic: str
    why: str
    setting: str  # name=value


def misfits(wanted: Wanted, info: TopicInfo) -> list[Misfit]:
    return [
        Misfit(wanted.new.name, why, setting)
        for fault in (_timestamps, _cleanup, _retention, _size)
        for why, setting in fault(wanted, info)
    ]


def unfit(found: Sequence[Misfit], brokers: str) -> str:
    """The message about all that is wrong."""
    settings: dict[str, list[str]] = defaultdict(list)
    for misfit in found:
        settings[misfit.topic].append(misfit.setting)
    commands = [
        f"  kafka-configs.sh --bootstrap-server {brokers} --alter --entity-type topics --entity-name {name} "
        f"--add-config {','.join(changes)}"
        for name, changes in settings.items()
    ]
    faults = [f"  {misfit.topic}: {misfit.why}" for misfit in found]
    return "\n".join(["these topics cannot hold retries or dead letters as they are:", *faults, "Mend with", *commands])


def too_few_partitions(wanted: Wanted, info: TopicInfo, brokers: str) -> str | None:
    """A warning, if records of several partitions of the source come together in one."""
    name, partitions = wanted.new.name, wanted.new.partitions
    if wanted.own_partitions or info.partitions >= partitions:
        return None
    return (
        f"{name} has {info.partitions} {_plural('partition', info.partitions)}, and {wanted.source} has {partitions}: "
        f"copies of partition p go to partition p % {info.partitions}. For one each, run: "
        f"kafka-topics.sh --bootstrap-server {brokers} --alter --topic {name} --partitions {partitions}"
    )


Faults = Iterable[tuple[str, str]]


def _timestamps(wanted: Wanted, info: TopicInfo) -> Faults:
    kind = info.config.get("message.timestamp.type", APPEND_TIME)
    if kind != APPEND_TIME:
        why = "copies of old records would fall to retention at once, and of records dated ahead be refused"
        yield f"message.timestamp.type is {kind}, not {APPEND_TIME}: {why}", f"message.timestamp.type={APPEND_TIME}"


def _cleanup(wanted: Wanted, info: TopicInfo) -> Faults:
    policy = info.config.get("cleanup.policy", "delete")
    if "compact" in policy:
        why = "only the last copy of a key would stay, and copies without a key be refused"
        yield f"cleanup.policy is {policy}, not delete: {why}", "cleanup.policy=delete"


def _retention(wanted: Wanted, info: TopicInfo) -> Faults:
    kept = int(info.config.get("retention.ms", FOR_EVER))
    if wanted.kept_ms is not None and kept != FOR_EVER and kept < wanted.kept_ms:
        shown = f"{kept} ({_duration(kept)}), less than {wanted.kept_ms} ({_duration(wanted.kept_ms)})"
        yield f"retention.ms is {shown}: copies could be deleted before they run", f"retention.ms={wanted.kept_ms}"


def _size(wanted: Wanted, info: TopicInfo) -> Faults:
    limit = wanted.max_message_bytes
    if limit is not None and info.max_message_bytes is not None and info.max_message_bytes < limit:
        shown = f"{info.max_message_bytes}, less than {limit} (what its source takes + 64 KiB)"
        yield f"max.message.bytes is {shown}: copies carry more headers than records", f"max.message.bytes={limit}"


def _duration(milliseconds: int) -> str:
    return show_duration(milliseconds / 1000)


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
