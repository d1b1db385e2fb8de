"""What became of each dead letter, from the records of its state topic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, TypeVar, cast, get_args

from streamkit.core.copies import parse_case
from streamkit.core.letters import LATEST_TIME, Letter

T = TypeVar("T")

Status = Literal["open", "replayed", "archived", "discarded"]
STATUSES: Final[tuple[Status, ...]] = get_args(Status)

_CASE_KEY = b"case:"


class CaseStatus(NamedTuple):
    """What became of a case: nothing yet, unless the state topic says so. `at` is in ms since 1970."""

    status: Status = "open"
    at: int | None = None
    by: str = ""
    why: str = ""
    job: str | None = None
    replays: int = 0


OPEN: Final = CaseStatus()


class CaseBook:
    """The cases of one dead letter topic. It holds only those that are not plainly open; nothing a state topic may
    hold makes it fail."""

    __slots__ = ("_cases", "senseless")

    def __init__(self) -> None:
        self._cases: dict[str, CaseStatus] = {}
        self.senseless = 0  # records of cases that could not be understood, and changed nothing

    def apply(self, key: bytes, value: object) -> None:
        """The next record of the state topic: its key and its decoded JSON, None to forget the case. Keys that are not
        of cases are passed over."""
        if not key.startswith(_CASE_KEY):
            return
        case = parse_case(key.removeprefix(_CASE_KEY))
        known = OPEN if value is None else _read(value)
        if case is None or known is None:
            self.senseless += 1
        elif known == OPEN:
            self._cases.pop(case, None)
        else:
            self._cases[case] = known

    def status(self, case: str) -> CaseStatus:
        """What became of the case, given as partition:offset."""
        return self._cases.get(case, OPEN)

    def case_of(self, letter: Letter) -> str:
        """The case that a dead letter belongs to: the one that it was replayed from if that was replayed, else its
        own, so that a forged header hides nothing."""
        named = letter.case if "sk-dlq-id" in letter.found else None
        return named if named is not None and self._replayed(named) else letter.id

    def counts(self) -> dict[Status, int]:
        """How many cases have each status; open ones only if they have a record of their own."""
        counted = Counter(case.status for case in self._cases.values())
        return {status: counted[status] for status in STATUSES}

    def _replayed(self, case: str) -> bool:
        known = self.status(case)
        return known.status == "replayed" and known.replays >= 1


def _read(value: object) -> CaseStatus | None:
    """None if it makes no sense. What is only told, not acted on, may be missing."""
    if not isinstance(value, Mapping):
        return None
    fields = cast("Mapping[object, object]", value)
    status = fields.get("status")
    if status not in STATUSES:
        return None
    at = _whole(fields.get("at"), LATEST_TIME)
    replays = _whole(fields.get("replays"), (1 << 63) - 1)
    return CaseStatus(status, at, _text(fields, "by"), _text(fields, "why"), _text(fields, "job") or None, replays or 0)


def _whole(value: object, most: int) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most else None


def _text(fields: Mapping[object, object], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""
