"""Looks at a Kafka cluster from outside of any group, on aiokafka."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.admin.new_topic import NewTopic as KafkaNewTopic
from aiokafka.client import CoordinationType
from aiokafka.coordinator.protocol import ConsumerProtocol

from streamkit.record import TopicPartition
from streamkit.settings import Settings
from streamkit.transport.base import (
    SHOWN_CONFIG,
    CommittedOffset,
    GroupInfo,
    LogRange,
    NewTopic,
    Owner,
    Refused,
    TopicInfo,
    Unreachable,
)
from streamkit.transport.kafka.access import Access
from streamkit.transport.kafka.client import client_options, cut
from streamkit.transport.kafka.diagnosis import diagnose
from streamkit.transport.kafka.fetching import high_watermarks, log_ranges
from streamkit.transport.kafka.offset_fetch import OffsetFetch, fetch_offsets
from streamkit.transport.kafka.record_deletion import by_leader, check_deleted, deletion

UNKNOWN_TOPIC = 3
TOPIC_ALREADY_EXISTS = 36
MAX_MESSAGE_BYTES = "max.message.bytes"
BROKER_DEFAULT = -1
STOP_TIMEOUT = 2.0
KAFKAS_OWN = "__"
CONSUMERS = ("consumer", "")  # empty: offsets were stored for the group, and nobody has joined it


class KafkaAdmin:
    def __init__(self, settings: Settings, context: ssl.SSLContext | None = None) -> None:
        self._settings = settings
        self._context = context
        self._access = Access(settings, context)
        self._admin: Any = None
        self._reader: Any = None

    async def start(self) -> None:
        deadline = asyncio.get_running_loop().time() + self._settings.request_timeout
        self._access = Access(self._settings, self._context)
        options = client_options(self._settings, self._access)
        self._admin = AIOKafkaAdminClient(**options)
        # R24: high watermarks as the fetcher knows them are stale while a partition is not fetched, and count what
        # read_committed does not show. ListOffsets under read_committed gives the last stable offset.
        self._reader = AIOKafkaConsumer(**options, isolation_level="read_committed", enable_auto_commit=False)
        try:
            async with self._access.calling():
                await self._admin.start()
                await self._reader.start()
        except Unreachable as error:
            await self.stop()
            if denial := await diagnose(self._settings, self._access, deadline):
                raise denial from error
            raise
        except BaseException:
            await self.stop()
            raise

    async def topics(self, names: Collection[str]) -> dict[str, TopicInfo]:
        if not names:
            return {}
        async with self._access.calling():
            described = await self._admin.describe_topics(sorted(names))
            rows = {row["topic"]: row["partitions"] for row in described if _exists(row)}
            configs = await self._configs(rows)
        return {name: _info(partitions, configs.get(name, {})) for name, partitions in rows.items()}

    async def all_topics(self) -> frozenset[str]:
        async with self._access.calling():
            names = await self._admin.list_topics()
        return frozenset(name for name in names if not name.startswith(KAFKAS_OWN))

    async def all_groups(self) -> frozenset[str]:
        async with self._access.calling():
            groups = await self._admin.list_consumer_groups()
        return frozenset(name for name, protocol in groups if protocol in CONSUMERS)

    async def group(self, name: str) -> GroupInfo:
        async with self._access.calling():
            (response,) = await self._admin.describe_consumer_groups([name])
        (row,) = response.groups
        code, _, state, protocol, _, members, *_ = row
        if code:
            raise Refused(f"group {name!r} cannot be described: {kafka.for_code(code).__name__}")
        # Others, Connect's among them, assign in formats of their own.
        return GroupInfo(state, len(members), dict(_owners(members)) if protocol in CONSUMERS else {})

    async def create_topics(self, topics: Sequence[NewTopic]) -> None:
        wanted = [
            KafkaNewTopic(
                name=topic.name,
                num_partitions=topic.partitions,
                replication_factor=BROKER_DEFAULT if topic.replication is None else topic.replication,
                # aiokafka takes the broker's default only along with an assignment, which may be empty.
                replica_assignments={} if topic.replication is None else None,
                topic_configs=dict(topic.config),
            )
            for topic in topics
        ]
        async with self._access.calling():
            response = await self._admin.create_topics(wanted)
        # R23: aiokafka's admin calls return the broker's error codes and do not raise.
        for name, code, *message in response.topic_errors:
            if code not in (0, TOPIC_ALREADY_EXISTS):
                detail = next(filter(None, message), kafka.for_code(code).__name__)
                raise Refused(f"topic {name!r} could not be created: {detail}")

    async def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        if not before:
            return
        client = self._admin._client
        async with self._access.calling():
            described = await self._admin.describe_topics(sorted({topic for topic, _ in before}))
            leaders = {
                TopicPartition(row["topic"], partition["partition"]): partition["leader"]
                for row in described
                if _exists(row)
                for partition in row["partitions"]
            }
            for leader, offsets in by_leader(before, leaders).items():
                request = deletion(offsets, self._settings.request_timeout)
                check_deleted(await client.send(leader, request), offsets)

    async def log_ranges(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, LogRange]:
        async with self._access.calling():
            return await log_ranges(self._reader, partitions)

    async def high_watermarks(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        async with self._access.calling():
            return await high_watermarks(self._reader, partitions, self._settings.request_timeout)

    async def committed(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, CommittedOffset]:
        if not partitions:
            return {}
        client = self._reader._client
        async with self._access.calling():
            node = await client.coordinator_lookup(CoordinationType.GROUP, group)

            async def send(request: OffsetFetch) -> Any:
                return await client.send(node, request)

            return await fetch_offsets(send, group, partitions)

    async def stop(self) -> None:
        for client in (self._admin, self._reader):
            if client is None:
                continue
            try:
                await asyncio.wait_for(client.close() if client is self._admin else client.stop(), STOP_TIMEOUT)
            except (TimeoutError, kafka.KafkaError):
                await cut(client._client)
        self._admin = self._reader = None

    async def _configs(self, names: Collection[str]) -> dict[str, dict[str, str]]:
        resources = [ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(SHOWN_CONFIG)) for name in names]
        if not resources:
            return {}
        configs: dict[str, dict[str, str]] = {}
        for response in await self._admin.describe_configs(resources):
            for code, _message, _type, name, entries in response.resources:
                if code == 0:  # a cluster may forbid to look: then the broker's own check is the only one
                    configs[name] = {entry[0]: entry[1] for entry in entries if entry[1] is not None}
        return configs


def _info(partitions: Sequence[Mapping[str, Any]], config: Mapping[str, str]) -> TopicInfo:
    limit = config.get(MAX_MESSAGE_BYTES)
    replication = len(partitions[0]["replicas"]) if partitions else None
    return TopicInfo(len(partitions), int(limit) if limit else None, replication, config)


def _owners(members: Iterable[Sequence[Any]]) -> Iterator[tuple[TopicPartition, Owner]]:
    for member_id, client_id, host, _, assignment, *_ in members:
        if assignment:  # empty until the group's leader has given it out
            owner = Owner(client_id, host.removeprefix("/"), member_id)
            for topic, partitions in ConsumerProtocol.ASSIGNMENT.decode(assignment).assignment:
                yield from ((TopicPartition(topic, number), owner) for number in partitions)


def _exists(row: Any) -> bool:
    if row["error_code"] not in (0, UNKNOWN_TOPIC):
        raise kafka.for_code(row["error_code"])(row["topic"])
    return bool(row["error_code"] == 0)
