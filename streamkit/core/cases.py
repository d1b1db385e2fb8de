"""What became of each dead letter, from the records of its state topic."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final, Generic, Literal, NamedTuple, TypeVar, cast, get_args

from streamkit.core.copies import parse_case
from streamkit.core.letters import LATEST_TIME, Letter

T = TypeVar("T")
StoredStatus = Literal["open", "replayed", "archived", "discarded"]
Status = Literal["open", "replayed", "handled", "archived", "discarded"]
STATUSES: Final[tuple[Status, ...]] = get_args(Status)
Outcome = Literal["handled", "retried", "dead"]
"""Of a run of a replayed record: its handler has handled it, or it has gone to a tier, or to the dead letters again."""

_STORED: Final[tuple[StoredStatus, ...]] = get_args(StoredStatus)
_OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)
_CASE_KEY = b"case:"
_RUN_KEY = b"run:"


class CaseStatus(NamedTuple):
    """What became of a dead letter: nothing yet, unless the state topic says so. `at` is in ms since 1970, and never
    before the letter was appended."""

    status: Status = "open"
    at: int | None = None
    who: str = ""
    reason: str = ""
    job: str | None = None
    replays: int = 0  # of its case, if this is the letter that the case began with
    group: str | None = None  # whose handler gave it up


OPEN: Final = CaseStatus()


class Runs(Generic[T]):
    """Something of each case and group, of a million of them in little memory: a number takes half of what a text
    takes."""

    __slots__ = ("_places",)

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], dict[int, T]] = {}  # by group and partition, then by offset

    def __bool__(self) -> bool:
        return any(self._places.values())

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Case and group."""
        for (group, partition), found in self._places.items():
            for offset in found:
                yield f"{partition}:{offset}", group

    def get(self, case: str, group: str) -> T | None:
        partition, offset = case.split(":")
        return self._places.get((group, partition), {}).get(int(offset))

    def put(self, case: str, group: str, value: T) -> None:
        partition, offset = case.split(":")
        self._places.setdefault((group, partition), {})[int(offset)] = value

    def drop(self, case: str, group: str) -> None:
        partition, offset = case.split(":")
        self._places.get((group, partition), {}).pop(int(offset), None)


class CaseBook:
    """The cases of one dead letter topic.

    A case begins with a letter. Replayed, it may fail again and become another letter, which carries the ID of the
    first. Each letter has a status of its own, so that no header can hide one; a letter that was replayed, and whose
    case its handler has handled since, is `handled`.

    The book holds only what is not plainly open, and nothing a state topic may hold makes it fail.
    """

    __slots__ = ("_cases", "_last", "_runs", "senseless")

    def __init__(self) -> None:
        self._cases: dict[str, CaseStatus] = {}
        self._runs = Runs[Outcome]()
        self._last = OPEN
        self.senseless = 0  # records that could not be understood, and changed nothing

    def apply(self, key: bytes, value: object) -> None:
        """The next record of the state topic: its key and its decoded JSON, None to forget it. Keys that are neither of
        cases nor of runs are passed over."""
        if key.startswith(_CASE_KEY):
            self._apply_case(parse_case(key.removeprefix(_CASE_KEY)), OPEN if value is None else _read_case(value))
        elif key.startswith(_RUN_KEY):
            self._apply_run(run_of(key), value)

    def stored(self, id: str) -> CaseStatus:
        """What the state topic says of the letter itself, given as partition:offset."""
        return self._cases.get(id, OPEN)

    def status(self, letter: Letter) -> CaseStatus:
        known = self._cases.get(letter.id, OPEN)
        if known.at is not None and known.at < letter.appended:  # of another letter: the topic was made anew since
            return OPEN
        if known.status != "replayed" or not self._runs:
            return known
        handled = self.outcome(self.case_of(letter)) == "handled"
        return known._replace(status="handled") if handled else known

    def case_of(self, letter: Letter) -> str:
        """The ID of the letter that its case began with: the one that it says it was replayed from, if that was
        replayed and was of the same group, else its own."""
        named = letter.case if "sk-dlq-id" in letter.found else None
        if named is None:
            return letter.id
        first = self._cases.get(named, OPEN)
        return named if first.replays >= 1 and first.group == letter.group else letter.id

    def run(self, case: str, group: str) -> Outcome | None:
        """What the group has told last of a run of the case, whether or not that was replayed."""
        return self._runs.get(case, group)

    def marked_by(self, job: str) -> int:
        """How many letters have been marked by this job last."""
        return sum(known.job == job for known in self._cases.values())

    def outcome(self, case: str) -> Outcome | None:
        """How the last run of a case that was replayed has ended, if its handler's worker has told."""
        first = self._cases.get(case, OPEN)
        return self.run(case, first.group) if first.replays >= 1 and first.group is not None else None

    def ids(self) -> set[str]:
        """Of whatever is said here: letters, and the cases of runs."""
        return {*self._cases, *(case for case, _ in self._runs)}

    def keys(self, ids: Collection[str]) -> Iterator[bytes]:
        """Under which all of this is said of them; not to be changed meanwhile."""
        yield from map(case_key, sorted(ids))
        yield from (run_key(case, group) for case, group in self._runs if case in ids)

    def _apply_case(self, id: str | None, known: CaseStatus | None) -> None:
        if id is None or known is None:
            self.senseless += 1
        elif known == OPEN:
            self._cases.pop(id, None)
        else:
            # Many in a row are the same but for the letter: a million of them are to fit into memory.
            self._last = known = self._last if known == self._last else known
            self._cases[id] = known

    def _apply_run(self, run: tuple[str, str] | None, value: object) -> None:
        told = cast("Mapping[object, object]", value).get("outcome") if isinstance(value, Mapping) else None
        # Not the text that was read, but one for all.
        outcome: Outcome | None = next((each for each in _OUTCOMES if each == told), None)
        if run is None or (value is not None and outcome is None):
            self.senseless += 1
            return
        if outcome is None:
            self._runs.drop(*run)
        else:
            self._runs.put(*run, outcome)


