"""Records a second of each shape of handlers, and of pydantic's and Faust's types, against the value shape.

`python -m benchmarks.shapes [--quick] [--rounds N] [--records N] [--brokers HOST:PORT]`
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

from benchmarks.brokers import brokers, fill, fresh_name, topic
from benchmarks.compare import Bar, Measured, Side, interleaved, report
from benchmarks.orders import PARTITIONS, Order, orders
from benchmarks.throughput import added_up
from streamkit import App, Batch, Record, Stream

BARS = [Bar("record", "value", 0.85), Bar("loop", "value", 0.8), Bar("batch", "value", 1.2)]
BATCH = Batch(500, within="10ms")  # only the last batch of a partition ever waits so long
SLOWER = 5  # so many times fewer records for a type that its library reads slowly

Declare = Callable[[App, str, str], Callable[[], float]]


def side(shape: str, brokers: str, source: str, records: int) -> Measured:
    """W1, read, decode and add up, by a handler of this shape."""
    app = App("bench")
    total = SHAPES[shape](app, source, fresh_name("shape"))
    return asyncio.run(added_up(app, brokers, records, total))


def _value(app: App, source: str, group: str) -> Callable[[], float]:
    total = 0.0

    @app.agent(app.topic(source, value=Order), group=group)
    async def add_up(order: Order) -> None:
        nonlocal total
        total += order.amount

    return lambda: total


def _record(app: App, source: str, group: str) -> Callable[[], float]:
    total = 0.0

    @app.agent(app.topic(source, value=Order), group=group)
    async def add_up(record: Record[str, Order]) -> None:
        nonlocal total
        total += record.value.amount

    return lambda: total


def _loop(app: App, source: str, group: str) -> Callable[[], float]:
    total = 0.0

    @app.agent(app.topic(source, value=Order), group=group)
    async def add_up(stream: Stream[Order]) -> None:
        nonlocal total
        async for order in stream:
            total += order.amount

    return lambda: total


def _loop_of_records(app: App, source: str, group: str) -> Callable[[], float]:
    total = 0.0

    @app.agent(app.topic(source, value=Order), group=group)
    async def add_up(stream: Stream[Record[str, Order]]) -> None:
        nonlocal total
        async for record in stream:
            total += record.value.amount

    return lambda: total


def _batch(app: App, source: str, group: str) -> Callable[[], float]:
    total = 0.0

    @app.agent(app.topic(source, value=Order), group=group, batch=BATCH)
    async def add_up(batch: Sequence[Order]) -> None:
        nonlocal total
        for order in batch:
            total += order.amount

    return lambda: total


def _batch_of_records(app: App, source: str, group: str) -> Callable[[], float]:
    total = 0.0

    @app.agent(app.topic(source, value=Order), group=group, batch=BATCH)
    async def add_up(batch: Sequence[Record[str, Order]]) -> None:
        nonlocal total
        for record in batch:
            total += record.value.amount

    return lambda: total


def _generator(app: App, source: str, group: str) -> Callable[[], float]:
    """It must have a sink, but yields nothing, so that producing does not count."""
    total = 0.0
    given = app.topic(source, value=Order)

    @app.agent(given, sink=given, group=group)
    async def add_up(order: Order) -> AsyncIterator[Order]:
        nonlocal total
        total += order.amount
        if order.amount < 0:
            yield order

    return lambda: total


def _pydantic(app: App, source: str, group: str) -> Callable[[], float]:
    from benchmarks.library_orders import PydanticOrder

    total = 0.0

    @app.agent(app.topic(source, value=PydanticOrder), group=group)
    async def add_up(order: PydanticOrder) -> None:
        nonlocal total
        total += order.amount

    return lambda: total


def _faust(app: App, source: str, group: str) -> Callable[[], float]:
    from benchmarks.library_orders import FaustOrder

    total = 0.0

    @app.agent(app.topic(source, value=FaustOrder), group=group)
    async def add_up(order: FaustOrder) -> None:
        nonlocal total
        total += order.amount

    return lambda: total


SHAPES: dict[str, Declare] = {
    "value": _value,
    "record": _record,
    "loop": _loop,
    "loop of records": _loop_of_records,
    "batch": _batch,
    "batch of records": _batch_of_records,
    "generator": _generator,
    "pydantic values": _pydantic,
    "faust.Record values": _faust,
}
SLOW = {"faust.Record values"}


async def compare(brokers: str, records: int, rounds: int, *, warm_up: bool) -> None:
    fewer = records // SLOWER
    async with topic(brokers, "orders", PARTITIONS) as all_, topic(brokers, "fewer", PARTITIONS) as few:
        await fill(brokers, all_, PARTITIONS, orders(records))
        await fill(brokers, few, PARTITIONS, orders(fewer))
        sides: dict[str, Side] = {
            shape: partial(side, shape, brokers, *((few, fewer) if shape in SLOW else (all_, records)))
            for shape in SHAPES
        }
        sides["value, once more"] = sides["value"]
        results = await asyncio.to_thread(interleaved, sides, rounds, warm_up=warm_up)
        report(f"W1 read, decode, add up {records:,} orders, by shape", results, "value", BARS)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shapes", description=__doc__)
    parser.add_argument("--brokers", help="of an existing Kafka; otherwise one is started")
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="a few records once, to see that it runs")
    options = parser.parse_args(arguments)
    records, rounds = (2_000, 1) if options.quick else (options.records, options.rounds)
    with brokers(options.brokers) as address:
        asyncio.run(compare(address, records, rounds, warm_up=not options.quick))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
