"""Running a handler: each record in its own copied context, and without a task of its own."""

from __future__ import annotations

import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any

from streamkit.agent import Agent
from streamkit.record import Record
from streamkit.runtime.delivery import Delivery, current
from streamkit.transport.base import ConsumedRecord

Decode = Callable[[ConsumedRecord], Any]
Emit = Callable[[Delivery, object], Awaitable[None]]


class KeyUndecodable(Exception):
    """Tells the stage; the cause is the codec's error."""


def argument_decoder(agent: Agent[Any, Any]) -> Decode:
    """What the handler is called with, from the record as it lies in the log."""
    (topic, *_) = agent.topics
    decode, null = topic.value_codec.decode, topic.value_codec.null

    def value_of(record: ConsumedRecord) -> Any:
        value = record.value
        return null() if value is None else decode(value)

    if agent.shape == "value":
        return value_of
    return record_decoder(agent, value_of)


def record_decoder(
    agent: Agent[Any, Any], value_of: Decode | None = None
) -> Callable[[ConsumedRecord], Record[Any, Any]]:
    (topic, *_) = agent.topics
    decode_key = topic.key_codec.decode
    if value_of is None:
        decode, null = topic.value_codec.decode, topic.value_codec.null

        def value_of(record: ConsumedRecord) -> Any:
            return null() if record.value is None else decode(record.value)

    decode_value = value_of

    def whole(record: ConsumedRecord) -> Record[Any, Any]:
        raw = record.key
        try:
            key = None if raw is None else decode_key(raw)
        except Exception as error:
            raise KeyUndecodable from error
        return Record(
            key,
            decode_value(record),
            record.topic,
            record.partition,
            record.offset,
            record.timestamp,
            record.headers,
        )

    return whole


def coroutine_handler(agent: Agent[Any, Any], emit: Emit) -> Callable[[Any], Coroutine[Any, Any, Any]]:
    """The handler as a coroutine function; a generator's outputs are emitted as they come."""
    handler: Callable[[Any], Any] = agent.handler
    if not agent.is_generator:
        return handler

    async def drain(argument: Any) -> None:
        delivery = current.get()
        assert delivery is not None
        outputs: AsyncIterator[Any] = handler(argument)
        async for output in outputs:
            await emit(delivery, output)

    return drain


@types.coroutine
def resume(context: Context, coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> Generator[Any, Any, Any]:
    """Await the rest of a coroutine whose first step ran in `context` and is waiting for `waits_for`.

    The task that awaits this drives it: what asyncio sends or throws into the task goes on to the coroutine, in its
    own context. So a handler costs a task's switch only if it waits, and never a task.
    """
    while True:
        try:
            sent = yield waits_for
        except GeneratorExit:
            context.run(coroutine.close)
            raise
        except BaseException as error:
            try:
                waits_for = context.run(coroutine.throw, error)
            except StopIteration as done:
                return done.value
        else:
            try:
                waits_for = context.run(coroutine.send, sent)
            except StopIteration as done:
                return done.value
