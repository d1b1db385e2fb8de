"""A dead letter that was edited is replayed in its new form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamkit.cli.dlq.document import Content
from streamkit.cli.dlq.jobs import PAYLOAD
from streamkit.cli.dlq.replaying import Replaying
from streamkit.cli.dlq.selecting import Case
from streamkit.cli.dlq.where import Where
from streamkit.cli.outgoing import Outgoing
from streamkit.cli.sender import Sender
from streamkit.core.cases import Status, StoredStatus
from streamkit.core.replays import changed
from streamkit.transport.base import Admin


class Editing:
    """Sends what is in the arguments in the place of the dead letter: the same after a crash."""

    status: StoredStatus = "replayed"
    of: frozenset[Status] = frozenset({"open"})
    done = "replayed"

    def __init__(self, arguments: Mapping[str, Any], place: Where, admin: Admin, sender: Sender) -> None:
        self._content = Content.of_json(arguments[PAYLOAD])
        self._replaying = Replaying(arguments, place, admin, sender)

    async def copy(self, case: Case) -> tuple[str, Outgoing]:
        letter, key = case.letter, self._content.key
        name, outgoing = await self._replaying.copy(case._replace(letter=changed(letter, *self._content)))
        # Another key belongs to the partition that its other records are in.
        return name, outgoing if key is None or key == letter.key else outgoing._replace(partition=None)

    def notes(self) -> list[str]:
        return self._replaying.notes()

    def warnings(self) -> list[str]:
        return self._replaying.warnings()
