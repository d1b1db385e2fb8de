"""What a command does with each dead letter that it is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from streamkit.cli.dlq.editing import Editing
from streamkit.cli.dlq.replaying import Replaying
from streamkit.cli.dlq.selecting import Case, Unfit
from streamkit.cli.dlq.transforming import Transforming
from streamkit.cli.dlq.where import Where
from streamkit.cli.outgoing import Outgoing
from streamkit.cli.sender import Sender
from streamkit.core.cases import Status, StoredStatus
from streamkit.transport.base import Admin

__all__ = ["ACTIONS", "Action", "Make", "Marking", "Unfit"]


class Action(Protocol):
    """One command's. `done` says what its letters are afterwards, for people."""

    status: StoredStatus  # what they are marked as
    of: frozenset[Status]  # which it is about, unless told otherwise
    done: str

    async def copy(self, case: Case) -> tuple[str, Outgoing] | None:
        """The topic and the record to send, if any. Raises Unfit if it cannot be done with this one."""
        ...

    def notes(self) -> list[str]:
        """What whoever decides should know, of those that have been copied."""
        ...

    def warnings(self) -> list[str]:
        """Those of the notes that are to be told also of what is done unasked."""
        ...


class Marking:
    """Changes the status, and nothing else."""

    def __init__(self, status: StoredStatus, of: frozenset[Status], done: str) -> None:
        self.status: StoredStatus = status
        self.of = of
        self.done = done

    async def copy(self, case: Case) -> None:
        return None

    def notes(self) -> list[str]:
        return []

    def warnings(self) -> list[str]:
        return []


Make = Callable[[Mapping[str, Any], Where, Admin, Sender], Action]


def _marking(status: StoredStatus, of: frozenset[Status], done: str) -> Make:
    return lambda arguments, place, admin, sender: Marking(status, of, done)


ACTIONS: Final[Mapping[str, Make]] = {
    "archive": _marking("archived", frozenset({"open"}), "archived"),
    "discard": _marking("discarded", frozenset({"open", "archived"}), "discarded"),
    "restore": _marking("open", frozenset({"archived", "discarded"}), "restored"),
    "replay": Replaying,
    "edit": Editing,
    "transform": Transforming,
}
