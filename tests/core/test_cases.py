"""What became of each dead letter."""

from __future__ import annotations

import tracemalloc

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamkit.core.cases import OPEN, CaseBook, CaseStatus, case_record, run_key, run_of
from tests.core.letter_support import letter

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["status", "at", "who", "replays", "outcome", "group"]), inner)
    ),
)
REPLAYED = {
    "status": "replayed",
    "at": 5,
    "who": "ann",
    "reason": "it is back",
    "job": "j1",
    "replays": 2,
    "group": "shop.charge",
}
HANDLED = {"outcome": "handled"}
KNOWN = CaseStatus("replayed", 5, "ann", "it is back", "j1", 2, "shop.charge")
GROUP = b"shop.charge"


def test_a_letter_is_open_until_the_state_topic_says_otherwise() -> None:
    book = CaseBook()
    assert book.stored("0:1") == book.status(letter("0:1")) == OPEN
    book.apply(b"case:0:1", REPLAYED)
    assert book.stored("0:1") == book.status(letter("0:1", group=GROUP)) == KNOWN
    book.apply(b"case:0:1", {"status": "open", "at": 6})
    assert book.stored("0:1") == CaseStatus("open", 6)


@pytest.mark.parametrize("value", [None, {"status": "open"}])
def test_a_letter_that_is_plainly_open_takes_no_memory(value: object) -> None:
    book = CaseBook()
    book.apply(b"case:0:1", REPLAYED)
    book.apply(b"case:0:1", value)
    book.apply(b"case:0:2", value)
    assert book.stored("0:1") == OPEN
    assert book.ids() == set()
    assert book.senseless == 0


def test_what_many_letters_have_in_common_is_held_once() -> None:
    book = CaseBook()
    for number in range(3):
        book.apply(b"case:0:%d" % number, dict(REPLAYED))
    assert len({id(book.stored(f"0:{number}")) for number in range(3)}) == 1


def test_a_million_letters_that_were_replayed_and_handled_take_little_memory() -> None:
    """Of which these are a part; as they come from JSON, where each text is an object of its own."""
    book, count = CaseBook(), 20_000
    replayed, handled = orjson.dumps(REPLAYED), orjson.dumps(HANDLED)
    tracemalloc.start()
    try:
        for number in range(count):
            book.apply(b"case:0:%d" % number, orjson.loads(replayed))
            book.apply(b"run:0:%d:shop.charge" % number, orjson.loads(handled))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert book.status(letter("0:7", group=GROUP)).status == "handled"
    assert held < 180 * count  # bytes


def test_what_was_said_before_a_letter_was_appended_is_of_another_letter() -> None:
    book = CaseBook()
    book.apply(b"case:0:1", REPLAYED)
    book.apply(b"run:0:1:shop.charge", HANDLED)
    assert book.status(letter("0:1", appended=5, group=GROUP)).status == "handled"
    assert book.status(letter("0:1", appended=6, group=GROUP)) == OPEN
    book.apply(b"case:0:1", {"status": "archived"})
    assert book.status(letter("0:1", appended=6)).status == "archived"


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
    book.apply(b"case:0:1", {"status": "handled"})  # no status that is stored
    book.apply(b"case:one", REPLAYED)
    assert book.senseless == 3
    assert book.stored("0:1") == KNOWN


@pytest.mark.parametrize("value", [7, "handled", [], {}, {"outcome": "lost"}, {"outcome": []}])
def test_a_run_that_makes_no_sense_is_counted_and_changes_nothing(value: object) -> None:
    book = CaseBook()
    book.apply(b"run:0:1:shop.charge", HANDLED)
    book.apply(b"run:0:1:shop.charge", value)
    book.apply(b"run:one:shop.charge", HANDLED)
    book.apply(b"run:one:shop.charge", None)
    assert book.senseless == 3
    assert book.run("0:1", "shop.charge") == "handled"


def test_what_is_only_told_may_be_missing_or_senseless() -> None:
    book = CaseBook()
    told = {"status": "archived", "at": -1, "who": 7, "reason": None, "job": "", "replays": True, "group": 3}
    book.apply(b"case:0:1", told)
    assert book.stored("0:1") == CaseStatus("archived")


@given(
    st.lists(
        st.tuples(st.binary() | st.sampled_from([b"case:0:1", b"case:0:2", b"run:0:1:shop.charge", b"run:x:g"]), JSON)
    )
)
def test_nothing_in_a_state_topic_makes_reading_it_fail(records: list[tuple[bytes, object]]) -> None:
    book = CaseBook()
    for key, value in records:
        book.apply(key, value)
    book.status(letter("0:1", dlq_id=b"0:2", group=b"g"))


def test_a_letter_belongs_to_the_case_that_it_was_replayed_from() -> None:
    book = CaseBook()
    book.apply(b"case:0:1", REPLAYED)
    assert book.case_of(letter("0:9", dlq_id=b"0:1", group=GROUP)) == "0:1"
    assert book.case_of(letter("0:9", group=GROUP)) == "0:9"


