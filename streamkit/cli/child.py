"""The command line in a process that another `streamkit` has started, and that must not outlive it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

supervised = False  # whether this process is such a child
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PACKAGES = str(Path(__file__).parents[2])


def command(arguments: Sequence[str], *more_flags: str) -> list[str]:
    """What starts `streamkit ARGUMENTS` as a child of this process; `more_flags` are for the interpreter.

    As under the console script, the current directory is not on `sys.path` before the target is loaded: a file of the
    user's that is called `signal.py` must not take the place of the standard library's.
    """
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    program = f"import sys; sys.path.append({_PACKAGES!r}); from streamkit.cli.child import main; main({os.getpid()})"
    return [sys.executable, *flags, *more_flags, "-P", "-c", program, *arguments]


def main(parent: int) -> None:
    global supervised
    supervised = True
    end_with(parent)
    from streamkit.cli.group import group

    group(prog_name="streamkit")


def end_with(parent: int) -> None:
    """Have this process killed when the thread of `parent` that has started it ends, even by SIGKILL. Linux only.

    Done by the child, not between fork and exec: the parent has threads.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has gone already
        os._exit(1)
