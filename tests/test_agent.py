"""What a type checker refuses (tests/typing/bad.py) is refused at import as well, naming agent and parameter."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Never

import pytest

from streamkit import Agent, App, DeclarationError, Output, Record, Topic
from tests.ids import without_address


@dataclass(frozen=True)
class Order:
    id: str


@dataclass(frozen=True)
class Invoice:
    order_id: str


app = App("billing")
orders = app.topic("orders", value=Order)
invoices = app.topic("invoices", value=Invoice)
alerts = app.topic("alerts", value=str, key=int)
accounts = app.topic("accounts", value=Order | None)


def declare(handler: Any, topic: Topic[Any, Any] = orders, **arguments: Any) -> Agent[Any, Any]:
    """Declare an agent in an app of its own, so that cases do not see each other."""
    app = App("billing")
    for known in (orders, invoices, alerts, accounts):
        app._topics[known.name] = known
    agent: Agent[Any, Any] = app.agent(topic, **arguments)(handler)
    return agent


def refusal(handler: Any, topic: Topic[Any, Any] = orders, **arguments: Any) -> str:
    with pytest.raises(DeclarationError) as caught:
        declare(handler, topic, **arguments)
    return str(caught.value)


def test_the_defaults_are_the_stated_ones() -> None:
    async def audit(order: Order) -> None: ...

    agent = declare(audit)
    assert (agent.name, agent.group, agent.topics, agent.sink) == ("audit", "billing.audit", (orders,), None)
    assert (agent.shape, agent.is_generator, agent.handler) == ("value", False, audit)
    assert (agent.concurrency, agent.order_by, agent.timeout) == (1, "key", None)
    assert (agent.start_from, agent.on_gap) == ("earliest", "stop")


def test_what_is_declared_is_kept() -> None:
    async def audit(order: Order) -> None: ...

    def by_id(record: Record[str, Order]) -> str:
        return record.value.id

    agent = declare(
        audit,
        sink=invoices,
        name="other",
        group="ours",
        concurrency=64,
        order_by=by_id,
        timeout="10s",
        start_from="latest",
        on_gap="earliest",
    )
    assert (agent.name, agent.group, agent.sink) == ("other", "ours", invoices)
    assert (agent.concurrency, agent.order_by, agent.timeout) == (64, by_id, 10.0)
    assert (agent.start_from, agent.on_gap) == ("latest", "earliest")


def test_a_handler_that_asks_for_the_record_gets_the_record() -> None:
    async def trace(record: Record[str, Order]) -> None: ...
    async def bare(record: Record) -> None: ...  # type: ignore[type-arg]

    assert declare(trace).shape == "record"
    assert declare(bare).shape == "record"


def test_a_generator_is_seen_as_one() -> None:
    async def split(order: Order) -> AsyncIterator[Invoice]:
        yield Invoice(order.id)

    assert declare(split, sink=invoices).is_generator


def test_an_agent_is_tested_by_calling_it() -> None:
    async def charge(order: Order) -> Invoice:
        return Invoice(order.id)

    assert asyncio.run(declare(charge, sink=invoices)(Order("a"))) == Invoice("a")


def test_an_agent_shows_its_name_topics_and_group() -> None:
    async def audit(order: Order) -> None: ...

    assert repr(declare(audit)) == "Agent('audit', topics=['orders'], group='billing.audit')"


async def returns_output(order: Order) -> Output[Invoice]: ...  # type: ignore[empty-body]
async def returns_either(order: Order) -> Invoice | Output[Invoice] | None: ...
async def routes(order: Order) -> Output[Never] | None: ...
async def routes_any(order: Order) -> Output[Any]: ...  # type: ignore[empty-body]
async def with_default(order: Order, retries: int = 3) -> None: ...
async def with_rest(*orders: Order, **options: int) -> None: ...
async def wider(order: object) -> None: ...
async def unannotated(order): ...  # type: ignore[no-untyped-def]
async def never_returns(order: Order) -> Never:
    raise NotImplementedError


class Handler:
    async def __call__(self, order: Order) -> None: ...
    async def method(self, order: Order) -> None: ...
    @staticmethod
    async def static(order: Order) -> None: ...


async def with_database(database: str, order: Order) -> None: ...


def logged(handler: Callable[[Order], Awaitable[None]]) -> Callable[[Order], Awaitable[None]]:
    @functools.wraps(handler)
    async def wrapper(order: Order) -> None:
        await handler(order)

    return wrapper


@pytest.mark.parametrize(
    ("handler", "sink"),
    [
        (returns_output, invoices),
        (returns_either, invoices),
        (routes, None),
        (routes_any, None),
        (routes_any, invoices),
        (with_default, None),
        (with_rest, None),
        (wider, None),
        (unannotated, None),
        (never_returns, None),
        (Handler(), None),
        (Handler().method, None),
        (Handler.static, None),
        (functools.partial(with_database, "db"), None),
        (logged(wider), None),
    ],
    ids=without_address,
)
def test_handlers_of_every_kind_are_accepted(handler: Any, sink: Topic[Any, Any] | None) -> None:
    assert declare(handler, sink=sink, name="x").shape == "value"


def test_a_handler_without_a_name_needs_one() -> None:
    assert "agent: " in refusal(Handler()) and "give name=" in refusal(Handler())


def test_the_wrong_type_of_value_is_refused() -> None:
    async def a(order: Invoice) -> None: ...

    assert refusal(a) == "agent 'a', parameter 'order': it asks for Invoice, but topic 'orders' holds Order"


def test_the_wrong_type_of_value_in_a_record_is_refused() -> None:
    async def a(record: Record[str, Invoice]) -> None: ...

    assert refusal(a) == (
        "agent 'a', parameter 'record': it asks for Record[str, Invoice], but topic 'orders' holds Order"
    )


def test_the_wrong_type_of_key_is_refused() -> None:
    async def a(record: Record[int, Order]) -> None: ...

    assert refusal(a) == (
        "agent 'a', parameter 'record': it asks for Record[int, Order], but topic 'orders' has keys of type str"
    )


def test_a_sequence_of_values_is_refused() -> None:
    async def a(batch: Sequence[Order]) -> None: ...

    assert "parameter 'batch': it asks for Sequence[Order], but topic 'orders' holds Order" in refusal(a)


def test_a_value_that_may_be_none_must_be_taken_as_such() -> None:
    async def value(order: Order) -> None: ...
    async def record(record: Record[str, Order]) -> None: ...

    for handler in (value, record):
        message = refusal(handler, accounts)
        assert "topic 'accounts' holds Order | None. The value may be None (a tombstone)" in message


def test_a_result_that_the_sink_does_not_take_is_refused() -> None:
    async def a(order: Order) -> Order: ...  # type: ignore[empty-body]

    assert refusal(a, sink=invoices) == "agent 'a', result: it returns Order, but the sink 'invoices' takes Invoice"


def test_an_output_that_the_sink_does_not_take_is_refused() -> None:
    async def a(order: Order) -> Invoice | Output[Order]: ...  # type: ignore[empty-body]

    assert "it returns Output[Order], but the sink 'invoices' takes Invoice" in refusal(a, sink=invoices)


def test_a_yielded_type_that_the_sink_does_not_take_is_refused() -> None:
    async def a(order: Order) -> AsyncIterator[Order]:
        yield order

    assert "it yields Order, but the sink 'invoices' takes Invoice" in refusal(a, sink=invoices)


def test_yielding_none_is_refused() -> None:
    async def a(order: Order) -> AsyncIterator[Invoice | None]:
        yield None

    assert "it yields None, but the sink 'invoices' takes Invoice" in refusal(a, sink=invoices)


def test_a_result_without_a_sink_is_refused() -> None:
    async def value(order: Order) -> Invoice: ...  # type: ignore[empty-body]
    async def output(order: Order) -> Output[Invoice]: ...  # type: ignore[empty-body]

    assert (
        refusal(value)
        == "agent 'value', result: it returns Invoice, but the agent has no sink=; give it one, or return None"
    )
    assert "it returns Output[Invoice], but the agent has no sink=; give it one, or return None" in refusal(output)


def test_a_generator_without_a_sink_is_refused() -> None:
    async def a(order: Order) -> AsyncIterator[Invoice]:
        yield Invoice(order.id)

    assert refusal(a) == "agent 'a', result: it yields values, but the agent has no sink=; give it one"


def test_a_key_that_cannot_be_passed_on_must_be_stated() -> None:
    async def a(order: Order) -> str: ...  # type: ignore[empty-body]
    async def stated(order: Order) -> Output[str] | None: ...

    message = refusal(a, sink=alerts)
    assert "the keys of 'orders' are str and those of the sink 'alerts' are int" in message
    assert "return Output(value, key=...)" in message
    assert declare(stated, sink=alerts).sink is alerts


def test_a_handler_that_is_not_async_is_refused() -> None:
    def a(order: Order) -> None: ...
    def b(order: Order) -> Iterator[Invoice]:
        yield Invoice(order.id)

    assert refusal(a).startswith("agent 'a': its handler is not async. Declare it with `async def`")
    assert "asyncio.to_thread" in refusal(a)
    assert "agent 'b': its handler is a plain generator" in refusal(b)


def test_what_is_no_function_is_refused() -> None:
    assert refusal(5, name="a") == "agent 'a': its handler is 5, not a function"
    assert "its handler is the class Order; decorate an `async def` function" in refusal(Order, name="a")


def test_a_handler_takes_exactly_one_argument() -> None:
    async def none() -> None: ...
    async def two(key: str, order: Order) -> None: ...
    async def keyword(order: Order, *, database: str) -> None: ...
    async def only_keyword(*, order: Order) -> None: ...

    assert "agent 'none': its handler has no parameter to take" in refusal(none)
    assert "agent 'two': its handler is called with one argument, and parameter 'order'" in refusal(two)
    assert "parameter 'database' would be missing" in refusal(keyword)
    assert "agent 'only_keyword': its handler has no parameter to take" in refusal(only_keyword)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order_by": "keys"}, "agent 'a', order_by: 'keys' is none of 'key', 'partition', 'none' or a function"),
        ({"order_by": []}, "agent 'a', order_by: [] is none of"),
        ({"timeout": 5}, "agent 'a', timeout: 5: not a duration"),
        ({"timeout": "0s"}, "agent 'a', timeout: '0s': must be more than 0"),
        ({"timeout": timedelta(seconds=-1)}, "agent 'a', timeout: "),
        ({"concurrency": "8"}, "agent 'a', concurrency: '8' is not a whole number of at least 1"),
        ({"concurrency": 0}, "agent 'a', concurrency: 0 is not a whole number of at least 1"),
        ({"start_from": "newest"}, "agent 'a', start_from: 'newest' is none of 'earliest', 'latest'"),
        ({"on_gap": "skip"}, "agent 'a', on_gap: 'skip' is none of 'stop', 'earliest', 'latest'"),
        ({"group": "our group"}, "agent 'a', group: 'our group' is not a name"),
        ({"group": ""}, "agent 'a', group: '' is not a name"),
        ({"name": "a b"}, "agent: 'a b' is not a name"),
        ({"sink": "invoices"}, "App.agent, sink: 'invoices' is not a topic"),
        ({"topic": "orders"}, "App.agent, topic: 'orders' is not a topic"),
    ],
    ids=str,
)
def test_a_bad_argument_is_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    async def a(order: Order) -> None: ...

    assert refusal(a, **arguments).startswith(message)


def test_an_async_order_by_is_refused() -> None:
    async def a(order: Order) -> None: ...
    async def by_id(record: Record[str, Order]) -> str:
        return record.value.id

    assert "agent 'a', order_by: the function must not be async" in refusal(a, order_by=by_id)


def test_forgetting_to_call_agent_with_a_topic_is_refused() -> None:
    async def a(order: Order) -> None: ...

    with pytest.raises(DeclarationError, match=r"topic: it is missing; write `@app.agent\(TOPIC\)` above"):
        app.agent(a)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
