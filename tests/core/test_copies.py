"""The headers of copies, over many hops and with whatever may be in them."""

from __future__ import annotations

from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamkit.core.copies import (
    CUT,
    MAX_MESSAGE,
    MAX_STACK,
    Cause,
    Origin,
    dead_letter_headers,
    read_case,
    read_origin,
    tier_headers,
    user_headers,
)
from streamkit.errors import Stage
from streamkit.record import HeaderList

CAUSE = Cause(OSError("no route"), "handle")
ORIGIN = Origin("orders", 3, 42, 1_700_000_000_000, attempts=1)
NAMES = st.text(max_size=8).filter(lambda name: not name.startswith("sk-"))
VALUES = st.binary(max_size=8) | st.none()
USER_HEADERS = st.lists(st.tuples(NAMES | st.sampled_from(["a", "SK-due", "sk", ""]), VALUES), max_size=8)
FORGED = st.lists(
    st.tuples(
        st.sampled_from(["origin-topic", "origin-offset", "attempt", "due", "group", "dlq-id", "x", ""]).map(
            lambda name: "sk-" + name
        ),
        VALUES | st.sampled_from([b"7", b"-1", b"9223372036854775808", b" 1", b"1:2"]),
    ),
    max_size=8,
)


def tier_copy(headers: HeaderList, origin: Origin = ORIGIN, cause: Cause = CAUSE, *, brief: bool = False) -> HeaderList:
    return tier_headers(headers, origin, group="g", due_ms=2_000, failed_ms=1_000, cause=cause, brief=brief)


def dead_letter(error: BaseException, stage: Stage = "handle", origin: Origin = ORIGIN) -> dict[str, bytes]:
    headers = dead_letter_headers([], origin, group="g", failed_ms=1_000, cause=Cause(error, stage))
    return {name: value for name, value in headers if value is not None}


def test_a_copy_for_a_tier_says_where_the_record_came_from_what_failed_and_when_it_is_due() -> None:
    assert dict(tier_copy([("trace", b"1")])) == {
        "trace": b"1",
        "sk-origin-topic": b"orders",
        "sk-origin-partition": b"3",
        "sk-origin-offset": b"42",
        "sk-origin-timestamp": b"1700000000000",
        "sk-group": b"g",
        "sk-attempt": b"1",
        "sk-due": b"2000",
        "sk-first-failed-at": b"1000",
        "sk-failed-at": b"1000",
        "sk-error-class": b"OSError",
        "sk-error-message": b"no route",
        "sk-stage": b"handle",
    }
    assert "sk-error-message" not in dict(tier_copy([], brief=True))


def test_a_dead_letter_has_the_stack_and_no_due_time() -> None:
    def handler() -> NoReturn:
        raise OSError("no route")

    with pytest.raises(OSError, match="no route") as caught:
        handler()
    headers = dead_letter(caught.value, "sink")
    assert "sk-due" not in headers
    assert headers["sk-stage"] == b"sink"
    assert b"in handler" in headers["sk-error-stack"]
    assert headers["sk-error-stack"].endswith(b"OSError: no route\n")


def test_a_dead_letter_that_is_too_large_goes_without_what_can_be_spared_and_says_what_it_lacks() -> None:
    headers = dead_letter_headers(
        [("a", b"1")],
        ORIGIN,
        group="g",
        failed_ms=1_000,
        cause=CAUSE,
        stack=False,
        message=False,
        omitted="value,headers",
    )
    assert {"sk-error-stack", "sk-error-message"}.isdisjoint(dict(headers))
    assert dict(headers)["sk-omitted"] == b"value,headers"
    assert dict(headers)["sk-origin-offset"] == b"42"
    assert "sk-omitted" not in dead_letter(OSError())


@given(user=USER_HEADERS, forged=FORGED)
def test_fifty_hops_leave_the_users_headers_as_they_are_and_add_no_more_of_ours(
    user: HeaderList, forged: HeaderList
) -> None:
    headers = [*forged[::2], *user, *forged[1::2]]
    origin = ORIGIN
    counts = set()
    for hop in range(1, 51):
        headers = tier_headers(
            user_headers(headers), origin, group="g", due_ms=hop + 10, failed_ms=hop, cause=Cause(OSError(hop), "sink")
        )
        assert headers[: len(user)] == user
        ours = headers[len(user) :]
        names = [name for name, _ in ours]
        assert len(names) == len(set(names))
        counts.add(len(headers))
        origin = read_origin("orders", 1, 0, hop, hop, headers)
        assert origin == ORIGIN._replace(attempts=hop, first_failed=1, failed=hop, due=hop + 10)
        assert dict(ours)["sk-error-message"] == str(hop).encode()
        origin = origin._replace(attempts=hop + 1)
    assert len(counts) == 1
    last = dead_letter_headers(user_headers(headers), origin, group="g", failed_ms=51, cause=CAUSE)
    assert last[: len(user)] == user
    assert dict(last[len(user) :])["sk-first-failed-at"] == b"1"


