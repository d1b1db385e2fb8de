"""Dead letters that are sent again: their headers, and what was changed in them before."""

from __future__ import annotations

from streamkit.core.copies import PREFIX
from streamkit.core.letters import Letter
from streamkit.record import HeaderList

# Of the trace that ended in the dead letters: what happens from now on is not part of it (W3C Trace Context).
_TRACE = frozenset({"traceparent", "tracestate"})


def replay_headers(letter: Letter, case: str) -> HeaderList:
    """The user's own, and the case that a new failure would be of."""
    return [*kept_headers(letter), ("sk-dlq-id", case.encode())]


def due_headers(letter: Letter, case: str, now: int) -> HeaderList:
    """For the first tier of the agent that gave it up: due at once, at `now` (ms since 1970), with no run counted."""
    headers = kept_headers(letter)
    for name in ("sk-origin-topic", "sk-origin-partition", "sk-origin-offset", "sk-origin-timestamp", "sk-group"):
        value = letter.found.get(name)
        if value is not None:
            headers.append((name, value))
    return [*headers, ("sk-attempt", b"0"), ("sk-due", b"%d" % now), ("sk-dlq-id", case.encode())]


def kept_headers(letter: Letter) -> HeaderList:
    """Of the user's own, those that a replay carries."""
    return [header for header in letter.user_headers if may_be_kept(header[0])]


def may_be_kept(name: str) -> bool:
    """Whether a replay carries a header of this name as its user's."""
    return not name.startswith(PREFIX) and name.lower() not in _TRACE


def changed(letter: Letter, key: bytes | None, value: bytes | None, headers: HeaderList) -> Letter:
    """With another key, value and headers of the user; what the framework's own headers say of it stays."""
    own = [header for header in letter.headers if header[0].startswith(PREFIX)]
    return letter._replace(key=key, value=value, headers=[*headers, *own])
