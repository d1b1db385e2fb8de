"""What `App.agent` leaves behind, and the types of the decorators that it returns."""

from collections.abc import AsyncIterable, Callable, Coroutine, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, Never, Protocol, TypeVar, final, overload

from streamkit.batch import Batch
from streamkit.record import Output, Record
from streamkit.retry import Retry, tier_topics
from streamkit.shapes import Item, Shape
from streamkit.stream import Stream
from streamkit.topic import Topic

K = TypeVar("K")
V = TypeVar("V")
O = TypeVar("O")  # noqa: E741
In_contra = TypeVar("In_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)
# What an agent without a sink may return.
Q = TypeVar("Q", bound=Coroutine[Any, Any, Output[Never] | None])
B = TypeVar("B", bound=Coroutine[Any, Any, Iterable[Output[Never]] | None])

OrderBy = Literal["key", "partition", "none"]
StartFrom = Literal["earliest", "latest"]
OnGap = Literal["stop", "earliest", "latest"]


@final
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Agent(Generic[In_contra, R_co]):
    """A handler with its topics and how to run it. Still callable, so that a handler is tested by calling it."""

    name: str
    group: str
    topics: tuple[Topic[Any, Any], ...]
    sink: Topic[Any, Any] | None
    handler: Callable[[In_contra], R_co]
    shape: Shape
    item: Item
    is_generator: bool
    concurrency: int
    order_by: OrderBy | Callable[[Record[Any, Any]], Hashable]
    batch: Batch | None
    timeout: float | None  # seconds
    start_from: StartFrom
    on_gap: OnGap
    retry: Retry | None
    dead_letters: Mapping[str, str]  # the dead letter topic of each source topic, by name; empty: none

    @property
    def tier_topics(self) -> dict[str, str]:
        """The source topic of each retry tier, by the tier's name; those of a source in their order."""
        return {tier: topic.name for topic in self.topics for tier in tier_topics(topic.name, self.group, self.retry)}

    def __call__(self, argument: In_contra, /) -> R_co:
        return self.handler(argument)

    def __repr__(self) -> str:
        return f"Agent({self.name!r}, topics={[topic.name for topic in self.topics]}, group={self.group!r})"


class WithoutSink(Protocol[K, V]):
    """Nothing is returned, or only outputs that name their own topic."""

    @overload
    def __call__(self, handler: Callable[[V], Q], /) -> Agent[V, Q]: ...
    @overload
    def __call__(self, handler: Callable[[Stream[V]], Q], /) -> Agent[Stream[V], Q]: ...
    @overload
    def __call__(self, handler: Callable[[Stream[Record[K, V]]], Q], /) -> Agent[Stream[Record[K, V]], Q]: ...
    @overload
    def __call__(self, handler: Callable[[Record[K, V]], Q], /) -> Agent[Record[K, V], Q]: ...


class WithSink(Protocol[K, V, O]):
    """What is returned goes to the sink, under the record's key."""

    @overload
    def __call__(
        self, handler: Callable[[V], Coroutine[Any, Any, O | Output[O] | None]], /
    ) -> Agent[V, Coroutine[Any, Any, O | Output[O] | None]]: ...
    @overload
    def __call__(
        self, handler: Callable[[V], AsyncIterable[O | Output[O]]], /
    ) -> Agent[V, AsyncIterable[O | Output[O]]]: ...
    @overload
    def __call__(
        self, handler: Callable[[Stream[V]], AsyncIterable[O | Output[O]]], /
    ) -> Agent[Stream[V], AsyncIterable[O | Output[O]]]: ...
    @overload
    def __call__(
        self, handler: Callable[[Stream[Record[K, V]]], AsyncIterable[O | Output[O]]], /
    ) -> Agent[Stream[Record[K, V]], AsyncIterable[O | Output[O]]]: ...
    @overload
    def __call__(
        self, handler: Callable[[Record[K, V]], Coroutine[Any, Any, O | Output[O] | None]], /
    ) -> Agent[Record[K, V], Coroutine[Any, Any, O | Output[O] | None]]: ...
    @overload
    def __call__(
        self, handler: Callable[[Record[K, V]], AsyncIterable[O | Output[O]]], /
    ) -> Agent[Record[K, V], AsyncIterable[O | Output[O]]]: ...


class WithRekeyedSink(Protocol[K, V, O]):
    """The sink's key type is not the source's: the record's key cannot be passed on, so outputs state theirs."""

    @overload
    def __call__(
        self, handler: Callable[[V], Coroutine[Any, Any, Output[O] | None]], /
    ) -> Agent[V, Coroutine[Any, Any, Output[O] | None]]: ...
    @overload
    def __call__(self, handler: Callable[[V], AsyncIterable[Output[O]]], /) -> Agent[V, AsyncIterable[Output[O]]]: ...
    @overload
    def __call__(
        self, handler: Callable[[Stream[V]], AsyncIterable[Output[O]]], /
    ) -> Agent[Stream[V], AsyncIterable[Output[O]]]: ...
    @overload
    def __call__(
        self, handler: Callable[[Stream[Record[K, V]]], AsyncIterable[Output[O]]], /
    ) -> Agent[Stream[Record[K, V]], AsyncIterable[Output[O]]]: ...
    @overload
    def __call__(
        self, handler: Callable[[Record[K, V]], Coroutine[Any, Any, Output[O] | None]], /
    ) -> Agent[Record[K, V], Coroutine[Any, Any, Output[O] | None]]: ...
    @overload
    def __call__(
        self, handler: Callable[[Record[K, V]], AsyncIterable[Output[O]]], /
    ) -> Agent[Record[K, V], AsyncIterable[Output[O]]]: ...


# Handlers of batches may ask for list, Sequence or Iterable: a list is all of these.


class OfBatches(Protocol[K, V]):
    """Nothing is returned, or only outputs that name their own topic."""

    @overload
    def __call__(self, handler: Callable[[list[V]], B], /) -> Agent[list[V], B]: ...
    @overload
    def __call__(self, handler: Callable[[list[Record[K, V]]], B], /) -> Agent[list[Record[K, V]], B]: ...


class OfBatchesWithSink(Protocol[K, V, O]):
    """Outputs state their keys: a batch has many."""

    @overload
    def __call__(
        self, handler: Callable[[list[V]], Coroutine[Any, Any, Iterable[Output[O]] | None]], /
    ) -> Agent[list[V], Coroutine[Any, Any, Iterable[Output[O]] | None]]: ...
    @overload
    def __call__(
        self, handler: Callable[[list[Record[K, V]]], Coroutine[Any, Any, Iterable[Output[O]] | None]], /
    ) -> Agent[list[Record[K, V]], Coroutine[Any, Any, Iterable[Output[O]] | None]]: ...