@given(
    origin=st.builds(
        Origin,
        st.just("orders"),
        *[st.integers(0, (1 << 63) - 1)] * 3,
        attempts=st.integers(2, 1 << 40),
        first_failed=st.none() | st.integers(0, 1 << 62),
        failed=st.none(),
        due=st.none(),
        case=st.none() | st.tuples(st.integers(0, 9_999_999_999), st.integers(0, 1 << 62)).map("{0[0]}:{0[1]}".format),
    ),
    due=st.integers(0, 1 << 62),
    failed=st.integers(0, 1 << 62),
)
def test_what_is_written_is_read_again(origin: Origin, due: int, failed: int) -> None:
    headers = tier_headers([], origin, group="g", due_ms=due, failed_ms=failed, cause=CAUSE)
    read = read_origin("orders", 2, 0, 0, 0, headers)
    first = failed if origin.first_failed is None else origin.first_failed
    assert read == origin._replace(first_failed=first, failed=failed, due=due)


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"-1",
        b"+1",
        b" 1",
        b"1 ",
        b"1\n",
        b"1_0",
        b"1.0",
        b"0x1",
        "١".encode(),
        b"\xff",
        b"9223372036854775808",
        b"1" * 5_000,
    ],
)
def test_forged_numbers_are_not_believed(value: bytes | None) -> None:
    names = ("origin-partition", "origin-offset", "origin-timestamp", "attempt", "first-failed-at", "failed-at", "due")
    forged = [("sk-origin-topic", b"secrets"), ("sk-dlq-id", value), *((f"sk-{name}", value) for name in names)]
    assert read_origin("orders", 2, 3, 4, 5, forged) == Origin("orders", 3, 4, 5, attempts=2)


def test_without_headers_a_copy_stands_for_itself() -> None:
    assert read_origin("orders", 2, 3, 4, 5, ()) == Origin("orders", 3, 4, 5, attempts=2)


def test_a_record_of_a_tier_has_run_as_often_as_there_are_tiers_before_it() -> None:
    assert read_origin("orders", 3, 0, 0, 0, [("sk-attempt", b"1")]).attempts == 3
    assert read_origin("orders", 3, 0, 0, 0, [("sk-attempt", b"12")]).attempts == 12


@pytest.mark.parametrize(("attempt", "attempts"), [(b"0", 0), (b"1", 1), (b"12", 12), (b"-1", 3), (None, 3)])
def test_a_replayed_record_of_a_tier_has_run_as_often_as_it_says(attempt: bytes | None, attempts: int) -> None:
    headers = [("sk-attempt", attempt), ("sk-dlq-id", b"0:7")]
    assert read_origin("orders", 3, 0, 0, 0, headers).attempts == attempts
    assert read_origin("orders", 3, 0, 0, 0, [("sk-attempt", attempt), ("sk-dlq-id", b"7")]).attempts == max(
        3, attempts
    )


@pytest.mark.parametrize(("case", "attempts", "fresh"), [("0:7", 0, True), ("0:7", 1, False), (None, 0, False)])
def test_a_record_that_was_replayed_is_fresh_until_it_runs(case: str | None, attempts: int, fresh: bool) -> None:
    assert ORIGIN._replace(case=case, attempts=attempts).fresh == fresh


def test_the_largest_number_is_that_of_64_bits() -> None:
    assert read_origin("orders", 1, 0, 0, 0, [("sk-origin-offset", b"9223372036854775807")]).offset == 2**63 - 1


def test_of_a_header_that_is_there_twice_the_last_holds() -> None:
    headers = [("sk-due", b"1"), ("sk-due", b"2"), ("sk-failed-at", b"3"), ("sk-failed-at", b"no")]
    origin = read_origin("orders", 1, 0, 0, 0, headers)
    assert (origin.due, origin.failed) == (2, None)


