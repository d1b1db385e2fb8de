"""What happens to records that fail: how often they are tried again and when, and where they end."""

import math
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Never, final

from streamkit.checks import positive, seconds
from streamkit.durations import Duration, parse_duration, show_duration
from streamkit.errors import DeclarationError

Errors = tuple[type[BaseException], ...]

_LONGEST = 365 * 86_400.0  # seconds: a tier keeps its records for twice as long
_FINITE = sys.float_info.max


@final
@dataclass(frozen=True, slots=True, init=False)
class Retry:
    """How records that failed are tried again. Built by `exponential`, `delays` or `in_place`.

    A *tier* is a topic in which a copy of a failed record waits until it is due; the record itself is settled by that,
    and later records of its key go on before it. A record that fails in a tier goes to the next one, and after the last
    to the dead letter topic, or it stops the worker if the agent has none. Before that, in each delivery, those from
    tiers included, it is tried again *in place*, up to `in_place` times: its key waits meanwhile, so the order is kept.

    `jitter`, from 0 to 1, makes each record's wait longer by chance, by up to that part of it, and never shorter, so
    that what failed together does not come back together.

    With `only`, no error but those is tried again; those of `never` are not. What is not goes to the dead letters at
    once. An error counts by its class and those that it is derived from, and so do its causes and the members of a
    group of exceptions; where both name one, the more specific class wins.

    Waits are from 1 ms to 365 days. Raises DeclarationError for any argument that cannot be.
    """

    tier_waits: tuple[float, ...]
    """Seconds, one a tier; empty for `Retry.in_place`."""
    jitter: float
    times_in_place: int
    """Further runs in place, in each delivery."""
    wait_in_place: float
    """Seconds before each of them."""
    only: Errors
    never: Errors

    def __init__(self, *_: Never, **__: Never) -> None:
        raise DeclarationError(
            'Retry: write Retry.exponential("5s"), Retry.delays("5s", "1m") or Retry.in_place(3), not Retry(...)'
        )

    @classmethod
    def exponential(
        cls,
        first: Duration,
        *,
        factor: float = 2,
        tiers: int = 5,
        cap: Duration | None = None,
        jitter: float = 0.1,
        in_place: int = 0,
        in_place_wait: Duration = "100ms",
        only: Collection[type[BaseException]] = (),
        never: Collection[type[BaseException]] = (),
    ) -> "Retry":
        """As many tiers as `tiers`. The first waits `first`, each other `factor` times as long as the one before, but
        none longer than `cap`.

        >>> Retry.exponential("5s", factor=6, tiers=3).tier_waits
        (5.0, 30.0, 180.0)
        """
        label = "Retry.exponential"
        waits = _growing(label, seconds(f"{label}, first", first), factor, positive(f"{label}, tiers", tiers), cap)
        return _retry(label, waits, jitter, in_place, in_place_wait, only, never)

    @classmethod
    def delays(
        cls,
        *waits: Duration,
        jitter: float = 0.1,
        in_place: int = 0,
        in_place_wait: Duration = "100ms",
        only: Collection[type[BaseException]] = (),
        never: Collection[type[BaseException]] = (),
    ) -> "Retry":
        """A tier for each of `waits`.

        >>> Retry.delays("5s", "1m", "10m").tier_waits
        (5.0, 60.0, 600.0)
        """
        label = "Retry.delays"
        if not waits:
            raise DeclarationError(f'{label}: it has no tier; write {label}("5s", "1m", "10m"), or Retry.in_place(3)')
        if isinstance(waits[0], list | tuple):
            raise DeclarationError(f'{label}: {waits[0]!r} is one argument; give each wait as its own: ("5s", "1m")')
        tiers = tuple(seconds(f"{label}, tier {number}", wait) for number, wait in enumerate(waits, 1))
        return _retry(label, tiers, jitter, in_place, in_place_wait, only, never)

    @classmethod
    def in_place(
        cls,
        times: int,
        wait: Duration = "100ms",
        *,
        only: Collection[type[BaseException]] = (),
        never: Collection[type[BaseException]] = (),
    ) -> "Retry":
        """No tiers: up to `times` further runs, with `wait` before each, while the record's key waits.

        The count is kept in memory: it starts over when the partition goes to another worker.
        """
        label = "Retry.in_place"
        return _retry(label, (), 0.0, positive(f"{label}, times", times), wait, only, never, wait_name="wait")


@final
class Skip(Exception):
    """Raised by a handler: the record is to be passed over. It is settled; nothing is kept of it."""


