from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from streamkit import App, Batch, Retry, Stream
from streamkit.errors import RecordFailed
from streamkit.record import Headers
from streamkit.runtime.log_fields import MOST_BYTES, about_current, key_hash, of_record
from streamkit.transport.memory.log import MemoryRecord

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT: Headers = [("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01".encode())]
HASH = hashlib.sha256(b"ada").hexdigest()[:8]


def record(key: bytes | None = b"ada", value: bytes | None = b"secret", headers: Headers = ()) -> MemoryRecord:
    return MemoryRecord("orders", 2, 41, 0, key, value, headers)


def test_a_record_is_told_by_where_it_is_a_hash_of_its_key_its_attempt_and_its_trace() -> None:
    assert of_record(record(headers=TRACEPARENT), payloads=False) == {
        "topic": "orders",
        "partition": 2,
        "offset": 41,
        "key_hash": HASH,
        "attempt": 1,
        "trace_id": TRACE,
    }


def test_a_null_key_has_no_hash_and_an_empty_one_has() -> None:
    assert "key_hash" not in of_record(record(key=None), payloads=False)
    assert of_record(record(key=b""), payloads=False)["key_hash"] == key_hash(b"")


def test_payloads_are_shown_only_if_wanted_and_only_their_beginning() -> None:
    assert not {"key", "value"} & of_record(record(), payloads=False).keys()
    shown = of_record(record(value=b"x" * 1_000), payloads=True)
    assert (shown["key"], shown["value"]) == ("ada", "x" * MOST_BYTES + "... (1000 bytes)")
    assert of_record(record(key=None, value=b"\xff"), payloads=True)["value"] == "\N{REPLACEMENT CHARACTER}"
    assert of_record(record(key=None), payloads=True)["key"] is None


def test_outside_of_handlers_nothing_is_handled() -> None:
    assert about_current() == {}


def fields_of(caplog: pytest.LogCaptureFixture, event_name: str) -> list[dict[str, Any]]:
    names = ("agent", "group", "topic", "partition", "offset", "key_hash", "attempt", "trace_id", "key", "value")
    found = [each.__dict__ for each in caplog.records if each.__dict__.get("event_name") == event_name]
    return [{name: each[name] for name in names if name in each} for each in found]


ABOUT = {
    "agent": "charge",
    "group": "shop.charge",
    "topic": "orders",
    "partition": 0,
    "offset": 0,
    "key_hash": HASH,
    "attempt": 1,
    "trace_id": TRACE,
}


def test_a_handler_and_the_tasks_that_it_starts_know_what_they_handle() -> None:
    app = App("shop")
    orders = app.topic("orders", value=str)
    seen: list[dict[str, Any]] = []

    async def later() -> None:
        await asyncio.sleep(0)
        seen.append(about_current())

    @app.agent(orders)
    async def charge(order: str) -> None:
        seen.append(about_current())
        await asyncio.create_task(later())

    async def case() -> None:
        async with app.test() as test:
            await test.send(orders, "one", key="ada", headers=TRACEPARENT)
            await test.drain()

    asyncio.run(case())
    assert seen == [ABOUT, ABOUT]


def test_a_batch_is_told_by_its_first_record_and_how_many_it_holds() -> None:
    app = App("shop")
    orders = app.topic("orders", value=str)
    seen: list[dict[str, Any]] = []

    @app.agent(orders, batch=Batch(2, within="10s"))
    async def charge(batch: Sequence[str]) -> None:
        seen.append(about_current())

    async def case() -> None:
        async with app.test() as test:
            for value in ("one", "two"):
                await test.send(orders, value, key="ada")
            await test.drain()

    asyncio.run(case())
    where = {"agent": "charge", "group": "shop.charge", "topic": "orders", "partition": 0, "offset": 0}
    assert seen == [where | {"records": 2}]


def test_a_loop_is_told_by_the_record_that_it_has_asked_for() -> None:
    app = App("shop")
    orders, bills = app.topic("orders", value=str), app.topic("bills", value=str)
    seen: list[dict[str, Any]] = []

    @app.agent(orders, sink=bills)
    async def charge(stream: Stream[str]) -> AsyncIterator[str]:
        seen.append(about_current())
        async for order in stream:
            seen.append(about_current())
            yield order

    async def case() -> None:
        async with app.test() as test:
            for value in ("one", "two"):
                await test.send(orders, value, key="ada")
            await test.drain()

    asyncio.run(case())
    partition = {"agent": "charge", "group": "shop.charge", "topic": "orders", "partition": 0}
    rest = {"key_hash": HASH, "attempt": 1}
    assert seen == [partition, partition | {"offset": 0} | rest, partition | {"offset": 1} | rest]


@pytest.mark.parametrize("payloads", [False, True])
def test_retries_and_dead_letters_are_logged_with_the_fields_of_their_record(
    payloads: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    app = App("shop", log_payloads="true" if payloads else "false")
    orders = app.topic("orders", value=str)

    @app.agent(orders, retry=Retry.delays("1s"))
    async def charge(order: str) -> None:
        raise ValueError("no")

    async def case() -> None:
        async with app.test() as test:
            await test.send(orders, "secret", key="ada", headers=TRACEPARENT)
            await test.drain()

    asyncio.run(case())
    more = {"key": "ada", "value": "secret"} if payloads else {}
    assert fields_of(caplog, "record_retried") == [ABOUT | more]
    assert fields_of(caplog, "record_dead_lettered") == [ABOUT | {"attempt": 2} | more]
    if not payloads:
        assert "secret" not in caplog.text


def test_a_failure_that_stops_the_agent_carries_the_fields_and_can_be_told_without_the_payload() -> None:
    app = App("shop")
    orders = app.topic("orders", value=int)

    @app.agent(orders)
    async def charge(order: int) -> None: ...

    async def case() -> None:
        async with app.test() as test:
            test.send_raw(orders, b"a secret", key=b"ada", headers=TRACEPARENT)
            with pytest.raises(RecordFailed) as raised:
                await test.drain()
            failure = raised.value
            assert failure.log_fields == {name: ABOUT[name] for name in ABOUT if name not in ("agent", "group")}
            assert "secret" in str(failure) and "b'ada'" in str(failure)
            told = failure.without_payload()
            assert "secret" not in told and "ada" not in told
            assert "orders[0] offset 0: " in told

    asyncio.run(case())
