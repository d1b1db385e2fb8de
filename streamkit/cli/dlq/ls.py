"""`streamkit dlq ls`: how many dead letters there are, of which agent, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from streamkit.cli.dlq.options import json_option, where_options
from streamkit.cli.options import Command, epilog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamkit.cli.dlq.reading import DeadLetters
    from streamkit.core.groups import AgentTotals, Totals

TOP = 5


@click.command(cls=Command, epilog=epilog("streamkit dlq ls shop"))
@click.argument("target", required=False)
@where_options
@json_option("One object; docs/cli.md lists the keys.")
def ls(target: str | None, topic: str | None, agent: str | None, brokers: str | None, as_json: bool) -> None:
    """Count the dead letters of each agent of TARGET.

    By status, with the oldest that is open, the last hour's failures and the most frequent errors. Reads the whole
    topics.
    """
    import time

    from streamkit.cli.dlq.reading import with_dead_letters
    from streamkit.cli.dlq.where import where
    from streamkit.core.groups import Totals

    place = where(target, topic, agent, brokers)
    now = time.time_ns() // 1_000_000
    found: dict[str, Totals] = {}

    async def count(topics: Sequence[DeadLetters]) -> None:
        for letters in topics:
            totals = found[letters.topic] = Totals(now)
            async for batch in letters.letters():
                for letter in batch:
                    if place.group is None or letter.group == place.group:
                        case = letters.book.case_of(letter)
                        totals.add(letter, letters.book.status(letter).status, case)

    with_dead_letters(place, count)
    if as_json:
        import orjson

        topics = [_as_json(name, totals) for name, totals in found.items()]
        click.echo(orjson.dumps({"brokers": place.brokers, "topics": topics}, option=orjson.OPT_INDENT_2))
    else:
        _show(found, now)


def _as_json(topic: str, totals: Totals) -> dict[str, Any]:
    agents = [_agent_json(group, each) for group, each in totals.agents().items()]
    return {"topic": topic, "agents": agents, "others": totals.others}


def _agent_json(group: str | None, totals: AgentTotals) -> dict[str, Any]:
    from streamkit.cli.dlq.times import iso
    from streamkit.core.cases import STATUSES

    return {
        "group": group,
        **{status: totals.counts[status] for status in STATUSES},
        "failed_again": totals.failed_again,
        "oldest_open": iso(totals.oldest_open),
        "newest": iso(totals.newest),
        "last_hour": totals.last_hour,
        "errors": [{"error_class": name or None, "count": count} for name, count in totals.top(TOP)],
    }


def _show(found: dict[str, Totals], now: int) -> None:
    from streamkit.cli.dlq.times import ago
    from streamkit.cli.paper import clean, console, short, table
    from streamkit.core.cases import STATUSES

    paper = console()
    for number, (topic, totals) in enumerate(found.items()):
        paper.print(("\n" if number else "") + topic, style="bold", soft_wrap=True)
        if not totals.agents():
            paper.print("  no dead letters")
        for group, each in totals.agents().items():
            paper.print("\n" + (clean(group) if group else "(no group stated)"), soft_wrap=True)
            counts = [f"{each.counts[status]:,}" for status in STATUSES]
            paper.print(table(STATUSES, [counts], right=len(counts)))
            oldest, newest = ago(each.oldest_open, now), ago(each.newest, now)
            paper.print(f"oldest open: {oldest}; newest: {newest}; in the last hour: {each.last_hour:,}")
            if each.failed_again:
                paper.print(f"{each.failed_again:,} of them failed again after a replay")
            for name, count in each.top(TOP):
                paper.print(f"  {count:>9,}  {short(name or '(no error stated)', paper.width - 14)}")
        if totals.others:
            paper.print(f"\n{totals.others:,} more, of further groups")