@final
class Reject(Exception):
    """Raised by a handler: the record can never be handled. It goes to the dead letters at once: Reject("why")."""


@final
class RetryLater(Exception):
    """Raised by a handler: the record is to be tried again after `wait`, a duration: RetryLater("30s").

    It goes to the tier with the shortest wait that is not below it, else to the last one, and is due after the shorter
    of the two. It counts as an attempt. Without tiers the record goes to the dead letters.

    Raises DeclarationError for what is not a duration.
    """

    def __init__(self, wait: Duration) -> None:
        try:
            self.wait = parse_duration(wait)
        except ValueError as error:
            raise DeclarationError(f"RetryLater: {wait!r}: {error}") from None
        super().__init__(show_duration(self.wait))


def tier_topic(topic: str, group: str, number: int) -> str:
    """The name of a group's tier, by its number from 1. The wait is no part of it: it may change."""
    return f"{topic}.{group}.retry-{number}"


def tier_topics(topic: str, group: str, retry: Retry | None) -> list[str]:
    """The names of a group's tiers for one of its topics, in their order."""
    return [] if retry is None else [tier_topic(topic, group, n) for n in range(1, len(retry.tier_waits) + 1)]


def dead_letter_topic(topic: str) -> str:
    """The name of a topic's dead letter topic, unless the agent names another."""
    return f"{topic}.dlq"


def state_topic(dead_letters: str) -> str:
    """The name of the topic that says what became of the dead letters of this one."""
    return f"{dead_letters}.state"


def _retry(
    label: str,
    waits: tuple[float, ...],
    jitter: object,
    times_in_place: object,
    wait_in_place: Duration,
    only: object,
    never: object,
    *,
    wait_name: str = "in_place_wait",
) -> Retry:
    retry = object.__new__(Retry)
    for name, value in (
        ("tier_waits", tuple(_wait(f"{label}, tier {number}", wait) for number, wait in enumerate(waits, 1))),
        ("jitter", _number(f"{label}, jitter", jitter, 0.0, 1.0)),
        ("times_in_place", _count(f"{label}, in_place", times_in_place)),
        ("wait_in_place", _wait(f"{label}, {wait_name}", seconds(f"{label}, {wait_name}", wait_in_place))),
        ("only", _errors(f"{label}, only", only)),
        ("never", _errors(f"{label}, never", never)),
    ):
        object.__setattr__(retry, name, value)
    return retry


def _growing(label: str, first: float, factor: object, tiers: int, cap: Duration | None) -> tuple[float, ...]:
    times = _number(f"{label}, factor", factor, 1.0, _FINITE)
    longest = math.inf if cap is None else seconds(f"{label}, cap", cap)
    if longest < first:
        raise DeclarationError(
            f"{label}, cap: {show_duration(longest)} is shorter than the first wait, {show_duration(first)}"
        )
    waits = [first]
    while len(waits) < tiers and waits[-1] <= _LONGEST:  # what is longer is refused, with the number of its tier
        waits.append(min(waits[-1] * times, longest))
    return tuple(waits)


def _wait(label: str, wait: float) -> float:
    if 0.001 <= wait <= _LONGEST:
        return wait
    text = show_duration(wait) if wait < 100 * _LONGEST else "more than 100 years"
    raise DeclarationError(f"{label}: would wait {text}; a wait is from 1ms to {show_duration(_LONGEST)}")


def _number(label: str, number: object, least: float, most: float) -> float:
    if isinstance(number, int | float) and not isinstance(number, bool) and least <= number <= most:
        return float(number)
    limits = f"of at least {least:g}" if most == _FINITE else f"from {least:g} to {most:g}"
    raise DeclarationError(f"{label}: {number!r} is not a number {limits}")


def _count(label: str, number: object) -> int:
    if type(number) is int and number >= 0:
        return number
    raise DeclarationError(f"{label}: {number!r} is not a whole number of at least 0")


def _errors(label: str, errors: object) -> Errors:
    if isinstance(errors, type):
        raise DeclarationError(f"{label}: {errors.__qualname__} is a class alone; write ({errors.__qualname__},)")
    if not isinstance(errors, Collection) or isinstance(errors, str | bytes):
        raise DeclarationError(f"{label}: {errors!r} is not a tuple of exception classes")
    for error in errors:
        if not isinstance(error, type) or not issubclass(error, BaseException):
            raise DeclarationError(f"{label}: {error!r} is not an exception class")
    return tuple(errors)
