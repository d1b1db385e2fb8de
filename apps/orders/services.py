"""What the agents share while a worker runs: a payment service and a database."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from apps.orders.model import Invoice
from streamkit import App

TABLE = """
create table if not exists invoices (
    order_id text primary key,
    customer text not null,
    cents integer not null check (cents > 0)
)"""


class Payments:
    """Stands in for the client of a payment service, which answers after some milliseconds."""

    async def charge(self, order: str, cents: int) -> str:
        """The receipt. Asked twice for one order, the service charges once and answers the same."""
        await asyncio.sleep(0.005)
        return f"receipt-{order}"


class Ledger:
    """The invoices in a SQLite database. It blocks: call it in a thread; several may."""

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False)
        with self._connection:
            self._connection.execute(TABLE)

    def add(self, invoices: Sequence[Invoice]) -> dict[int, sqlite3.IntegrityError]:
        """Store them in one transaction; those that the table refuses, by their places.

        An invoice that is there already is replaced, so adding it twice does no harm.
        """
        refused: dict[int, sqlite3.IntegrityError] = {}
        with self._lock, self._connection:
            for place, invoice in enumerate(invoices):
                row = invoice.order, invoice.customer, invoice.cents
                try:
                    self._connection.execute("insert or replace into invoices values (?, ?, ?)", row)
                except sqlite3.IntegrityError as error:
                    refused[place] = error
        return refused

    def revenue(self) -> int:
        with self._lock:
            (cents,) = self._connection.execute("select coalesce(sum(cents), 0) from invoices").fetchone()
        return int(cents)

    def close(self) -> None:
        self._connection.close()


# snippet: lifespan
@dataclass(frozen=True)
class Services:
    payments: Payments
    ledger: Ledger


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[Services]:
    """Around the work of a worker: before its agents begin, and after they have ended."""
    ledger = await asyncio.to_thread(Ledger, os.environ.get("ORDERS_LEDGER", "orders.sqlite"))
    try:
        yield Services(Payments(), ledger)  # this is `app.state`
    finally:
        ledger.close()


# end: lifespan