@pytest.mark.parametrize(
    ("value", "case"),
    [
        (b"3:17", "3:17"),
        (b"0:9223372036854775807", "0:9223372036854775807"),
        (b"0:9223372036854775808", None),
        (b"3", None),
        (b"3:", None),
        (b":17", None),
        (b"3:17:1", None),
        (b"-3:17", None),
        (b"3:17\n", None),
        (b"\xff:17", None),
        (None, None),
    ],
)
def test_the_case_that_a_record_belongs_to_is_carried_if_it_can_be_one(value: bytes | None, case: str | None) -> None:
    headers = [("a", b"1"), ("sk-dlq-id", value)]
    assert read_case(headers) == case
    origin = read_origin("orders", 1, 0, 0, 0, headers)
    assert origin.case == case
    for copy in (tier_copy([], origin), list(dead_letter(OSError(), origin=origin).items())):
        assert dict(copy).get("sk-dlq-id") == (None if case is None else case.encode())


def test_a_record_that_was_never_a_dead_letter_belongs_to_no_case() -> None:
    assert read_case([("a", b"1")]) is None
    assert read_case([("sk-dlq-id", b"1:2"), ("sk-dlq-id", b"3:4")]) == "3:4"


class Own(Exception):
    class Inner(Exception): ...


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ValueError(), b"ValueError"),
        (Own(), f"{__name__}.Own".encode()),
        (Own.Inner(), f"{__name__}.Own.Inner".encode()),
        (type("é" * 2_000, (Exception,), {"__module__": "m"})(), b"m." + "é".encode() * 511),
    ],
)
def test_the_class_of_an_error_goes_by_its_whole_name(error: BaseException, name: bytes) -> None:
    assert dead_letter(error)["sk-error-class"] == name


def test_an_error_that_cannot_say_what_it_is_still_gets_to_the_dead_letters() -> None:
    headers = dead_letter(Unspeakable())
    assert headers["sk-error-message"] == b"<its str() raised RuntimeError>"
    assert b"Unspeakable" in headers["sk-error-stack"]


def test_an_error_whose_traceback_cannot_be_shown_still_gets_to_the_dead_letters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(_error: BaseException) -> NoReturn:
        raise RecursionError

    monkeypatch.setattr("streamkit.core.copies.format_exception", fails)
    assert dead_letter(OSError())["sk-error-stack"] == b"<its traceback raised RecursionError>"


def test_text_that_is_no_unicode_is_written_with_escapes() -> None:
    headers = dead_letter(OSError("file \udcff"))
    assert headers["sk-error-message"] == b"file \\udcff"
    assert b"OSError: file \\udcff" in headers["sk-error-stack"]


def test_an_error_without_a_message_has_an_empty_one() -> None:
    assert dead_letter(OSError())["sk-error-message"] == b""


@given(text=st.text(st.characters() | st.sampled_from("é€😀\ud800"), max_size=40), times=st.sampled_from([1, 40, 400]))
def test_messages_and_stacks_keep_to_their_sizes_in_whole_characters(text: str, times: int) -> None:
    error = Exception(text * times)
    written = str(error).encode(errors="backslashreplace")
    headers = dead_letter(error)
    message, stack = headers["sk-error-message"], headers["sk-error-stack"]
    assert len(message) <= MAX_MESSAGE
    assert len(stack) <= MAX_STACK
    assert message.decode() == message.decode(errors="ignore")
    stack.decode()
    assert written.startswith(message)
    assert len(message) > MAX_MESSAGE - 4 or message == written
    assert stack.startswith(b"Exception")
    if len(written) < MAX_STACK - 100:
        assert CUT.encode() not in stack or CUT in text * times
        assert stack.count(b"\n") >= 1


@pytest.mark.parametrize("pad", range(8))
def test_a_long_stack_is_cut_in_its_middle(pad: int) -> None:
    stack = dead_letter(Exception("x" * pad + "😀" * 4_000 + "the end"))["sk-error-stack"]
    assert MAX_STACK - 8 <= len(stack) <= MAX_STACK
    start, end = stack.decode().split(CUT)
    assert start.startswith("Exception: " + "x" * pad + "😀")
    assert end.endswith("😀the end\n")
    assert abs(len(start.encode()) - len(end.encode())) < 8


def test_a_stack_of_just_the_size_is_whole() -> None:
    whole = "Exception: " + "x" * (MAX_STACK - 12) + "\n"
    assert dead_letter(Exception(whole[11:-1]))["sk-error-stack"] == whole.encode()
    assert CUT.encode() in dead_letter(Exception(whole[11:-1] + "x"))["sk-error-stack"]


def test_whoever_copies_a_copy_starts_from_the_users_headers_alone() -> None:
    headers: HeaderList = [("b", b"1"), ("sk-x", b"2"), ("a", None), ("sk-", b"3"), ("b", b"\xff"), ("SK-due", b"4")]
    assert user_headers(headers) == [("b", b"1"), ("a", None), ("b", b"\xff"), ("SK-due", b"4")]
