"""What becomes of a record whose handler failed: the one place where it is decided."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import Final, Literal, NamedTuple, cast

from streamkit.errors import Stage
from streamkit.retry import Reject, Retry, RetryLater, Skip

Reason = Literal["exhausted", "non_retryable", "rejected", "deserialize", "timeout", "too_large"]


class InPlace(NamedTuple):
    """The handler runs again, `wait` seconds from now; the later records of the key wait for it."""

    wait: float


class ToTier(NamedTuple):
    """A copy goes to tier `number`, due `wait` seconds from now, jitter included; the key goes on."""

    number: int
    wait: float


class ToDeadLetters(NamedTuple):
    """A copy goes to the dead letter topic; the key goes on."""

    reason: Reason


class Fate(Enum):
    HOLD = "hold"  # the breaker is open: the record stays as it is, and its key waits
    SKIP = "skip"  # it is settled as if it had been handled
    STOP = "stop"  # there is nowhere to put it: the agent stops


HOLD: Final = Fate.HOLD
SKIP: Final = Fate.SKIP
STOP: Final = Fate.STOP

Decision = InPlace | ToTier | ToDeadLetters | Fate


class Failure(NamedTuple):
    """A run of a handler that failed, and what came before it."""

    error: BaseException
    stage: Stage = "handle"
    tier: int = 0  # where the record was read: 0 is the source topic
    runs: int = 1  # of the record's handler, in all topics, this one included
    in_place: int = 0  # runs in place that this delivery had already
    again: bool = True  # whether it may run in place again: not if its lane has gone on
    late: bool = False  # its own `timeout` ended it


def decide(retry: Retry | None, dead_letters: bool, failure: Failure, *, held: bool, chance: float) -> Decision:
    """What to do now. `dead_letters`: there is a topic for them; `held`: the breaker is open; `chance`, from 0 to 1, is
    how much of the jitter is added.

    While it is open a breaker keeps records from tiers and dead letters, but for those that are rejected: a handler
    that says so has judged the record, and is not what is broken.
    """
    if isinstance(failure.error, Skip):
        return SKIP
    if isinstance(failure.error, Reject):
        return ToDeadLetters("rejected") if dead_letters else STOP
    decision = _decide(retry, failure, chance)
    if isinstance(decision, ToDeadLetters) and not dead_letters:
        return STOP
    return HOLD if held else decision


def counts(error: BaseException) -> bool:
    """Whether the breaker counts it as a failure: not what a handler decides about a record that it understands."""
    return not isinstance(error, Skip | Reject | RetryLater)


def _decide(retry: Retry | None, failure: Failure, chance: float) -> InPlace | ToTier | ToDeadLetters:
    exhausted = ToDeadLetters("timeout" if failure.late else "exhausted")
    if failure.stage in ("decode-key", "decode-value"):
        return ToDeadLetters("deserialize")  # the same bytes, the same error
    if retry is None:
        return exhausted
    if isinstance(failure.error, RetryLater):
        return _later(retry, failure, failure.error.wait, chance) or exhausted
    if not _retryable(retry, failure.error):
        return ToDeadLetters("non_retryable")
    if failure.again and failure.in_place < retry.times_in_place:
        return InPlace(retry.wait_in_place)
    if failure.tier < len(retry.tier_waits):
        wait = retry.tier_waits[failure.tier]
        return ToTier(failure.tier + 1, _jittered(retry, wait, chance))
    return exhausted


def _later(retry: Retry, failure: Failure, asked: float, chance: float) -> ToTier | None:
    """The shortest tier that is long enough, else the last; None when the record has run as often as any may."""
    waits = retry.tier_waits
    if not waits or failure.runs >= (len(waits) + 1) * (retry.times_in_place + 1):
        return None
    long_enough = [(wait, number) for number, wait in enumerate(waits, 1) if wait >= asked]
    wait, number = min(long_enough, default=(waits[-1], len(waits)))
    return ToTier(number, _jittered(retry, min(asked, wait), chance))


def _jittered(retry: Retry, wait: float, chance: float) -> float:
    return wait * (1 + retry.jitter * chance)


def _retryable(retry: Retry, error: BaseException) -> bool:
    """The class that is nearest to an exception of the chain decides; of equally near ones that of the outermost
    exception, and then `never`."""
    if not retry.never and not retry.only:
        return True
    verdicts = [
        (mro.index(cls), depth, verdict)
        for depth, each in _chain(error)
        for mro in (type(each).__mro__,)
        for verdict, classes in ((False, retry.never), (True, retry.only))
        for cls in classes
        if cls in mro
    ]
    return min(verdicts)[2] if verdicts else not retry.only


def _chain(error: BaseException) -> Iterator[tuple[int, BaseException]]:
    """An exception, its causes and members of groups, each once, with how many steps it is away."""
    seen = {id(error)}
    ahead = deque([(0, error)])
    while ahead:
        depth, each = ahead.popleft()
        yield depth, each
        for inner in _within(each):
            if id(inner) not in seen:
                seen.add(id(inner))
                ahead.append((depth + 1, inner))


def _within(error: BaseException) -> Iterator[BaseException]:
    if error.__cause__ is not None:
        yield error.__cause__
    elif error.__context__ is not None and not error.__suppress_context__:
        yield error.__context__
    if isinstance(error, BaseExceptionGroup):
        yield from cast("BaseExceptionGroup[BaseException]", error).exceptions
