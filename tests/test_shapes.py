"""Annotations are read although they are strings, and although their types are local to the place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from streamkit import App, DeclarationError, Record

if TYPE_CHECKING:
    from decimal import Decimal


@dataclass
class Order:
    id: str


def test_a_mistake_is_seen_under_the_future_import() -> None:
    app = App("shop")
    orders = app.topic("orders", value=Order)
    with pytest.raises(DeclarationError, match="agent 'a', parameter 'order': it asks for str"):

        @app.agent(orders)  # type: ignore[arg-type]
        async def a(order: str) -> None: ...


def test_types_local_to_the_place_of_the_declaration_are_known() -> None:
    @dataclass
    class Local:
        id: str

    @dataclass
    class Other:
        id: str

    app = App("shop")
    locals_ = app.topic("locals", value=Local)
    others = app.topic("others", value=Other)

    @app.agent(locals_)
    async def value(local: Local) -> None: ...

    @app.agent(locals_)
    async def record(record: Record[str, Local]) -> None: ...

    assert (value.shape, record.shape) == ("value", "record")
    with pytest.raises(DeclarationError, match="it asks for Other, but topic 'locals' holds Local"):

        @app.agent(locals_)  # type: ignore[arg-type]
        async def a(local: Other) -> None: ...

    with pytest.raises(DeclarationError, match="it yields Local, but the sink 'others' takes Other"):

        @app.agent(locals_, sink=others)  # type: ignore[arg-type]
        async def b(local: Local) -> AsyncIterator[Local]:
            yield local


def test_a_quoted_type_is_read_through_both_layers_of_quotes() -> None:
    app = App("shop")
    orders = app.topic("orders", value=Order)

    @app.agent(orders)
    async def whole(record: "Record[str, Order]") -> None: ...  # noqa: UP037

    @app.agent(orders)
    async def inner(record: Record[str, "Order"]) -> None: ...  # noqa: UP037

    assert (whole.shape, inner.shape) == ("record", "record")
    with pytest.raises(DeclarationError, match="it asks for Record"):

        @app.agent(orders)  # type: ignore[arg-type]
        async def a(record: Record[int, "Order"]) -> None: ...  # noqa: UP037


def test_a_type_that_is_imported_for_checkers_only_cannot_be_a_parameters() -> None:
    app = App("shop")
    orders: Any = app.topic("orders", value=Order)
    with pytest.raises(DeclarationError) as caught:

        @app.agent(orders)
        async def a(order: Decimal) -> None: ...

    message = str(caught.value)
    assert message.startswith("agent 'a', parameter 'order': its type 'Decimal' cannot be evaluated (NameError:")
    assert "Import it outside `if TYPE_CHECKING:`" in message


def test_a_result_that_cannot_be_evaluated_costs_only_its_check() -> None:
    app = App("shop")
    orders: Any = app.topic("orders", value=Order)
    texts: Any = app.topic("texts", value=str)

    @app.agent(orders, sink=texts)
    async def a(order: Order) -> Decimal: ...  # type: ignore[empty-body]

    assert a.shape == "value"


def test_another_parameter_that_cannot_be_evaluated_does_no_harm() -> None:
    app = App("shop")

    @app.agent(app.topic("orders", value=Order))
    async def a(order: Order, rate: Decimal | None = None) -> None: ...

    assert a.shape == "value"
