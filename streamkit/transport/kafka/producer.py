"""An idempotent Kafka producer that takes ready batches, on aiokafka."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka
from aiokafka.producer.message_accumulator import BatchBuilder as KafkaBatchBuilder

from streamkit.settings import Settings
from streamkit.transport.base import AccessDenied, BatchBuilder, Stored, TopicMissing
from streamkit.transport.kafka.access import Access
from streamkit.transport.kafka.client import client_options, cut
from streamkit.transport.kafka.fail_stop import queue_without_waiting, stop_at_first_failure
from streamkit.transport.kafka.failures import translate, translated

log = logging.getLogger(__name__)

STOP_TIMEOUT = 2.0
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}  # as in the attributes of a record batch


class KafkaProducer:
    def __init__(self, settings: Settings, context: ssl.SSLContext | None = None) -> None:
        self._settings = settings
        self._access = Access(settings, context)
        self._access.on_denial = self._denied
        self._unanswered: set[asyncio.Future[Stored]] = set()
        self._producer: Any = None
        self._compression = CODECS[settings.compression]

    async def start(self) -> None:
        settings = self._settings
        producer: Any = AIOKafkaProducer(
            **client_options(settings, self._access),
            enable_idempotence=True,
            acks="all",
            compression_type=None if settings.compression == "none" else settings.compression,
            max_batch_size=settings.batch_size,
            max_request_size=settings.max_request_size,
            linger_ms=0,  # the publisher decides when a batch is ready
            retry_backoff_ms=20,
        )
        self._producer = producer
        try:
            async with self._access.unless_denied():
                with translated():
                    await asyncio.wait_for(producer.start(), settings.request_timeout)
            stop_at_first_failure(producer)
            queue_without_waiting(producer, settings.send_timeout)
        except BaseException:
            await self.stop()
            raise

    async def partition_count(self, topic: str) -> int:
        client = self._producer.client
        with translated():
            async with asyncio.timeout(self._settings.request_timeout):
                # partitions_for() asks for a missing topic until the timeout, and cannot tell it from silence.
                if not await client.add_topic(topic):
                    raise kafka.KafkaConnectionError("no metadata")
        partitions = client.cluster.partitions_for_topic(topic)
        if not partitions:
            client._topics.discard(topic)  # or every refresh of the metadata would ask for it
            raise TopicMissing(topic)
        return len(partitions)

    def batch(self, limit: int) -> BatchBuilder:
        builder: BatchBuilder = KafkaBatchBuilder(limit, self._compression)
        return builder

    async def send(self, batch: BatchBuilder, topic: str, partition: int) -> asyncio.Future[Stored]:
        async with self._access.unless_denied():
            with translated():
                acknowledged = await self._send(batch, topic, partition)
        outcome: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        acknowledged.add_done_callback(lambda done: _hand_over(done, outcome))
        self._unanswered.add(outcome)
        outcome.add_done_callback(self._unanswered.discard)
        return outcome

    async def _send(self, batch: BatchBuilder, topic: str, partition: int) -> asyncio.Future[Stored]:
        try:
            acknowledged: asyncio.Future[Stored] = await self._producer.send_batch(batch, topic, partition=partition)
        except kafka.UnknownTopicOrPartitionError:
            # aiokafka has asked until its timeout, and cannot tell a missing topic from silence.
            client = self._producer.client
            if await client.force_metadata_update() and not client.cluster.partitions_for_topic(topic):
                raise TopicMissing(topic) from None
            raise
        return acknowledged

    def _denied(self, denial: AccessDenied) -> None:
        """aiokafka would keep them, and try to connect for ever."""
        for outcome in list(self._unanswered):
            if not outcome.done():
                outcome.set_exception(denial)

    async def stop(self) -> None:
        """R20: an idempotent producer waits for its unacknowledged batches for ever; here it gets a moment."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            await asyncio.wait_for(producer.stop(), STOP_TIMEOUT)
        except (TimeoutError, kafka.KafkaError, AssertionError) as error:
            log.warning("closing a producer: %s; cutting its connections", str(error) or "timed out")
            await _abandon(producer)


async def _abandon(producer: Any) -> None:
    """Fail every batch that is not acknowledged, and end aiokafka's tasks, whatever they wait for."""
    accumulator, sender = producer._message_accumulator, producer._sender.sender_task
    # A request that the cut breaks would put its batches back into the queue, and wait for metadata for ever.
    accumulator.reenqueue = _end_request
    # aiokafka forgets a failed batch as one that is under way, and raises for one that was put back before.
    accumulator._pending_batches.update(batch for queue in accumulator._batches.values() for batch in queue)
    if sender is not None:
        sender.cancel()
    await cut(producer.client)
    accumulator.fail_all(kafka.ProducerClosed())
    for batch in accumulator._pending_batches:
        batch._drain_waiter.exception()  # looked at, or asyncio reports that nobody did
    if sender is not None:
        await asyncio.wait([sender], timeout=STOP_TIMEOUT)


def _end_request(_batch: Any) -> None:
    raise asyncio.CancelledError


def _hand_over(acknowledged: asyncio.Future[Any], outcome: asyncio.Future[Stored]) -> None:
    if acknowledged.cancelled():
        if not outcome.done():
            outcome.cancel()
        return
    error = acknowledged.exception()
    if outcome.done():
        return
    if error is None:
        outcome.set_result(acknowledged.result())
    else:
        outcome.set_exception(translate(error))
