"""`retry=` and `dead_letter=`: the topics that an agent brings with them, and the names that they must not have."""

from collections.abc import Callable
from typing import Any

import pytest

from streamkit import Agent, App, Batch, DeclarationError, Retry, Stream, Topic

TIERS = Retry.delays("1s", "1m")


class Shop:
    def __init__(self) -> None:
        self.app = App("shop")
        self.orders = self.app.topic("orders", value=str)
        self.returns = self.app.topic("returns", value=str)

    def agent(self, *topics: Topic[Any, Any], name: str = "charge", **arguments: Any) -> Agent[Any, Any]:
        async def handler(value: str) -> None: ...

        declared: Agent[Any, Any] = self.app.agent(*(topics or [self.orders]), name=name, **arguments)(handler)
        return declared


def test_an_agent_has_no_retries_and_no_dead_letters_unless_it_is_told() -> None:
    agent = Shop().agent()
    assert (agent.retry, agent.dead_letters) == (None, {})


def test_tiers_bring_dead_letters_and_runs_in_place_do_not() -> None:
    agent = Shop().agent(retry=TIERS)
    assert (agent.retry, agent.dead_letters) == (TIERS, {"orders": "orders.dlq"})
    assert Shop().agent(retry=Retry.in_place(3)).dead_letters == {}


@pytest.mark.parametrize("retry", [None, TIERS, Retry.in_place(3)], ids=["none", "tiers", "in place"])
def test_dead_letter_decides_otherwise(retry: Retry | None) -> None:
    assert Shop().agent(retry=retry, dead_letter=True).dead_letters == {"orders": "orders.dlq"}
    assert Shop().agent(retry=retry, dead_letter=False).dead_letters == {}
    assert Shop().agent(retry=retry, dead_letter="failed").dead_letters == {"orders": "failed"}
    shop = Shop()
    failed = shop.app.topic("failed", value=bytes)
    assert shop.agent(retry=retry, dead_letter=failed).dead_letters == {"orders": "failed"}


def test_each_topic_has_its_own_dead_letters_and_a_named_topic_those_of_all() -> None:
    shop = Shop()
    both = shop.orders, shop.returns
    assert shop.agent(*both, retry=TIERS).dead_letters == {"orders": "orders.dlq", "returns": "returns.dlq"}
    named = shop.agent(*both, name="named", retry=TIERS, dead_letter="failed")
    assert named.dead_letters == {"orders": "failed", "returns": "failed"}


def test_the_dead_letters_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        Shop().agent(retry=TIERS).dead_letters["orders"] = "elsewhere"  # type: ignore[index]


def test_every_shape_takes_them() -> None:
    shop = Shop()

    async def batch(values: list[str]) -> None: ...
    async def loop(stream: Stream[str]) -> None: ...

    batches = shop.app.agent(shop.orders, batch=Batch(5, within="1s"), retry=TIERS)(batch)
    loops = shop.app.agent(shop.orders, retry=TIERS, dead_letter=False)(loop)
    assert (batches.retry, batches.dead_letters) == (TIERS, {"orders": "orders.dlq"})
    assert (loops.retry, loops.dead_letters) == (TIERS, {})


def test_agents_of_one_topic_share_its_dead_letters() -> None:
    shop = Shop()
    shop.agent(retry=TIERS)
    shop.agent(name="audit", retry=TIERS)
    shop.agent(name="by-name", dead_letter="orders.dlq")
    shop.agent(shop.returns, name="others", dead_letter="orders.dlq")
    assert {topic for agent in shop.app.agents.values() for topic in agent.dead_letters.values()} == {"orders.dlq"}


def test_dead_letters_may_be_read_by_an_agent() -> None:
    shop = Shop()
    failed = shop.app.topic("orders.dlq", value=str)
    shop.agent(retry=TIERS, dead_letter=failed)
    assert shop.app.topic("orders.dlq", value=str) is failed
    assert shop.agent(failed, name="again", dead_letter=True).dead_letters == {"orders.dlq": "orders.dlq.dlq"}


def declares_topic(name: str) -> Callable[[Shop], object]:
    return lambda shop: shop.app.topic(name, value=str)


def declares_agent(name: str, **arguments: Any) -> Callable[[Shop], object]:
    return lambda shop: shop.agent(name=name, **arguments)


