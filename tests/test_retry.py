"""`Retry`: what it holds, and what it refuses. And what a handler raises to decide by itself."""

import copy
import doctest
import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamkit.retry
from streamkit import DeclarationError, Reject, Retry, RetryLater, Skip
from streamkit.retry import dead_letter_topic, state_topic, tier_topic, tier_topics

A_DURATION = 'not a duration: write "250ms", "5s", "10m", "2h" or "7d", or give a timedelta'
YEAR = 365 * 86_400


def test_the_examples_are_true() -> None:
    assert doctest.testmod(streamkit.retry).failed == 0


def test_the_defaults_are_the_stated_ones() -> None:
    retry = Retry.exponential("5s")
    assert retry.tier_waits == (5, 10, 20, 40, 80)
    assert (retry.jitter, retry.times_in_place, retry.wait_in_place) == (0.1, 0, 0.1)
    assert (retry.only, retry.never) == ((), ())
    assert Retry.delays("5s", "10s", "20s", "40s", "80s") == retry


def test_all_that_is_given_is_kept() -> None:
    given: dict[str, Any] = {"jitter": 1, "in_place": 3, "in_place_wait": "1s", "only": [OSError], "never": (KeyError,)}
    for retry in (Retry.exponential("5s", tiers=1, **given), Retry.delays(timedelta(seconds=5), **given)):
        assert retry.tier_waits == (5,)
        assert (retry.jitter, retry.times_in_place, retry.wait_in_place) == (1, 3, 1)
        assert (retry.only, retry.never) == ((OSError,), (KeyError,))


def test_in_place_alone_has_no_tiers() -> None:
    retry = Retry.in_place(3, only=(OSError,), never={ConnectionError})
    assert (retry.tier_waits, retry.times_in_place, retry.wait_in_place) == ((), 3, 0.1)
    assert (retry.only, retry.never) == ((OSError,), (ConnectionError,))
    assert Retry.in_place(1, "2s").wait_in_place == 2


def test_no_wait_is_longer_than_the_cap() -> None:
    assert Retry.exponential("5s", factor=6, tiers=4, cap="100s").tier_waits == (5, 30, 100, 100)
    assert Retry.exponential("5s", tiers=3, cap="5s").tier_waits == (5, 5, 5)
    assert Retry.exponential("5s", factor=1, tiers=2).tier_waits == (5, 5)
    assert Retry.exponential("1s", factor=1e300, tiers=4, cap="365d").tier_waits == (1, YEAR, YEAR, YEAR)


def test_delays_need_not_grow() -> None:
    assert Retry.delays("1m", "5s", "1m").tier_waits == (60, 5, 60)


@given(
    first=st.floats(0.001, 1e6),
    factor=st.floats(1, 100),
    tiers=st.integers(1, 12),
    cap=st.floats(0.001, YEAR).map(lambda seconds: timedelta(seconds=seconds)),
)
def test_waits_never_shrink_and_never_pass_the_cap(first: float, factor: float, tiers: int, cap: timedelta) -> None:
    start = min(timedelta(seconds=first), cap)
    waits = Retry.exponential(start, factor=factor, tiers=tiers, cap=cap).tier_waits
    assert len(waits) == tiers
    assert waits[0] == start.total_seconds()
    assert list(waits) == sorted(waits)
    assert waits[-1] <= cap.total_seconds()


def test_a_retry_cannot_be_changed_and_is_equal_to_its_copies() -> None:
    retry = Retry.exponential("5s", never=(KeyError,))
    with pytest.raises(AttributeError):
        retry.jitter = 0  # type: ignore[misc]
    assert copy.deepcopy(retry) == pickle.loads(pickle.dumps(retry)) == retry
    assert hash(copy.copy(retry)) == hash(retry)


