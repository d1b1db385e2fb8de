"""Which record may run next: order within a key, fairness between keys and between partitions."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, Protocol, Self, TypeVar


class Queued(Protocol):
    """A record as lanes see it. It carries its own place in the queue, so that a lane costs no object of its own."""

    lane: Hashable | None  # the key whose records wait for each other; None waits for nothing
    next: Self | None  # the record that waits behind this one


P = TypeVar("P", bound=Hashable)  # a partition
T = TypeVar("T", bound=Queued)


class Track(Generic[P, T]):
    """The lanes of one partition during one assignment."""

    __slots__ = ("closed", "halted", "partition", "ready", "tails")

    def __init__(self, partition: P) -> None:
        self.partition = partition
        self.tails: dict[Hashable, T] = {}  # the last record of each lane; a lane exists only while it holds one.
        # Once halted: the records that run on, and no others.
        self.ready: deque[T] = deque()  # the first record of each lane that does not run and is not blocked
        self.halted = False
        self.closed = False


class Lanes(Generic[P, T]):
    """All lanes of an agent, served in two levels of round robin: partitions, then the lanes of each.

    The first record of a lane is ready, running (taken and not yet released), or blocked by an orphan. Every operation
    on a record is O(1). Between the moment a lane becomes ready and its turn, every other lane of its partition is
    served at most once, and every other partition at most once more than its own.

    Orphans are records that still run although their partition was closed. When the partition is opened again, the
    same key waits until they have ended, so that no key runs twice at a time in one process.
    """

    __slots__ = ("_blocked", "_orphans", "_tracks", "_turns")

    def __init__(self) -> None:
        self._tracks: dict[P, Track[P, T]] = {}
        self._turns: deque[Track[P, T]] = deque()  # the tracks that have a ready record
        self._orphans: set[tuple[P, Hashable]] = set()
        self._blocked: dict[tuple[P, Hashable], tuple[Track[P, T], T]] = {}

    @property
    def ready(self) -> bool:
        return bool(self._turns)

    @property
    def ready_count(self) -> int:
        """How many records could run now, were there tasks enough."""
        return sum(len(track.ready) for track in self._turns)

    @property
    def keys(self) -> int:
        """Lanes that hold a record, of all partitions. May be asked from another thread."""
        return sum(len(track.tails) for track in list(self._tracks.values()))

    @property
    def orphans(self) -> int:
        """Keys that still run for a partition that was closed."""
        return len(self._orphans)

    def open(self, partition: P) -> Track[P, T]:
        """Begin an assignment of the partition."""
        if partition in self._tracks:
            raise ValueError(f"{partition} is open already")
        track = self._tracks[partition] = Track(partition)
        return track

    def put(self, track: Track[P, T], item: T) -> None:
        """Queue a record behind the earlier ones of its lane."""
        self.put_all(track, (item,))

    def put_all(self, track: Track[P, T], items: Sequence[T]) -> None:
        """Queue records in the order of the log; one call for many, because it is on the hot path.

        Nothing happens once the track is halted.
        """
        if track.halted:
            return
        tails, ready, orphans = track.tails, track.ready, self._orphans
        if not ready:
            self._turns.append(track)
        for item in items:
            lane = item.lane
            if lane is None:
                ready.append(item)
                continue
            tail = tails.get(lane)
            tails[lane] = item
            if tail is not None:
                tail.next = item
            elif orphans and (track.partition, lane) in orphans:
                self._blocked[track.partition, lane] = track, item
            else:
                ready.append(item)
        if not ready:
            self._turns.pop()

    def take(self) -> T | None:
        """The record that runs next; None when nothing is ready."""
        turns = self._turns
        if not turns:
            return None
        track = turns[0]
        item = track.ready.popleft()
        if not track.ready:
            turns.popleft()
        elif len(turns) > 1:
            turns.rotate(-1)
        return item

    def release(self, track: Track[P, T], item: T) -> None:
        """The record that ran is handled; the next one of its lane may run.

        A record that is never released blocks its lane until the assignment ends.
        """
        lane = item.lane
        if lane is None:
            return
        if track.halted:
            self._release_halted(track, item, lane)
            return
        following = item.next
        if following is None:
            del track.tails[lane]
            return
        item.next = None  # who keeps this record must not keep all that ever follow it
        ready = track.ready
        if not ready:
            self._turns.append(track)
        ready.append(following)

    def again(self, track: Track[P, T], item: T) -> None:
        """The record that was taken is to run once more, when those that are ready now have had their turn.

        The rest of its lane goes on waiting behind it. Nothing happens once the track is halted: the record is then to
        be released.
        """
        if track.halted:
            return
        if not track.ready:
            self._turns.append(track)
        track.ready.append(item)

    def halt(self, track: Track[P, T], running: Iterable[T]) -> None:
        """Forget what has not started. `running` goes on; nothing more of the partition is taken.

        What was taken and is not among `running` is forgotten too: its release changes nothing.
        """
        track.halted = True
        if track.ready:
            self._turns.remove(track)
            track.ready.clear()
        for lane in track.tails:
            self._blocked.pop((track.partition, lane), None)
        track.tails.clear()
        for item in running:
            item.next = None
            if item.lane is not None:
                track.tails[item.lane] = item

    def close(self, track: Track[P, T], running: Iterable[T]) -> None:
        """End the assignment. `running` are orphans from here on."""
        self.halt(track, running)
        del self._tracks[track.partition]
        track.closed = True
        self._orphans.update((track.partition, lane) for lane in track.tails)

    def _release_halted(self, track: Track[P, T], item: T, lane: Hashable) -> None:
        # A record that did not run at the halt holds nothing: what followed it is dropped, and an orphan of its key is
        # another record, of an earlier or a later assignment.
        if track.tails.get(lane) is not item:
            return
        del track.tails[lane]
        if track.closed:
            self._end_orphan(track.partition, lane)

    def _end_orphan(self, partition: P, lane: Hashable) -> None:
        self._orphans.discard((partition, lane))
        blocked = self._blocked.pop((partition, lane), None)
        if blocked is not None:
            track, item = blocked
            if not track.ready:
                self._turns.append(track)
            track.ready.append(item)
