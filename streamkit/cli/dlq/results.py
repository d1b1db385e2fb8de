"""What a command that changes something says in the end."""

from __future__ import annotations

from collections.abc import Mapping

import click
import orjson


def dead_letters(count: int) -> str:
    return f"{count:,} dead letter{'' if count == 1 else 's'}"


def left(count: int, why: str) -> str:
    """Some are as they were."""
    return f"{count:,} left as {'it is' if count == 1 else 'they are'}: {why}"


def show_json(
    topic: str, job: str | None, command: str, result: str, counts: Mapping[str, int], unfit: Mapping[str, int]
) -> None:
    """The keys are described in docs/cli.md; without a job nothing was begun."""
    told = {"topic": topic, "job": job, "command": command, "result": result}
    click.echo(orjson.dumps({**told, "counts": dict(counts), "unfit": dict(unfit)}, option=orjson.OPT_INDENT_2))
