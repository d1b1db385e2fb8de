"""Work that an app does every so often."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True)
class Timer:
    """An async function without arguments, called once every `every` seconds in each worker process."""

    name: str
    every: float  # seconds
    function: Callable[[], Awaitable[None]]
