"""The program of docs/retries.md: what a bank is told about orders, and what becomes of those that fail."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streamkit import App, Batch, BatchError, Reject, Retry, RetryLater, Skip


@dataclass(frozen=True)
class Order:
    id: str
    cents: int
    currency: str = "EUR"


class CardDeclined(Exception):
    """The bank has said no, and will say no again."""


class TooManyRequests(Exception):
    def __init__(self, seconds: int) -> None:
        super().__init__(f"come back in {seconds} s")
        self.seconds = seconds


class Bank:
    """Takes everything; the tests have others."""

    async def charge(self, order: Order) -> None: ...

    async def refund(self, order: Order) -> None: ...

    async def book(self, orders: Sequence[Order]) -> Mapping[int, Exception]:
        """The places of those that it has not booked."""
        return {}


bank = Bank()
app = App("billing")
orders = app.topic("orders", value=Order, partitions=4)
returns = app.topic("returns", value=Order, partitions=4)
transfers = app.topic("transfers", value=Order, partitions=4)
entries = app.topic("entries", value=Order, partitions=4)
paid = app.topic("paid", value=Order, partitions=4)


# snippet: charge
@app.agent(orders, sink=paid, retry=Retry.exponential("5s", factor=6, tiers=3, never=(CardDeclined,)))
async def charge(order: Order) -> Order:
    await bank.charge(order)  # fails: again after 5 s, 30 s and 3 min, then a dead letter; a declined card: at once
    return order


# end: charge


# snippet: in-place
@app.agent(returns, retry=Retry.in_place(3, "100ms"), dead_letter=True)
async def refund(order: Order) -> None:
    await bank.refund(order)


# end: in-place


# snippet: decisions
@app.agent(transfers, retry=Retry.delays("10s", "1m", "10m"))
async def transfer(order: Order) -> None:
    if not order.cents:
        raise Skip  # nothing to be done: settled, and nothing of it is kept
    if order.currency != "EUR":
        raise Reject(f"no account in {order.currency}")  # a dead letter now
    try:
        await bank.charge(order)
    except TooManyRequests as error:
        raise RetryLater(f"{error.seconds}s") from error  # when, says the bank


# end: decisions


# snippet: batch
@app.agent(entries, batch=Batch(500, within="200ms"), retry=Retry.delays("10s", "1m", in_place=2))
async def book(batch: Sequence[Order]) -> None:
    refused = await bank.book(batch)
    if refused:
        raise BatchError(refused)  # only these are tried again; the others are handled


# end: batch
