"""What dead letters that died of the same thing have in common."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from streamkit.core.copies import MAX_MESSAGE, MAX_STACK
from streamkit.core.letters import Letter

# Looks behind from the quote itself: a pattern that begins with a literal is searched for several times faster.
_QUOTED = re.compile(r"""(?:'(?<!\w')[^'\n]*'|"(?<!\w")[^"\n]*")(?!\w)""")
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+\.[\w.-]*\w")
_VARIABLE = re.compile(
    r"(?P<time>(?<![0-9])[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:T[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]+)?)?(?:Z|[+-][0-9]{2}:?[0-9]{2})?)?(?![0-9]))"
    r"|(?P<ip>(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w.]*[0-9A-Za-z])"
    r"|(?<![\w:])(?=[0-9A-Fa-f:]*::|(?:[0-9A-Fa-f]+:){7})[0-9A-Fa-f:]{2,39}(?![\w:]))"
    r"|(?P<id>\b(?:[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}|0x[0-9A-Fa-f]+"
    # A word of digits among letters, or of letters among digits, such as ch_3MmlLr2e.
    r"|(?=\w{8})(?:[A-Za-z_]+[0-9]+[A-Za-z]|[0-9]+[A-Za-z]+[0-9])\w*)(?!\w))"
    r"|(?P<n>(?:(?<![\w-])-)?[0-9]+(?:[.,][0-9]+)*(?:e[+-]?[0-9]+)?)"
)

_FRAME = re.compile(r'File "([^"\n]+)", line [0-9]+, in (.+)')
_FOREIGN = re.compile(
    r"<|.*(?:"
    r"[/\\](?:site|dist)-packages[/\\]"
    r"|[/\\]lib(?:64)?[/\\](?:python|pypy)[0-9.]+[/\\]|[/\\](?:Python|pypy)[0-9.]*[/\\][Ll]ib[/\\]|python[0-9]+\.zip[/\\]"
    r"|[/\\]streamkit[/\\](?:cli|codec|core|observe|runtime|transport)[/\\]"
    r"|[/\\]streamkit[/\\](?:app|record|stream|testing|topic)\.py)"
)


class Fingerprint(NamedTuple):
    """What an error is like, without what differs from record to record. None: the dead letter does not say."""

    error_class: str | None
    message: str | None  # masked
    frame: str | None  # file.py:function


def fingerprint(letter: Letter) -> Fingerprint:
    """What a dead letter died of."""
    message, stack = letter.error_message, letter.error_stack
    return Fingerprint(
        letter.error_class,
        None if message is None else masked(message),
        None if stack is None else own_frame(stack),
    )


def masked(message: str) -> str:
    """The first MAX_MESSAGE characters of a message, with placeholders for what tells one record from another: quoted
    text, e-mail and network addresses, times, identifiers and numbers, also those in paths."""
    text = message[:MAX_MESSAGE]
    if "'" in text or '"' in text:
        text = _QUOTED.sub("<…>", text)
    if "@" in text:
        text = _EMAIL.sub("<email>", text)
    return " ".join([word if word.isalpha() else _masked_word(word) for word in text.split(" ")])


@lru_cache(maxsize=4096)
def _masked_word(word: str) -> str:
    return _VARIABLE.sub(_placeholder, word)


def _placeholder(found: re.Match[str]) -> str:
    return f"<{found.lastgroup}>"


def own_frame(stack: str) -> str | None:
    """The innermost function of the user's own code, as file.py:function; None if there is none among the last
    MAX_STACK characters.

    Not their own are installed packages, the standard library, code without a file, and streamkit itself: told from
    the paths of the machine where it failed, which is another than the one where this is asked.
    """
    first = max(0, len(stack) - MAX_STACK)
    last = stack.rfind('File "', first)
    # What comes after the last frame, such as the message, differs from record to record.
    return None if last < 0 else _innermost(stack[first:last] + stack[last:].partition("\n")[0])


@lru_cache(maxsize=256)
def _innermost(frames: str) -> str | None:
    end = len(frames)
    while (start := frames.rfind('File "', 0, end)) >= 0:
        # The next line is the code.
        found = _own(frames[start:end].partition("\n")[0])
        if found is not None:
            return found
        end = start
    return None


@lru_cache(maxsize=4096)
def _own(line: str) -> str | None:
    """What a line of a stack, from its "File" on, says of a frame of the user's own."""
    found = _FRAME.match(line)
    if found is None or _FOREIGN.match(found[1]):
        return None
    name = found[1].replace("\\", "/").rpartition("/")[2]
    return f"{name}:{found[2].rstrip()}"
