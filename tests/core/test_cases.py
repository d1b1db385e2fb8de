"""What became of each dead letter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamkit.core.cases import OPEN, CaseBook, CaseStatus
from tests.core.letter_support import letter

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["status", "at", "by", "replays"]), inner),
)
REPLAYED = {"status": "replayed", "at": 5, "by": "ann", "why": "it is back", "job": "j1", "replays": 2}


def test_a_case_is_open_until_the_state_topic_says_otherwise() -> None:
    book = CaseBook()
    assert book.status("0:1") == OPEN
    book.apply(b"case:0:1", REPLAYED)
    assert book.status("0:1") == CaseStatus("replayed", 5, "ann", "it is back", "j1", 2)
    assert book.counts() == {"open": 0, "replayed": 1, "archived": 0, "discarded": 0}
    book.apply(b"case:0:1", {"status": "open", "at": 6})
    assert book.status("0:1") == CaseStatus("open", 6)
    assert book.counts()["open"] == 1


@pytest.mark.parametrize("value", [None, {"status": "open"}])
def test_a_case_that_is_plainly_open_takes_no_memory(value: object) -> None:
    book = CaseBook()
    book.apply(b"case:0:1", REPLAYED)
    book.apply(b"case:0:1", value)
    book.apply(b"case:0:2", value)
    assert book.status("0:1") == OPEN
    assert sum(book.counts().values()) == 0
    assert book.senseless == 0


def test_keys_of_others_are_passed_over() -> None:
    book = CaseBook()
    book.apply(b"job:7", {"status": "running"})
    book.apply(b"\xff", None)
    assert book.senseless == 0


@pytest.mark.parametrize("value", [7, "replayed", [], {}, {"status": "lost"}, {"status": []}, {"status": None}])
def test_what_makes_no_sense_is_counted_and_changes_nothing(value: object) -> None:
    book = CaseBook()
    book.apply(b"case:0:1", REPLAYED)
    book.apply(b"case:0:1", value)
    book.apply(b"case:one", REPLAYED)
    assert book.senseless == 2
    assert book.status("0:1").status == "replayed"


def test_what_is_only_told_may_be_missing_or_senseless() -> None:
    book = CaseBook()
    book.apply(b"case:0:1", {"status": "archived", "at": -1, "by": 7, "why": None, "job": "", "replays": True})
    assert book.status("0:1") == CaseStatus("archived")


@given(st.lists(st.tuples(st.binary() | st.sampled_from([b"case:0:1", b"case:0:2"]), JSON)))
def test_nothing_in_a_state_topic_makes_reading_it_fail(records: list[tuple[bytes, object]]) -> None:
    book = CaseBook()
    for key, value in records:
        book.apply(key, value)
    book.status("0:1")


def test_a_letter_belongs_to_the_case_that_it_was_replayed_from() -> None:
    book = CaseBook()
    book.apply(b"case:0:1", REPLAYED)
    assert book.case_of(letter("0:9", dlq_id=b"0:1")) == "0:1"
    assert book.case_of(letter("0:9")) == "0:9"


@pytest.mark.parametrize("value", [None, {"status": "archived", "replays": 1}, {"status": "replayed", "replays": 0}])
def test_a_forged_header_hides_no_letter(value: object) -> None:
    book = CaseBook()
    book.apply(b"case:0:1", value)
    assert book.case_of(letter("0:9", dlq_id=b"0:1")) == "0:9"
    assert book.case_of(letter("0:9", dlq_id=b"nonsense")) == "0:9"
