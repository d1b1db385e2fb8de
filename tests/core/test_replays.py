"""The headers of dead letters that are sent again."""

from __future__ import annotations

from streamkit.core.copies import read_case, read_origin, user_headers
from streamkit.core.letters import Letter, letter_of
from streamkit.core.replays import changed, due_headers, kept_headers, may_be_kept, replay_headers
from streamkit.record import HeaderList
from tests.core.letter_support import Raw

USERS: HeaderList = [("tenant", b"blue"), ("tenant", None)]
ORIGIN: HeaderList = [
    ("sk-origin-topic", b"orders"),
    ("sk-origin-partition", b"2"),
    ("sk-origin-offset", b"77"),
    ("sk-origin-timestamp", b"1700"),
    ("sk-group", b"shop.charge"),
]
FAILURE: HeaderList = [
    ("sk-attempt", b"6"),
    ("sk-first-failed-at", b"1800"),
    ("sk-failed-at", b"1900"),
    ("sk-stage", b"handle"),
    ("sk-error-class", b"ValueError"),
    ("sk-error-stack", b"Traceback"),
    ("sk-dlq-id", b"9:9"),
]
TRACE: HeaderList = [("traceparent", b"00-1-2-01"), ("TraceState", b"x=y")]


def dead(*headers: HeaderList) -> Letter:
    return letter_of(Raw(2, 5, 2000, b"k", b"v", [each for group in headers for each in group]))


def test_a_replay_carries_the_users_headers_and_its_case_alone() -> None:
    assert replay_headers(dead(USERS, TRACE, ORIGIN, FAILURE), "2:5") == [*USERS, ("sk-dlq-id", b"2:5")]


def test_a_replay_into_a_tier_is_due_at_once_and_counts_no_run() -> None:
    headers = due_headers(dead(USERS, TRACE, ORIGIN, FAILURE), "2:5", 3000)
    assert headers == [*USERS, *ORIGIN, ("sk-attempt", b"0"), ("sk-due", b"3000"), ("sk-dlq-id", b"2:5")]
    assert user_headers(headers) == USERS
    assert read_case(headers) == "2:5"
    origin = read_origin("orders", 1, 0, 0, 0, headers)
    assert (origin.partition, origin.offset, origin.timestamp, origin.due) == (2, 77, 1700, 3000)
    assert (origin.first_failed, origin.failed, origin.case) == (None, None, "2:5")


def test_what_a_dead_letter_does_not_say_is_left_out() -> None:
    assert due_headers(dead(), "0:1", 3) == [("sk-attempt", b"0"), ("sk-due", b"3"), ("sk-dlq-id", b"0:1")]


def test_a_changed_dead_letter_is_sent_with_the_new_and_keeps_its_case_and_origin() -> None:
    letter = changed(dead(USERS, TRACE, ORIGIN, FAILURE), None, b"new", [("tenant", b"red")])
    assert (letter.key, letter.value, letter.id, letter.case) == (None, b"new", "2:5", "9:9")
    assert replay_headers(letter, "9:9") == [("tenant", b"red"), ("sk-dlq-id", b"9:9")]
    assert due_headers(letter, "9:9", 3)[: len(ORIGIN) + 1] == [("tenant", b"red"), *ORIGIN]


def test_headers_of_the_framework_and_of_the_old_trace_are_not_kept() -> None:
    assert kept_headers(dead(USERS, TRACE, ORIGIN)) == USERS
    assert [may_be_kept(name) for name in ("tenant", "sk-due", "TraceParent")] == [True, False, False]
