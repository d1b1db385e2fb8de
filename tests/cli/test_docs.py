"""docs/cli.md names what there is."""

import re

import click
import pytest

from streamkit.cli.group import group
from streamkit.cli.inventory import AgentRow, Inventory, TopicRow
from tests.cli.support import ROOT

PAGE = (ROOT / "docs" / "cli.md").read_text()
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def options(command: click.Command) -> set[str]:
    if isinstance(command, click.Group):
        return set().union(*map(options, command.commands.values()))
    shown = [each for each in command.params if isinstance(each, click.Option) and not each.hidden]
    return {name for option in shown for name in (*option.opts, *option.secondary_opts)}


@pytest.mark.parametrize("name", group.commands)
def test_every_option_of_a_command_stands_in_its_section_and_no_other(name: str) -> None:
    table = "\n".join(line for line in SECTIONS[name].splitlines() if line.startswith("| `-"))
    first_cells = " ".join(line.split(" | ")[0] for line in table.splitlines())
    assert set(re.findall(r"`(--?[a-zA-Z-]+)", first_cells)) == options(group.commands[name])


@pytest.mark.parametrize("name", group.commands)
def test_every_command_has_examples_that_are_command_lines(name: str) -> None:
    (block,) = re.findall(r"```\n(.*?)```", SECTIONS[name], re.DOTALL)
    for line in block.splitlines():
        assert f"streamkit {name} " in line
        used = set(re.findall(r"\s(--?[a-zA-Z-]+)", line.partition(f"streamkit {name} ")[2]))
        assert used <= options(group.commands[name])


def test_every_command_is_in_the_list() -> None:
    assert set(re.findall(r"\(#(\w+)\)", PAGE)) == set(group.commands) == set(SECTIONS)


def test_every_key_of_the_json_is_described() -> None:
    described = set(re.findall(r"`(\w+)`", SECTIONS["agents"].partition("| Key |")[2]))
    keys = {name for kind in (Inventory, AgentRow, TopicRow) for name in kind.__dataclass_fields__}
    assert keys <= described
