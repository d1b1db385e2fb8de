"""What the throughput benchmark reads: JSON orders of about 150 bytes."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

PARTITIONS = 4
KEYS = 1_000


class Item(msgspec.Struct):
    sku: str
    qty: int


class Order(msgspec.Struct):
    order_id: str
    account: str
    amount: float
    currency: str
    items: list[Item]
    ts: float
    total: float = 0.0


def orders(number: int) -> Iterator[tuple[bytes, bytes]]:
    encode = msgspec.json.Encoder().encode
    for index in range(number):
        account = f"acc-{index % KEYS:04}"
        items = [Item(f"sku-{index % 97:03}", 1 + index % 5)]
        order = Order(f"o-{index:08}", account, float(index % 500), "EUR", items, 1_700_000_000.0 + index)
        yield account.encode(), encode(order)


def amounts(number: int) -> float:
    """The sum of their amounts."""
    return float(sum(index % 500 for index in range(number)))
