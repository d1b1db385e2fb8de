"""What handlers receive and return, and what records are before they are decoded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final, Generic, Literal, NamedTuple, Never, Protocol, TypeVar, final, overload

if TYPE_CHECKING:
    from typing import Any

    from streamkit.topic import Topic

K = TypeVar("K")
T = TypeVar("T")
K_co = TypeVar("K_co", covariant=True)
V_co = TypeVar("V_co", covariant=True)

Headers = Sequence[tuple[str, bytes | None]]
HeaderList = list[tuple[str, bytes | None]]  # those of a record that is sent: aiokafka builds batches from lists only

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class TopicPartition(NamedTuple):
    topic: str
    partition: int


class RecordMetadata(NamedTuple):
    """Where the brokers have stored a value."""

    topic: str
    partition: int
    offset: int  # -1 if they had it already, from a first attempt whose answer was lost, and do not say where


class ConsumedRecord(Protocol):
    """One record as it lies in the log. aiokafka's ConsumerRecord is one."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


@final
class Record(Generic[K_co, V_co]):
    """One record of a topic, decoded.

    `timestamp_ms` are the milliseconds since 1970 that Kafka holds; `timestamp` is the same in UTC. `attempt` is 1 the
    first time. The constructor's defaults are for tests that call a handler.
    """

    __slots__ = ("attempt", "headers", "key", "offset", "partition", "timestamp_ms", "topic", "value")

    key: K_co | None
    value: V_co
    topic: Final[str]
    partition: Final[int]
    offset: Final[int]
    timestamp_ms: Final[int]
    headers: Final[Headers]
    attempt: Final[int]

    def __init__(
        self,
        key: K_co | None,
        value: V_co,
        topic: str = "",
        partition: int = 0,
        offset: int = 0,
        timestamp_ms: int = 0,
        headers: Headers = (),
        attempt: int = 1,
    ) -> None:
        self.key = key
        self.value = value
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.timestamp_ms = timestamp_ms
        self.headers = headers
        self.attempt = attempt

    @property
    def timestamp(self) -> datetime:
        # Computed when asked for: most handlers never do, and it costs more than the rest of the record.
        return EPOCH + timedelta(milliseconds=self.timestamp_ms)

    def __repr__(self) -> str:
        return f"Record({self.topic}[{self.partition}] offset {self.offset}, key {self.key!r})"


class Unset(Enum):
    """The type of UNSET: "not given", where None means null."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


@final
class Output(Generic[V_co]):
    """A returned value with its own key, headers or topic.

    Without `key=` it keeps the key of the record being handled; `key=None` is the null key. Without `topic=` it goes to
    the agent's sink. `Output(None)` is a tombstone. With `topic=` it is an `Output[Never]`, which any agent may return.
    """

    __slots__ = ("headers", "key", "topic", "value")

    value: V_co
    key: Final[object]
    headers: Final[Headers]
    topic: Final[Topic[Any, Any] | None]

    @overload
    def __init__(self, value: V_co, *, key: object = UNSET, headers: Headers = ()) -> None: ...
    @overload
    def __init__(
        self: Output[Never],
        value: T,
        *,
        topic: Topic[K, T],
        key: K | Literal[Unset.UNSET] | None = UNSET,
        headers: Headers = (),
    ) -> None: ...
    def __init__(
        self, value: Any, *, topic: Topic[Any, Any] | None = None, key: object = UNSET, headers: Headers = ()
    ) -> None:
        self.value = value
        self.key = key
        self.headers = headers
        self.topic = topic

    def __repr__(self) -> str:
        return f"Output({self.value!r}, key={self.key!r}, topic={self.topic.name if self.topic else None!r})"
