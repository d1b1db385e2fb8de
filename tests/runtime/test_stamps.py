from __future__ import annotations

from streamkit.runtime.stamps import FORGET_AT, Stamps


def test_moments_are_found_by_sequence() -> None:
    stamps = Stamps()
    stamps.extend([10, 11])
    stamps.extend([12])
    stamps.put(1, 99)
    assert [stamps.at(sequence) for sequence in (-1, 0, 1, 2, 3)] == [None, 10, 99, 12, None]
    assert stamps.of([2, 0]) == [12, 10]
    assert stamps.between(1, 3) == [99, 12]


def test_what_is_not_needed_any_more_is_forgotten_when_it_is_much() -> None:
    stamps = Stamps()
    stamps.extend(range(3 * FORGET_AT))
    stamps.forget(FORGET_AT)  # a third
    assert stamps.at(0) == 0
    stamps.forget(2 * FORGET_AT)
    assert stamps.at(2 * FORGET_AT - 1) is None
    assert stamps.at(2 * FORGET_AT) == 2 * FORGET_AT
    assert stamps.of([0, 2 * FORGET_AT]) == [2 * FORGET_AT]
    assert stamps.between(0, 2 * FORGET_AT + 2) == [2 * FORGET_AT, 2 * FORGET_AT + 1]
    assert stamps.between(0, 1) == []
    stamps.forget(3 * FORGET_AT)
    stamps.extend([7])
    stamps.put(3 * FORGET_AT, 8)
    assert stamps.at(3 * FORGET_AT) == 8
    stamps.forget(3 * FORGET_AT + 1)  # there is not much to win
    assert stamps.at(3 * FORGET_AT) == 8