CLASHES: list[tuple[Callable[[Shop], object], Callable[[Shop], object], str]] = [
    (declares_topic("orders.dlq"), declares_agent("a", retry=TIERS), "orders.dlq"),
    (declares_topic("failed"), declares_agent("a", dead_letter="failed"), "failed"),
    (declares_topic("orders.shop.a.retry-2"), declares_agent("a", retry=TIERS), "orders.shop.a.retry-2"),
    # A name with dots of another division.
    (
        lambda shop: shop.agent(shop.app.topic("orders.eu", value=str), name="a", group="g", retry=TIERS),
        declares_agent("b", group="eu.g", retry=TIERS),
        "orders.eu.g.retry-1",
    ),
    (
        declares_agent("a", retry=TIERS),
        declares_agent("b", dead_letter="orders.shop.a.retry-1"),
        "orders.shop.a.retry-1",
    ),
    # Names that Kafka takes for one.
    (declares_topic("orders_dlq"), declares_agent("a", retry=TIERS), "orders.dlq"),
    (declares_topic("orders.shop_a.retry-1"), declares_agent("a", retry=TIERS), "orders.shop.a.retry-1"),
    (declares_agent("a", dead_letter="orders_dlq"), declares_agent("b", dead_letter=True), "orders.dlq"),
    (
        declares_agent("x", group="a.b", retry=TIERS),
        declares_agent("y", group="a_b", retry=TIERS),
        "orders.a.b.retry-1",
    ),
    (declares_topic("big.orders"), declares_topic("big_orders"), "big.orders"),
]


@pytest.mark.parametrize(("one", "other", "name"), CLASHES)
@pytest.mark.parametrize("turned", [False, True], ids=["in this order", "in the other"])
def test_no_two_topics_have_one_name_in_whichever_order_they_are_declared(
    one: Callable[[Shop], object], other: Callable[[Shop], object], name: str, turned: bool
) -> None:
    shop = Shop()
    first, second = (other, one) if turned else (one, other)
    first(shop)
    with pytest.raises(DeclarationError) as caught:
        second(shop)
    assert name in str(caught.value)


def test_within_one_agent_too() -> None:
    shop = Shop()
    with pytest.raises(DeclarationError, match="that is retry tier 1 of agent 'charge'"):
        shop.agent(retry=TIERS, dead_letter="orders.shop.charge.retry-1")


def test_what_is_refused_leaves_no_names_behind() -> None:
    shop = Shop()
    shop.app.topic("orders.dlq", value=str)
    with pytest.raises(DeclarationError, match=r"dead letter topic cannot be called 'orders\.dlq'"):
        shop.agent(retry=TIERS)
    assert not shop.app.agents
    shop.app.topic("orders.shop.charge.retry-1", value=str)
    with pytest.raises(DeclarationError, match="is declared twice"):
        shop.app.topic("orders", value=bytes)
    shop.agent(name="other", dead_letter="failed")
    with pytest.raises(DeclarationError, match="cannot be called 'failed'"):
        shop.app.topic("failed", value=str)
    assert "failed" not in shop.app.topics


def test_names_as_long_as_kafka_allows_are_taken() -> None:
    shop = Shop()
    name = "t" * (249 - len(".dlq"))
    topic = shop.app.topic(name, value=str)
    assert shop.agent(topic, dead_letter=True).dead_letters == {name: f"{name}.dlq"}
    longest = "g" * (249 - len("orders..retry-9"))
    shop.agent(name="nine", group=longest, retry=Retry.delays(*["1s"] * 9))
    with pytest.raises(DeclarationError, match=r"retry tier 10 .* has 250 characters, and Kafka allows 249"):
        Shop().agent(group=longest, retry=Retry.delays(*["1s"] * 10))


@pytest.mark.parametrize("wrong", [0, 1.0, [], b"failed", None.__class__])
def test_what_is_no_dead_letter_topic_is_named(wrong: object) -> None:
    with pytest.raises(DeclarationError, match="is none of True, False, a topic or the name of one"):
        Shop().agent(dead_letter=wrong)


@pytest.mark.parametrize("name", ["orders", "returns"])
def test_an_agent_does_not_read_its_own_dead_letters(name: str) -> None:
    shop = Shop()
    with pytest.raises(DeclarationError, match=f"the agent reads '{name}' itself"):
        shop.agent(shop.orders, shop.returns, dead_letter=name)
