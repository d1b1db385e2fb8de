"""Dead letters, with whatever may be in their headers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamkit.core.copies import Cause, Origin, dead_letter_headers
from streamkit.core.letters import LATEST_TIME, Letter, letter_of
from streamkit.record import HeaderList
from tests.core.letter_support import Raw, letter

READ = [name for name, attribute in vars(Letter).items() if isinstance(attribute, property) and name != "user_headers"]


def test_a_letter_says_what_the_worker_wrote() -> None:
    origin = Origin("orders", 3, 42, 5_000, attempts=4, first_failed=6_000, case="1:7")
    headers = dead_letter_headers(
        [("trace", b"1")],
        origin,
        group="shop.charge",
        failed_ms=7_000,
        cause=Cause(OSError("no route"), "sink"),
        omitted="key,value",
    )
    read = letter_of(Raw(3, 9, 8_000, b"k", b"v", headers))
    assert read[:5] == (3, 9, 8_000, b"k", b"v")
    assert read.id == "3:9"
    assert (read.origin_topic, read.origin_partition, read.origin_offset) == ("orders", 3, 42)
    assert (read.origin_timestamp, read.first_failed, read.failed, read.when) == (5_000, 6_000, 7_000, 7_000)
    assert (read.group, read.attempts, read.stage, read.case) == ("shop.charge", 4, "sink", "1:7")
    assert (read.error_class, read.error_message, read.error_stack) == ("OSError", "no route", "OSError: no route\n")
    assert read.omitted == ("key", "value")
    assert read.user_headers == [("trace", b"1")]
    assert read.headers == headers


def test_a_record_that_no_worker_wrote_says_nothing_and_failed_when_it_was_appended() -> None:
    read = letter_of(Raw(1, 2, 3_000))
    said = {name: getattr(read, name) for name in READ}
    assert {name: value for name, value in said.items() if value is not None} == {
        "id": "1:2",
        "when": 3_000,
        "omitted": (),
    }


@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from([f"sk-{name}" for name in ("failed-at", "attempt", "dlq-id", "group", "omitted", "stage")])
            | st.text(max_size=4),
            st.none() | st.binary(max_size=24) | st.integers().map(lambda number: b"%d" % number),
        )
    ),
    timestamp=st.integers(-(1 << 63), (1 << 63) - 1),
)
def test_nothing_in_a_record_makes_reading_it_fail(headers: HeaderList, timestamp: int) -> None:
    read = letter_of(Raw(0, 0, timestamp, None, None, headers))
    for name in READ:
        getattr(read, name)
    assert 0 <= read.appended <= LATEST_TIME
    assert 0 <= read.when <= LATEST_TIME


def test_a_time_that_no_calendar_can_show_is_not_believed() -> None:
    assert letter(failed_at=b"253402300799999").failed == LATEST_TIME
    assert letter(failed_at=b"253402300800000").failed is None
    assert letter(appended=7, failed_at=b"253402300800000").when == 7


def test_text_that_is_no_unicode_is_shown_as_far_as_it_is() -> None:
    assert letter(error_message=b"a\xffb").error_message == "a\ufffdb"
