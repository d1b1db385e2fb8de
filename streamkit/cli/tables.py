"""An inventory for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from streamkit.cli.inventory import AgentRow, Inventory, TopicRow
from streamkit.cli.paper import console, table
from streamkit.durations import show_duration

NOTHING = "–"


def show(inventory: Inventory) -> None:
    """Print it: in 80 columns and without colours where standard output is no terminal."""
    paper = console()
    headings = ("agent", "shape", "concurrency", "order", "topics → sink, group, retries")
    agents = table(headings, map(_agent, inventory.agents))
    topics = table(("topic", "declared partitions", "exists", "partitions"), map(_topic, inventory.topics))
    paper.print(agents, "", topics, sep="\n")
    if inventory.error is not None:
        paper.print(f"\nThe cluster at {inventory.brokers} could not be asked: {inventory.error}", soft_wrap=True)
    for kind, names in inventory.orphans.items():
        if names:
            paper.print(f"\nOrphaned {kind}, which app {inventory.app} does not declare any more:")
            paper.print(*(f"  {name}" for name in names), sep="\n", soft_wrap=True)


def _agent(row: AgentRow) -> Sequence[str]:
    # Below each other: side by side they would not fit, and names that are cut in two cannot be copied.
    names = [*row.topics, *([f"→ {row.sink}"] if row.sink else []), f"group {row.group}", *_retries(row)]
    return row.name, row.shape, "–" if row.shape == "loop" else str(row.concurrency), row.order_by, "\n".join(names)


def _retries(row: AgentRow) -> Iterator[str]:
    if row.wait_in_place is not None:
        yield f"retry in place {row.times_in_place} × {show_duration(row.wait_in_place)}"
    if row.tier_waits:
        yield f"retry after {', '.join(map(show_duration, row.tier_waits))}"
    for name in dict.fromkeys(row.dead_letters.values()):
        yield f"dead letters {name}"
    if row.tier_waits and not row.dead_letters:
        yield "no dead letters"


def _topic(row: TopicRow) -> Sequence[str]:
    exists = {True: "yes", False: "no", None: "?"}[row.exists]
    return row.name, str(row.declared_partitions or NOTHING), exists, str(row.partitions or NOTHING)
