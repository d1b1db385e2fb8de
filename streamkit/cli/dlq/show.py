"""`streamkit dlq show`: one dead letter, whole, with its history and what is left of its source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from streamkit.cli.dlq.options import json_option, where_options
from streamkit.cli.options import Command, epilog

if TYPE_CHECKING:
    from streamkit.cli.dlq.contents import Reading
    from streamkit.cli.dlq.letter_details import LetterDetails
    from streamkit.cli.dlq.lookup import Nearby
    from streamkit.core.cases import CaseStatus


@click.command(cls=Command, epilog=epilog("streamkit dlq show shop 0:1234"))
@click.argument("words", nargs=-1, metavar="[TARGET] ID")
@where_options
@json_option("One object; docs/cli.md lists the keys.")
def show(words: tuple[str, ...], topic: str | None, agent: str | None, brokers: str | None, as_json: bool) -> None:
    """Show the dead letter ID of TARGET, or of --topic.

    Its error, its key and value by the topic's types, its headers, what was done with it, and whether the record it
    came from is still there.
    """
    import asyncio

    from streamkit.cli.dlq.ids import in_one_topic, target_and_id
    from streamkit.cli.dlq.letter_details import letter_details
    from streamkit.cli.dlq.letter_page import print_page
    from streamkit.cli.dlq.where import where

    target, letter_id = target_and_id(words)
    place = where(target, topic, agent, brokers)
    in_one_topic(place)
    found = asyncio.run(letter_details(place, letter_id))
    if as_json:
        import orjson

        click.echo(orjson.dumps(_as_json(found), option=orjson.OPT_INDENT_2))
    else:
        print_page(found)


def _as_json(found: LetterDetails) -> dict[str, Any]:
    from streamkit.cli.dlq import jsonl
    from streamkit.cli.dlq.times import iso

    letter, history, source = found.letter, found.history, found.source
    return {
        **jsonl.as_json(found.topic, history.case),
        "failed_again": history.first is not None,
        "error_stack": letter.error_stack,
        "omitted": letter.omitted,
        "key_read": _content(found.key),
        "value_read": _content(found.value),
        "history": {
            "letter": _status(history.case.status),
            "case": history.first and _status(history.first),
            "run": history.run and {**history.run._asdict(), "at": iso(history.run.at)},
            "audits": list(history.audits),
        },
        "source": {
            "state": source.state,
            "error": source.error,
            "before": [_nearby(each) for each in source.before],
            "after": [_nearby(each) for each in source.after],
        },
    }


def _content(content: Reading) -> dict[str, Any]:
    import orjson

    return {
        "type": content.type_name,
        "json": None if content.decoded is None else orjson.Fragment(content.decoded),
        "error": content.error,
    }


def _status(known: CaseStatus) -> dict[str, Any]:
    from streamkit.cli.dlq.times import iso

    return {
        "status": known.status,
        "at": iso(known.at),
        "who": known.who or None,
        "reason": known.reason or None,
        "job": known.job,
        "replays": known.replays,
    }


def _nearby(each: Nearby) -> dict[str, Any]:
    from streamkit.cli.dlq.jsonl import text_of
    from streamkit.cli.dlq.times import iso

    start, encoding = text_of(each.start)
    return {
        "offset": each.offset,
        "timestamp": iso(each.timestamp),
        "size": each.size,
        "start": start,
        "start_encoding": encoding,
    }
