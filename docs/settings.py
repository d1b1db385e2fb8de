"""Writes docs/settings.md: `python docs/settings.py`."""

from dataclasses import Field
from pathlib import Path
from typing import Any

from streamkit.settings import PREFIX, setting_fields

PAGE = Path(__file__).with_suffix(".md")

INTRODUCTION = """\
# Settings

<!-- Written by `python docs/settings.py`; a test keeps it true. -->

The command line wins over the environment, the environment over `App("name", setting=...)`, that over the defaults.
Durations are written `250ms`, `5s`, `10m`, `2h` or `7d` (in Python also as `timedelta`), sizes `65536`, `64KiB`,
`256MiB` or `1GiB`. An empty variable counts as unset; an unknown `STREAMKIT_*` variable is an error, except
`STREAMKIT_TEST_*`.

| Setting | Variable | Default | |
|---|---|---|---|
"""


def render() -> str:
    return INTRODUCTION + "".join(row(name, item) for name, item in setting_fields().items())


def row(name: str, item: Field[Any]) -> str:
    default = item.metadata["show"](item.default)
    shown = f"`{default}`" if default else "unset"
    return f"| `{name}` | `{PREFIX}{name.upper()}` | {shown} | {item.metadata['doc']} |\n"


if __name__ == "__main__":
    PAGE.write_text(render())
