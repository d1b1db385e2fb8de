"""When a breaker opens, when it lets a probe through, and when it closes."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import takewhile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from streamkit.core.breaker import KNOWN_FOR, MOST_KNOWN, SLOTS, Breaker, BreakerLimits

FIVE = BreakerLimits(failures=5, keys=3, window=10.0, first_probe=1.0, last_probe=4.0)
MANY = 1_000  # successes beside which no failures are the ratio of all: what counts is the row


def well(breaker: Breaker, count: int, now: float) -> bool:
    """So many runs end well, and have sent nothing that is not acknowledged. Whether that closes it."""
    breaker.returned(count, now)
    return breaker.succeeded(count, now)


def opened(limits: BreakerLimits = FIVE, now: float = 100.0) -> Breaker:
    breaker = Breaker(limits)
    fail_until_open(breaker, now)
    return breaker


def fail_until_open(breaker: Breaker, now: float) -> None:
    """With keys that have not failed before."""
    key = 0
    while not breaker.failed((now, key), now):
        key += 1
        assert key < 1_000


def probe_fails(breaker: Breaker, now: float) -> None:
    assert breaker.next_probe(now) == 0.0
    breaker.began_probe(now)
    assert not breaker.failed("probe", now)


def run(breaker: Breaker, key: Hashable, now: float, *, fails: bool) -> bool:
    """As the tasks do that run handlers; whether it opened."""
    if fails:
        return breaker.failed(key, now)
    breaker.failing.pop(key, None)
    well(breaker, 1, now)
    return False


@given(failures=st.integers(2, 50), keys=st.integers(1, 50), spread=st.integers(1, 50))
def test_while_everything_fails_it_opens_at_the_limit_if_it_is_of_enough_keys(
    failures: int, keys: int, spread: int
) -> None:
    breaker = Breaker(BreakerLimits(failures=failures, keys=keys, window=1.0))
    # So slowly that only the rule of failures in a row can open it.
    results = [breaker.failed(n % spread, float(2 * n)) for n in range(2 * max(failures, keys))]
    assert any(results) == (spread >= keys)
    if spread >= keys:
        assert results.index(True) == max(failures, keys) - 1


@given(failures=st.integers(1, 50), keys=st.integers(1, 50), spread=st.integers(1, 50), in_place=st.integers(0, 2))
def test_while_everything_fails_within_the_window_it_opens_at_the_limit_however_few_keys_there_are(
    failures: int, keys: int, spread: int, in_place: int
) -> None:
    breaker = Breaker(BreakerLimits(failures=failures, keys=keys, window=10.0))
    for number in range(failures):
        now = 9.0 * number / failures
        assert not breaker.open
        breaker.failed(number % spread, now)
        if not breaker.open and spread < keys:  # or the row may be full before
            assert not any(breaker.failed(number % spread, now, again=True) for _ in range(in_place))
    assert breaker.open


def test_of_few_keys_that_all_fail_it_opens_at_exactly_the_limit() -> None:
    breaker = Breaker(FIVE)
    assert [breaker.failed(n % 2, 0.0) for n in range(5)] == [False, False, False, False, True]


@given(limits=st.tuples(st.integers(1, 50), st.integers(1, 20)), data=st.data())
def test_while_everything_fails_over_fresh_keys_no_more_than_the_limit_fail_before_it_opens(
    limits: tuple[int, int], data: st.DataObject
) -> None:
    failures, keys = max(limits), min(limits)
    breaker = Breaker(BreakerLimits(failures=failures, keys=keys, window=10.0))
    before = data.draw(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=30), label="keys, and which fail")
    for key, fails in before:
        if run(breaker, ("old", key), 0.0, fails=fails):
            return
    passes = data.draw(st.lists(st.floats(0, 60), min_size=failures, max_size=failures), label="seconds")
    now = 0.0
    for number, seconds in enumerate(passes):
        now += seconds
        if breaker.failed(("fresh", number), now):
            return
    raise AssertionError(f"{failures} failures have not opened it")


@given(bad=st.integers(1, 9), turns=st.lists(st.tuples(st.integers(0, 8), st.floats(0, 500), st.booleans())))
def test_fewer_bad_keys_than_the_limit_never_open_it_beside_good_ones_whatever_the_time(
    bad: int, turns: list[tuple[int, float, bool]]
) -> None:
    breaker = Breaker(BreakerLimits(failures=10, keys=10, window=1e9))
    well(breaker, 100_000, 0.0)  # and then most have to do with bad keys only, in a row
    now = 0.0
    last = dict.fromkeys(range(bad), 0.0)
    for key, passes, succeeds in [*turns, *[(n, 0.0, False) for n in range(50)]]:
        # None is forgotten: each fails again in time.
        now = min(now + passes, min(last.values()) + KNOWN_FOR)
        for each in (key % bad, *(n for n in last if now - last[n] >= KNOWN_FOR / 2)):
            last[each] = now
            assert not breaker.failed(each, now)
        if succeeds:
            run(breaker, "good", now, fails=False)
    assert not breaker.open


@given(bad=st.integers(10, 50), turns=st.lists(st.tuples(st.integers(0, 49), st.floats(0, 5)), max_size=200))
def test_keys_that_go_on_failing_never_open_it_beside_good_ones_however_many_they_are(
    bad: int, turns: list[tuple[int, float]]
) -> None:
    breaker = Breaker(BreakerLimits(failures=20, keys=10, window=1e9))
    now = 0.0
    well(breaker, 1_000, now)
    for key in range(bad):  # among many others
        assert not run(breaker, key, now, fails=True)
        run(breaker, "good", now, fails=False)
        well(breaker, 10, now)
    now += 2.0
    for key, passes in [*turns, *[(n, 0.0) for n in range(200)]]:
        now = min(now + passes, 2.0 + KNOWN_FOR)
        assert not breaker.failed(key % bad, now)
    assert set(breaker.failing) == set(range(bad))


def test_a_key_that_has_succeeded_since_begins_to_fail_anew() -> None:
    breaker = Breaker(FIVE)
    for key in range(3):
        run(breaker, key, 0.0, fails=True)
    run(breaker, 0, 0.0, fails=False)
    run(breaker, 1, 0.0, fails=False)
    assert list(breaker.failing) == [2]
    later = 2 * FIVE.window
    well(breaker, MANY, later)
    assert not any(run(breaker, 2, later, fails=True) for _ in range(5))
    assert not run(breaker, 0, later, fails=True)
    assert not run(breaker, 1, later, fails=True)
    assert run(breaker, "new", later, fails=True)


@pytest.mark.parametrize(("passes", "opens"), [(KNOWN_FOR, False), (KNOWN_FOR + 1.0, True)])
def test_that_a_key_fails_is_forgotten_if_it_has_not_run_for_long(passes: float, opens: bool) -> None:
    breaker = Breaker(FIVE)
    for key in range(3):
        breaker.failed(key, 0.0)
    well(breaker, MANY, passes)
    assert any(breaker.failed(n % 3, passes) for n in range(5)) is opens


def test_of_very_many_keys_that_fail_it_knows_the_last_ones() -> None:
    breaker = Breaker(BreakerLimits(failures=5, keys=2, window=1.0, ratio=1.0))
    for key in range(MOST_KNOWN + 1):
        breaker.failed(key, 0.0)
        if breaker.open or key % 2:
            well(breaker, 3, 0.0)
    assert not breaker.open
    assert len(breaker.failing) == MOST_KNOWN
    assert list(breaker.failing) == list(range(1, MOST_KNOWN + 1))
    breaker.failed(1, 1.5)
    breaker.failed("new", 1.5)
    assert list(breaker.failing)[:2] == [3, 4]
    assert list(breaker.failing)[-2:] == [1, "new"]


def test_records_without_a_key_are_always_news() -> None:
    breaker = Breaker(FIVE)
    assert not any(breaker.failed(None, 0.0) for _ in range(4))
    well(breaker, MANY, 20.0)
    assert not any(breaker.failed(None, 20.0) for _ in range(4))
    assert breaker.failed(None, 20.0)
    assert not breaker.failing


@pytest.mark.parametrize("key", [None, "its own"])
def test_a_record_that_has_failed_before_is_no_news_when_it_fails_again(key: str | None) -> None:
    breaker = Breaker(FIVE)
    for number in range(20):
        assert not breaker.failed(key and f"{key} {number}", 0.0, again=True)
    assert not any(breaker.failed(name, 0.0) for name in ("a", "b"))
    assert breaker.failed("c", 0.0)


def test_of_a_record_that_fails_again_it_learns_that_its_key_fails() -> None:
    breaker = Breaker(FIVE)
    well(breaker, MANY, 0.0)
    for key in range(5):
        breaker.failed(key, 0.0, again=True)
    assert not any(breaker.failed(key, 0.0) for key in range(5))


def test_while_it_is_open_it_learns_what_fails() -> None:
    breaker = opened()
    breaker.failed("probe", 101.0)
    assert "probe" in breaker.failing
    well(breaker, 3, 102.0)
    well(breaker, MANY, 102.0)
    assert not any(breaker.failed("probe", 102.0) for _ in range(10))


def test_a_success_begins_a_new_row() -> None:
    breaker = Breaker(FIVE)
    for round_ in range(10):
        for key in range(4):
            assert not breaker.failed((round_, key), 20.0 * round_)
        assert not well(breaker, 1, 20.0 * round_)
    assert not breaker.open


def test_keys_that_began_to_fail_before_a_success_do_not_count_in_a_row() -> None:
    breaker = Breaker(FIVE)
    for key in (1, 2, 3):
        breaker.failed(key, 0.0)
    well(breaker, 1, 0.0)
    for number in range(20):
        assert not breaker.failed(("one", "two")[number % 2], 20.0 + 3.0 * number)  # at most four within the window


@pytest.mark.parametrize(("successes", "opens"), [(5, True), (6, False)])
def test_half_of_all_outcomes_within_the_window_open_it_even_if_others_succeed_between(
    successes: int, opens: bool
) -> None:
    breaker = Breaker(FIVE)
    for key in range(4):
        breaker.failed(key % 3, 0.0)
        well(breaker, 1, 0.0)
    well(breaker, successes - 4, 0.0)
    assert breaker.failed(0, 0.0) is opens
    assert breaker.open is opens


def test_bad_keys_that_are_less_than_the_ratio_open_nothing_and_then_begin_no_row() -> None:
    breaker = Breaker(FIVE)
    for number in range(50):
        assert not breaker.failed(number % 2, 0.0)
        well(breaker, 3, 0.0)
    assert not any(breaker.failed(number % 2, 0.0) for number in range(50))
    assert not any(breaker.failed(key, 0.0) for key in (2, 3))
    assert breaker.failed(4, 0.0)


@pytest.mark.parametrize("key", [None, "its own"])
def test_records_that_fail_again_count_for_no_ratio(key: str | None) -> None:
    breaker = Breaker(FIVE)
    assert not any(breaker.failed(key, 0.0, again=True) for _ in range(100))
    assert not any(breaker.failed("a", 0.0) for _ in range(4))
    assert not any(breaker.failed("a", 0.0, again=True) for _ in range(100))
    well(breaker, 5, 0.0)
    assert not any(breaker.failed("a", 0.0, again=True) for _ in range(100))
    assert breaker.failed("a", 0.0)  # five of ten


def test_outcomes_leave_the_window() -> None:
    breaker = Breaker(FIVE)
    for key in range(4):
        breaker.failed(key, 0.0)
    well(breaker, 1, 0.0)
    assert not breaker.failed("a", FIVE.window)
    for _ in range(4):
        well(breaker, 1, FIVE.window)
    for name in ("b", "c", "d"):
        assert not breaker.failed(name, 1.5 * FIVE.window)
    assert breaker.failed("e", 1.5 * FIVE.window)  # five failures, four successes


def test_a_few_bad_keys_open_it_once_all_others_have_left_the_window() -> None:
    breaker = Breaker(FIVE)
    well(breaker, MANY, 0.0)
    assert not any(breaker.failed(n % 2, 0.5 * FIVE.window) for n in range(4))
    assert not any(breaker.failed(n % 2, 0.8 * FIVE.window) for n in range(4))
    assert breaker.failed(0, FIVE.window)


def test_outcomes_stay_within_the_window_for_nine_tenths_of_it() -> None:
    breaker = Breaker(FIVE)
    for key in range(4):
        breaker.failed(key, 0.0)
    well(breaker, 1, 0.0)
    assert breaker.failed(0, 0.99 * FIVE.window)


def test_it_can_be_turned_off() -> None:
    breaker = Breaker(BreakerLimits(failures=0))
    assert not any(breaker.failed(key, 0.0) for key in range(10_000))
    assert not well(breaker, 1, 0.0)
    assert not breaker.open


def test_no_success_is_no_news() -> None:
    breaker = Breaker(FIVE)
    for key in range(4):
        breaker.failed(key, 0.0)
    assert not well(breaker, 0, 0.0)
    assert breaker.failed(4, 0.0)


def test_so_many_successes_in_a_row_close_it() -> None:
    breaker = opened()
    assert not well(breaker, 2, 101.0)
    assert not breaker.failed("probe", 102.0)
    assert not well(breaker, 2, 103.0)
    assert breaker.open
    assert well(breaker, 1, 104.0)
    assert not breaker.open


def test_what_ran_when_it_opened_counts_as_well() -> None:
    breaker = opened()
    assert well(breaker, 3, 100.0)


def test_after_it_closed_everything_is_counted_anew() -> None:
    breaker = opened()
    well(breaker, 3, 100.0)
    for key in range(4):
        assert not breaker.failed(("later", key), 100.0)
    assert breaker.failed(("later", 4), 100.0)


def test_keys_that_failed_before_it_closed_are_no_news_when_they_fail_again() -> None:
    breaker = opened()
    well(breaker, 3, 100.0)
    well(breaker, MANY, 100.0)
    assert not any(breaker.failed((100.0, key), 100.0) for key in range(5) for _ in range(10))


def test_probes_that_fail_are_ever_further_apart_and_no_further_than_the_last() -> None:
    breaker = opened(now=100.0)
    now, waits = 100.0, []
    for _ in range(5):
        wait = breaker.next_probe(now)
        waits.append(wait)
        now += wait
        probe_fails(breaker, now)
    assert waits == [1.0, 2.0, 4.0, 4.0, 4.0]


def test_a_probe_is_due_for_as_long_as_none_begins() -> None:
    breaker = opened(now=100.0)
    assert breaker.next_probe(100.25) == 0.75
    assert breaker.next_probe(500.0) == 0.0


def test_a_probe_that_hangs_does_not_hold_up_the_next_one() -> None:
    breaker = opened(now=100.0)
    breaker.began_probe(101.0)
    assert breaker.next_probe(101.0) == 1.0
    breaker.began_probe(102.0)
    assert breaker.next_probe(102.5) == 0.5


def test_after_a_success_the_next_probe_is_due_at_once() -> None:
    breaker = opened(now=100.0)
    breaker.began_probe(101.0)
    well(breaker, 1, 101.5)
    assert breaker.next_probe(101.5) == 0.0


def test_what_ran_when_it_opened_and_fails_does_not_put_off_probes_for_ever() -> None:
    breaker = opened(now=100.0)
    for _ in range(50):
        breaker.failed("late", 100.5)
    assert breaker.next_probe(100.5) == 1.0
    probe_fails(breaker, 101.5)
    for _ in range(50):
        breaker.failed("late", 101.6)
    assert breaker.next_probe(101.6) == 2.0


def test_when_it_opens_again_soon_it_goes_on_with_the_last_interval() -> None:
    breaker = opened(now=100.0)
    probe_fails(breaker, 101.0)
    well(breaker, 3, 103.0)
    fail_until_open(breaker, 103.0 + FIVE.window)
    assert breaker.next_probe(103.0 + FIVE.window) == 2.0


def test_when_it_opens_again_much_later_it_begins_with_the_first_interval() -> None:
    breaker = opened(now=100.0)
    probe_fails(breaker, 101.0)
    well(breaker, 3, 103.0)
    fail_until_open(breaker, 103.5 + FIVE.window)
    assert breaker.next_probe(103.5 + FIVE.window) == 1.0


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"failures": -1}, "failures must be at least 0"),
        ({"keys": 0}, "keys and successes"),
        ({"successes": 0}, "keys and successes"),
        ({"ratio": 0.0}, "ratio"),
        ({"ratio": 1.1}, "ratio"),
        ({"ratio": float("nan")}, "ratio"),
        ({"window": 0.0}, "window"),
        ({"window": float("inf")}, "window"),
        ({"first_probe": 0.0}, "first_probe"),
        ({"first_probe": 2.0, "last_probe": 1.0}, "first_probe"),
    ],
)
def test_limits_make_sense_once_they_exist(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BreakerLimits(**limits)


class BreakerAgainstAModel(RuleBasedStateMachine):
    """The model remembers every outcome since the breaker was last open, and counts them all each time; and for ever,
    how each key has fared."""

    @initialize(failures=st.integers(1, 8), keys=st.integers(1, 4), ratio=st.sampled_from([0.25, 0.5, 1.0]))
    def begin(self, failures: int, keys: int, ratio: float) -> None:
        self.limits = BreakerLimits(
            failures=failures, keys=keys, ratio=ratio, window=float(SLOTS), successes=3, first_probe=1.0, last_probe=4.0
        )
        self.breaker = Breaker(self.limits)
        self.now = 0.0
        # When, whether it failed, whether that was news, and whether its record had failed before.
        self.outcomes: list[tuple[float, bool, bool, bool]] = []
        self.history: dict[Hashable, tuple[float, bool]] = {}  # when each key last ran, and whether it failed
        self.open = False
        self.since_open: list[bool] = []
        self.interval, self.probe_at, self.probing, self.closed_at = 1.0, 0.0, False, float("-inf")

    @rule(passes=st.sampled_from([0.25, 1.0, 3.0, 20.0, 500.0]))
    def wait(self, passes: float) -> None:
        self.now += passes

    @rule(key=st.one_of(st.none(), st.integers(1, 6)), count=st.integers(0, 3))
    def succeed(self, key: Hashable, count: int) -> None:
        if count:
            self.breaker.failing.pop(key, None)
            self.history[key] = self.now, False
        closed = well(self.breaker, count, self.now)
        if not self.open:
            self.outcomes += [(self.now, False, False, False)] * count
            assert not closed
        elif count:
            self.since_open += [True] * count
            self.probe_at = self.now
            assert closed == (self.since_open[-3:] == [True] * 3)
            if closed:
                self.open, self.closed_at = False, self.now

    @rule(key=st.one_of(st.none(), st.integers(1, 6)), times=st.integers(1, 3), again=st.booleans())
    def fail(self, key: Hashable, times: int, again: bool) -> None:
        for _ in range(times):
            news = self.is_news(key) and not again
            self.history[key] = self.now, True
            opened = self.breaker.failed(key, self.now, again=again)
            if self.open:
                assert not opened
                self.since_open.append(False)
                if self.probing:
                    self.interval = min(4.0, self.interval * 2)
                self.probing = False
                self.probe_at = self.now + self.interval
            else:
                self.outcomes.append((self.now, True, news, again))
                assert opened == (self.too_many_in_a_row() or self.too_many_of_all())
                if opened:
                    self.note_opened()

    def is_news(self, key: Hashable) -> bool:
        when, failed = self.history.get(key, (0.0, False))
        return key is None or not failed or self.now - when > KNOWN_FOR

    def note_opened(self) -> None:
        self.open, self.outcomes, self.since_open, self.probing = True, [], [], False
        if self.now - self.closed_at > self.limits.window:
            self.interval = 1.0
        self.probe_at = self.now + self.interval

    def too_many_in_a_row(self) -> bool:
        row = [news for _, _, news, _ in takewhile(lambda outcome: outcome[1], reversed(self.outcomes))]
        return len(row) >= self.limits.failures and sum(row) >= self.limits.keys

    def too_many_of_all(self) -> bool:
        # A window of as many seconds as it has slots: they are whole seconds.
        recent = [failed for when, failed, _, again in self.outcomes if not again and int(when) > int(self.now) - SLOTS]
        return sum(recent) >= self.limits.failures and sum(recent) >= self.limits.ratio * len(recent)

    @rule()
    def probe(self) -> None:
        if self.open:
            self.breaker.began_probe(self.now)
            self.probing, self.probe_at = True, self.now + self.interval

    @invariant()
    def agree(self) -> None:
        assert self.breaker.open == self.open
        assert set(self.breaker.failing) == {
            key for key, (_, failed) in self.history.items() if failed and key is not None
        }
        if self.open:
            assert self.breaker.next_probe(self.now) == max(0.0, self.probe_at - self.now)


TestBreakerAgainstAModel = BreakerAgainstAModel.TestCase
TestBreakerAgainstAModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("refused", [False, True])
def test_failures_of_handlers_and_refused_outputs_are_rows_of_their_own(refused: bool) -> None:
    breaker = Breaker(BreakerLimits(failures=5, keys=3, ratio=1.0, window=10.0))
    breaker.returned(100, 1.0)
    for key in range(4):
        assert not breaker.failed(key, 2.0, refused=refused)
    if refused:
        breaker.returned(1, 3.0)  # says nothing of what it sends
    else:
        breaker.succeeded(1, 3.0)  # an acknowledgement, of what was sent long ago
    assert breaker.failed(4, 4.0, refused=refused)


@pytest.mark.parametrize("refused", [False, True])
def test_each_row_ends_with_a_success_of_its_own(refused: bool) -> None:
    breaker = Breaker(BreakerLimits(failures=5, keys=3, ratio=1.0, window=10.0))
    breaker.returned(100, 1.0)
    for key in range(4):
        assert not breaker.failed(key, 2.0, refused=refused)
    if refused:
        breaker.succeeded(1, 3.0)
    else:
        breaker.returned(1, 3.0)
    for key in range(4, 8):
        assert not breaker.failed(key, 4.0, refused=refused)
    assert breaker.failed(8, 4.0, refused=refused)


def test_what_fails_slower_than_others_succeed_is_no_row_though_it_ends_last() -> None:
    breaker = Breaker(BreakerLimits(failures=5, keys=3, ratio=1.0, window=10.0))
    breaker.returned(100, 1.0)
    for key in range(20):
        assert not breaker.failed(key, 2.0, began=0.5)
    for key in range(20, 24):
        assert not breaker.failed(key, 3.0, began=1.5)
    assert breaker.failed(24, 3.0, began=1.5)


def test_handlers_that_have_returned_count_among_all_outcomes_until_their_outputs_are_refused() -> None:
    breaker = Breaker(BreakerLimits(failures=5, keys=100, ratio=0.5, window=10.0))
    breaker.returned(10, 1.0)
    for key in range(4):
        assert not breaker.failed(key, 1.0, refused=True)
    assert breaker.failed(4, 1.0, refused=True)  # five of ten
    breaker = Breaker(BreakerLimits(failures=5, keys=100, ratio=0.5, window=10.0))
    breaker.returned(10, 1.0)
    results = [breaker.failed(key, 1.0) for key in range(10)]
    assert results.index(True) == 9  # ten of twenty


def test_while_it_is_open_a_handler_that_returns_says_nothing_yet() -> None:
    breaker = opened()
    breaker.returned(10, 101.0)
    assert breaker.open
    assert not breaker.succeeded(2, 101.0)
    assert breaker.succeeded(1, 101.0)
