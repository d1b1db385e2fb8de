"""A real Faust app and a streamkit worker on the same topics, each in a process of its own."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamkit.cli.embedded import EmbeddedBroker
from tests.cli.support import Running, program, running_command

MODELS = """
from datetime import datetime
import faust

class Order(faust.Record, coerce=True):
    id: str
    at: datetime
    cents: int = 0

class Invoice(faust.Record):
    order: Order
    total: int
"""
STREAMKIT = """
from models import Invoice, Order
invoices = app.topic(app.name + ".invoices", value=Invoice, partitions=1)
paid = app.topic(app.name + ".paid", value=Invoice, partitions=1)
orders = app.topic(app.name + ".in", value=dict, partitions=1)

@app.agent(orders, sink=invoices)
async def bill(order: dict) -> Invoice:
    return Invoice(order=Order.from_data(order), total=5)

@app.agent(paid)
async def book(invoice: Invoice) -> None:
    print("booked", type(invoice).__name__, invoice.order, invoice.total, flush=True)
"""
FAUST = """
import faust
from models import Invoice
app = faust.App({name!r} + "-faust", broker={broker!r}, store="memory://", topic_allow_declare=False,
                topic_disable_leader=True, web_enabled=False, datadir={data!r})
invoices = app.topic({name!r} + ".invoices", value_type=Invoice)
paid = app.topic({name!r} + ".paid", value_type=Invoice)

@app.agent(invoices)
async def pay(stream):
    async for invoice in stream:
        print(f"paying {{type(invoice).__name__}} {{invoice.order}} {{invoice.total}}")
        await paid.send(value=Invoice(order=invoice.order, total=invoice.total + 1))

if __name__ == "__main__":
    app.main()
"""


@contextmanager
def faust_worker(directory: Path, name: str, brokers: str) -> Iterator[Running]:
    code = FAUST.format(name=name, broker=f"kafka://{brokers}", data=str(directory / "data"))
    (directory / "theirs.py").write_text(code)
    command = [sys.executable, "theirs.py", "worker", "-l", "info", "--without-web"]
    with running_command(command, directory, {**os.environ, "PYTHONUNBUFFERED": "1"}) as theirs:
        yield theirs


def test_a_faust_app_reads_what_a_worker_wrote_and_the_worker_what_faust_wrote(
    tmp_path: Path, embedded: EmbeddedBroker
) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    made = program(tmp_path, embedded.brokers, STREAMKIT, [b'{"id": "a", "at": "2024-01-02T03:04:05Z"}'])
    with made.start("--create-topics") as worker:
        worker.await_text("runs app")
        with faust_worker(tmp_path, made.name, embedded.brokers) as theirs:
            assert theirs.await_text("paying Invoice <Order: id='a', at=datetime.*, cents=0> 5")
            assert worker.await_text("booked Invoice <Order: id='a', at=datetime.*, cents=0> 6")
