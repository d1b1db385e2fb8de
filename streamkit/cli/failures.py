"""Errors as they are shown: what is wrong, once, with the user's frames only."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import click

import streamkit
from streamkit.errors import RecordFailed, StreamkitError, UsageError, UserCodeFailed

log = logging.getLogger("streamkit")

_NOT_THE_USERS = (
    *(str(Path(module.__file__ or "").parent) + os.sep for module in (streamkit, importlib, click)),
    "<frozen importlib",
)


class ImportFailed(UsageError):
    """The target's module raised while it was imported; the cause says what."""

    def __init__(self, module: str) -> None:
        super().__init__(f"module {module!r} cannot be imported")


def plain_report(error: Exception) -> None:
    """Show an error to a person: the traceback of their code if there is one, then the message."""
    sys.stdout.flush()  # what handlers have printed comes before it
    click.echo(_traceback_of(error), err=True, nl=False)
    click.secho("error: ", fg="red", bold=True, err=True, nl=False)
    click.echo("\n".join([_message(error), *getattr(error, "__notes__", ())]), err=True)


def logged_report(error: Exception, *, payloads: bool = False) -> None:
    """Show an error to a machine: one record of the log, with what records hold only if `payloads` says so."""
    fields: dict[str, object] = {}
    message = _message(error)
    if isinstance(error, RecordFailed):
        fields = {"event_name": "record_failed", "agent": error.agent, "group": error.group, "stage": error.stage}
        fields |= error.log_fields
        if not payloads:
            message = error.without_payload()
    if text := _traceback_of(error).rstrip():
        fields["exception"] = text
    log.error("%s", "\n".join([message, *getattr(error, "__notes__", ())]), extra=fields)


def exit_code(error: Exception) -> int:
    return error.exit_code if isinstance(error, StreamkitError) else 1


def users_traceback(error: BaseException, *, if_any: bool = False) -> str:
    """The formatted traceback without the frames of streamkit, click and importlib; with `if_any`, empty if no frame
    is left."""
    for each in _chain(error):
        each.__traceback__ = _users_frames(each.__traceback__)
    if if_any and error.__traceback__ is None:
        return ""
    return "".join(traceback.format_exception(error))


def users_line(error: BaseException) -> str:
    """The line of the user's code that raised it."""
    frames = traceback.extract_tb(_users_frames(error.__traceback__))
    return "".join(traceback.format_list(frames[-1:])).rstrip()


def _message(error: Exception) -> str:
    if isinstance(error, StreamkitError):
        return str(error)
    return f"unexpected {type(error).__name__}: {error}"


def _traceback_of(error: Exception) -> str:
    if isinstance(error, RecordFailed | UserCodeFailed):
        return users_traceback(error.cause, if_any=True)
    if isinstance(error, ImportFailed) and error.__cause__ is not None:
        return users_traceback(error.__cause__)
    if isinstance(error, StreamkitError):
        return ""
    return "".join(traceback.format_exception(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions


def _users_frames(frames: TracebackType | None) -> TracebackType | None:
    if frames is None:
        return None
    rest = _users_frames(frames.tb_next)
    if frames.tb_frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        return rest
    return TracebackType(rest, frames.tb_frame, frames.tb_lasti, frames.tb_lineno)
