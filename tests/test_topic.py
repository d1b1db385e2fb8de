import asyncio
from datetime import datetime
from typing import Any

import pytest

from streamkit import App, Topic
from streamkit.record import Headers, RecordMetadata


def test_without_a_worker_a_send_says_so() -> None:
    orders = App("shop").topic("orders", value=str)
    with pytest.raises(RuntimeError, match="cannot send to 'orders': no worker is running"):
        asyncio.run(orders.send("a"))


def test_a_send_goes_through_the_port_that_the_worker_sets() -> None:
    sent: list[tuple[Any, ...]] = []

    class Port:
        async def send(
            self,
            topic: Topic[Any, Any],
            value: Any,
            key: Any,
            headers: Headers,
            partition: int | None,
            timestamp: datetime | None,
        ) -> None:
            sent.append((topic, value, key, headers, partition, timestamp))

        async def send_and_wait(
            self,
            topic: Topic[Any, Any],
            value: Any,
            key: Any,
            headers: Headers,
            partition: int | None,
            timestamp: datetime | None,
        ) -> RecordMetadata:
            await self.send(topic, value, key, headers, partition, timestamp)
            return RecordMetadata(topic.name, 2, 7)

    app = App("shop")
    orders = app.topic("orders", value=str)
    app.port.current = Port()
    asyncio.run(orders.send("a", key="k", headers=[("h", b"1")], partition=2))
    assert sent == [(orders, "a", "k", [("h", b"1")], 2, None)]
    assert asyncio.run(orders.send_and_wait("b")) == ("orders", 2, 7)
    assert sent[1:] == [(orders, "b", None, (), None, None)]


def test_a_topic_shows_its_types() -> None:
    topic = App("shop").topic("orders", value=dict[str, Any] | None, key=int)
    assert repr(topic) == "Topic('orders', value=dict[str, Any] | None, key=int)"