# Untyped: a type checker refuses most of these.
RETRY: Any = Retry
LATER: Any = RetryLater
EXPONENTIAL, DELAYS, IN_PLACE = RETRY.exponential, RETRY.delays, RETRY.in_place


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: EXPONENTIAL(5), f"Retry.exponential, first: 5: {A_DURATION}"),
        (lambda: EXPONENTIAL("0s"), "Retry.exponential, first: '0s': must be more than 0"),
        (
            lambda: EXPONENTIAL(timedelta(microseconds=999)),
            "Retry.exponential, tier 1: would wait 0.000999s; a wait is from 1ms to 365d",
        ),
        (lambda: EXPONENTIAL("5s", factor=0.5), "Retry.exponential, factor: 0.5 is not a number of at least 1"),
        (
            lambda: EXPONENTIAL("5s", factor=float("inf")),
            "Retry.exponential, factor: inf is not a number of at least 1",
        ),
        (
            lambda: EXPONENTIAL("5s", factor=float("nan")),
            "Retry.exponential, factor: nan is not a number of at least 1",
        ),
        (lambda: EXPONENTIAL("5s", factor=True), "Retry.exponential, factor: True is not a number of at least 1"),
        (lambda: EXPONENTIAL("5s", factor="2"), "Retry.exponential, factor: '2' is not a number of at least 1"),
        (lambda: EXPONENTIAL("5s", tiers=0), "Retry.exponential, tiers: 0 is not a whole number of at least 1"),
        (
            lambda: EXPONENTIAL("5s", tiers="3"),
            "Retry.exponential, tiers: '3' is not a whole number of at least 1; write it without quotes: 3",
        ),
        (
            lambda: EXPONENTIAL("2m", cap="1m"),
            "Retry.exponential, cap: 1m is shorter than the first wait, 2m",
        ),
        (lambda: EXPONENTIAL("2m", cap=60), f"Retry.exponential, cap: 60: {A_DURATION}"),
        (
            lambda: EXPONENTIAL("300d", tiers=3),
            "Retry.exponential, tier 2: would wait 600d; a wait is from 1ms to 365d",
        ),
        (
            lambda: EXPONENTIAL("5s", factor=1e300, tiers=10**9),
            "Retry.exponential, tier 2: would wait more than 100 years; a wait is from 1ms to 365d",
        ),
        (lambda: EXPONENTIAL("5s", jitter=1.1), "Retry.exponential, jitter: 1.1 is not a number from 0 to 1"),
        (lambda: EXPONENTIAL("5s", jitter=-0.1), "Retry.exponential, jitter: -0.1 is not a number from 0 to 1"),
        (lambda: DELAYS("5s", jitter="10%"), "Retry.delays, jitter: '10%' is not a number from 0 to 1"),
        (lambda: DELAYS("5s", in_place=-1), "Retry.delays, in_place: -1 is not a whole number of at least 0"),
        (lambda: DELAYS("5s", in_place=True), "Retry.delays, in_place: True is not a whole number of at least 0"),
        (lambda: DELAYS("5s", in_place_wait=1), f"Retry.delays, in_place_wait: 1: {A_DURATION}"),
        (
            lambda: DELAYS("5s", in_place_wait="366d"),
            "Retry.delays, in_place_wait: would wait 366d; a wait is from 1ms to 365d",
        ),
        (
            lambda: DELAYS(),
            'Retry.delays: it has no tier; write Retry.delays("5s", "1m", "10m"), or Retry.in_place(3)',
        ),
        (lambda: DELAYS("5s", 10), f"Retry.delays, tier 2: 10: {A_DURATION}"),
        (
            lambda: DELAYS(["5s", "1m"]),
            "Retry.delays: ['5s', '1m'] is one argument; give each wait as its own: (\"5s\", \"1m\")",
        ),
        (lambda: DELAYS("5s", "400d"), "Retry.delays, tier 2: would wait 400d; a wait is from 1ms to 365d"),
        (lambda: IN_PLACE(0), "Retry.in_place, times: 0 is not a whole number of at least 1"),
        (lambda: IN_PLACE(3, "0s"), "Retry.in_place, wait: '0s': must be more than 0"),
        (lambda: DELAYS("5s", only=KeyError), "Retry.delays, only: KeyError is a class alone; write (KeyError,)"),
        (lambda: DELAYS("5s", never=KeyError), "Retry.delays, never: KeyError is a class alone; write (KeyError,)"),
        (lambda: IN_PLACE(1, never=5), "Retry.in_place, never: 5 is not a tuple of exception classes"),
        (lambda: DELAYS("5s", only="OSError"), "Retry.delays, only: 'OSError' is not a tuple of exception classes"),
        (
            lambda: DELAYS("5s", only=KeyError("x")),
            "Retry.delays, only: KeyError('x') is not a tuple of exception classes",
        ),
        (lambda: DELAYS("5s", only=(KeyError("x"),)), "Retry.delays, only: KeyError('x') is not an exception class"),
        (lambda: DELAYS("5s", never=(int,)), "Retry.delays, never: <class 'int'> is not an exception class"),
        (
            lambda: RETRY("5s"),
            'Retry: write Retry.exponential("5s"), Retry.delays("5s", "1m") or Retry.in_place(3), not Retry(...)',
        ),
        (lambda: LATER(30), f"RetryLater: 30: {A_DURATION}"),
        (
            lambda: LATER(timedelta(-1)),
            "RetryLater: datetime.timedelta(days=-1): a duration cannot be negative: -1 day, 0:00:00",
        ),
    ],
)
def test_a_bad_argument_is_named(make: Callable[[], object], told: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        make()
    assert str(caught.value) == told


def test_retry_later_holds_its_wait_in_seconds() -> None:
    later = RetryLater("90s")
    assert later.wait == 90
    assert str(later) == "90s"
    assert RetryLater(timedelta(0)).wait == 0


def test_a_reject_keeps_its_reason() -> None:
    assert str(Reject("no such customer")) == "no such customer"
    assert isinstance(Skip(), Exception)


def test_what_a_handler_raises_survives_another_process() -> None:
    later = pickle.loads(pickle.dumps(RetryLater("250ms")))
    assert (later.wait, str(later)) == (0.25, "250ms")


def test_names_follow_from_topic_group_and_number() -> None:
    assert tier_topic("orders.v1", "billing.charge", 2) == "orders.v1.billing.charge.retry-2"
    assert tier_topics("orders", "g", Retry.delays("1s", "2s")) == ["orders.g.retry-1", "orders.g.retry-2"]
    assert tier_topics("orders", "g", Retry.in_place(3)) == tier_topics("orders", "g", None) == []
    assert dead_letter_topic("orders.v1") == "orders.v1.dlq"
    assert state_topic("orders.v1.dlq") == "orders.v1.dlq.state"
