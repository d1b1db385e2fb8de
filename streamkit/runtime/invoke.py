"""Running a handler: each record in its own copied context, and without a task of its own."""

from __future__ import annotations

import types
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import aclosing
from contextvars import Context
from typing import Any, Final, Protocol

from streamkit.agent import Agent
from streamkit.record import Record
from streamkit.runtime.delivery import Delivery, current
from streamkit.transport.base import ConsumedRecord

Decode = Callable[[ConsumedRecord], Any]
ENDED: Final = object()


class Emit(Protocol):
    """Where outputs go; both raise SinkFailure."""

    def now(self, delivery: Delivery, output: object, /) -> None: ...

    async def patiently(self, delivery: Delivery, output: object, /) -> None:
        """Wait for room first."""
        ...


class KeyUndecodable(Exception):
    """Tells the stage; the cause is the codec's error."""


class SinkFailure(Exception):
    """Tells the stage; the cause says why an output could not be queued."""


def argument_decoder(agent: Agent[Any, Any]) -> Decode:
    """What the handler is called with, from the record as it lies in the log."""
    return _value_decoder(agent) if agent.shape == "value" else record_decoder(agent)


def record_decoder(agent: Agent[Any, Any]) -> Callable[[ConsumedRecord], Record[Any, Any]]:
    """The whole record. Raises KeyUndecodable, and what the value's codec raises."""
    decode_key, decode_value = agent.topics[0].key_codec.decode, _value_decoder(agent)

    def whole(record: ConsumedRecord) -> Record[Any, Any]:
        raw = record.key
        try:
            key = None if raw is None else decode_key(raw)
        except Exception as error:
            raise KeyUndecodable from error
        value = decode_value(record)
        return Record(key, value, record.topic, record.partition, record.offset, record.timestamp, record.headers)

    return whole


def _value_decoder(agent: Agent[Any, Any]) -> Decode:
    codec = agent.topics[0].value_codec
    decode, null = codec.decode, codec.null

    def value_of(record: ConsumedRecord) -> Any:
        value = record.value
        return null() if value is None else decode(value)

    return value_of


def coroutine_handler(agent: Agent[Any, Any], emit: Emit) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """The handler as a coroutine function that returns None; what it returns or yields is emitted on the way.

    Raises SinkFailure where that fails, and otherwise what the handler raises.
    """
    handler: Callable[[Any], Any] = agent.handler
    if agent.is_generator:
        return _yielding(handler, emit)
    if agent.sink is None and _returns_nothing(handler):
        return handler

    async def emitting(argument: Any) -> None:
        result = await handler(argument)
        if result is not None:
            delivery = current.get()
            assert delivery is not None
            emit.now(delivery, result)

    return emitting


def _yielding(
    handler: Callable[[Any], AsyncGenerator[Any, None]], emit: Emit
) -> Callable[[Any], Coroutine[Any, Any, None]]:
    async def drain(argument: Any) -> None:
        delivery = current.get()
        assert delivery is not None
        async with aclosing(handler(argument)) as outputs:
            async for output in outputs:
                await emit.patiently(delivery, output)

    return drain


def _returns_nothing(handler: Callable[..., Any]) -> bool:
    """Whether it says so: what it returns all the same is dropped then, as Python does."""
    return getattr(handler, "__annotations__", {}).get("return", "") in (None, "None")


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
