"""How the run of a case is told."""

from __future__ import annotations

from streamkit.core.cases import run_key, run_value


def test_a_run_lies_under_its_case() -> None:
    assert run_key("3:17", "shop.charge") == b"run:3:17:shop.charge"


def test_a_run_says_whose_it_was_how_it_ended_and_when() -> None:
    run = run_value(group="shop.charge", outcome="handled", attempt=2, at=1_700_000_000_000)
    assert run == {"group": "shop.charge", "outcome": "handled", "attempt": 2, "at": 1_700_000_000_000}


def test_a_dead_run_names_the_letter_that_came_of_it_if_that_is_known() -> None:
    assert run_value(group="g", outcome="dead", attempt=1, at=5, letter=(0, 0))["letter"] == "0:0"
    assert "letter" not in run_value(group="g", outcome="dead", attempt=1, at=5)
