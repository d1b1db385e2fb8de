"""Reads partitions of a Kafka cluster in no group, on aiokafka. R-numbers: docs/aiokafka.md."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka import errors as kafka

from streamkit.record import ConsumedRecord, TopicPartition
from streamkit.settings import Settings
from streamkit.transport.base import LogRange, Unreachable
from streamkit.transport.kafka.access import Access
from streamkit.transport.kafka.client import client_options
from streamkit.transport.kafka.consumer import close
from streamkit.transport.kafka.failures import translate
from streamkit.transport.kafka.fetching import check_fetcher, fetch_options, log_ranges, out_of_range, position_of

log = logging.getLogger(__name__)

FETCH_MAX_BYTES = 8 * 1024 * 1024

Batches = Mapping[TopicPartition, Sequence[ConsumedRecord]]


class KafkaReader:
    def __init__(self, settings: Settings, context: ssl.SSLContext | None = None) -> None:
        self._settings = settings
        self._access = Access(settings, context)
        self._consumer: Any = None
        self._heard: dict[KafkaPartition, int | None] = {}  # ms since the epoch, of the latest answer
        self._silence: dict[KafkaPartition, float] = {}  # seconds that empty polls have waited since

    async def start(self) -> None:
        options = client_options(self._settings, self._access) | fetch_options(self._settings)
        # The answer of each broker is in memory up to three times, and a topic may have many partitions.
        options["fetch_max_bytes"] = min(self._settings.fetch_max_bytes, FETCH_MAX_BYTES)
        self._consumer = AIOKafkaConsumer(**options, group_id=None)
        try:
            async with self._access.calling():
                await self._consumer.start()
        except BaseException:
            await self.stop()
            raise

    async def log_ranges(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, LogRange]:
        async with self._access.calling():
            return await log_ranges(self._consumer, partitions)

    async def offsets_at(self, partitions: Collection[TopicPartition], timestamp: int) -> dict[TopicPartition, int]:
        # Negative ones are Kafka's way to ask for the ends of the log.
        wanted = {KafkaPartition(*partition): max(timestamp, 0) for partition in partitions}
        if not wanted:
            return {}
        async with self._access.calling():
            found = await self._consumer.offsets_for_times(wanted)
        return {TopicPartition(*tp): each.offset for tp, each in found.items() if each is not None}

    def assign(self, starts: Mapping[TopicPartition, int]) -> None:
        offsets = {KafkaPartition(*partition): offset for partition, offset in starts.items()}
        self._consumer.assign(list(offsets))
        for partition, offset in offsets.items():
            self._consumer.seek(partition, offset)
        self._heard = dict.fromkeys(offsets)
        self._silence = dict.fromkeys(offsets, 0.0)

    async def poll(self, *, max_records: int, timeout: float) -> Batches:
        loop = asyncio.get_running_loop()
        async with self._access.unless_denied():
            check_fetcher(self._consumer)
            began = loop.time()
            batches = await self._poll(max_records, timeout)
            self._listen(0.0 if batches else loop.time() - began)
            return batches

    def position(self, partition: TopicPartition) -> int:
        return position_of(self._consumer, partition)

    async def stop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await close(consumer)

    async def _poll(self, max_records: int, timeout: float) -> Batches:
        try:
            batches: Batches = await self._consumer.getmany(timeout_ms=int(timeout * 1000), max_records=max_records)
            return batches
        except kafka.OffsetOutOfRangeError as error:
            raise out_of_range(error) from error
        except kafka.KafkaError as error:
            if getattr(error, "retriable", False):
                log.warning("reading: %s", error)
                return {}
            raise translate(error) from error

    def _listen(self, waited: float) -> None:
        """R36: aiokafka tries again for ever what is not answered, and its polls come back empty.

        Only the time inside of polls counts: whoever is busy in between has not waited for anything.
        """
        for partition, before in self._heard.items():
            latest = self._consumer.last_poll_timestamp(partition)
            if latest != before:
                self._heard[partition], self._silence[partition] = latest, 0.0
                continue
            self._silence[partition] += waited
            if self._silence[partition] >= self._settings.request_timeout:
                raise Unreachable(
                    f"nothing was heard of {partition.topic}[{partition.partition}] for "
                    f"{self._silence[partition]:.0f} s: its broker is not to be reached, or it exists no more"
                )
