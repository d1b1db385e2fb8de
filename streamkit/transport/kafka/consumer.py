"""One member of a Kafka consumer group, on aiokafka.

R-numbers name what aiokafka 0.14 does that this file works around; docs/aiokafka.md explains them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka import TopicPartition as KafkaPartition
from aiokafka import errors as kafka
from aiokafka.client import ConnectionGroup
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.protocol.group import LeaveGroupRequest
from aiokafka.structs import OffsetAndMetadata

from streamkit.errors import TransportError
from streamkit.record import ConsumedRecord, TopicPartition
from streamkit.settings import Settings
from streamkit.transport.base import NO_GENERATION, CommitRejected, CommittedOffset, RebalanceListener
from streamkit.transport.kafka.access import Access
from streamkit.transport.kafka.client import client_options, cut, rebalance_timeout
from streamkit.transport.kafka.failures import translate, translated
from streamkit.transport.kafka.fetching import check_fetcher, check_task, fetch_options, out_of_range, position_of
from streamkit.transport.kafka.offset_fetch import OffsetFetch, fetch_offsets

log = logging.getLogger(__name__)

# Polling no partition keeps the member alive without pause(), which would throw away what is buffered (R15).
NOWHERE = KafkaPartition("-", 0)
# The poll loop never stops, and stalls are found by the framework; aiokafka's own limit is unreliable: a poll that
# fails or is cancelled switches it off (R9), and one that runs out makes a late commit an administrator's (R10).
NEVER_MS = 2**31 - 1
STOP_TIMEOUT = 5.0
LEAVE_TIMEOUT = 1.0

Batches = Mapping[TopicPartition, Sequence[ConsumedRecord]]


class KafkaConsumer:
    def __init__(self, settings: Settings, group: str, context: ssl.SSLContext | None = None) -> None:
        self._settings = settings
        self._access = Access(settings, context)
        self._group = group
        self._consumer: Any = None
        self._failure: Exception | None = None
        self._heartbeat = 0.0
        self._answered = 0.0

    @property
    def generation(self) -> int:
        coordinator = self._coordinator
        return NO_GENERATION if coordinator is None else coordinator.generation

    @property
    def lease(self) -> float:
        # R14: while a heartbeat hangs, aiokafka believes in its session for up to request_timeout longer.
        return self._heartbeat + self._settings.session_timeout

    @property
    def answered(self) -> float:
        return self._answered

    @property
    def _coordinator(self) -> Any:
        return None if self._consumer is None else self._consumer._coordinator

    async def start(self) -> None:
        settings = self._settings
        consumer: Any = AIOKafkaConsumer(
            **client_options(settings, self._access),
            group_id=self._group,
            # R12: with several assignors aiokafka joins once for each, and the sticky one is broken. Range keeps
            # partition p of several topics on one member.
            partition_assignment_strategy=(RangePartitionAssignor,),
            session_timeout_ms=_ms(settings.session_timeout),
            heartbeat_interval_ms=_ms(settings.heartbeat_interval),
            # R11: it defaults to the session timeout; revoking may take as long as a drain.
            rebalance_timeout_ms=_ms(rebalance_timeout(settings)),
            max_poll_interval_ms=NEVER_MS,
            **fetch_options(settings),
        )
        try:
            async with self._access.unless_denied():
                with translated():
                    await consumer.start()
        except BaseException:
            await close(consumer)
            raise
        self._consumer = consumer
        self._answered = asyncio.get_running_loop().time()
        self._watch_answers(consumer._client)
        self._watch_heartbeats(consumer._coordinator)

    def subscribe(self, topics: Collection[str], listener: RebalanceListener) -> None:
        self._consumer.subscribe(topics=list(topics), listener=_Listener(self, listener))

    async def poll(self, partitions: Collection[TopicPartition], *, max_records: int, timeout: float) -> Batches:
        if self._failure is not None:
            raise self._failure
        async with self._access.unless_denied():
            check_fetcher(self._consumer)
            check_task(self._coordinator._coordination_task)
            return await self._poll(partitions, max_records, timeout)

    async def _poll(self, partitions: Collection[TopicPartition], max_records: int, timeout: float) -> Batches:
        wanted = [KafkaPartition(*partition) for partition in partitions] or [NOWHERE]
        try:
            # R8: it waits for the end of a rebalance, whatever its timeout; nothing else may wait for a poll.
            batches: Batches = await self._consumer.getmany(
                *wanted, timeout_ms=int(timeout * 1000), max_records=max_records
            )
            return batches
        except kafka.NoOffsetForPartitionError:
            return {}  # aiokafka looked for an offset before the partition was sought
        except kafka.OffsetOutOfRangeError as error:
            raise out_of_range(error) from error
        except kafka.KafkaError as error:
            if getattr(error, "retriable", False):
                log.warning("fetching for group %s: %s", self._group, error)
                return {}
            raise translate(error) from error

    def position(self, partition: TopicPartition) -> int:
        return position_of(self._consumer, partition)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._consumer.seek(KafkaPartition(*partition), offset)

    async def committed(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, CommittedOffset]:
        async with self._access.unless_denied():
            with translated():
                return await self._committed(partitions)

    async def _committed(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, CommittedOffset]:
        coordinator = self._coordinator
        while True:
            await coordinator.ensure_coordinator_known()
            try:
                return await fetch_offsets(self._send, self._group, partitions)
            except kafka.KafkaError as error:
                if not error.retriable:
                    raise
                log.info("reading committed offsets of group %s: %s; trying again", self._group, error)
                if isinstance(error, kafka.NotCoordinatorForGroupError | kafka.GroupCoordinatorNotAvailableError):
                    coordinator.coordinator_dead()
                await asyncio.sleep(0.1)

    async def commit(self, offsets: Mapping[TopicPartition, CommittedOffset], generation: int) -> None:
        coordinator = self._coordinator
        data = {KafkaPartition(*tp): OffsetAndMetadata(offset, metadata) for tp, (offset, metadata) in offsets.items()}
        with translated():
            await coordinator.ensure_coordinator_known()
            # R5, R6, R10: aiokafka's commit() reads generation and member at each retry, so one that straddles a
            # rebalance overwrites the next owner's offset, and with generation -1 it passes as an administrator's.
            # One attempt; between this line and the building of the request nothing is awaited.
            if generation == NO_GENERATION or coordinator.generation != generation:
                raise CommitRejected(f"generation {generation} of group {self._group} has ended")
            await coordinator._do_commit_offsets(None, data)

    def partition_count(self, topic: str) -> int:
        return len(self._consumer._client.cluster.partitions_for_topic(topic) or ())

    async def stop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await close(consumer)

    async def _send(self, request: OffsetFetch) -> Any:
        return await self._coordinator._send_req(request)

    def _watch_answers(self, client: Any) -> None:
        send, clock = client.send, asyncio.get_running_loop().time

        async def watched(*args: Any, **kwargs: Any) -> Any:
            answer = await send(*args, **kwargs)
            self._answered = clock()
            return answer

        client.send = watched

    def _watch_heartbeats(self, coordinator: Any) -> None:
        heartbeat = coordinator._do_heartbeat

        async def watched() -> bool:
            sent = asyncio.get_running_loop().time()
            success: bool = await heartbeat()
            if success:
                self._heartbeat = sent
            return success

        coordinator._do_heartbeat = watched

    def _joined(self) -> None:
        self._heartbeat = asyncio.get_running_loop().time()


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """R7: aiokafka logs and forgets what a listener raises; here it fails the next poll."""

    def __init__(self, consumer: KafkaConsumer, listener: RebalanceListener) -> None:
        self._consumer = consumer
        self._listener = listener

    async def on_partitions_revoked(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, revoked: Collection[Any]
    ) -> None:
        if not self._consumer._heartbeat:
            return  # before the first assignment there is nothing to revoke
        # R7: there is no callback for partitions that are lost; the generation is what tells.
        lost = self._consumer.generation == NO_GENERATION
        await self._guarded(self._listener.revoked(_ours(revoked), lost=lost))

    async def on_partitions_assigned(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, assigned: Collection[Any]
    ) -> None:
        self._consumer._joined()
        await self._guarded(self._listener.assigned(_ours(assigned)))

    async def _guarded(self, callback: Any) -> None:
        try:
            await callback
        except Exception as error:
            self._consumer._failure = error


def _ours(partitions: Collection[Any]) -> list[TopicPartition]:
    return sorted(TopicPartition(*partition) for partition in partitions)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


async def close(consumer: Any) -> None:
    """R20: stop() waits for ever when the cluster is gone; after a moment the connections are cut under it.

    R33: it passes on that it has cancelled a fetch which waited to be tried again, as if its caller were cancelled.
    """
    try:
        await asyncio.wait_for(consumer.stop(), STOP_TIMEOUT)
    except (TimeoutError, kafka.KafkaError, TransportError, asyncio.CancelledError) as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        log.warning(
            "closing a consumer: %s; cutting its connections",
            str(error) or ("timed out" if isinstance(error, TimeoutError) else "interrupted"),
        )
        await _leave(consumer)
        await _end_tasks(consumer)
        await cut(consumer._client)


async def _leave(consumer: Any) -> None:
    """Leave the group from a connection of its own.

    aiokafka's stop() waits for a join in progress, which lasts until the slowest member has drained, and forgets to
    leave if it is interrupted then. The group would give partitions to this member, and wait for its session to end.
    """
    coordinator, client = consumer._coordinator, consumer._client
    if not _in_group(consumer) or not coordinator.member_id or coordinator.coordinator_id is None:
        return
    node = coordinator.coordinator_id
    joining = client._conns.pop((node, ConnectionGroup.COORDINATION), None)
    if joining is not None:
        joining.close()  # the broker reads nothing more from it until the join is answered
    request = LeaveGroupRequest(coordinator.group_id, coordinator.member_id)
    with contextlib.suppress(TimeoutError, kafka.KafkaError, OSError):  # then its session will end
        await asyncio.wait_for(client.send(node, request, group=ConnectionGroup.COORDINATION), LEAVE_TIMEOUT)


def _in_group(consumer: Any) -> bool:
    """The coordinator of a consumer in no group has but one task, which stop() ends before anything can hang."""
    return hasattr(consumer._coordinator, "member_id")


async def _end_tasks(consumer: Any) -> None:
    """Those that an interrupted stop() leaves behind: a heartbeat among them would keep the member alive."""
    coordinator, fetcher = consumer._coordinator, consumer._fetcher
    tasks: set[Any] = set()
    if _in_group(consumer):
        tasks |= {coordinator._coordination_task, coordinator._heartbeat_task, coordinator._commit_refresh_task}
    if fetcher is not None:
        tasks |= {fetcher._fetch_task, *fetcher._pending_tasks}
    tasks.discard(None)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=LEAVE_TIMEOUT)
