"""`streamkit dlq groups`: what dead letters have died of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from streamkit.cli.dlq.options import Filters, filter_options, json_option, where_options
from streamkit.cli.options import Command, epilog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamkit.cli.dlq.reading import DeadLetters
    from streamkit.core.groups import Group, Groups

INDENT = 11  # columns of the count and the space behind it


@click.command(cls=Command, epilog=epilog("streamkit dlq groups shop --from 2h"))
@click.argument("target", required=False)
@where_options
@filter_options
@json_option("One object; docs/cli.md lists the keys.")
def groups(
    target: str | None, topic: str | None, agent: str | None, brokers: str | None, as_json: bool, **given: Any
) -> None:
    """Group the dead letters of TARGET by error.

    Alike are those of one class, with one message but for numbers, names and the like, from one function.
    """
    from streamkit.cli.dlq.reading import with_dead_letters
    from streamkit.cli.dlq.selecting import selected
    from streamkit.cli.dlq.where import where
    from streamkit.core.groups import Groups

    place = where(target, topic, agent, brokers)
    selection = Filters(**given).selection(place.group)
    found: dict[str, Groups] = {}

    async def gather(topics: Sequence[DeadLetters]) -> None:
        for letters in topics:
            gathered = found[letters.topic] = Groups()
            async for case in selected(letters, selection):
                gathered.add(case.letter)

    with_dead_letters(place, gather)
    if as_json:
        import orjson

        topics = [_as_json(name, gathered) for name, gathered in found.items()]
        click.echo(orjson.dumps({"brokers": place.brokers, "topics": topics}, option=orjson.OPT_INDENT_2))
    else:
        _show(found)


def _as_json(topic: str, gathered: Groups) -> dict[str, Any]:
    return {"topic": topic, "groups": [_group_json(each) for each in gathered.rows()], "others": gathered.others}


def _group_json(group: Group) -> dict[str, Any]:
    from streamkit.cli.dlq.times import iso

    return {
        "count": group.count,
        "first": iso(group.first),
        "last": iso(group.last),
        "error_class": group.fingerprint.error_class,
        "message": group.fingerprint.message,
        "frame": group.fingerprint.frame,
        "sample": group.sample,
    }


def _show(found: dict[str, Groups]) -> None:
    from streamkit.cli.dlq.times import shown
    from streamkit.cli.paper import console, short

    paper = console()
    for number, (topic, gathered) in enumerate(found.items()):
        paper.print(("\n" if number else "") + topic, style="bold", soft_wrap=True)
        for group in gathered.rows():
            error = ": ".join(each for each in group.fingerprint[:2] if each) or "(no error stated)"
            paper.print(f"\n{group.count:>9,}  {short(error, paper.width - INDENT)}")
            frame = group.fingerprint.frame
            if frame:
                paper.print(" " * INDENT + short(f"in {frame}", paper.width - INDENT))
            span = f"{shown(group.first)} to {shown(group.last)}, sample {group.sample}"
            paper.print(" " * INDENT + span, soft_wrap=True)
        if not gathered.rows():
            paper.print("  no dead letters")
        if gathered.others:
            paper.print(f"\n{gathered.others:>9,}  of further errors")
