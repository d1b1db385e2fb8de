"""Who is told what happens to the records of an agent."""

from __future__ import annotations

from typing import Protocol

from streamkit.errors import Stage
from streamkit.runtime.delivery import Owner


class Events(Protocol):
    """What the tasks that run handlers report to."""

    @property
    def lease(self) -> float:
        """Loop time until which records may be started."""
        ...

    def failed(self, owner: Owner, stage: Stage, cause: BaseException, raw: bytes | None = None, /) -> None:
        """It is not handled and is never released; `raw` is what could not be decoded."""
        ...

    def fail(self, error: Exception, /) -> None:
        """The agent cannot go on, and no record is to blame."""
        ...

    def progressed(self) -> None:
        """A handler that had to wait has ended."""
        ...

    def starved(self) -> None:
        """Nothing is ready to run."""
        ...
