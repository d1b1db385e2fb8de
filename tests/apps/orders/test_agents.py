"""Each handler by itself: it is called, without a broker and without a worker."""

import asyncio
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apps.orders import agents
from apps.orders.model import (
    Alert,
    Csv,
    Customer,
    Demand,
    Entry,
    Invoice,
    Line,
    Movement,
    Order,
    Revenue,
    Total,
)
from apps.orders.services import Ledger, Payments, Services, lifespan
from streamkit import App, BatchError, Output, Record, RecordFailed, Stream

ORDER = Order("1", "ada", "ada@example.com", (Line(7, 2, 3000), Line(9, 1, 500)))
FREE = Order("2", "ada", "ada@example.com", (Line(3, 1, 0),))
LARGE = Order("3", "ada", "ada@example.com", (Line(12, 1, 125_000),))
INVOICE = Invoice("1", "ada", 3500, "receipt-1")


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    found = Services(Payments(), Ledger(":memory:"))
    monkeypatch.setattr(agents, "services", lambda: found)
    yield found
    found.ledger.close()


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the lifespan finds its database."""
    path = tmp_path / "ledger.sqlite"
    monkeypatch.setenv("ORDERS_LEDGER", str(path))
    return path


async def listed(outputs: Any) -> list[Any]:
    return [output async for output in outputs]


def shown(output: Output[Any]) -> tuple[Any, Any]:
    return output.value, output.key


def test_the_app_is_what_the_package_holds() -> None:
    import apps.orders

    assert isinstance(apps.orders.app, App)
    assert {agent.shape for agent in agents.app.agents.values()} == {"value", "record", "batch", "loop"}
    assert all(topic.partitions for topic in agents.app.topics.values())


# snippet: test-charge
def test_an_order_is_charged_and_a_free_one_is_not(services: Services) -> None:
    assert asyncio.run(agents.charge(ORDER)) == Invoice("1", "ada", 3500, "receipt-1")
    assert asyncio.run(agents.charge(FREE)) is None


# end: test-charge


def test_each_line_is_a_movement_under_its_article() -> None:
    outputs = asyncio.run(listed(agents.ship(ORDER)))
    assert [shown(output) for output in outputs] == [(Movement(7, 2, "1"), 7), (Movement(9, 1, "1"), 9)]


# snippet: test-audit
def test_the_audit_says_where_an_order_came_from_and_when() -> None:
    record = Record("ada", ORDER, topic="shop.orders.imported.v1", timestamp_ms=1_700_000_000_000)
    output = asyncio.run(agents.audit(record))
    assert isinstance(output, Output)
    assert output.value == Entry("1", "shop.orders.imported.v1", 3500)
    assert output.headers == [("placed-at", b"2023-11-14T22:13:20+00:00")]


# end: test-audit


def test_a_mail_goes_to_the_address_of_the_order_and_waits_for_others_to_that_address() -> None:
    output = asyncio.run(agents.notify(ORDER))
    assert (output.topic, output.key) == (agents.mails, "ada@example.com")
    assert agents.recipient(Record("ada", ORDER)) == "ada@example.com"


# snippet: test-app
def test_a_large_order_is_charged_and_looked_at(ledger: Path) -> None:
    async def scenario() -> None:
        async with agents.app.test() as test:
            await test.send(agents.orders, LARGE, key="ada")
            await test.drain()
            assert test.sent(agents.invoices) == [Invoice("3", "ada", 125_000, "receipt-3")]
            assert test.sent(agents.alerts) == [Alert("3", 125_000)]
            assert "We look at your order 3: case 0." in test.sent(agents.mails)
            (movement,) = test.records(agents.movements)
            assert (movement.key, movement.value.pieces) == (12, 1)

    asyncio.run(scenario())


# end: test-app


def test_any_other_order_is_no_case(ledger: Path) -> None:
    async def scenario() -> None:
        async with agents.app.test() as test:
            await test.send(agents.orders, ORDER, key="ada")
            await test.drain()
            assert test.sent(agents.alerts) == []
            assert test.sent(agents.mails) == ["We have got your order 1."]

    asyncio.run(scenario())


# snippet: test-failure
def test_an_invoice_that_the_table_refuses_stops_the_app(ledger: Path) -> None:
    async def scenario() -> None:
        async with agents.app.test() as test:
            await test.send(agents.invoices, Invoice("2", "ada", -1, "receipt-2"), key="ada")
            await test.drain()

    with pytest.raises(RecordFailed, match="agent 'archive' failed at stage handle") as caught:
        asyncio.run(scenario())
    assert isinstance(caught.value.cause, sqlite3.IntegrityError)


# end: test-failure


def test_invoices_are_archived_once_however_often_they_come(services: Services) -> None:
    asyncio.run(agents.archive([INVOICE, INVOICE]))
    asyncio.run(agents.archive([INVOICE]))
    assert services.ledger.revenue() == 3500


# snippet: test-archive
def test_what_the_table_refuses_is_named_and_the_rest_is_stored(services: Services) -> None:
    refused = Invoice("2", "ada", -1, "receipt-2")
    with pytest.raises(BatchError) as caught:
        asyncio.run(agents.archive([INVOICE, refused]))
    assert caught.value.errors.keys() == {1}
    assert services.ledger.revenue() == INVOICE.cents


# end: test-archive


def test_the_demand_sums_up_the_pieces_of_each_article() -> None:
    outputs = asyncio.run(agents.restock([Movement(7, 2, "1"), Movement(9, 1, "1"), Movement(7, 1, "2")]))
    assert outputs is not None
    assert [shown(output) for output in outputs] == [(Demand(7, 3), 7), (Demand(9, 1), 9)]


# snippet: test-total
def test_totals_run_for_each_customer() -> None:
    stream = Stream([INVOICE, Invoice("2", "bob", 800, "receipt-2"), INVOICE])
    assert asyncio.run(listed(agents.total(stream))) == [Total(1, 3500), Total(1, 800), Total(2, 7000)]


# end: test-total


def test_a_customer_who_has_left_leaves_a_tombstone_and_others_nothing() -> None:
    output = asyncio.run(agents.forget(None))
    assert isinstance(output, Output)
    assert output.value is None
    assert asyncio.run(agents.forget(Customer("Ada"))) is None


def test_the_revenue_is_what_the_ledger_holds(ledger: Path) -> None:
    async def scenario() -> None:
        async with agents.app.test() as test:
            await test.send(agents.invoices, INVOICE, key="ada")
            await test.drain()
            await agents.tell_revenue()
            await test.drain()
            assert [(each.key, each.value) for each in test.records(agents.revenue)][-1] == ("all", Revenue(3500))

    asyncio.run(scenario())


def test_an_error_is_reported_with_the_place_of_its_record(caplog: pytest.LogCaptureFixture) -> None:
    agents.report(ValueError(), Record("ada", ORDER, "shop.orders.v1", 2, 17))
    agents.report(OSError(), None)
    first, second = caplog.messages
    assert first.endswith("ValueError at Record(shop.orders.v1[2] offset 17, key 'ada')")
    assert second.endswith("OSError outside of a record")
    assert {record.levelno for record in caplog.records} == {logging.CRITICAL}


@pytest.mark.parametrize("entry", [Entry("1", "a,b", 5), Entry('"', "é\n", -5)])
def test_a_line_of_csv_is_read_as_it_was_written(entry: Entry) -> None:
    codec = Csv()
    assert codec.decode(codec.encode(entry)) == entry


def test_the_lifespan_opens_the_database_and_closes_it(ledger: Path) -> None:
    async def live() -> Ledger:
        async with lifespan(agents.app) as found:
            found.ledger.add([INVOICE])
        return found.ledger

    closed = asyncio.run(live())
    with pytest.raises(sqlite3.ProgrammingError):
        closed.revenue()
    again = Ledger(str(ledger))
    assert again.revenue() == 3500
    again.close()
