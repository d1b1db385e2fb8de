"""The letters of a topic that a selection is about."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from streamkit.cli.dlq.reading import DeadLetters
from streamkit.core.cases import CaseStatus
from streamkit.core.letters import Letter
from streamkit.core.selection import Selection
from streamkit.record import TopicPartition
from streamkit.transport.base import LogRange


class Unfit(Exception):
    """This cannot be done with this dead letter; says why."""


class Case(NamedTuple):
    """A letter, the letter that its case began with (partition:offset), and what became of it."""

    letter: Letter
    id: str
    status: CaseStatus


async def selected(
    letters: DeadLetters, selection: Selection, within: Mapping[TopicPartition, LogRange] | None = None
) -> AsyncIterator[Case]:
    """Those that fit, in log order of each partition; with `within` only those at these offsets."""
    book, matches = letters.book, selection.matches
    async for batch in letters.letters(selection.since, within):
        for letter in batch:
            case = book.case_of(letter)
            status = book.status(letter)
            if matches(letter, status.status):
                yield Case(letter, case, status)
