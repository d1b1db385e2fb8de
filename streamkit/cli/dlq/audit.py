"""`streamkit dlq audit`: who has changed dead letters, when, why, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from streamkit.cli.dlq.options import json_option, where_options
from streamkit.cli.options import Command, epilog

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamkit.cli.dlq.reading import DeadLetters

_UNSHOWN = ("filters", "declared", "counts")
# What the filters are called on the command line.
_OPTIONS = {"since": "from", "error_class": "class", "headers": "header", "statuses": "status"}


@click.command(cls=Command, epilog=epilog("streamkit dlq audit shop"))
@click.argument("target", required=False)
@where_options
@json_option("One object a line.")
def audit(target: str | None, topic: str | None, agent: str | None, brokers: str | None, as_json: bool) -> None:
    """Show who changed dead letters, when, why, and what came of it."""
    from streamkit.cli.dlq.reading import with_dead_letters
    from streamkit.cli.dlq.where import where

    async def show(topics: Sequence[DeadLetters]) -> None:
        for letters in topics:
            jobs = letters.state.jobs
            for fields in jobs.audits.values():
                if as_json:
                    import orjson

                    click.echo(orjson.dumps({"topic": letters.topic, **fields}))
                else:
                    _show(letters.topic, fields)
            if not jobs.audits and not as_json:
                click.echo(f"{letters.topic}: nothing was changed yet")
            for id, fields in jobs.jobs.items():
                from streamkit.cli.dlq.jobs import unfinished

                click.echo(unfinished(letters.topic, id, fields), err=True)

    with_dead_letters(where(target, topic, agent, brokers), show, audits=True)


def _show(topic: str, fields: Mapping[str, Any]) -> None:
    from streamkit.cli.dlq.results import left
    from streamkit.cli.paper import clean, console, folded

    paper = console()
    counts, given = fields.get("counts"), fields.get("arguments")
    arguments = {**given} if isinstance(given, dict) else {}
    diff = arguments.pop("diff", None)
    told = ", ".join(f"{name} {count}" for name, count in counts.items()) if isinstance(counts, dict) else "–"
    lines = (
        f"{fields.get('ended')}  {fields.get('command')} of {topic} by {fields.get('who')}",
        f"  which: {_which(arguments)}",
        f"  why: {fields.get('reason') or '(not said)'}",
        f"  result: {fields.get('result')}; {told.replace('_', ' ')} (job {fields.get('job')})",
    )
    found = fields.get("unfit")
    unfit = found if isinstance(found, dict) else {}
    more = [f"  {left(count, why)}" for why, count in unfit.items() if isinstance(count, int)]
    if fields.get("resumed_by") not in (None, fields.get("who")):
        more.append(f"  resumed by {fields.get('resumed_by')}")
    for line in (*lines, *more):
        for row in folded(line, paper.width):
            paper.print(row, soft_wrap=True)
    if isinstance(diff, str):
        for line in diff.splitlines():
            paper.print(clean(f"    {line}"), soft_wrap=True)


def _which(arguments: Mapping[str, Any]) -> str:
    filters = arguments.get("filters")
    others = {name: value for name, value in arguments.items() if name not in _UNSHOWN}
    if "batch" not in others:
        others.pop("wait", None)
    given = {**(filters if isinstance(filters, dict) else {}), **others}
    known = {_OPTIONS.get(name, name): value for name, value in given.items() if value not in (None, [], "")}
    return ", ".join(f"{name}={_shown(value)}" for name, value in known.items()) or "all"


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
