"""Dead letters counted."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from streamkit.core.fingerprints import Fingerprint
from streamkit.core.groups import HOUR, MOST_CLASSES, Group, Groups, Totals
from tests.core.letter_support import letter


def test_letters_are_grouped_by_what_they_died_of_the_largest_group_first() -> None:
    groups = Groups()
    for number, (error, when) in enumerate([("A", 5), ("B", 7), ("B", 3), ("B", 7), ("C", 9)]):
        groups.add(letter(f"0:{number}", appended=when, error_class=error.encode()))
    assert groups.rows() == [
        Group(Fingerprint("B", None, None), 3, 3, 7, "0:3"),
        Group(Fingerprint("C", None, None), 1, 9, 9, "0:4"),
        Group(Fingerprint("A", None, None), 1, 5, 5, "0:0"),
    ]
    assert groups.others == 0


@given(st.lists(st.integers(0, 6)))
def test_every_letter_is_counted_however_few_groups_are_kept(errors: list[int]) -> None:
    groups = Groups(most=3)
    for error in errors:
        groups.add(letter(error_class=b"E%d" % error))
    rows = groups.rows()
    assert len(rows) == min(3, len(set(errors)))
    assert sum(row.count for row in rows) + groups.others == len(errors)
    assert all(row.count == Counter(errors)[int((row.fingerprint.error_class or "")[1:])] for row in rows)


def test_totals_are_those_of_each_agent() -> None:
    totals = Totals(now=10 * HOUR)
    totals.add(letter("0:1", group=b"a", failed_at=b"%d" % (9 * HOUR), error_class=b"E"), "open")
    totals.add(letter("0:2", group=b"a", failed_at=b"%d" % (9 * HOUR + 1), error_class=b"E"), "open")
    totals.add(letter("0:3", group=b"a", failed_at=b"5"), "open")
    totals.add(letter("0:4", group=b"a", failed_at=b"1", error_class=b"F"), "archived", "0:4")
    totals.add(letter("0:5", appended=4), "discarded")
    one, other = totals.agents()["a"], totals.agents()[None]
    assert one.counts == {"open": 3, "archived": 1}
    assert (one.oldest_open, one.newest, one.last_hour) == (5, 9 * HOUR + 1, 1)
    assert one.top(2) == [("E", 2), ("", 1)]
    assert other.counts == {"discarded": 1}
    assert (other.oldest_open, other.newest, other.last_hour) == (None, 4, 0)


def test_a_letter_that_failed_again_is_counted_as_that_too() -> None:
    totals = Totals(now=HOUR)
    totals.add(letter("0:9", group=b"a", failed_at=b"%d" % HOUR, error_class=b"E"), "replayed", "0:1")
    one = totals.agents()["a"]
    assert (one.failed_again, one.last_hour, one.newest) == (1, 1, HOUR)
    assert one.counts == {"replayed": 1}
    assert one.top(5) == []


def test_totals_are_bounded_and_count_every_letter() -> None:
    totals = Totals(now=0, most=1)
    for number in range(MOST_CLASSES + 3):
        totals.add(letter(group=b"a", error_class=b"E%d" % number), "open")
    totals.add(letter(group=b"a", error_class=b"E0"), "open")
    totals.add(letter(group=b"b"), "open")
    one = totals.agents()["a"]
    assert set(totals.agents()) == {"a"}
    assert totals.others == 1
    assert (len(one.classes), one.other_classes, one.top(1)) == (MOST_CLASSES, 3, [("E0", 2)])
    assert one.counts["open"] == MOST_CLASSES + 4
