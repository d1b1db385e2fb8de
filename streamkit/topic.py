"""A typed topic, and the way to send to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar, final

from streamkit.codec import BoundCodec, Codec
from streamkit.record import UNSET, Headers, RecordMetadata

K = TypeVar("K")
V = TypeVar("V")


class SendPort(Protocol):
    """Where `Topic.send` hands its values over. A running worker provides one."""

    async def send(
        self,
        topic: Topic[Any, Any],
        value: Any,
        key: Any,
        headers: Headers,
        partition: int | None,
        timestamp: datetime | None,
    ) -> None: ...

    async def send_and_wait(
        self,
        topic: Topic[Any, Any],
        value: Any,
        key: Any,
        headers: Headers,
        partition: int | None,
        timestamp: datetime | None,
    ) -> RecordMetadata: ...


@final
class PortHolder:
    """One per app, shared by its topics: they are declared before a worker exists."""

    __slots__ = ("current", "state")

    def __init__(self) -> None:
        self.current: SendPort | None = None
        self.state: object = UNSET  # what the app's lifespan has yielded


@final
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Topic(Generic[K, V]):
    """A topic with the types of its keys and values. Declared by `App.topic`."""

    name: str
    key_type: object
    value_type: object
    key_codec: BoundCodec[K]
    value_codec: BoundCodec[V]
    partitions: int | None
    replication: int | None
    retention: float | None  # seconds
    config: Mapping[str, str]
    codec: Codec[V] | None = None  # as given
    app_port: PortHolder = field(default_factory=PortHolder)

    async def send(
        self,
        value: V,
        *,
        key: K | None = None,
        headers: Headers = (),
        partition: int | None = None,
        timestamp: datetime | None = None,
    ) -> None:
        """Queue one value; waits while the queue is full.

        Inside a handler the send belongs to the record being handled: the record is not settled before the brokers have
        acknowledged it. Outside of one it belongs to the app. Without `key` the key is null; without `partition` the
        key decides; without `timestamp` it is the current time.

        Raises EncodeError for a value or key of another type, and RuntimeError if no worker is running.
        """
        await self._port().send(self, value, key, headers, partition, timestamp)

    async def send_and_wait(
        self,
        value: V,
        *,
        key: K | None = None,
        headers: Headers = (),
        partition: int | None = None,
        timestamp: datetime | None = None,
    ) -> RecordMetadata:
        """Send one value as `send` does, and wait until the brokers have acknowledged it; where it is stored.

        Raises what `send` raises, and TransportError if the brokers refuse the value. That answers for it: a handler
        that catches the error has handled its record.
        """
        return await self._port().send_and_wait(self, value, key, headers, partition, timestamp)

    def _port(self) -> SendPort:
        port = self.app_port.current
        if port is None:
            raise RuntimeError(
                f"cannot send to {self.name!r}: no worker is running in this process. "
                "Topic.send works inside `streamkit worker`, `streamkit dev` and `app.test()`."
            )
        return port

    def __repr__(self) -> str:
        return f"Topic({self.name!r}, value={self.value_codec.type_name}, key={self.key_codec.type_name})"