def case_record(id: str, known: CaseStatus) -> tuple[bytes, dict[str, object]]:
    """The key and the JSON by which a state topic says it."""
    return case_key(id), {name: value for name, value in known._asdict().items() if value not in (None, "")}


def case_key(id: str) -> bytes:
    """The key under which it is told what became of a letter."""
    return _CASE_KEY + id.encode()


def run_key(case: str, group: str) -> bytes:
    """The key under which a group tells the last run of a case: of what was replayed to its origin, each group has runs
    of its own."""
    return _RUN_KEY + f"{case}:{group}".encode()


def run_value(
    *, group: str, outcome: Outcome, attempt: int, at: int, letter: tuple[int, int] | None = None
) -> dict[str, object]:
    """How a run of a case ended, as the JSON of its record: the group's run number `attempt` of the record, at `at` (ms
    since 1970). `letter`: partition and offset of the dead letter that came of it, if that is known."""
    value: dict[str, object] = {"group": group, "outcome": outcome, "attempt": attempt, "at": at}
    if letter is not None:
        value["letter"] = f"{letter[0]}:{letter[1]}"
    return value


def run_of(key: bytes) -> tuple[str, str] | None:
    """The case and the group whose last run a record of the state topic tells; None if it tells something else."""
    if not key.startswith(_RUN_KEY):
        return None
    partition, offset, group = (*key.removeprefix(_RUN_KEY).split(b":", 2), b"", b"")[:3]
    case = parse_case(partition + b":" + offset)
    return None if case is None or not group else (case, group.decode(errors="replace"))


def _read_case(value: object) -> CaseStatus | None:
    """None if it makes no sense. What is only told, not acted on, may be missing."""
    if not isinstance(value, Mapping):
        return None
    fields = cast("Mapping[object, object]", value)
    status = fields.get("status")
    if status not in _STORED:
        return None
    at = whole(fields.get("at"), LATEST_TIME)
    replays = whole(fields.get("replays"), (1 << 63) - 1)
    who, reason, job, group = (_text(fields, name) for name in ("who", "reason", "job", "group"))
    return CaseStatus(status, at, who, reason, job or None, replays or 0, group or None)


def whole(value: object, most: int) -> int | None:
    """A whole number from 0 to `most`, as JSON states it; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most else None


def _text(fields: Mapping[object, object], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""
