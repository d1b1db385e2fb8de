"""A dead letter in the user's editor, until it can be sent."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence

import click

from streamkit.cli.destination import BadRecord
from streamkit.cli.dlq import document
from streamkit.cli.dlq.changing import Change, change, spans
from streamkit.cli.dlq.document import Content, content_of
from streamkit.cli.dlq.editing import Editing
from streamkit.cli.dlq.jobs import PAYLOAD, CutOff, unfinished
from streamkit.cli.dlq.options import Filters
from streamkit.cli.dlq.reading import DeadLetters, with_dead_letters
from streamkit.cli.dlq.replaying import Declared, Replaying, declared
from streamkit.cli.dlq.selecting import Case, Unfit, selected
from streamkit.cli.dlq.values import Values
from streamkit.cli.dlq.where import Where
from streamkit.cli.paper import clean
from streamkit.cli.sender import Sender
from streamkit.core.letters import Letter
from streamkit.errors import StreamkitError, UsageError

MOST_OF_A_DIFF = 8 * 1024  # characters, in the audit


def edit(place: Where, id: str, to: str, *, reason: str, yes: bool, dry_run: bool, as_json: bool) -> int:
    """The exit code. While the editor is open there is no connection to the brokers, and nothing is locked."""
    letter = _found(place, id, to)
    before, values = content_of(letter), Values(declared(place, to, letter))
    text = document.text(before, values)
    written = _written(text.encode(), before, values)
    if written is None or (after := document.edited(written, before, values)) == before:
        click.echo("nothing was changed in the document, so nothing is sent", err=True)
        return 0
    lines = document.diff(text, document.text(after, values))
    for line in lines:
        click.echo(clean(line), err=True)
    what = Change(
        command="edit",
        ids=(id,),
        filters=Filters(),
        reason=f"edited: {reason}" if reason else "edited",
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
        more={"to": to, "diff": _short("\n".join(lines)), PAYLOAD: after.as_json()},
    )
    try:
        code = change(place, what)
    except StreamkitError as error:
        error.add_note(_kept(written))
        raise
    if code and not dry_run:
        click.echo(_kept(written), err=True)
    return code


def _short(diff: str) -> str:
    return diff if len(diff) <= MOST_OF_A_DIFF else diff[:MOST_OF_A_DIFF] + "\n..."


def _found(place: Where, id: str, to: str) -> Letter:
    """Raises StreamkitError if it is not there, not open or cannot be sent, CutOff while nothing may be changed."""
    found: list[Case] = []

    async def look(topics: Sequence[DeadLetters]) -> None:
        for letters in topics:
            for job, fields in letters.state.jobs.jobs.items():
                raise CutOff(unfinished(letters.topic, job, fields))
            selection = Filters().selection(place.group, ids=[id])
            sender = Sender(place.settings, letters.clients.transport)
            replaying = Replaying({"to": to, **Declared.by(place)}, place, letters.clients.admin, sender)
            async for case in selected(letters, selection, spans(letters, [id])):
                try:
                    await replaying.copy(case)
                except Unfit as error:
                    raise StreamkitError(f"{id} cannot be sent: {error}") from error
                found.append(case)

    with_dead_letters(place, look)
    if not found:
        raise StreamkitError(f"{id} is not there" + (f", or not of {place.group}" if place.group else ""))
    (case,) = found
    if case.status.status not in Editing.of:
        raise StreamkitError(f"{id} is {case.status.status}; only an open dead letter is edited")
    return case.letter


def _written(text: bytes, before: Content, values: Values) -> bytes | None:
    """What the user has made of the text, once it can be read; None if it was not saved. Raises UsageError if they give
    up."""
    latest: bytes | None = None
    while True:
        try:
            saved = click.edit(text if latest is None else latest, extension=".json")
        except click.ClickException as error:
            kept = [] if latest is None else [_kept(latest)]
            raise UsageError("; ".join([error.message, "nothing was sent", *kept])) from error
        latest = latest if saved is None else saved  # not saved the second time: as it was
        if latest is None:
            return None
        try:
            document.edited(latest, before, values)
        except BadRecord as error:
            click.secho("error: ", fg="red", bold=True, err=True, nl=False)
            click.echo(clean(str(error)), err=True)
            if not _again():
                raise UsageError(f"nothing was sent; {_kept(latest)}") from error
        else:
            return latest


def _again() -> bool:
    with contextlib.suppress(click.Abort):  # by Ctrl-C, or there is nobody to ask
        return click.confirm("Edit it again?", default=True, err=True)
    return False


def _kept(text: bytes) -> str:
    """Says which file it is in from now on, which only its user may read."""
    descriptor, name = tempfile.mkstemp(prefix="dead-letter-", suffix=".json")
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
    return f"your text is in {name}"
