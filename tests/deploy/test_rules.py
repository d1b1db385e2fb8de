"""The rules of Prometheus: what they say, by promtool, and what they name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from streamkit.cli.group import group
from tests.deploy.files import ROOT
from tests.deploy.prometheus import Tools
from tests.deploy.promql import (
    ALERTS,
    OF_SCRAPES,
    PARTITIONED,
    RECORDED,
    RULE_FILES,
    SAMPLES,
    rules,
    selectors,
    unknown,
)

TEST_FILES = sorted((Path(__file__).parent / "rules").glob("*.test.yml"))
PAGES = ROOT / "docs/runbooks"
EXPRESSIONS = {rule.get("alert") or rule["record"]: rule["expr"] for rule in rules()}


def cases() -> Iterator[dict[str, Any]]:
    for file in TEST_FILES:
        yield from yaml.safe_load(file.read_text())["tests"]


def asked(name: str) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The cases about an alert, with what they expect of it, all times together."""
    for case in cases():
        tests = [test for test in case.get("alert_rule_test", []) if test["alertname"] == name]
        if tests:
            yield case, [expected for test in tests for expected in test["exp_alerts"]]


def test_promtool_accepts_the_rules(tools: Tools) -> None:
    assert "FAILED" not in tools.check("rules", *map(str, RULE_FILES))


@pytest.mark.parametrize("file", TEST_FILES, ids=lambda file: file.name)
def test_the_rules_say_what_their_cases_expect(tools: Tools, file: Path) -> None:
    tools.test_rules(str(file))


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_case_that_fires_and_one_that_does_not(name: str) -> None:
    expected = [alerts for _, alerts in asked(name)]
    assert any(expected), f"no case in which {name} fires"
    assert not all(expected), f"no case in which {name} does not fire"


@pytest.mark.parametrize("name", RECORDED)
def test_a_recording_rule_has_a_case(name: str) -> None:
    tests = [test for case in cases() for test in case.get("promql_expr_test", [])]
    assert [test for test in tests if name in {selector.name for selector in selectors(test["expr"])}]


def test_no_two_rules_have_the_same_name() -> None:
    assert len(EXPRESSIONS) == len(list(rules())) == len(ALERTS) + len(RECORDED)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_a_rule_names_only_series_that_are_exported_or_recorded(name: str) -> None:
    assert not unknown(EXPRESSIONS[name])


def test_the_cases_are_about_series_as_they_are_exported() -> None:
    for case in cases():
        for each in case["input_series"]:
            ((name, labels),) = selectors(each["series"])
            if name not in SAMPLES:
                assert unknown(each["series"]) == []
                continue
            exported = SAMPLES[name]
            by_topic = exported - {"partition"} if name in PARTITIONED else exported
            assert labels.keys() - OF_SCRAPES in (exported, by_topic), each["series"]


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_severity_its_words_and_its_page(name: str) -> None:
    rule = ALERTS[name]
    assert name.startswith("Streamkit")
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert "{{ $labels." in rule["annotations"]["summary"]
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"


@pytest.mark.parametrize("name", ALERTS)
def test_the_page_of_an_alert_says_what_it_means_and_what_to_do(name: str) -> None:
    text = page(name)
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["See it", "Usual causes", "What to do", "What not to do"]
    assert f"**{ALERTS[name]['labels']['severity']}**" in text


def test_no_page_is_about_an_alert_that_there_is_not() -> None:
    assert {file.stem for file in PAGES.glob("*.md")} == ALERTS.keys()


def test_the_queries_of_the_pages_can_be_asked(tools: Tools, tmp_path: Path) -> None:
    queries = {name: blocks(name, "promql") for name in ALERTS}
    assert all(queries.values())
    rules = [{"record": f"{name}:{n}", "expr": each} for name in queries for n, each in enumerate(queries[name])]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    tools.check("rules", str(file))
    assert not [(rule["record"], unknown(rule["expr"])) for rule in rules if unknown(rule["expr"])]


def test_the_commands_of_the_pages_are_those_of_streamkit() -> None:
    named = {command for name in ALERTS for command in re.findall(r"\bstreamkit ([a-z]+)", page(name))}
    assert not named - group.commands.keys()
    of_dlq = {command for name in ALERTS for command in re.findall(r"\bstreamkit dlq ([a-z]+)", page(name))}
    dlq = group.commands["dlq"]
    assert isinstance(dlq, click.Group)
    assert of_dlq <= dlq.commands.keys()


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text()


def blocks(name: str, language: str) -> list[str]:
    """The lines of the blocks of a page in a language."""
    found = re.findall(rf"```{language}\n(.*?)```", page(name), re.DOTALL)
    return [line for block in found for line in block.splitlines()]
