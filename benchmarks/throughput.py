"""Records a second, against the same work written by hand on aiokafka.

`python -m benchmarks.throughput [--quick] [--rounds N] [--records N] [--brokers HOST:PORT]`
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from functools import partial

from benchmarks import by_hand
from benchmarks.brokers import brokers, count, fill, fresh_name, topic
from benchmarks.compare import Bar, Measured, Side, interleaved, report
from benchmarks.engine import Run
from benchmarks.orders import PARTITIONS, Order, amounts, orders
from streamkit import App

CONSUME_BAR = Bar("streamkit", "by hand", 0.6)
PRODUCE_BAR = Bar("streamkit", "by hand, send", 1.6)


def consume(brokers: str, source: str, records: int) -> Measured:
    """W1: read, decode, add up."""
    return asyncio.run(_consume(brokers, source, records))


def consume_and_produce(brokers: str, source: str, records: int) -> Measured:
    """W2: read, change, produce."""
    return asyncio.run(_consume_and_produce(brokers, source, records))


async def _consume(brokers: str, source: str, records: int) -> Measured:
    app = App("bench")
    total = 0.0

    @app.agent(app.topic(source, value=Order), group=fresh_name("consume"))
    async def add_up(order: Order) -> None:
        nonlocal total
        total += order.amount

    return await added_up(app, brokers, records, lambda: total)


async def added_up(app: App, brokers: str, records: int, total: Callable[[], float]) -> Measured:
    """Run the app's only agent until it has handled so many records, which must then have added up."""
    run = Run(app, brokers)

    def handled() -> int:
        return sum(agent.processed_success for agent in run.slots.agents.values())

    await run.until(lambda: handled() >= records, handled)
    if total() != amounts(records):
        raise RuntimeError(f"the amounts add up to {total()}, not {amounts(records)}")
    return Measured(records, run.ended - run.first_poll, run.cpu)


async def _consume_and_produce(brokers: str, source: str, records: int) -> Measured:
    async with topic(brokers, "out", PARTITIONS) as sink:
        app = App("bench")
        out = app.topic(sink, value=Order)

        @app.agent(app.topic(source, value=Order), sink=out, group=fresh_name("produce"))
        async def add_total(order: Order) -> Order:
            order.total = order.amount * 1.2
            return order

        run = Run(app, brokers)

        def acknowledged() -> int:
            return run.slots.output(sink).acknowledged

        await run.until(lambda: acknowledged() >= records, acknowledged)
        written = await count(brokers, sink, PARTITIONS)
    if written != records:
        raise RuntimeError(f"{written} records were written, not {records}")
    return Measured(records, run.ended - run.first_poll, run.cpu)


async def compare(brokers: str, records: int, rounds: int, *, warm_up: bool) -> None:
    async with topic(brokers, "orders", PARTITIONS) as source:
        await fill(brokers, source, PARTITIONS, orders(records))
        given = (brokers, source, records)
        reading: dict[str, Side] = {
            "by hand": partial(by_hand.consume, *given),
            "streamkit": partial(consume, *given),
            "by hand, once more": partial(by_hand.consume, *given),
        }
        results = await asyncio.to_thread(interleaved, reading, rounds, warm_up=warm_up)
        report(f"W1 read, decode, add up {records:,} orders", results, "by hand", [CONSUME_BAR])
        producing: dict[str, Side] = {
            "by hand, send": partial(by_hand.send_each, *given),
            "streamkit": partial(consume_and_produce, *given),
            "by hand, send, once more": partial(by_hand.send_each, *given),
            "by hand, batches (the limit)": partial(by_hand.send_batches, *given),
        }
        results = await asyncio.to_thread(interleaved, producing, rounds, warm_up=warm_up)
        report(f"W2 read, change, produce {records:,} orders", results, "by hand, send", [PRODUCE_BAR])


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
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
