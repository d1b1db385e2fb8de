"""Which partitions may be fetched now, and how much: the bounds on what is held in memory."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Generic, NamedTuple, TypeVar

P = TypeVar("P", bound=Hashable)

CLOSE_AT = 1.0
REOPEN_AT = 0.5


@dataclass(frozen=True, slots=True)
class FlowLimits:
    """How much of a log may be in memory at once; `ValueError` if a limit is below 1.

    The record limits are never exceeded. `bytes` may be, by what one fetch brings: sizes are
    known only afterwards.
    """

    partition_unsettled: int = 10_000  # records not settled, of one partition
    partition_window: int = 24_000  # records from the lowest unsettled one on, of one partition
    records: int = 100_000  # records not settled, of all partitions
    bytes: int = 256 * 1024 * 1024  # bytes of the records not settled, of all partitions

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} must be at least 1")


class Load(NamedTuple):
    """What one partition holds; records that wait for a retry count as unsettled."""

    unsettled: int
    window: int
    bytes: int


class Flow(Generic[P]):
    """Opens and closes partitions so that what is held stays within the limits.

    A partition closes when it reaches a bound and opens again at half of it, so that intake comes
    in stretches, not record by record. Half of each total is split evenly over the partitions as
    their guaranteed share, the other half is a common pool: a hung partition can fill the pool,
    but not what the others are guaranteed.
    """

    def __init__(self, limits: FlowLimits) -> None:
        self._limits = limits
        self._full: dict[P, set[int]] = {}  # closed partitions with the bounds that closed them

    def open(self, loads: Mapping[P, Load], *, windows: int = 1) -> dict[P, int]:
        """The partitions that may be fetched now, with their room in records, at least 1.

        The bound on the window is that many times as large. If it is larger at all, whoever asks waits for records that
        are not read yet: then a partition that is closed opens as soon as it is below its bounds.

        `loads` names every assigned partition; those that it no longer names are forgotten. The
        rooms share one pool: see `next_fetch` for what may be taken in one go.
        """
        records = _Total(self._limits.records, [load.unsettled for load in loads.values()])
        size = _Total(self._limits.bytes, [load.bytes for load in loads.values()])
        rooms: dict[P, int] = {}
        closed: dict[P, set[int]] = {}
        for partition, load in loads.items():
            bounds = self._limits.partition_unsettled, records.allowance(load.unsettled)
            window = windows * self._limits.partition_window
            levels = (
                _level(load.unsettled, min(bounds)),
                _level(load.window, window),
                _level(load.bytes, size.allowance(load.bytes)),
            )
            full = self._full_bounds(partition, levels, CLOSE_AT if windows > 1 else REOPEN_AT)
            if load.unsettled and full:
                closed[partition] = full
            else:
                rooms[partition] = max(1, min(min(bounds) - load.unsettled, window - load.window))
        self._full = closed
        return rooms

    def _full_bounds(self, partition: P, levels: Sequence[float], reopen_at: float) -> set[int]:
        """Each bound counts on its own: beside a hung record the window never falls, and must not keep a partition
        closed that was closed for its unsettled records."""
        before = self._full.get(partition, ())
        return {n for n, level in enumerate(levels) if level >= CLOSE_AT or (n in before and level > reopen_at)}


def next_fetch(rooms: Mapping[P, int], at_most: int, before: Collection[P] = ()) -> tuple[list[P], int]:
    """The partitions to fetch from together, and the most records to take from all of them.

    No partition in the fetch has less room than the whole fetch may bring, so all limits hold
    however it spreads. A partition that is nearly full is left out, instead of making every fetch
    tiny; but those that the fetch `before` left out set the size of this one, so that none waits
    for ever because another always has more room.
    """
    waiting = [room for partition, room in rooms.items() if partition not in before] or rooms.values()
    records = min(at_most, max(waiting, default=0))
    return [partition for partition, room in rooms.items() if room >= records], records


class _Total:
    """A limit on what all partitions hold together."""

    def __init__(self, limit: int, used: Iterable[int]) -> None:
        used = list(used)
        self._share = limit // (2 * max(1, len(used)))
        self._pool = limit - self._share * len(used)
        self._excess = sum(self._over(n) for n in used)

    def allowance(self, used: int) -> int:
        """What a partition that holds `used` may hold: its share and what the others left."""
        others = self._excess - self._over(used)
        return self._share + max(0, self._pool - others)

    def _over(self, used: int) -> int:
        return max(0, used - self._share)


def _level(used: int, bound: int) -> float:
    return used / bound if bound else CLOSE_AT
