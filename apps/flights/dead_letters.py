"""The end of the demo: its dead letters by group, and one of them sent again."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

from apps.flights.figures import WIDTH
from apps.flights.worker_process import PROGRAM

TARGET = "apps.flights:app"
WITHIN = 60.0  # seconds


class CommandFailed(Exception):
    """A `streamkit dlq` has failed; says how it was called and what it said."""


def work(brokers: str) -> Iterator[str]:
    """The commands, as one would type them, and what they print. Raises CommandFailed."""
    which = ("--agent", "weather", "--class", "TimeoutError")
    found = json.loads(_run("groups", TARGET, *which, "--json", brokers=brokers))
    sample = found["topics"][0]["groups"][0]["sample"]
    yield from _shown("groups", TARGET, "--agent", "weather", brokers=brokers)
    yield ""
    how = ("--to", "retry", "--batch", "1", "--reason", "the service answers again", "--yes")
    yield from _shown("replay", TARGET, sample, *how, brokers=brokers)


def _shown(*words: str, brokers: str) -> Iterator[str]:
    yield from _folded("  streamkit dlq " + shlex.join(words))
    yield from ("    " + line if line else "" for line in _run(*words, brokers=brokers).splitlines())


def _folded(command: str) -> Iterator[str]:
    """Broken before options where it is too long."""
    first, *options = re.split(" (?=--)", command)
    line = first
    for option in options:
        if len(line) + len(option) + 3 > WIDTH:
            yield line + " \\"
            line = "     "
        line += " " + option
    yield line


def _run(*words: str, brokers: str) -> str:
    arguments = [sys.executable, "-c", PROGRAM, "dlq", *words, "--brokers", brokers]
    narrow = {**os.environ, "COLUMNS": str(WIDTH - 4)}  # it is shown indented
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=WITHIN, check=False, env=narrow)
    if ended.returncode:
        raise CommandFailed(f"streamkit dlq {' '.join(words)} has ended with {ended.returncode}\n{ended.stderr}")
    return ended.stdout
