"""What the commands print for people: within the terminal's width, 80 columns where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.table import Table

TAB = 4  # columns


def console(*, err: bool = False) -> Console:
    """Standard output or error, without colours where that is no terminal."""
    return Console(highlight=False, emoji=False, markup=False, stderr=err)


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


def folded(line: str, width: int) -> Iterator[str]:
    """Rows of that width, cut behind spaces where there are any; together they are the line, so nothing of a record is
    lost. Those after the first begin below its start."""
    text = clean(line.expandtabs(TAB))
    indent = min(len(text) - len(text.lstrip(" ")), width // 2)
    text, room = text[indent:], width - indent
    while cell_len(text) > room:
        row = chop_cells(text[:room], room)[0]
        at = row.rfind(" ") + 1
        row = row[:at] if at > room // 2 else row
        yield " " * indent + row
        text = text[len(row) :]
    yield " " * indent + text
