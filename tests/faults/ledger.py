"""What worker processes write down while they work, so that a test can judge afterwards what they did.

One append-only file a process, one line an event, each line one unbuffered write: a process that is killed loses
nothing of what it had done. Times are CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson


class Committed(NamedTuple):
    """A committed offset with its metadata."""

    offset: int
    metadata: str = ""


Offsets = dict[int, Committed]  # by partition


class Start(NamedTuple):
    """A handler begins with a record."""

    at: float
    process: int
    assignment: int  # the process's own count, from 1
    partition: int
    offset: int
    key: str | None


class End(NamedTuple):
    """A handler has ended; `done` is false when it was cancelled."""

    at: float
    process: int
    assignment: int
    partition: int
    offset: int
    key: str | None
    done: bool


class Assigned(NamedTuple):
    """A process has partitions from here on; `found` is what it read as committed, absent where nothing was."""

    at: float
    process: int
    assignment: int
    generation: int
    partitions: tuple[int, ...]
    found: Offsets
    found_from: float  # when that reading began


class Revoked(NamedTuple):
    """A process has given back, or lost, what it had."""

    at: float
    process: int
    assignment: int
    lost: bool


class Commit(NamedTuple):
    """A commit; `accepted` is None when its fate was never learned."""

    sent: float
    answered: float | None
    process: int
    generation: int
    offsets: Offsets
    accepted: bool | None


Event = Start | End | Assigned | Revoked | Commit


@dataclass
class History:
    """The events of all processes, each list in the order of its process's file."""

    starts: list[Start] = field(default_factory=list[Start])
    ends: list[End] = field(default_factory=list[End])
    assigned: list[Assigned] = field(default_factory=list[Assigned])
    revoked: list[Revoked] = field(default_factory=list[Revoked])
    commits: list[Commit] = field(default_factory=list[Commit])
    in_order: dict[int, list[Start | End]] = field(default_factory=dict[int, "list[Start | End]"])  # by process

    def add(self, event: Event) -> None:
        match event:
            case Start():
                self.starts.append(event)
                self.in_order.setdefault(event.process, []).append(event)
            case End():
                self.ends.append(event)
                self.in_order.setdefault(event.process, []).append(event)
            case Assigned():
                self.assigned.append(event)
            case Revoked():
                self.revoked.append(event)
            case Commit():
                self.commits.append(event)


class LedgerFile:
    """The writing side, in the worker process."""

    def __init__(self, directory: Path) -> None:
        self._file = os.open(directory / f"{os.getpid()}.ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._commits = 0
        self.assignment = 0

    def start(self, partition: int, offset: int, key: str | None) -> int:
        """The assignment that the record was started in, for its `end`."""
        self._write("start", self.assignment, partition, offset, key)
        return self.assignment

    def end(self, assignment: int, partition: int, offset: int, key: str | None, *, done: bool) -> None:
        self._write("end", assignment, partition, offset, key, done)

    def assigned(self, generation: int, partitions: list[int], found: Offsets, found_from: float) -> None:
        self.assignment += 1
        self._write("assigned", self.assignment, generation, partitions, _plain(found), found_from)

    def revoked(self, lost: bool) -> None:
        self._write("revoked", self.assignment, lost)

    def commit_sent(self, generation: int, offsets: Offsets) -> int:
        self._commits += 1
        self._write("sent", self._commits, generation, _plain(offsets))
        return self._commits

    def commit_answered(self, number: int, accepted: bool | None) -> None:
        self._write("answered", number, accepted)

    def close(self) -> None:
        os.close(self._file)

    def _write(self, kind: str, *columns: Any) -> None:
        os.write(self._file, orjson.dumps((kind, time.monotonic(), *columns)) + b"\n")


class LedgerReader:
    """The reading side: takes in what the processes have written since the last look."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[Path, int] = {}
        self._open_commits: dict[tuple[int, int], Commit] = {}
        self.history = History()

    def refresh(self) -> History:
        for path in sorted(self._directory.glob("*.ledger")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for line in whole.splitlines():
                self._take(int(path.stem), *orjson.loads(line))
        return self.history

    def finish(self) -> History:
        """All processes have ended: what has no answer now will have none."""
        self.refresh()
        for commit in self._open_commits.values():
            self.history.add(commit)
        self._open_commits.clear()
        return self.history

    def _take(self, process: int, kind: str, at: float, *columns: Any) -> None:
        match kind, columns:
            case "start", (assignment, partition, offset, key):
                self.history.add(Start(at, process, assignment, partition, offset, key))
            case "end", (assignment, partition, offset, key, done):
                self.history.add(End(at, process, assignment, partition, offset, key, done))
            case "assigned", (assignment, generation, partitions, found, found_from):
                mine = tuple(partitions)
                self.history.add(Assigned(at, process, assignment, generation, mine, _offsets(found), found_from))
            case "revoked", (assignment, lost):
                self.history.add(Revoked(at, process, assignment, lost))
            case "sent", (number, generation, offsets):
                self._open_commits[process, number] = Commit(at, None, process, generation, _offsets(offsets), None)
            case "answered", (number, accepted):
                commit = self._open_commits.pop((process, number))
                self.history.add(commit._replace(answered=at, accepted=accepted))
            case _:
                raise ValueError(f"no such line: {kind} {columns}")


def _plain(offsets: Mapping[int, Committed]) -> list[tuple[int, int, str]]:
    return [(partition, committed.offset, committed.metadata) for partition, committed in offsets.items()]


def _offsets(rows: list[tuple[int, int, str]]) -> Offsets:
    return {partition: Committed(offset, metadata) for partition, offset, metadata in rows}
