"""`app.test()`, as a user's tests have it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from streamkit import App, Batch, DeclarationError, EncodeError, Output, Record, RecordFailed, Stream, UserCodeFailed
from streamkit.testing import NotDrained


@dataclass(frozen=True)
class Order:
    id: str
    cents: int


class Shop:
    """Orders become invoices, invoices are booked, and what is booked is counted."""

    def __init__(self, **options: Any) -> None:
        self.app = app = App("shop", **options)
        self.orders = app.topic("orders", value=Order, partitions=3)
        self.invoices = app.topic("invoices", value=str)
        self.booked = app.topic("booked", value=str, key=int)
        self.counted: list[str] = []

        @app.agent(self.orders, sink=self.invoices, concurrency=8)
        async def charge(order: Order) -> str | None:
            if order.cents < 0:
                raise ValueError("negative")
            await asyncio.sleep(0.001)
            return f"invoice {order.id}" if order.cents else None

        @app.agent(self.invoices, sink=self.booked, batch=Batch(10, within="5ms"))
        async def book(batch: list[str]) -> list[Output[str]]:
            return [Output(invoice, key=len(invoice)) for invoice in batch]

        @app.agent(self.booked)
        async def count(stream: Stream[str]) -> None:
            async for invoice in stream:
                self.counted.append(invoice)


def test_records_go_through_all_agents() -> None:
    shop = Shop()

    async def main() -> None:
        async with shop.app.test() as test:
            for number in range(50):
                await test.send(shop.orders, Order(str(number), number), key=f"customer-{number % 7}")
            await test.drain()
            assert sorted(test.sent(shop.invoices)) == sorted(f"invoice {number}" for number in range(1, 50))
            assert sorted(shop.counted) == sorted(test.sent(shop.invoices))

    asyncio.run(main())


def test_what_is_in_a_topic_can_be_looked_at_whole() -> None:
    shop = Shop()
    moment = datetime(2026, 1, 2, tzinfo=UTC)

    async def main() -> list[Record[str, Order]]:
        async with shop.app.test() as test:
            sent = await test.send(
                shop.orders, Order("1", 0), key="k", partition=2, headers=[("h", b"1")], timestamp=moment
            )
            assert sent == ("orders", 2, 0)
            await test.drain()
            return test.records(shop.orders)

    (record,) = asyncio.run(main())
    assert (record.key, record.value, record.partition) == ("k", Order("1", 0), 2)
    assert list(record.headers) == [("h", b"1")]
    assert record.timestamp == moment


def test_a_failure_is_raised_where_the_test_waits_and_only_there() -> None:
    shop = Shop()

    async def main() -> None:
        async with shop.app.test() as test:
            await test.send(shop.orders, Order("1", -1), key="k")
            with pytest.raises(RecordFailed, match="ValueError: negative"):
                await test.drain()

    asyncio.run(main())


def test_a_failure_that_nobody_waited_for_is_raised_at_the_end() -> None:
    shop = Shop()

    async def main() -> None:
        async with shop.app.test() as test:
            test.send_raw(shop.orders, b"no json", key=b"k")
            await asyncio.sleep(0.2)

    with pytest.raises(RecordFailed, match="stage decode-value"):
        asyncio.run(main())


def test_the_tests_own_error_is_the_one_that_is_seen() -> None:
    shop = Shop()

    async def main() -> None:
        async with shop.app.test():
            raise KeyError("the test's")

    with pytest.raises(KeyError):
        asyncio.run(main())


def test_a_lifespan_that_fails_is_raised_at_the_beginning() -> None:
    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        raise ValueError("no database")
        yield

    async def main() -> None:
        async with Shop(lifespan=lifespan).app.test():
            raise AssertionError("not reached")

    with pytest.raises(UserCodeFailed, match="no database"):
        asyncio.run(main())


def test_what_does_not_end_is_named() -> None:
    app = App("shop")
    orders = app.topic("orders", value=str)

    @app.agent(orders)
    async def charge(order: str) -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        async with app.test(drain_timeout="10ms") as test:
            await test.send(orders, "a", key="k")
            await test.send(orders, "b", key="k")
            with pytest.raises(NotDrained, match=r"after 0.05 s there are still .* not settled: charge: 2 of orders"):
                await test.drain(timeout=0.05)

    asyncio.run(main())


def test_timers_and_sends_outside_of_handlers_are_waited_for() -> None:
    app = App("shop")
    ticks = app.topic("ticks", value=str)
    seen: list[str] = []
    ticked = asyncio.Event()

    @app.timer("1ms")
    async def tick() -> None:
        await ticks.send("tick")

    @app.agent(ticks)
    async def note(value: str) -> None:
        seen.append(value)
        ticked.set()

    async def main() -> None:
        async with app.test() as test:
            await ticked.wait()
            assert test.sent(ticks)

    asyncio.run(main())
    assert set(seen) == {"tick"}


def test_values_of_other_types_and_topics_of_other_apps_are_refused() -> None:
    shop = Shop()
    other = App("other").topic("elsewhere", value=str)

    async def main() -> None:
        async with shop.app.test() as test:
            with pytest.raises(EncodeError):
                await test.send(shop.orders, "text", key="k")  # type: ignore[misc]
            with pytest.raises(DeclarationError, match="is not declared by app 'shop', which is under test"):
                await test.send(other, "text")

    asyncio.run(main())


def test_an_app_can_be_tested_again_and_again() -> None:
    shop = Shop()

    async def main() -> list[str]:
        async with shop.app.test() as test:
            await test.send(shop.orders, Order("1", 1), key="k")
            await test.drain()
            return test.sent(shop.invoices)

    assert [asyncio.run(main()) for _ in range(3)] == [["invoice 1"]] * 3
