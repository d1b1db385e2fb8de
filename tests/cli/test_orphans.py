"""What an app has left behind, told by names."""

from collections.abc import Collection

import pytest

from streamkit import App, Retry
from streamkit.cli.orphans import orphaned_groups, orphaned_topics

app = App("billing")
orders = app.topic("orders.v1", value=dict)
kept = app.topic("a.billing.charge.retry-1", value=bytes)


@app.agent(orders, retry=Retry.delays("1s", "2s", "3s"))
async def charge(order: dict[str, object]) -> None: ...


@app.agent(orders, group="of-its-own", retry=Retry.delays("1s", "2s"), dead_letter="a.billing.x.retry-1")
async def other(order: dict[str, object]) -> None: ...


@app.agent(orders)
async def once(order: dict[str, object]) -> None: ...


@pytest.mark.parametrize(
    ("topics", "orphans"),
    [
        (["orders.v1", "orders.v1.billing.charge.retry-1", "orders.v1.of-its-own.retry-2", "orders.v1.dlq"], []),
        # More tiers than the agent has, whatever its group is called; and tiers of an agent that has none.
        (["orders.v1.billing.charge.retry-3"], []),
        (["orders.v1.billing.charge.retry-4"], ["as they are"]),
        (["orders.v1.of-its-own.retry-2", "orders.v1.of-its-own.retry-3"], ["orders.v1.of-its-own.retry-3"]),
        (["orders.v1.billing.once.retry-1"], ["as they are"]),
        # Declared for something else, under the name of a tier.
        (["a.billing.charge.retry-1", "a.billing.x.retry-1"], []),
        (["orders.v1.billing.refund.retry-1", "orders.v1.billing.refund.retry-12"], ["as they are"]),
        (["orders.v1.shop.charge.retry-1"], []),
        (["orders.v1.billing.refund.retry-0", "orders.v1.billing.refund.retry-x", "orders.v1.billing.refund"], []),
        # An agent that is declared, and a topic that it does not read any more.
        (["orders.v0.billing.charge.retry-1"], ["as they are"]),
        # The app's name within a topic of another app's agent.
        (["eu.billing.orders", "eu.billing.orders.shop.charge.retry-1"], []),
        (["eu", "eu.billing.orders.shop.charge.retry-1"], ["eu.billing.orders.shop.charge.retry-1"]),
    ],
)
def test_retry_topics_of_the_app_that_no_agent_declares_are_orphans(
    topics: list[str], orphans: Collection[str]
) -> None:
    assert orphaned_topics(app, topics) == (topics if orphans == ["as they are"] else orphans)


def test_groups_of_the_app_that_no_agent_declares_are_orphans() -> None:
    groups = ["billing.charge", "of-its-own", "billing.refund", "billing", "billings.x", "shop.billing.x"]
    assert orphaned_groups(app, groups) == ["billing.refund"]
