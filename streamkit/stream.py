"""What a handler of the loop shape iterates over."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Generic, TypeVar, final

T_co = TypeVar("T_co", covariant=True)


@final
class Stream(Generic[T_co]):
    """The records of one partition, one at a time, until it is given back.

    Asking for the next one states that the one before is handled. `Stream([...])` is for tests that call a handler.
    """

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[T_co] | AsyncIterable[T_co]) -> None:
        self._items = items

    def __aiter__(self) -> AsyncIterator[T_co]:
        return aiter(self._items) if isinstance(self._items, AsyncIterable) else _one_by_one(self._items)


async def _one_by_one(items: Iterable[T_co]) -> AsyncIterator[T_co]:
    for item in items:
        yield item
