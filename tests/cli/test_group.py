import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamkit.cli.dlq import dlq
from streamkit.cli.group import group
from tests.cli.support import ROOT, streamkit

HEAVY = ("aiokafka", "aiohttp", "prometheus_client", "faust", "pydantic", "structlog", "rich", "watchfiles")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from streamkit.cli.group import group\n"
        "for arguments in ([], ['worker'], ['dev'], ['send'], ['agents'], ['dlq'], ['dlq', 'groups']):\n"
        "    group([*arguments, '--help'], standalone_mode=False)\n"
        f"sys.exit(str([name for name in {HEAVY!r} if name in sys.modules] or ''))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.strip()) == (1, "")


def test_help_takes_less_than_300_ms_of_the_processor(tmp_path: Path) -> None:
    assert min(children_seconds(tmp_path) for _ in range(3)) < 0.3


def children_seconds(directory: Path) -> float:
    before = os.times()
    assert streamkit(directory, "--help").code == 0
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def test_the_version_is_shown(tmp_path: Path) -> None:
    ended = streamkit(tmp_path, "--version")
    assert ended.code == 0
    assert ended.output.startswith("streamkit ")


@pytest.mark.parametrize("command", ["", *group.commands, *(f"dlq {name}" for name in dlq.commands)])
def test_help_fits_on_a_screen_and_has_an_example(command: str) -> None:
    shown = CliRunner().invoke(group, [*command.split(), "--help"], prog_name="streamkit", terminal_width=80).output
    assert "Example: streamkit " in shown
    assert len(shown.splitlines()) <= 28
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (("wroker", "x"), "Did you mean 'worker'?"),
        (("worker", "x", "--relaod"), "Did you mean --reload?"),
        (("worker", "x", "--broker=y"), "(Possible options: --brokers, --workers)"),  # and none that is hidden
    ],
)
def test_what_was_meant_is_suggested(arguments: tuple[str, ...], suggestion: str) -> None:
    ended = CliRunner().invoke(group, arguments, prog_name="streamkit")
    assert (ended.exit_code, suggestion in ended.stderr) == (2, True)


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_no_color_is_honoured(no_color: str, coloured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    ended = CliRunner().invoke(group, ["worker", "no target"], prog_name="streamkit", color=True)
    assert ("\x1b[" in ended.stderr) == coloured


@pytest.mark.parametrize("arguments", [(), ("worker",), ("wroker", "x"), ("worker", "x", "--no-such-option")])
def test_what_is_no_command_line_exits_2(arguments: tuple[str, ...]) -> None:
    ended = CliRunner().invoke(group, arguments, prog_name="streamkit")
    assert ended.exit_code == 2
    assert "Usage: streamkit" in ended.stderr
