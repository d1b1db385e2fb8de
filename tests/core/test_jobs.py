"""Locks, jobs and audit records of a state topic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamkit.core.jobs import SILENT, JobBook, audit_key, job_key, lock_key

ANN = {"host": "a", "pid": 7, "who": "ann@a"}


def test_the_lock_with_the_first_record_comes_first_however_often_it_tells_of_itself() -> None:
    book = JobBook()
    book.apply(lock_key("x"), ANN, 10, 1000)
    book.apply(lock_key("y"), ANN, 11, 1001)
    book.apply(lock_key("x"), {**ANN, "place": 10}, 12, 4000)
    assert [(lock.id, lock.place, lock.heard) for lock in book.locks()] == [("x", 10, 4000), ("y", 11, 1001)]


def test_a_lock_whose_first_record_was_compacted_away_says_where_that_was() -> None:
    book = JobBook()
    book.apply(lock_key("y"), ANN, 11, 1001)
    book.apply(lock_key("x"), {**ANN, "place": 10}, 12, 4000)
    assert [lock.id for lock in book.locks()] == ["x", "y"]


def test_a_lock_that_was_released_is_none() -> None:
    book = JobBook()
    book.apply(lock_key("x"), ANN, 10, 1000)
    book.apply(lock_key("x"), None, 11, 1000)
    book.apply(lock_key("x"), None, 12, 1000)
    assert book.locks() == []


@pytest.mark.parametrize(
    ("now", "host", "gone", "dead"),
    [
        (1000, "a", False, False),
        (1000, "a", True, True),
        (1000, "b", True, False),  # a process of another host that has the same number
        (1000 + SILENT - 1, "a", False, False),
        (1000 + SILENT, "a", False, True),
        (1000 + SILENT, "b", False, True),
    ],
)
def test_a_lock_is_dead_when_its_process_is_gone_or_silent(now: int, host: str, gone: bool, dead: bool) -> None:
    book = JobBook()
    book.apply(lock_key("x"), ANN, 10, 1000)
    (lock,) = book.locks()
    assert lock.dead(now, host, lambda pid: gone and pid == 7) == dead


def test_a_job_is_unfinished_until_it_is_forgotten() -> None:
    book = JobBook()
    book.apply(job_key("j"), {"command": "replay"}, 1, 0)
    assert book.jobs == {"j": {"command": "replay"}}
    book.apply(job_key("j"), None, 2, 0)
    book.apply(job_key("j"), None, 3, 0)
    assert book.jobs == {}


def test_what_was_done_is_kept_in_its_order() -> None:
    book = JobBook()
    for moment, job in (("2026-01-01T00:00:00.000Z", "j1"), ("2026-01-02T00:00:00.000Z", "j2")):
        book.apply(audit_key(moment, job), {"job": job}, 1, 0)
    assert [fields["job"] for fields in book.audits.values()] == ["j1", "j2"]
    book.apply(audit_key("2026-01-01T00:00:00.000Z", "j1"), None, 2, 0)
    book.apply(audit_key("2026-01-01T00:00:00.000Z", "j1"), None, 3, 0)
    assert [fields["job"] for fields in book.audits.values()] == ["j2"]


def test_keys_of_others_are_passed_over() -> None:
    book = JobBook()
    book.apply(b"case:0:1", {"status": "replayed"}, 1, 0)
    assert (book.locks(), book.jobs, book.audits) == ([], {}, {})


@given(
    st.sampled_from([b"lock:x", b"job:x", b"audit:x", b"\xff", b"lock:\xff"]),
    st.none() | st.integers() | st.text() | st.dictionaries(st.sampled_from(["pid", "host", "place"]), st.text()),
)
def test_nothing_in_a_state_topic_makes_reading_it_fail(key: bytes, value: object) -> None:
    book = JobBook()
    book.apply(key, value, 0, 0)
    for lock in book.locks():
        lock.dead(0, "a", lambda pid: False)
