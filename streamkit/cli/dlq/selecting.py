"""The letters of a topic that a selection is about."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from streamkit.cli.dlq.reading import DeadLetters
from streamkit.core.cases import CaseStatus
from streamkit.core.letters import Letter
from streamkit.core.selection import Selection


class Case(NamedTuple):
    """A letter, the case that it belongs to (partition:offset), and what became of that."""

    letter: Letter
    id: str
    status: CaseStatus


async def selected(letters: DeadLetters, selection: Selection) -> AsyncIterator[Case]:
    """Those that fit, partition by partition in log order."""
    book, matches = letters.book, selection.matches
    async for batch in letters.letters(selection.since):
        for letter in batch:
            case = book.case_of(letter)
            status = book.status(case)
            if matches(letter, status.status, case):
                yield Case(letter, case, status)
