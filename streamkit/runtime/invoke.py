"""Running a handler: each record in its own copied context, and without a task of its own."""

from __future__ import annotations

import types
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable
from contextlib import aclosing
from contextvars import Context
from typing import Any, Final, Protocol

from streamkit.agent import Agent
from streamkit.record import ConsumedRecord, Record
from streamkit.runtime.delivery import Bundle, Delivery, Owner, current
from streamkit.runtime.events import Events
from streamkit.runtime.returned import Returned, attempt_of
from streamkit.stream import Stream
from streamkit.topic import Topic

Decode = Callable[[ConsumedRecord], Any]
CurrentOwner = Callable[[], Owner]  # of an output that is made now
ENDED: Final = object()


class Emit(Protocol):
    """Where outputs go; both raise SinkFailure."""

    def now(self, owner: Owner, output: object, /) -> None: ...

    async def patiently(self, owner: Owner, output: object, /) -> None:
        """Wait for room first."""
        ...


class KeyUndecodable(Exception):
    """Tells the stage; the cause is the codec's error."""


class SinkFailure(Exception):
    """Tells the stage; the cause says why an output could not be queued."""


def argument_decoder(agent: Agent[Any, Any]) -> Decode:
    """What the handler is called with, or one of what it gets, from the record as it lies in the log."""
    topic = agent.topics[0]  # all have the same types
    return _value_decoder(topic) if agent.item == "value" else record_decoder(topic)


def record_decoder(topic: Topic[Any, Any]) -> Callable[[ConsumedRecord], Record[Any, Any]]:
    """The whole record. Raises KeyUndecodable, and what the value's codec raises."""
    decode_key, decode_value = topic.key_codec.decode, _value_decoder(topic)

    def whole(record: ConsumedRecord) -> Record[Any, Any]:
        raw = record.key
        try:
            key = None if raw is None else decode_key(raw)
        except Exception as error:
            raise KeyUndecodable from error
        value = decode_value(record)
        where = record.topic, record.partition, record.offset
        attempt = record.attempt if type(record) is Returned else 1  # inline: on the hot path of whole records
        return Record(key, value, *where, record.timestamp, record.headers, attempt)

    return whole


def _value_decoder(topic: Topic[Any, Any]) -> Decode:
    codec = topic.value_codec
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
            owner = current.get()
            assert owner is not None
            emit.now(owner, result)

    return emitting


def _yielding(
    handler: Callable[[Any], AsyncGenerator[Any, None]], emit: Emit
) -> Callable[[Any], Coroutine[Any, Any, None]]:
    async def drain(argument: Any) -> None:
        owner = current.get()
        assert owner is not None
        async with aclosing(handler(argument)) as outputs:
            async for output in outputs:
                await emit.patiently(owner, output)

    return drain


def batch_handler(agent: Agent[Any, Any], emit: Emit) -> Callable[[list[Any]], Coroutine[Any, Any, None]]:
    """The handler of batches, which emits what it returns. Raises as `coroutine_handler` does."""
    handler: Callable[[list[Any]], Any] = agent.handler

    async def emitting(items: list[Any]) -> None:
        outputs = await handler(items)
        if outputs is None:
            return
        bundle = current.get()
        assert type(bundle) is Bundle
        if not isinstance(outputs, Iterable):
            kind = type(outputs).__qualname__
            raise SinkFailure from TypeError(f"a batch handler returns an iterable of Output, or None; not {kind}")
        for output in outputs:
            await emit.patiently(bundle, output)

    return emitting


def loop_handler(
    agent: Agent[Any, Any], emit: Emit
) -> Callable[[Stream[Any], CurrentOwner], Coroutine[Any, Any, None]]:
    """The handler of a stream, which emits what it yields or returns. Raises as `coroutine_handler` does."""
    handler: Callable[[Stream[Any]], Any] = agent.handler

    async def yielding(stream: Stream[Any], owner: CurrentOwner) -> None:
        async with aclosing(handler(stream)) as outputs:
            async for output in outputs:
                await emit.patiently(owner(), output)

    async def returning(stream: Stream[Any], owner: CurrentOwner) -> None:
        result = await handler(stream)
        if result is not None:
            await emit.patiently(owner(), result)

    return yielding if agent.is_generator else returning


def as_far_as_decodable(agent: Agent[Any, Any], record: ConsumedRecord) -> Record[Any, Any]:
    """The record for those who report errors: what cannot be decoded of it as bytes."""
    try:
        return record_decoder(agent.topics[0])(record)
    except Exception:
        raw = record.key, record.value, record.topic, record.partition, record.offset, record.timestamp
        return Record(*raw, record.headers, attempt_of(record))


def report_undecodable(events: Events, delivery: Delivery, error: Exception) -> None:
    record = delivery.record
    if isinstance(error, KeyUndecodable):
        events.failed(delivery, "decode-key", error.__cause__ or error, record.key)
    else:
        events.failed(delivery, "decode-value", error, record.value)


def _returns_nothing(handler: Callable[..., Any]) -> bool:
    """Whether it says so: what it returns all the same is dropped then, as Python does."""
    return getattr(handler, "__annotations__", {}).get("return", "") in (None, "None")


async def drive(context: Context, coroutine: Coroutine[Any, Any, None]) -> None:
    """Await a coroutine in a context of its own, without a task of its own."""
    waits_for = context.run(next, coroutine.__await__(), ENDED)
    if waits_for is not ENDED:
        await resume(context, coroutine, waits_for)


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
