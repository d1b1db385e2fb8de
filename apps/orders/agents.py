"""The app: orders come in, and are charged, shipped, mailed, archived, totalled, watched and audited.

The pages in docs/ show parts of this file, between the comments `snippet` and `end`.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

from apps.orders.model import (
    Alert,
    Csv,
    Customer,
    Demand,
    Entry,
    Invoice,
    Movement,
    Order,
    Revenue,
    Total,
)
from apps.orders.services import Services, lifespan
from streamkit import App, Batch, BatchError, Output, Record, Stream

log = logging.getLogger(__name__)

LARGE = 100_000  # cents


# snippet: on-error
def report(error: BaseException, record: Record[Any, Any] | None) -> None:
    """Called with what is about to stop the worker; the place to tell Sentry and the like."""
    where = "outside of a record" if record is None else f"at {record!r}"
    log.critical("somebody must look at this: %s %s", type(error).__name__, where)


app = App("orders", lifespan=lifespan, on_error=report)
# end: on-error

# snippet: topics
orders = app.topic("shop.orders.v1", value=Order, partitions=4)  # keyed by customer
imported = app.topic("shop.orders.imported.v1", value=Order, partitions=2)  # of a shop that we have bought
customers = app.topic("shop.customers.v1", value=Customer | None, partitions=2)  # None: has left
invoices = app.topic("shop.invoices.v1", value=Invoice, partitions=4)
movements = app.topic("shop.movements.v1", value=Movement, key=int, partitions=2)  # keyed by article
# end: topics
demand = app.topic("shop.demand.v1", value=Demand, key=int, partitions=2)
totals = app.topic("shop.totals.v1", value=Total | None, partitions=2, config={"cleanup.policy": "compact"})
mails = app.topic("shop.mails.v1", value=str, partitions=2)
alerts = app.topic("shop.alerts.v1", value=Alert, partitions=1)
revenue = app.topic("shop.revenue.v1", value=Revenue, partitions=1, retention="1d")
entries = app.topic("shop.audit.v1", value=Entry, codec=Csv(), partitions=1)


# snippet: services
def services() -> Services:
    state: Services = app.state  # what the lifespan has yielded; type checkers cannot know it
    return state


# end: services


# snippet: charge
@app.agent(orders, sink=invoices, concurrency=64, timeout="10s")
async def charge(order: Order) -> Invoice | None:
    if not order.cents:
        return None  # nothing is sent
    receipt = await services().payments.charge(order.id, order.cents)
    return Invoice(order.id, order.customer, order.cents, receipt)


# end: charge


# snippet: ship
@app.agent(orders, sink=movements)
async def ship(order: Order) -> AsyncIterator[Output[Movement]]:
    for line in order.lines:
        yield Output(Movement(line.article, line.pieces, order.id), key=line.article)


# end: ship


# snippet: audit
@app.agent(orders, imported, sink=entries)
async def audit(record: Record[str, Order]) -> Output[Entry]:
    order = record.value
    entry = Entry(order.id, record.topic, order.cents)
    return Output(entry, headers=[("placed-at", record.timestamp.isoformat().encode())])


# end: audit


# snippet: notify
def recipient(record: Record[str, Order]) -> str:
    return record.value.email


@app.agent(orders, concurrency=16, order_by=recipient)
async def notify(order: Order) -> Output[Any]:
    return Output(f"We have got your order {order.id}.", topic=mails, key=order.email)


# end: notify


# snippet: watch
@app.agent(orders)
async def watch(order: Order) -> None:
    if order.cents < LARGE:
        return
    stored = await alerts.send_and_wait(Alert(order.id, order.cents), key=order.customer)
    await mails.send(f"We look at your order {order.id}: case {stored.offset}.", key=order.email)


# end: watch


# snippet: archive
@app.agent(invoices, batch=Batch(500, within="200ms"), concurrency=2)
async def archive(batch: Sequence[Invoice]) -> None:
    refused = await asyncio.to_thread(services().ledger.add, batch)
    if refused:
        raise BatchError(refused)  # the places of those that have failed; the others are handled


# end: archive


# snippet: restock
@app.agent(movements, batch=Batch(200, within="100ms"), sink=demand)
async def restock(batch: Sequence[Movement]) -> list[Output[Demand]]:
    pieces = Counter[int]()
    for movement in batch:
        pieces[movement.article] += movement.pieces
    return [Output(Demand(article, number), key=article) for article, number in pieces.items()]


# end: restock


# snippet: total
@app.agent(invoices, sink=totals)
async def total(stream: Stream[Invoice]) -> AsyncIterator[Total]:
    counts, sums = Counter[str](), Counter[str]()  # lost on a rebalance or a restart: it counts from 0 again then
    async for invoice in stream:
        counts[invoice.customer] += 1
        sums[invoice.customer] += invoice.cents
        yield Total(counts[invoice.customer], sums[invoice.customer])


# end: total


# snippet: forget
@app.agent(customers, sink=totals)
async def forget(customer: Customer | None) -> Output[Total | None] | None:
    return Output(None) if customer is None else None  # a tombstone under the customer's key, or nothing


# end: forget


# snippet: timer
@app.timer("1s")
async def tell_revenue() -> None:
    cents = await asyncio.to_thread(services().ledger.revenue)
    await revenue.send(Revenue(cents), key="all")


# end: timer