@pytest.mark.parametrize(
    ("value", "group"),
    [(None, GROUP), ({**REPLAYED, "replays": 0}, GROUP), (REPLAYED, b"shop.other"), (REPLAYED, None)],
)
def test_a_header_that_is_not_true_is_not_believed(value: object, group: bytes | None) -> None:
    book = CaseBook()
    book.apply(b"case:0:1", value)
    assert book.case_of(letter("0:9", dlq_id=b"0:1", group=group)) == "0:9"


@pytest.mark.parametrize("dlq_id", [b"", b"0", b"x:1", b"0:-1", None])
def test_a_header_that_is_no_case_is_passed_over(dlq_id: bytes | None) -> None:
    assert CaseBook().case_of(letter("0:9", dlq_id=dlq_id)) == "0:9"


def test_a_letter_that_failed_again_is_open_whatever_became_of_the_first() -> None:
    book = CaseBook()
    book.apply(b"case:0:1", REPLAYED)
    book.apply(b"run:0:1:shop.charge", HANDLED)
    assert book.status(letter("0:9", dlq_id=b"0:1", group=GROUP)) == OPEN


def test_a_replayed_letter_is_handled_once_its_handler_has_handled_its_case() -> None:
    book = CaseBook()
    first, second = letter("0:1", group=GROUP), letter("0:9", dlq_id=b"0:1", group=GROUP)
    book.apply(b"run:0:1:shop.charge", {"outcome": "retried"})
    book.apply(b"case:0:1", REPLAYED)
    book.apply(b"case:0:9", REPLAYED)
    assert (book.status(first).status, book.outcome("0:1")) == ("replayed", "retried")
    book.apply(b"run:0:1:shop.charge", HANDLED)
    assert [book.status(each) for each in (first, second)] == [KNOWN._replace(status="handled")] * 2
    book.apply(b"run:0:1:shop.charge", None)
    assert book.status(first) == KNOWN


@pytest.mark.parametrize(
    ("case", "run"),
    [
        (None, b"run:0:1:shop.charge"),
        ({**REPLAYED, "replays": 0}, b"run:0:1:shop.charge"),
        (REPLAYED, b"run:0:1:shop.other"),
        (REPLAYED, b"run:0:1:"),
    ],
)
def test_a_run_is_believed_only_of_a_replayed_case_and_its_group(case: object, run: bytes) -> None:
    book = CaseBook()
    book.apply(b"case:0:1", case)
    book.apply(run, HANDLED)
    assert book.outcome("0:1") is None
    assert book.status(letter("0:1", group=GROUP)).status != "handled"


def test_an_archived_letter_stays_archived_whatever_is_told_of_its_runs() -> None:
    book = CaseBook()
    book.apply(b"case:0:1", {**REPLAYED, "status": "archived"})
    book.apply(b"run:0:1:shop.charge", HANDLED)
    assert book.status(letter("0:1", group=GROUP)).status == "archived"


def test_a_case_with_no_run_has_no_outcome() -> None:
    assert CaseBook().outcome("0:1") is None


@pytest.mark.parametrize("known", [KNOWN, OPEN, CaseStatus("discarded", 0)])
def test_a_record_of_a_case_says_what_is_read_from_it(known: CaseStatus) -> None:
    book = CaseBook()
    book.apply(*case_record("3:4", known))
    assert book.stored("3:4") == known


def test_the_letters_of_a_job_are_counted() -> None:
    book = CaseBook()
    book.apply(b"case:0:1", REPLAYED)
    book.apply(b"case:0:2", {**REPLAYED, "job": "j2"})
    assert (book.marked_by("j1"), book.marked_by("j3")) == (1, 0)


@pytest.mark.parametrize(
    ("key", "run"),
    [
        (run_key("0:1", "shop.charge"), ("0:1", "shop.charge")),
        (run_key("0:1", "a:b"), ("0:1", "a:b")),
        (b"run:0:1:", None),
        (b"run:0:1", None),
        (b"run:x:1:g", None),
        (b"run:", None),
        (b"case:0:1:g", None),
    ],
)
def test_the_key_of_a_run_names_its_case_and_group(key: bytes, run: tuple[str, str] | None) -> None:
    assert run_of(key) == run


def test_what_there_is_anything_to_forget_of_is_known_by_id() -> None:
    book = CaseBook()
    book.apply(b"case:0:1", REPLAYED)
    book.apply(b"run:0:1:shop.charge", HANDLED)
    book.apply(b"run:0:2:shop.charge", HANDLED)
    book.apply(b"case:0:3", REPLAYED)
    book.apply(b"case:0:3", None)
    assert book.ids() == {"0:1", "0:2"}
    assert set(book.keys({"0:1", "0:9"})) == {b"case:0:1", b"case:0:9", b"run:0:1:shop.charge"}
