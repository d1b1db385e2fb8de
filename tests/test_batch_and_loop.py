"""What may be declared of batches and loops, and what is refused at import."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias

import pytest

from streamkit import App, Batch, BatchError, DeclarationError, Output, Record, Stream, Topic
from streamkit.shapes import Item, Shape


@dataclass(frozen=True)
class Order:
    id: str


@dataclass(frozen=True)
class Invoice:
    order_id: str


Orders: TypeAlias = list[Order]
BATCH = Batch(10, within="1s")


def declare(handler: Any, **arguments: Any) -> tuple[Shape, Item]:
    app = App("billing")
    topics: dict[str, Topic[Any, Any]] = {
        "orders": app.topic("orders", value=Order),
        "invoices": app.topic("invoices", value=Invoice),
        "alerts": app.topic("alerts", value=Invoice, key=int),
        "lists": app.topic("lists", value=list[Order]),
    }
    if "sink" in arguments:
        arguments["sink"] = topics[arguments["sink"]]
    agent = app.agent(topics[arguments.pop("topic", "orders")], **arguments)(handler)
    return agent.shape, agent.item


def refusal(handler: Any, **arguments: Any) -> str:
    with pytest.raises(DeclarationError) as caught:
        declare(handler, **arguments)
    return str(caught.value)


def test_a_batch_may_be_any_kind_of_list_of_values_or_records() -> None:
    async def a_sequence(batch: Sequence[Order]) -> None: ...
    async def a_list(batch: list[Order]) -> None: ...
    async def an_iterable(batch: Iterable[Order]) -> None: ...
    async def an_alias(batch: Orders) -> None: ...
    async def bare(batch: list) -> None: ...  # type: ignore[type-arg]
    async def untold(batch) -> None: ...  # type: ignore[no-untyped-def]
    async def anything(batch: Any) -> None: ...
    async def wider(batch: Sequence[object]) -> None: ...

    for handler in (a_sequence, a_list, an_iterable, an_alias, bare, untold, anything, wider):
        assert declare(handler, batch=BATCH) == ("batch", "value")

    async def records(batch: Sequence[Record[str, Order]]) -> None: ...
    async def bare_records(batch: list[Record]) -> None: ...  # type: ignore[type-arg]

    for handler in (records, bare_records):
        assert declare(handler, batch=BATCH) == ("batch", "record")


def test_a_batch_of_lists_is_told_from_a_list() -> None:
    async def lists(batch: Sequence[list[Order]]) -> None: ...
    async def a_list(value: list[Order]) -> None: ...

    assert declare(lists, topic="lists", batch=BATCH) == ("batch", "value")
    assert declare(a_list, topic="lists") == ("value", "value")


def test_a_batch_returns_outputs_that_state_their_keys() -> None:
    async def a_list(batch: list[Order]) -> list[Output[Invoice]]: ...  # type: ignore[empty-body]
    async def perhaps(batch: list[Order]) -> Iterable[Output[Invoice]] | None: ...
    async def untold(batch: list[Order]): ...  # type: ignore[no-untyped-def]
    async def an_iterator(batch: list[Order]) -> Iterator[Output[Invoice]]: ...  # type: ignore[empty-body]

    for handler in (a_list, perhaps, untold, an_iterator):
        assert declare(handler, batch=BATCH, sink="invoices") == ("batch", "value")
        assert declare(handler, batch=BATCH, sink="alerts") == ("batch", "value")

    async def elsewhere(batch: list[Order]) -> list[Output[Any]]: ...  # type: ignore[empty-body]

    assert declare(elsewhere, batch=BATCH) == ("batch", "value")


def test_a_loop_takes_a_stream_of_values_or_records() -> None:
    async def values(stream: Stream[Order]) -> None: ...
    async def bare(stream: Stream) -> None: ...  # type: ignore[type-arg]
    async def records(stream: Stream[Record[str, Order]]) -> None: ...

    assert declare(values) == ("loop", "value")
    assert declare(bare) == ("loop", "value")
    assert declare(records) == ("loop", "record")

    async def yields(stream: Stream[Order]) -> AsyncIterator[Invoice]:
        yield Invoice("")

    async def rekeys(stream: Stream[Order]) -> AsyncIterator[Output[Invoice]]:
        yield Output(Invoice(""), key=1)

    assert declare(yields, sink="invoices") == ("loop", "value")
    assert declare(rekeys, sink="alerts") == ("loop", "value")


def test_a_list_without_batch_is_refused_with_the_way_to_get_one() -> None:
    async def a(batch: Sequence[Order]) -> None: ...

    assert refusal(a) == (
        "agent 'a', parameter 'batch': it asks for Sequence[Order], but topic 'orders' holds Order. "
        "To get several at a time, declare batch=Batch(size, within=...)"
    )


def test_batch_without_a_list_is_refused() -> None:
    async def a(order: Order) -> None: ...
    async def b(text: str) -> None: ...
    async def c(stream: Stream[Order]) -> None: ...

    assert refusal(a, batch=BATCH) == (
        "agent 'a', parameter 'order': it asks for Order, but batch= passes a list: ask for Sequence[Order]"
    )
    assert "it asks for str, but batch= passes a list" in refusal(b, batch=BATCH)
    assert "it asks for a Stream, to which batch= does not apply" in refusal(c, batch=BATCH)


def test_lists_and_streams_of_other_types_are_refused() -> None:
    async def a(batch: list[Invoice]) -> None: ...
    async def b(batch: list[Record[int, Order]]) -> None: ...
    async def c(stream: Stream[Invoice]) -> None: ...
    async def d(stream: Stream[Record[str, Invoice]]) -> None: ...

    assert "it asks for list[Invoice], but topic 'orders' holds Order" in refusal(a, batch=BATCH)
    assert "topic 'orders' has keys of type str" in refusal(b, batch=BATCH)
    assert "it asks for Stream[Invoice], but topic 'orders' holds Order" in refusal(c)
    assert "topic 'orders' holds Order" in refusal(d)


def test_a_batch_that_returns_something_else_is_refused() -> None:
    async def a(batch: list[Order]) -> list[Invoice]: ...  # type: ignore[empty-body]
    async def b(batch: list[Order]) -> Invoice: ...  # type: ignore[empty-body]
    async def c(batch: list[Order]) -> list[Output[Order]]: ...  # type: ignore[empty-body]
    async def e(batch: list[Order]) -> str: ...  # type: ignore[empty-body]

    async def d(batch: list[Order]) -> AsyncIterator[Output[Invoice]]:
        yield Output(Invoice(""), key="")

    assert refusal(a, batch=BATCH, sink="invoices") == (
        "agent 'a', result: it returns list[Invoice], but for a batch each output states its key: "
        "return Iterable[Output[Invoice]]"
    )
    assert "it returns Invoice, but a batch returns an Iterable of Output" in refusal(b, batch=BATCH, sink="invoices")
    assert "but the sink 'invoices' takes Invoice" in refusal(c, batch=BATCH, sink="invoices")
    assert "it yields, but a batch is settled as a whole" in refusal(d, batch=BATCH, sink="invoices")
    assert "it returns str, but a batch returns" in refusal(e, batch=BATCH, sink="invoices")
    assert "but the agent has no sink=" in refusal(c, batch=BATCH)


def test_a_loop_that_yields_something_else_is_refused() -> None:
    async def a(stream: Stream[Order]) -> AsyncIterator[Order]:
        yield Order("")

    async def b(stream: Stream[Order]) -> AsyncIterator[Invoice]:
        yield Invoice("")

    assert "it yields Order, but the sink 'invoices' takes Invoice" in refusal(a, sink="invoices")
    assert "so the record's key cannot be passed on: return Output(value, key=...)" in refusal(b, sink="alerts")
    assert "it yields values, but the agent has no sink=" in refusal(b)


@pytest.mark.parametrize("given", [{"concurrency": 1}, {"concurrency": 8}, {"order_by": "key"}])
def test_concurrency_and_order_by_do_not_apply_to_loops(given: dict[str, Any]) -> None:
    async def a(stream: Stream[Order]) -> None: ...

    (name,) = given
    assert refusal(a, **given) == f"agent 'a', {name}: does not apply to a loop, which goes by partition"


def test_order_by_does_not_apply_to_batches_and_concurrency_does() -> None:
    async def a(batch: list[Order]) -> None: ...

    assert "order_by: does not apply to a batch" in refusal(a, batch=BATCH, order_by="none")
    assert declare(a, batch=BATCH, concurrency=8) == ("batch", "value")


@pytest.mark.parametrize(
    ("size", "within", "says"),
    [
        (0, "1s", "Batch, size: 0 is not a whole number of at least 1"),
        ("9", "1s", "Batch, size: '9' is not"),
        (9, "1", "Batch, within: '1': not a duration"),
        (9, 1, "Batch, within: 1: not a duration"),
        (9, timedelta(0), "Batch, within: datetime.timedelta(0): must be more than 0"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(size: Any, within: Any, says: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        Batch(size, within=within)
    assert str(caught.value).startswith(says)


def test_a_batch_shows_what_it_is() -> None:
    assert Batch(5, within=timedelta(seconds=2)) == Batch(5, within="2s")
    assert repr(Batch(5, within="2s")) == "Batch(size=5, within=2.0)"


def test_batch_takes_a_batch() -> None:
    async def a(batch: list[Order]) -> None: ...

    assert '500 is not a Batch; write batch=Batch(500, within="200ms")' in refusal(a, batch=500)


@pytest.mark.parametrize(
    ("errors", "says"),
    [
        ({}, "BatchError names no failed record: return, if all of the batch was handled"),
        ({-1: ValueError()}, "BatchError takes {place from 0: exception}, not {-1: ValueError()}"),
        ({"0": ValueError()}, "not {'0': ValueError()}"),
        ({0: "no"}, "not {0: 'no'}"),
    ],
)
def test_a_batch_error_that_cannot_be_is_refused(errors: Any, says: str) -> None:
    with pytest.raises(ValueError, match="BatchError") as caught:
        BatchError(errors)
    assert says in str(caught.value)


def test_a_batch_error_says_what_failed_first() -> None:
    error = BatchError({3: KeyError("x"), 1: ValueError("no")})
    assert list(error.errors) == [1, 3]
    assert str(error) == "2 failed, the first at 1: ValueError: no"


def test_agents_of_batches_and_loops_are_called_as_their_handlers() -> None:
    app = App("billing")
    orders = app.topic("orders", value=Order)
    invoices = app.topic("invoices", value=Invoice)

    @app.agent(orders, batch=BATCH, sink=invoices)
    async def bill(batch: list[Order]) -> list[Output[Invoice]]:
        return [Output(Invoice(order.id), key=order.id) for order in batch]

    @app.agent(orders, sink=invoices)
    async def loop(stream: Stream[Order]) -> AsyncIterator[Invoice]:
        async for order in stream:
            yield Invoice(order.id)

    async def calls() -> None:
        outputs = await bill([Order("1")]) or ()
        assert [output.value for output in outputs] == [Invoice("1")]
        assert [out async for out in loop(Stream([Order("1"), Order("2")]))] == [Invoice("1"), Invoice("2")]

    asyncio.run(calls())


def test_several_topics_must_be_of_one_type_and_different() -> None:
    app = App("billing")
    orders = app.topic("orders", value=Order)
    more = app.topic("more", value=Order)
    invoices: Any = app.topic("invoices", value=Invoice)
    numbered: Any = app.topic("numbered", value=Order, key=int)

    async def a(order: Order) -> None: ...

    agent = app.agent(orders, more)(a)
    assert agent.topics == (orders, more)
    for others, says in [
        ((invoices,), "Topic('invoices', value=Invoice, key=str) differs from Topic('orders', value=Order, key=str)"),
        ((numbered,), "in key_type"),
        ((more, orders), "Topic('orders', value=Order, key=str) is given twice"),
        (("more",), "App.agent, topic: 'more' is not a topic"),
    ]:
        with pytest.raises(DeclarationError) as caught:
            app.agent(orders, *others, name="b")(a)
        assert says in str(caught.value)
