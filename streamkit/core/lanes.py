"""Which record may run next: order within a key, fairness between keys and between partitions."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

P = TypeVar("P", bound=Hashable)  # a partition
T = TypeVar("T")  # a waiting record


class Lane(Generic[P, T]):
    """The waiting records of one key in one partition. It exists only while it holds some; the head may be running."""

    __slots__ = ("key", "queue", "running", "track")

    def __init__(self, track: Track[P, T], key: Hashable | None, item: T) -> None:
        self.track = track
        self.key = key
        self.queue: deque[T] = deque()
        self.queue.append(item)
        self.running = False


class Track(Generic[P, T]):
    """The lanes of one partition during one assignment."""

    __slots__ = ("closed", "lanes", "partition", "ready", "running")

    def __init__(self, partition: P) -> None:
        self.partition = partition
        self.lanes: dict[Hashable, Lane[P, T]] = {}
        self.ready: deque[Lane[P, T]] = deque()
        self.running = 0
        self.closed = False


class Lanes(Generic[P, T]):
    """All lanes of an agent, served in two levels of round robin: partitions, then the lanes of each.

    A lane is ready (in its track's `ready`), running (taken and not yet released), or blocked by an orphan. Every
    operation on a record is O(1). Between the moment a lane becomes ready and its turn, every other lane of its
    partition is served at most once, and every other partition at most once more than its own.

    Orphans are lanes whose record still runs although their partition was closed. When the partition is opened again,
    the same key waits until they have ended, so that no key runs twice at a time in one process.
    """

    __slots__ = ("_blocked", "_orphans", "_tracks", "_turns")

    def __init__(self) -> None:
        self._tracks: dict[P, Track[P, T]] = {}
        self._turns: deque[Track[P, T]] = deque()  # the tracks that have a ready lane
        self._orphans: set[tuple[P, Hashable]] = set()
        self._blocked: dict[tuple[P, Hashable], Lane[P, T]] = {}

    @property
    def ready(self) -> bool:
        return bool(self._turns)

    @property
    def ready_count(self) -> int:
        """How many records could run now, were there tasks enough."""
        return sum(len(track.ready) for track in self._turns)

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

    def put(self, track: Track[P, T], key: Hashable | None, item: T) -> None:
        """Queue a record behind the earlier ones of its key. Without a key (None) it waits for no other."""
        lane = track.lanes.get(key)
        if lane is not None:
            lane.queue.append(item)
            return
        lane = Lane(track, key, item)
        if key is not None:
            track.lanes[key] = lane
            if self._orphans and (track.partition, key) in self._orphans:
                self._blocked[track.partition, key] = lane
                return
        self._make_ready(lane)

    def take(self) -> Lane[P, T] | None:
        """The lane that runs next; its record is `queue[0]`. None when nothing is ready."""
        turns = self._turns
        if not turns:
            return None
        track = turns[0]
        lane = track.ready.popleft()
        if not track.ready:
            turns.popleft()
        elif len(turns) > 1:
            turns.rotate(-1)
        track.running += 1
        lane.running = True
        return lane

    def release(self, lane: Lane[P, T]) -> None:
        """The record that ran is handled; the next one of its key may run."""
        track = lane.track
        track.running -= 1
        lane.running = False
        if track.closed:
            self._end_orphan(track.partition, lane.key)
            return
        queue = lane.queue
        queue.popleft()
        if queue:
            self._make_ready(lane)
        elif lane.key is not None:
            del track.lanes[lane.key]

    def park(self, lane: Lane[P, T]) -> None:
        """The record that ran has failed and stays unhandled: its key is blocked until the assignment ends."""
        lane.track.running -= 1
        lane.running = False

    def halt(self, partition: P) -> None:
        """Forget what has not started. What runs goes on; nothing more of the partition is taken."""
        track = self._tracks[partition]
        if track.ready:
            self._turns.remove(track)
            track.ready.clear()
        for key, lane in list(track.lanes.items()):
            if lane.running:
                lane.queue = deque((lane.queue[0],))
            else:
                del track.lanes[key]
                self._blocked.pop((partition, key), None)

    def close(self, partition: P) -> None:
        """End the assignment. What still runs is an orphan from here on."""
        self.halt(partition)
        track = self._tracks.pop(partition)
        track.closed = True
        self._orphans.update((partition, key) for key in track.lanes)

    def _make_ready(self, lane: Lane[P, T]) -> None:
        ready = lane.track.ready
        if not ready:
            self._turns.append(lane.track)
        ready.append(lane)

    def _end_orphan(self, partition: P, key: Hashable | None) -> None:
        if key is None:
            return
        self._orphans.discard((partition, key))
        blocked = self._blocked.pop((partition, key), None)
        if blocked is not None:
            self._make_ready(blocked)
