"""What the commands print for people: within the terminal's width, 80 columns where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table


def console() -> Console:
    """Standard output, without colours where that is no terminal."""
    return Console(highlight=False, emoji=False, markup=False)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: int = 0) -> Table:
    """Columns side by side, the first `right` of them numbers."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, heading in enumerate(headings):
        made.add_column(heading, overflow="fold", justify="right" if number < right else "left")
    for row in rows:
        made.add_row(*map(clean, row))
    return made


def clean(text: str) -> str:
    """Without control characters: what stands in a record must not steer the terminal."""
    return "".join(each if each.isprintable() or each == "\n" else "\ufffd" for each in text)


def short(text: str, most: int) -> str:
    """Its first line, in so many columns."""
    line = clean(" ".join(text.split()))
    return line if len(line) <= most else line[: most - 1] + "…"
