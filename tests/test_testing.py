"""`app.test()`, as a user's tests have it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from streamkit import (
    App,
    Batch,
    DeclarationError,
    EncodeError,
    Output,
    Record,
    RecordFailed,
    Retry,
    Stream,
    UserCodeFailed,
)
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


class Retried:
    """Payments are tried again, and have dead letters; refunds have theirs in the same topic."""

    def __init__(self) -> None:
        self.app = app = App("shop")
        self.attempts: list[tuple[str, int]] = []
        self.payments = app.topic("payments", value=Order | None, key=int, partitions=3)
        self.refunds = app.topic("refunds", value=str)
        self.failed = app.topic("failed", value=bytes)

        @app.agent(self.payments, retry=Retry.delays("1m", "1h"), dead_letter=self.failed)
        async def pay(record: Record[int, Order | None]) -> None:
            assert record.value is not None
            self.attempts.append((record.value.id, record.attempt))
            if record.attempt <= record.value.cents:
                raise ConnectionError("the bank is closed")

        @app.agent(self.refunds, dead_letter=self.failed)
        async def refund(payment: str) -> None: ...


def test_tiers_and_dead_letter_topics_are_there_as_on_a_cluster() -> None:
    shop = Retried()

    async def main() -> None:
        async with shop.app.test() as test:
            topics = test._broker.topics
            copies = {"payments.shop.pay.retry-1", "payments.shop.pay.retry-2", "failed"}
            assert topics.keys() == {"payments", "refunds"} | copies
            for name in copies:
                assert len(topics[name].partitions) == 3
                assert topics[name].stamps_on_append
            await test.send(shop.failed, b"by hand", partition=2)
            await test.drain()
            assert test.sent(shop.failed) == [b"by hand"]

    asyncio.run(main())


def test_retries_do_not_wait_and_what_fails_for_good_can_be_looked_at() -> None:
    shop = Retried()

    async def main() -> None:
        async with shop.app.test() as test:
            await test.send(shop.payments, Order("soon paid", 2), key=1)
            await test.send(shop.payments, Order("never paid", 9), key=2, headers=[("mine", b"1")])
            test.send_raw(shop.payments, b"no json", key=b"3")
            await test.send(shop.refunds, "a", key="k")
            await test.drain()
            letters = {letter.key: letter for letter in test.dead_letters(shop.payments)}
            assert {key: letter.value for key, letter in letters.items()} == {2: Order("never paid", 9), 3: b"no json"}
            headers = dict(letters[2].headers)
            assert (headers["mine"], headers["sk-attempt"]) == (b"1", b"3")
            assert headers["sk-error-message"] == b"the bank is closed"
            assert test.dead_letters(shop.refunds) == []

    asyncio.run(main())
    expected = {(order, attempt) for order in ("soon paid", "never paid") for attempt in (1, 2, 3)}
    assert sorted(shop.attempts) == sorted(expected)


def test_dead_letters_are_decoded_as_far_as_they_can_be() -> None:
    shop = Retried()

    async def main() -> list[Record[int | bytes, Order | bytes | None]]:
        async with shop.app.test() as test:
            for origin, key, value in (
                ("payments", b"7", b'{"id": "a", "cents": 1}'),
                ("payments", b"seven", b'{"id": "b", "cents": 2}'),
                ("payments", b"8", b"no json"),
                ("payments", None, None),
                ("refunds", b"9", b'"c"'),
            ):
                headers = [("mine", b"1"), ("sk-origin-topic", origin.encode())]
                test._broker.append("failed", value, key=key, headers=headers)
            return test.dead_letters(shop.payments)

    letters = asyncio.run(main())
    assert [(letter.key, letter.value) for letter in letters] == [
        (7, Order("a", 1)),
        (b"seven", Order("b", 2)),
        (8, b"no json"),
        (None, None),
    ]
    assert (letters[2].topic, letters[2].partition, letters[2].offset) == ("failed", 0, 2)
    assert list(letters[2].headers) == [("mine", b"1"), ("sk-origin-topic", b"payments")]


def test_a_topic_without_dead_letters_is_named() -> None:
    shop = Shop()
    other = App("other").topic("elsewhere", value=str)

    async def main() -> None:
        async with shop.app.test() as test:
            with pytest.raises(DeclarationError) as caught:
                test.dead_letters(shop.orders)
            assert str(caught.value) == (
                "no agent has dead letters of Topic('orders', value=Order, key=str); give one retry= or dead_letter="
            )
            with pytest.raises(DeclarationError, match="is not declared by app 'shop'"):
                test.dead_letters(other)

    asyncio.run(main())
