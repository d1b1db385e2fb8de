"""What becomes of a failed record, as a truth table and by examples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamkit.core.failures import (
    HOLD,
    SKIP,
    STOP,
    Decision,
    Failure,
    InPlace,
    Reason,
    ToDeadLetters,
    ToTier,
    counts,
    decide,
)
from streamkit.errors import Stage
from streamkit.retry import Reject, Retry, RetryLater, Skip

IN_PLACE_ONLY = Retry.in_place(2, "1s")
TIERS_ONLY = Retry.delays("10s", "100s", jitter=0.5)
BOTH = Retry.delays("10s", "100s", jitter=0.5, in_place=2, in_place_wait="1s")
EXHAUSTED = ToDeadLetters("exhausted")
STAGES: tuple[Stage, ...] = ("decode-key", "decode-value", "handle", "sink")


def fate(
    retry: Retry | None, failure: Failure, *, dead_letters: bool = True, held: bool = False, chance: float = 0.0
) -> Decision:
    return decide(retry, dead_letters, failure, held=held, chance=chance)


def failing(error: BaseException, *, cause: BaseException | None = None) -> BaseException:
    error.__cause__ = cause
    return error


# retry, tier, runs in place, may run again: what a failure of the handler comes to while nothing is held.
TABLE: list[tuple[Retry | None, int, int, bool, Decision]] = [
    (None, 0, 0, True, EXHAUSTED),
    (IN_PLACE_ONLY, 0, 0, True, InPlace(1.0)),
    (IN_PLACE_ONLY, 0, 1, True, InPlace(1.0)),
    (IN_PLACE_ONLY, 0, 2, True, EXHAUSTED),
    (IN_PLACE_ONLY, 0, 0, False, EXHAUSTED),
    (TIERS_ONLY, 0, 0, True, ToTier(1, 10.0)),
    (TIERS_ONLY, 0, 0, False, ToTier(1, 10.0)),
    (TIERS_ONLY, 1, 0, True, ToTier(2, 100.0)),
    (TIERS_ONLY, 2, 0, True, EXHAUSTED),
    (TIERS_ONLY, 7, 0, True, EXHAUSTED),
    (BOTH, 0, 1, True, InPlace(1.0)),
    (BOTH, 0, 2, True, ToTier(1, 10.0)),
    (BOTH, 0, 0, False, ToTier(1, 10.0)),
    (BOTH, 1, 0, True, InPlace(1.0)),
    (BOTH, 1, 2, True, ToTier(2, 100.0)),
    (BOTH, 2, 1, True, InPlace(1.0)),
    (BOTH, 2, 2, True, EXHAUSTED),
    (BOTH, 2, 0, False, EXHAUSTED),
]


@pytest.mark.parametrize(("retry", "tier", "in_place", "again", "expected"), TABLE)
@pytest.mark.parametrize("stage", ["handle", "sink"])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("dead_letters", [False, True])
@pytest.mark.parametrize("held", [False, True])
def test_a_failure_runs_in_place_first_then_in_tiers_and_ends_among_the_dead_letters(
    retry: Retry | None,
    tier: int,
    in_place: int,
    again: bool,
    expected: Decision,
    stage: Stage,
    late: bool,
    dead_letters: bool,
    held: bool,
) -> None:
    failure = Failure(OSError(), stage, tier=tier, in_place=in_place, again=again, late=late)
    if expected == EXHAUSTED and late:
        expected = ToDeadLetters("timeout")
    if isinstance(expected, ToDeadLetters) and not dead_letters:
        expected = STOP
    elif held:
        expected = HOLD
    assert fate(retry, failure, dead_letters=dead_letters, held=held) == expected


@pytest.mark.parametrize("retry", [None, IN_PLACE_ONLY, TIERS_ONLY, BOTH])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("held", [False, True])
def test_a_handler_may_skip_and_reject_its_record_whatever_else_holds(
    retry: Retry | None, stage: Stage, held: bool
) -> None:
    assert fate(retry, Failure(Skip(), stage), held=held) is SKIP
    assert fate(retry, Failure(Skip(), stage), held=held, dead_letters=False) is SKIP
    assert fate(retry, Failure(Reject("why"), stage), held=held) == ToDeadLetters("rejected")
    assert fate(retry, Failure(Reject("why"), stage), held=held, dead_letters=False) is STOP


@pytest.mark.parametrize("retry", [None, IN_PLACE_ONLY, TIERS_ONLY, BOTH])
@pytest.mark.parametrize("stage", ["decode-key", "decode-value"])
@pytest.mark.parametrize("error", [ValueError(), RetryLater("1s")])
def test_bytes_that_cannot_be_decoded_are_not_tried_again(retry: Retry, stage: Stage, error: Exception) -> None:
    assert fate(retry, Failure(error, stage)) == ToDeadLetters("deserialize")
    assert fate(retry, Failure(error, stage), held=True) is HOLD
    assert fate(retry, Failure(error, stage), dead_letters=False) is STOP
    assert fate(retry, Failure(error, stage), dead_letters=False, held=True) is STOP


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("1s", ToTier(1, 1.0)),
        ("10s", ToTier(1, 10.0)),
        ("11s", ToTier(2, 11.0)),
        ("100s", ToTier(2, 100.0)),
        ("101s", ToTier(2, 100.0)),
    ],
)
@pytest.mark.parametrize("tier", [0, 1, 2])
@pytest.mark.parametrize("retry", [TIERS_ONLY, BOTH])
def test_a_record_that_asks_for_time_goes_to_the_shortest_tier_that_is_long_enough(
    asked: str, expected: ToTier, tier: int, retry: Retry
) -> None:
    failure = Failure(RetryLater(asked), tier=tier)
    assert fate(retry, failure) == expected
    assert fate(retry, failure, chance=1.0) == ToTier(expected.number, expected.wait * 1.5)
    assert fate(retry, failure, held=True) is HOLD


def test_the_shortest_tier_need_not_be_the_first() -> None:
    retry = Retry.delays("1m", "5s", "30s", "5s")
    assert fate(retry, Failure(RetryLater("4s"))) == ToTier(2, 4.0)
    assert fate(retry, Failure(RetryLater("40s"))) == ToTier(1, 40.0)
    assert fate(retry, Failure(RetryLater("2m"))) == ToTier(4, 5.0)


@pytest.mark.parametrize(("retry", "most"), [(TIERS_ONLY, 3), (BOTH, 9)])
def test_who_asks_for_time_again_and_again_has_as_many_runs_as_a_record_that_fails(retry: Retry, most: int) -> None:
    assert isinstance(fate(retry, Failure(RetryLater("1s"), runs=most - 1)), ToTier)
    assert fate(retry, Failure(RetryLater("1s"), runs=most)) == EXHAUSTED
    assert fate(retry, Failure(RetryLater("1s"), runs=most + 1)) == EXHAUSTED
    assert fate(retry, Failure(RetryLater("1s"), runs=most), dead_letters=False) is STOP


@pytest.mark.parametrize("retry", [None, IN_PLACE_ONLY])
def test_without_tiers_there_is_no_later(retry: Retry | None) -> None:
    assert fate(retry, Failure(RetryLater("1s"))) == EXHAUSTED
    assert fate(retry, Failure(RetryLater("1s")), dead_letters=False) is STOP


@given(chance=st.floats(0, 1), tier=st.integers(0, 1))
def test_jitter_only_adds_and_no_more_than_declared(chance: float, tier: int) -> None:
    decision = fate(TIERS_ONLY, Failure(OSError(), tier=tier), chance=chance)
    assert isinstance(decision, ToTier)
    wait = TIERS_ONLY.tier_waits[tier]
    assert wait <= decision.wait <= wait * 1.5
    assert decision.wait == pytest.approx(wait * (1 + chance / 2))


class Far(OSError): ...


class Near(Far): ...


ALWAYS: tuple[type[BaseException], ...] = ()


@pytest.mark.parametrize(
    ("only", "never", "error", "retried"),
    [
        (ALWAYS, ALWAYS, OSError(), True),
        (ALWAYS, (OSError,), OSError(), False),
        (ALWAYS, (OSError,), ValueError(), True),
        ((OSError,), ALWAYS, OSError(), True),
        ((OSError,), ALWAYS, ValueError(), False),
        ((OSError,), (Far,), OSError(), True),
        ((OSError,), (Far,), Far(), False),
        ((OSError,), (Far,), Near(), False),
        ((Near,), (OSError,), Near(), True),
        ((Near,), (OSError,), Far(), False),
        ((OSError,), (OSError,), OSError(), False),
        ((ValueError, OSError), (KeyError,), OSError(), True),
        (ALWAYS, (KeyError, OSError), OSError(), False),
        # causes count too, and the nearest class of all decides
        (ALWAYS, (OSError,), failing(ValueError(), cause=OSError()), False),
        ((OSError,), ALWAYS, failing(ValueError(), cause=OSError()), True),
        ((Exception,), (OSError,), failing(ValueError(), cause=OSError()), False),
        ((ValueError,), (Exception,), failing(KeyError(), cause=ValueError()), True),
        # equally near: the outer one, and then never
        ((ValueError,), (OSError,), failing(ValueError(), cause=OSError()), True),
        ((OSError,), (ValueError,), failing(ValueError(), cause=OSError()), False),
        ((ValueError,), (OSError,), ExceptionGroup("", [ValueError(), OSError()]), False),
        ((OSError,), (ValueError,), ExceptionGroup("", [ValueError(), OSError()]), False),
        # members of groups
        (ALWAYS, (OSError,), ExceptionGroup("", [ValueError(), ExceptionGroup("", [OSError()])]), False),
        ((OSError,), ALWAYS, ExceptionGroup("", [OSError()]), True),
        ((OSError,), ALWAYS, BaseExceptionGroup("", [KeyboardInterrupt(), OSError()]), True),
        ((ExceptionGroup,), (OSError,), ExceptionGroup("", [OSError()]), True),
    ],
)
def test_the_nearest_class_of_the_chain_decides_whether_it_is_tried_again(
    only: tuple[type[BaseException], ...],
    never: tuple[type[BaseException], ...],
    error: BaseException,
    retried: bool,
) -> None:
    retry = Retry.delays("10s", jitter=0.0, only=only, never=never)
    assert fate(retry, Failure(error)) == (ToTier(1, 10.0) if retried else ToDeadLetters("non_retryable"))
    assert fate(retry, Failure(error), held=True) is HOLD
    assert fate(retry, Failure(error), dead_letters=False) == (ToTier(1, 10.0) if retried else STOP)
    # what is not to be tried again is not exhausted, however late and wherever it was read
    last = Failure(error, tier=1, late=True)
    assert fate(retry, last) == ToDeadLetters("timeout" if retried else "non_retryable")


def test_in_place_too_only_what_may_be_tried_again_runs_again() -> None:
    retry = Retry.in_place(3, "1s", never=(OSError,))
    assert fate(retry, Failure(OSError())) == ToDeadLetters("non_retryable")
    assert fate(retry, Failure(ValueError())) == InPlace(1.0)


def test_an_exception_raised_while_handling_another_has_it_for_a_cause_unless_that_is_suppressed() -> None:
    retry = Retry.delays("10s", never=(OSError,))
    within, apart = ValueError(), ValueError()
    within.__context__ = apart.__context__ = OSError()
    apart.__suppress_context__ = True  # raise ... from None
    assert fate(retry, Failure(within)) == ToDeadLetters("non_retryable")
    assert fate(retry, Failure(apart)) == ToTier(1, 10.0)


def test_a_chain_of_causes_that_goes_in_circles_ends() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert fate(Retry.delays("10s", never=(OSError,)), Failure(first)) == ToTier(1, 10.0)


def test_a_long_chain_of_causes_is_followed_to_its_end() -> None:
    error: BaseException = OSError()
    for _ in range(10_000):
        error = failing(ValueError(), cause=error)
    assert fate(Retry.delays("10s", never=(OSError,)), Failure(error)) == ToDeadLetters("non_retryable")


@pytest.mark.parametrize(
    ("error", "counted"),
    [(OSError(), True), (TimeoutError(), True), (Skip(), False), (Reject("why"), False), (RetryLater("1s"), False)],
)
def test_the_breaker_does_not_count_what_a_handler_decides(error: BaseException, counted: bool) -> None:
    assert counts(error) is counted


@given(
    retry=st.sampled_from([None, IN_PLACE_ONLY, TIERS_ONLY, BOTH]),
    error=st.sampled_from([OSError(), Skip(), Reject("why"), RetryLater("20s"), RetryLater("0s")]),
    stage=st.sampled_from(STAGES),
    tier=st.integers(0, 3),
    runs=st.integers(1, 20),
    in_place=st.integers(0, 3),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    chance=st.floats(0, 1),
)
def test_every_failure_has_a_fate_that_can_be_carried_out(
    retry: Retry | None,
    error: BaseException,
    stage: Stage,
    tier: int,
    runs: int,
    in_place: int,
    flags: tuple[bool, bool, bool, bool],
    chance: float,
) -> None:
    again, late, dead_letters, held = flags
    failure = Failure(error, stage, tier, runs, in_place, again, late)
    open_fate = fate(retry, failure, dead_letters=dead_letters, chance=chance)
    match fate(retry, failure, dead_letters=dead_letters, held=held, chance=chance):
        case InPlace():
            assert not held
            assert again
            assert retry is not None
            assert in_place < retry.times_in_place
        case ToTier(number):
            assert not held
            assert retry is not None
            assert 1 <= number <= len(retry.tier_waits)
        case ToDeadLetters(reason):
            allowed: tuple[Reason, ...] = ("rejected", "exhausted", "timeout", "deserialize")
            assert reason in allowed
            assert dead_letters
            assert not held or reason == "rejected"
        case closed_fate:
            assert closed_fate is (HOLD if held and open_fate not in (SKIP, STOP) else open_fate)
