"""Who is told what happens to the records of an agent."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, MutableMapping
from math import inf
from typing import Protocol

from streamkit.errors import Stage
from streamkit.runtime.delivery import Bundle, Delivery, Owner


class Events(Protocol):
    """What the tasks that run handlers report to."""

    @property
    def lease(self) -> float:
        """Loop time until which records may be started."""
        ...

    @property
    def tripped(self) -> bool:
        """The breaker is open: nothing starts without a permit."""
        ...

    @property
    def counted(self) -> bool:
        """Whether anybody counts the runs that succeed."""
        ...

    def permit(self) -> bool:
        """Whether one record or batch may start although the breaker is open. Asked by who starts one then."""
        ...

    @property
    def failing(self) -> MutableMapping[Hashable, float]:
        """Keys whose last run has failed. Whoever runs one that succeeds takes it out."""
        ...

    def returned(self, count: int, now: float, /) -> None:
        """So many handlers have returned by this loop time; records, for those of batches."""
        ...

    def succeeded(self, count: int, now: float, /, *, probe: bool) -> None:
        """So many runs of the handler have ended well by then, and have sent nothing that is not acknowledged."""
        ...

    def failed(
        self,
        delivery: Delivery,
        stage: Stage,
        cause: BaseException,
        raw: bytes | None = None,
        *,
        late: bool = False,
        began: float = inf,
    ) -> None:
        """It has failed, and what becomes of it is decided here; `raw` is what could not be decoded. `late`: its own
        time limit ended it. `began`: loop time at which its run did.

        Its lane is held until the pool is told that the record is `finished`, or to run it `again`.
        """
        ...

    def failed_batch(
        self,
        bundle: Bundle,
        errors: Mapping[int, BaseException] | BaseException,
        stage: Stage,
        *,
        late: bool = False,
        began: float = inf,
    ) -> None:
        """The same for a batch, of which these have failed, by place, or all of them together."""
        ...

    def failed_before(self, owner: Owner, /) -> None:
        """Its handler has ended, and one of its outputs was rejected while it ran."""
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


class Fates(Protocol):
    """What the pools do with records whose fate is decided."""

    def runs(self, owner: Owner, /) -> bool:
        """Whether its handler has begun, and not ended."""
        ...

    def again(self, deliveries: list[Delivery], /) -> None:
        """Run these once more, before anything else of their lanes; those of a batch together."""
        ...

    def rejoin(self, deliveries: list[Delivery], /) -> None:
        """Run these once more although their lanes have gone on: behind what waits there now."""
        ...

    def finished(self, delivery: Delivery, /) -> None:
        """It counts as handled: its lane goes on."""
        ...

    @property
    def startable(self) -> bool:
        """Whether something is there that could start at once."""
        ...

    def wake(self, tasks: int, /) -> None: ...
