"""Which dead letters a command is about."""

from __future__ import annotations

from typing import Any

import pytest

from streamkit.core.letters import letter_of
from streamkit.core.selection import Selection, error_line, parse_attempts, parse_error, parse_header, parse_id
from tests.core.letter_support import Raw, letter

ONE = letter(
    "0:7",
    appended=9_000,
    key=b"k",
    failed_at=b"5000",
    attempt=b"3",
    group=b"shop.charge",
    error_class=b"asyncio.TimeoutError",
    error_message=b"no answer",
)


@pytest.mark.parametrize(
    ("chosen", "fits"),
    [
        ({}, True),
        ({"error": parse_error("Timeout.*answer$")}, True),
        ({"error": parse_error("refused")}, False),
        ({"error_class": "TimeoutError"}, True),
        ({"error_class": "asyncio.TimeoutError"}, True),
        ({"error_class": "Error"}, False),
        ({"key": b"k"}, True),
        ({"key": b""}, False),
        ({"since": 5_000}, True),
        ({"since": 5_001}, False),
        ({"until": 5_001}, True),
        ({"until": 5_000}, False),
        ({"attempts": parse_attempts(">2")}, True),
        ({"attempts": parse_attempts("2")}, False),
        ({"headers": (("sk-attempt", b"3"), ("sk-group", b"shop.charge"))}, True),
        ({"headers": (("sk-attempt", b"3"), ("trace", b"1"))}, False),
        ({"ids": frozenset({"0:7"})}, True),
        ({"ids": frozenset({"0:8"})}, False),
        ({"ids": frozenset()}, False),
        ({"group": "shop.charge"}, True),
        ({"group": "shop"}, False),
        ({"statuses": frozenset({"open", "archived"})}, True),
        ({"statuses": frozenset({"archived"})}, False),
        ({"key": b"k", "group": "shop"}, False),
    ],
)
def test_a_letter_is_chosen_when_it_fits_everything_that_is_given(chosen: dict[str, Any], fits: bool) -> None:
    assert Selection(**chosen).matches(ONE, "open") is fits


def test_a_letter_that_says_nothing_fits_only_what_asks_for_nothing() -> None:
    silent = letter_of(Raw(0, 7, 9_000))
    assert Selection(since=9_000, until=9_001).matches(silent, "open")
    for asked in (Selection(error_class="E"), Selection(attempts=parse_attempts(">=0")), Selection(group="")):
        assert not asked.matches(silent, "open")
    assert error_line(silent) == ""


def test_of_a_header_that_is_there_twice_either_value_fits() -> None:
    twice = letter_of(Raw(headers=[("a", b"1"), ("a", b"2")]))
    assert Selection(headers=(("a", b"1"), ("a", b"2"))).matches(twice, "open")


@pytest.mark.parametrize(
    ("text", "holding"),
    [("3", {3}), ("=3", {3}), (">3", {4, 5}), (">= 3", {3, 4, 5}), ("<3", {1, 2}), (" <=2 ", {1, 2})],
)
def test_attempts_are_a_number_or_a_bound(text: str, holding: set[int]) -> None:
    bound = parse_attempts(text)
    assert {number for number in range(1, 6) if bound.holds(number)} == holding


@pytest.mark.parametrize("text", ["", ">", "three", "=>3", "-1", "3.5", ">3<5", "٣"])
def test_other_bounds_are_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match='write "3", ">3"'):
        parse_attempts(text)


def test_a_header_is_a_name_and_a_value() -> None:
    assert parse_header("a=b=c") == ("a", b"b=c")
    assert parse_header("a=") == ("a", b"")
    for text in ("a", "=b", ""):
        with pytest.raises(ValueError, match="write NAME=VALUE"):
            parse_header(text)


def test_a_pattern_that_is_none_is_refused_with_where_it_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"not a regular expression: .* at position 0"):
        parse_error("(timed out")


def test_an_id_is_a_partition_and_an_offset() -> None:
    assert parse_id("0:12") == "0:12"
    assert parse_id("00:012") == "0:12"
    for text in ("", "12", "0:", "a:b", "0:1:2"):
        with pytest.raises(ValueError, match="partition and offset"):
            parse_id(text)
