"""Which dead letters are named on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from streamkit.cli.dlq.where import Where
from streamkit.core.selection import parse_id
from streamkit.errors import UsageError

_LIKE_AN_ID = re.compile(r"[0-9]+:[0-9]+", re.ASCII)


def target_and_ids(words: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """TARGET, if the first word is none, and the IDs, each once. No module has a name like an ID.

    Raises UsageError for any other word that is no ID.
    """
    target = words[0] if words and not _LIKE_AN_ID.fullmatch(words[0]) else None
    given = words if target is None else words[1:]
    return target, tuple(dict.fromkeys(map(_parsed, given)))


def target_and_id(words: Sequence[str]) -> tuple[str | None, str]:
    """TARGET, if there is one, and the only ID. Raises UsageError."""
    target, ids = target_and_ids(words)
    if len(ids) > 1:
        raise UsageError(f"one at a time: {', '.join(ids)}")
    if ids:
        return target, ids[0]
    raise UsageError(
        'which dead letter? Give its ID: partition and offset, as in "0:1234"'
        + (f"; {target!r} is none" if target is not None else "")
    )


def in_one_topic(place: Where) -> None:
    """Raises UsageError unless it is clear in which topic an ID is to be looked up."""
    if place.app is not None and len(place.names) > 1:
        names = ", ".join(place.names)
        raise UsageError(
            f"app {place.app.name!r} has {len(place.names)} dead letter topics; name one with --topic: {names}"
        )


def _parsed(word: str) -> str:
    try:
        return parse_id(word)
    except ValueError as error:
        raise UsageError(f"{word!r}: {error}") from None
