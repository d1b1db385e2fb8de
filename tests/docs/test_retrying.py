"""The program of docs/retries.md does what the page says."""

import asyncio
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from typing_extensions import override

from streamkit import Retry, Topic
from tests.docs import retrying
from tests.docs.retrying import (
    Bank,
    CardDeclined,
    Order,
    TooManyRequests,
    app,
    entries,
    orders,
    paid,
    returns,
    transfers,
)

PAGE = Path(__file__).parents[2] / "docs" / "retries.md"
# A row of the table of tiers: what is declared, the waits, the runs, their sum.
CHOICE = re.compile(r"^\| `(Retry\.[^`]+)`[^|]*\| ([^|]+) \| (\d+)[^|]*\| ([^|]+) \|$", re.MULTILINE)
SECONDS = {"s": 1, "min": 60, "h": 3600}


class ABank(Bank):
    """Fails for an order as often as it is told to."""

    def __init__(self) -> None:
        self.errors: dict[str, list[Exception]] = {}
        self.asked = Counter[str]()
        self.refunds: list[str] = []

    def fails(self, order: str, *errors: Exception) -> None:
        self.errors[order] = list(errors)

    @override
    async def charge(self, order: Order) -> None:
        self.asked[order.id] += 1
        if self.errors.get(order.id):
            raise self.errors[order.id].pop(0)

    @override
    async def refund(self, order: Order) -> None:
        self.refunds.append(order.id)
        if self.errors.get(order.id):
            raise self.errors[order.id].pop(0)

    @override
    async def book(self, orders: Sequence[Order]) -> Mapping[int, Exception]:
        return {place: ValueError("no such account") for place, order in enumerate(orders) if order.cents < 0}


@pytest.fixture
def bank(monkeypatch: pytest.MonkeyPatch) -> ABank:
    bank = ABank()
    monkeypatch.setattr(retrying, "bank", bank)
    return bank


# snippet: test-tiers
def test_an_order_is_charged_when_the_bank_answers_again(bank: ABank) -> None:
    async def scenario() -> None:
        async with app.test() as test:
            bank.fails("1", TimeoutError(), TimeoutError())
            await test.send(orders, Order("1", 3500), key="ada")
            await test.drain()  # tiers deliver at once here: no 5 s to wait
            assert test.sent(paid) == [Order("1", 3500)]
            assert test.dead_letters(orders) == []

    asyncio.run(scenario())


def test_a_declined_card_is_a_dead_letter_at_once(bank: ABank) -> None:
    async def scenario() -> None:
        async with app.test() as test:
            bank.fails("1", CardDeclined("expired"))
            await test.send(orders, Order("1", 3500), key="ada")
            await test.drain()
            (letter,) = test.dead_letters(orders)
            headers = dict(letter.headers)
            assert (letter.key, letter.value) == ("ada", Order("1", 3500))
            assert headers["sk-group"] == b"billing.charge"
            assert headers["sk-error-message"] == b"expired"
            assert headers["sk-attempt"] == b"1"

    asyncio.run(scenario())


# end: test-tiers


async def letters_of(topic: Topic[str, Order], *sent: Order) -> list[dict[str, bytes | None]]:
    """The headers of what becomes a dead letter."""
    async with app.test() as test:
        for order in sent:
            await test.send(topic, order, key=order.id)
        await test.drain()
        return [dict(letter.headers) for letter in test.dead_letters(topic)]


def test_in_place_the_order_of_a_key_is_kept(bank: ABank) -> None:
    async def scenario() -> None:
        async with app.test() as test:
            bank.fails("1", OSError(), OSError())
            bank.fails("2", *[OSError() for _ in range(4)])
            for number in ("1", "2", "3"):
                await test.send(returns, Order(number, 1), key="ada")
            await test.drain()
            assert bank.refunds == ["1"] * 3 + ["2"] * 4 + ["3"]
            assert [letter.value for letter in test.dead_letters(returns)] == [Order("2", 1)]

    asyncio.run(scenario())


def test_a_handler_decides_about_its_record(bank: ABank) -> None:
    bank.fails("later", TooManyRequests(30), TooManyRequests(30))
    found = asyncio.run(letters_of(transfers, Order("none", 0), Order("foreign", 1, "USD"), Order("later", 1)))
    assert [each["sk-error-message"] for each in found] == [b"no account in USD"]
    assert bank.asked == {"later": 3}


def test_of_a_batch_only_the_refused_are_tried_again_and_end_as_dead_letters(bank: ABank) -> None:
    found = asyncio.run(letters_of(entries, Order("1", 1), Order("2", -1), Order("3", 1)))
    assert [(each["sk-group"], each["sk-attempt"]) for each in found] == [(b"billing.book", b"9")]


def in_seconds(text: str) -> float:
    return sum(int(number) * SECONDS[unit] for number, unit in re.findall(r"(\d+) (h|min|s)", text))


def test_the_table_of_tiers_says_what_each_choice_comes_to() -> None:
    choices = CHOICE.findall(PAGE.read_text())
    assert len(choices) == 5
    for declared, waits, runs, given_up_after in choices:
        retry: Retry = eval(declared, {"Retry": Retry})
        assert tuple(in_seconds(wait) for wait in waits.split(", ")) == retry.tier_waits
        assert int(runs) == (len(retry.tier_waits) + 1) * (retry.times_in_place + 1)
        assert in_seconds(given_up_after) == sum(retry.tier_waits)
