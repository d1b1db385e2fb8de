"""How many records a batch handler gets at a time, and how long they may wait for each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from streamkit.checks import positive, seconds
from streamkit.durations import Duration


@final
@dataclass(frozen=True, slots=True, init=False)
class Batch:
    """Up to `size` consecutive records of one partition, of which the first waits at most `within` for the others.

    Raises DeclarationError for a size below 1, and for what is not a duration.
    """

    size: int
    within: float  # seconds

    def __init__(self, size: int, *, within: Duration) -> None:
        object.__setattr__(self, "size", positive("Batch, size", size))
        object.__setattr__(self, "within", seconds("Batch, within", within))


@final
class BatchError(Exception):
    """Raised by a batch handler that could handle only a part of its batch.

    `errors` maps the places of the failed records in the batch, from 0, to their errors. All others have been handled.

    Raises ValueError if there is none, or if a place or an error is not one.
    """

    def __init__(self, errors: Mapping[int, BaseException]) -> None:
        for place, error in errors.items():
            if type(place) is not int or place < 0 or not isinstance(error, BaseException):
                raise ValueError(f"BatchError takes {{place from 0: exception}}, not {{{place!r}: {error!r}}}")
        if not errors:
            raise ValueError("BatchError names no failed record: return, if all of the batch was handled")
        self.errors = dict(sorted(errors.items()))
        first, error = next(iter(self.errors.items()))
        super().__init__(f"{len(self.errors)} failed, the first at {first}: {type(error).__name__}: {error}")
