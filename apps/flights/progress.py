"""How far the agents are: bars on a terminal, a line every second anywhere else."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LINE_EVERY = 1.0  # seconds


class Show(Protocol):
    def __call__(self, done: Mapping[str, int], /) -> None: ...


@contextmanager
def showing(total: int) -> Iterator[Show]:
    """Inside, what is given shows how many of `total` records each name has done."""
    if sys.stdout.isatty():
        columns = (TextColumn("  {task.description:10}"), BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns) as bars:
            yield _bars(bars, total)
    else:
        yield _lines()


def _bars(bars: Progress, total: int) -> Show:
    tasks = {}

    def show(done: Mapping[str, int]) -> None:
        for name, count in done.items():
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=count)

    return show


def _lines() -> Show:
    started = time.monotonic()
    due = started

    def show(done: Mapping[str, int]) -> None:
        nonlocal due
        now = time.monotonic()
        if now >= due:
            due = now + LINE_EVERY
            counts = "  ".join(f"{name} {count:,}" for name, count in done.items())
            print(f"  {now - started:3.0f} s  {counts}", flush=True)

    return show
