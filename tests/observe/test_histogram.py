from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamkit.observe.histogram import EXEMPLAR_EVERY, Exemplar, Histogram

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLED = f"00-{TRACE}-00f067aa0ba902b7-01".encode()
NOW = 1_790_000_000_000

bounds = st.lists(st.integers(0, 5_000), min_size=1, max_size=15, unique=True).map(sorted)


def test_a_bound_belongs_to_its_bucket_and_one_more_holds_what_is_larger() -> None:
    histogram = Histogram((0.0, 0.1, 1.0))
    for seconds in (0.0, 0.1, 0.1001, 1.0, 1.0001):
        histogram.observe(seconds)
    assert histogram.counts == [1, 1, 2, 1]
    assert histogram.sum == pytest.approx(2.2002)


@given(bounds, st.lists(st.integers(0, 6_000), max_size=200))
def test_many_at_once_are_counted_like_one_by_one(bounds: list[int], ages: list[int]) -> None:
    """In units of which a float holds each exactly: 1/1024 s."""
    at_once, one_by_one = Histogram([b / 1024 for b in bounds]), Histogram([b / 1024 for b in bounds])
    at_once.observe_ages(sorted(NOW - age for age in ages), NOW, 1024)
    for age in ages:
        one_by_one.observe(age / 1024)
    assert at_once.counts == one_by_one.counts
    assert at_once.sum == pytest.approx(one_by_one.sum)


@given(bounds, st.lists(st.integers(0, 6_000), max_size=200).map(sorted))
def test_moments_since_another_are_counted_like_one_by_one(bounds: list[int], waits: list[int]) -> None:
    at_once, one_by_one = Histogram([b / 1024 for b in bounds]), Histogram([b / 1024 for b in bounds])
    at_once.observe_since(7.0, [7.0 + wait / 1024 for wait in waits])
    for wait in waits:
        one_by_one.observe(wait / 1024)
    assert at_once.counts == one_by_one.counts
    assert at_once.sum == pytest.approx(one_by_one.sum)


@given(bounds, st.lists(st.integers(0, 2_000), max_size=200))
def test_what_follows_each_other_is_counted_like_one_by_one(bounds: list[int], gaps: list[int]) -> None:
    at_once, one_by_one = Histogram([b / 1024 for b in bounds]), Histogram([b / 1024 for b in bounds])
    at_once.observe_gaps([7.0 + gap / 1024 for gap in accumulate(gaps, initial=0)])
    for gap in gaps:
        one_by_one.observe(gap / 1024)
    assert at_once.counts == one_by_one.counts
    assert at_once.sum == pytest.approx(one_by_one.sum)


def test_what_lies_in_the_future_counts_as_0() -> None:
    histogram = Histogram((0.0, 1.0))
    histogram.observe_ages([NOW - 500, NOW + 1, NOW + 5_000], NOW, 1000)
    assert (histogram.counts, histogram.sum) == ([2, 1, 0], 0.5)
    histogram.observe_ages([NOW + 1], NOW, 1000)
    assert (histogram.counts, histogram.sum) == ([3, 1, 0], 0.5)


def test_what_came_before_counts_as_0() -> None:
    histogram = Histogram((0.0, 1.0))
    histogram.observe_since(10.0, [9.0, 9.5, 10.5])
    assert (histogram.counts, histogram.sum) == ([2, 1, 0], 0.5)
    histogram.observe_since(10.0, [])
    assert (histogram.counts, histogram.sum) == ([2, 1, 0], 0.5)


def test_a_bucket_remembers_the_last_trace_and_looks_for_one_once_a_second() -> None:
    histogram = Histogram((0.1, 1.0))
    other = SAMPLED.replace(b"4bf9", b"aaaa")
    histogram.trace(0.05, [("traceparent", SAMPLED)], 100.0)
    histogram.trace(0.06, [("traceparent", other)], 100.0 + EXEMPLAR_EVERY / 2)
    histogram.trace(5.0, [("h", b"1"), ("traceparent", SAMPLED)], 100.0)
    assert histogram.exemplars == {0: Exemplar(TRACE, 0.05, 100.0), 2: Exemplar(TRACE, 5.0, 100.0)}
    histogram.trace(0.07, [("traceparent", other)], 100.0 + EXEMPLAR_EVERY)
    assert histogram.exemplars[0] == Exemplar(TRACE.replace("4bf9", "aaaa"), 0.07, 101.0)


def test_a_clock_that_was_set_back_does_not_keep_an_old_trace() -> None:
    histogram = Histogram((0.1,))
    histogram.trace(0.05, [("traceparent", SAMPLED)], 100.0)
    histogram.trace(0.06, [("traceparent", SAMPLED)], 50.0)
    assert histogram.exemplars[0].at == 50.0


def test_a_trace_that_nobody_records_is_not_remembered() -> None:
    histogram = Histogram((0.1,))
    for headers in ([], [("traceparent", SAMPLED[:-2] + b"00")], [("traceparent", b"01")]):
        histogram.trace(0.05, headers, 100.0)
    assert not histogram.exemplars
