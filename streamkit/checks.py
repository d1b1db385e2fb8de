"""Checks of what is declared; each returns the good value, or raises DeclarationError naming what is wrong."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

from streamkit.durations import Duration, parse_duration
from streamkit.errors import DeclarationError

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}", re.ASCII)
_COUNT = re.compile(r"[1-9][0-9]*", re.ASCII)


def valid_name(label: str, name: object) -> str:
    """A name that may become part of a topic's name, as those of apps, agents and groups do."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise DeclarationError(
        f"{label}: {name!r} is not a name; write 1 to 249 letters (a to z, A to Z), digits, '.', '_' or '-'"
    )


def valid_topic_name(name: object, label: str = "topic") -> str:
    checked = valid_name(label, name)
    if checked in (".", "..") or checked.startswith("__"):
        raise DeclarationError(
            f"{label}: {name!r} is reserved: '.', '..' and names that begin with '__' are Kafka's own; choose another"
        )
    return checked


def positive(label: str, number: object) -> int:
    if type(number) is int and number >= 1:
        return number
    hint = f"; write it without quotes: {number}" if isinstance(number, str) and _COUNT.fullmatch(number) else ""
    raise DeclarationError(f"{label}: {number!r} is not a whole number of at least 1{hint}")


def seconds(label: str, duration: Duration) -> float:
    try:
        if parsed := parse_duration(duration):
            return parsed
    except ValueError as error:
        raise DeclarationError(f"{label}: {duration!r}: {error}") from None
    raise DeclarationError(f"{label}: {duration!r}: must be more than 0")


def optional(check: Callable[[str, Any], T], label: str, value: Any) -> T | None:
    return None if value is None else check(label, value)


def one_of(label: str, value: T, choices: tuple[T, ...]) -> T:
    if value in choices:
        return value
    raise DeclarationError(f"{label}: {value!r} is none of {', '.join(map(repr, choices))}")
