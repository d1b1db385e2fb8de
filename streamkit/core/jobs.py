"""Who is changing the dead letters of a topic, and what was cut off: from the records of its state topic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, cast

SILENT: Final = 15_000  # ms without a sign of life, after which the owner of a lock counts as dead

_LOCK_KEY = b"lock:"
_JOB_KEY = b"job:"
AUDIT_KEY: Final = b"audit:"


class Lock(NamedTuple):
    """A command that wants to change the cases. Of those that live, the one with the lowest `place` may."""

    id: str
    place: int  # offset of its first record
    heard: int  # ms since 1970 by the brokers' clock: its latest record
    host: str
    pid: int
    told: Mapping[str, object]

    def dead(self, now: int, host: str, gone: Callable[[int], bool]) -> bool:
        """Whether its owner is no more. `now` is by the brokers' clock; `gone` says so of a process of `host`."""
        return now - self.heard >= SILENT or (self.host == host and gone(self.pid))


class JobBook:
    """Locks, unfinished jobs and what was done, of one dead letter topic. Nothing a state topic may hold makes it
    fail."""

    __slots__ = ("_locks", "audits", "jobs")

    def __init__(self) -> None:
        self._locks: dict[str, Lock] = {}
        self.jobs: dict[str, Mapping[str, object]] = {}  # begun and not ended, by ID
        self.audits: dict[str, Mapping[str, object]] = {}  # in the order of time, by key

    def apply(self, key: bytes, value: object, offset: int, timestamp: int) -> None:
        """The next record of the state topic: key, decoded JSON (None to forget it), offset, and when the broker got it
        in ms since 1970. Keys of others are passed over."""
        for prefix, apply in ((_LOCK_KEY, self._apply_lock), (_JOB_KEY, self._apply_job), (AUDIT_KEY, self._audit)):
            if key.startswith(prefix):
                fields = cast("Mapping[str, object]", value) if isinstance(value, Mapping) else None
                apply(key.removeprefix(prefix).decode(errors="replace"), fields, offset, timestamp)

    def locks(self) -> list[Lock]:
        """In the order of their places."""
        return sorted(self._locks.values(), key=lambda lock: lock.place)

    def _apply_lock(self, id: str, fields: Mapping[str, object] | None, offset: int, timestamp: int) -> None:
        if fields is None:
            self._locks.pop(id, None)
            return
        place, host, pid = fields.get("place"), fields.get("host"), fields.get("pid")
        known = self._locks.get(id)
        first = known.place if known else place if isinstance(place, int) else offset
        self._locks[id] = Lock(id, first, timestamp, str(host), pid if isinstance(pid, int) else 0, fields)

    def _apply_job(self, id: str, fields: Mapping[str, object] | None, _offset: int, _timestamp: int) -> None:
        if fields is None:
            self.jobs.pop(id, None)
        else:
            self.jobs[id] = fields

    def _audit(self, id: str, fields: Mapping[str, object] | None, _offset: int, _timestamp: int) -> None:
        if fields is None:
            self.audits.pop(id, None)
        else:
            self.audits[id] = fields


def lock_key(id: str) -> bytes:
    return _LOCK_KEY + id.encode()


def job_key(id: str) -> bytes:
    return _JOB_KEY + id.encode()


def audit_key(moment: str, id: str) -> bytes:
    """`moment` is ISO 8601 in UTC, so that keys sort by time."""
    return AUDIT_KEY + f"{moment}:{id}".encode()
