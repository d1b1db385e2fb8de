from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamkit.durations import parse_duration, show_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("5s", 5), ("1.5s", 1.5), ("10m", 600), ("2h", 7_200), ("7d", 604_800), ("0s", 0)],
)
def test_text_with_a_unit_is_a_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


def test_a_timedelta_is_a_duration() -> None:
    assert parse_duration(timedelta(minutes=1, milliseconds=5)) == 60.005


@pytest.mark.parametrize(
    "text", ["", "5", "5x", "s", "-5s", "5 s", "5S", "1e3s", "nans", "\u0665s", "5s\n", ".5s", "1m30s"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


def test_a_bare_number_is_refused_as_it_has_no_unit() -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_negative_timedelta_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        parse_duration(timedelta(seconds=-1))


@given(st.integers(0, 10**9))
def test_what_is_shown_reads_back(milliseconds: int) -> None:
    seconds = parse_duration(f"{milliseconds}ms")
    assert parse_duration(show_duration(seconds)) == pytest.approx(seconds, abs=1e-9)


@pytest.mark.parametrize("text", ["5ms", "1s", "45s", "2m", "7d", "0s", "1500ms"])
def test_durations_are_shown_as_they_are_written(text: str) -> None:
    assert show_duration(parse_duration(text)) == text
