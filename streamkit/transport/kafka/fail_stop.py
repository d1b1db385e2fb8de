"""An aiokafka producer that sends nothing more once a batch has failed, and keeps nobody waiting until then."""

from __future__ import annotations

import asyncio
from copy import copy
from typing import Any

from aiokafka.errors import ProducerClosed


def stop_at_first_failure(producer: Any) -> None:
    """R4: fail what waits behind a failed batch, and what is handed over later.

    A failed batch has used up sequence numbers, so that brokers refuse what follows it; but only those that have seen
    the producer in that partition before. Of a producer that is new to it they accept any number, and what was queued
    would get into the log before the failed batch is sent again.
    """
    accumulator = producer._message_accumulator
    append, drain = accumulator._append_batch, accumulator.drain_by_nodes
    unacknowledged: list[Any] = []

    def appended(*args: Any) -> Any:
        batch = append(*args)
        unacknowledged.append(batch)
        return batch

    # The sender's only way to batches. A partition is locked for it while one of its batches is under way, and is
    # released in the same step of the loop in which that one fails: so nothing passes between failure and look.
    def drained(*args: Any, **kwargs: Any) -> Any:
        failure = next(filter(None, map(_failure, unacknowledged)), None)
        unacknowledged[:] = [batch for batch in unacknowledged if not batch.future.done()]
        if failure is not None and accumulator._exception is None:
            accumulator._exception = failure
            _fail_queued(accumulator, failure)
        return drain(*args, **kwargs)

    accumulator._append_batch, accumulator.drain_by_nodes = appended, drained


def queue_without_waiting(producer: Any, give_up_after: float) -> None:
    """Take batches of a partition behind others that wait there, instead of making the caller wait.

    aiokafka lets one wait. Whoever brings the next is held up, with all the outputs to other partitions behind him, and
    after the request timeout gets an error: so one partition that elects its leader stops all others, and breaks the
    producer. The publisher bounds the queue, and is the only one to fill it (R31). `give_up_after` is in seconds.
    """
    accumulator = producer._message_accumulator
    accumulator._batch_ttl = give_up_after  # without a leader; it is the request timeout otherwise

    async def add_batch(builder: Any, tp: Any, timeout: float) -> Any:
        if accumulator._closed:
            raise ProducerClosed()
        if accumulator._exception is not None:
            raise copy(accumulator._exception)
        return asyncio.shield(accumulator._append_batch(builder, tp).future)

    accumulator.add_batch = add_batch


def _failure(batch: Any) -> BaseException | None:
    future = batch.future
    error: BaseException | None = future.exception() if future.done() and not future.cancelled() else None
    return error


def _fail_queued(accumulator: Any, error: BaseException) -> None:
    """But those that are sent again: whether they are in the log is not known, and soon will be."""
    for partition, queue in list(accumulator._batches.items()):
        for batch in [batch for batch in queue if not batch.retry_count]:
            queue.remove(batch)
            batch.failure(error)
            batch._drain_waiter.exception()  # nobody else may look at it
        if not queue:
            del accumulator._batches[partition]
