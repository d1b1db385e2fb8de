"""Every line here must be accepted by mypy --strict and by basedpyright (strict)."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypedDict, assert_type
from uuid import UUID

import attrs
import faust
import msgspec
import pydantic

from streamkit import (
    App,
    Batch,
    BatchError,
    Output,
    Record,
    RecordMetadata,
    Reject,
    Retry,
    RetryLater,
    Skip,
    Stream,
    Topic,
)


@dataclass(frozen=True, slots=True)
class Order:
    id: str
    cents: int


@dataclass(frozen=True, slots=True)
class Invoice:
    order_id: str


class Special(msgspec.Struct):
    x: int


class Movie(TypedDict):
    title: str


@dataclass(frozen=True, slots=True)
class Alert:
    text: str


class CardDeclined(Exception): ...


class Reversed:
    """A codec of one's own."""

    def encode(self, value: str, /) -> bytes | None:
        return value[::-1].encode() or None

    def decode(self, data: bytes, /) -> str:
        return data.decode()[::-1]


app = App("billing", brokers=["localhost:9092"], drain_timeout=timedelta(seconds=5), commit_records=100)
orders = app.topic("orders.events.v1", value=Order)
returns = app.topic("returns.events.v1", value=Order)
invoices = app.topic("invoices.events.v1", value=Invoice)
alerts = app.topic("alerts.v1", value=Alert, key=int)
tombstones = app.topic("accounts.v1", value=Order | None)
nullable = app.topic("invoices.state.v1", value=Invoice | None)
raw = app.topic("raw.v1", value=dict)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
loose = app.topic("loose.v1", value=dict[str, Any])
anything = app.topic("any.v1", value=Any)
structs = app.topic("structs.v1", value=Special)
movies = app.topic("movies.v1", value=Movie)
text = app.topic("text.v1", value=str)
blobs = app.topic("blobs.v1", value=bytes, key=bytes)
lists = app.topic("lists.v1", value=list[Order])
mirrored = app.topic("mirrored.v1", value=str, key=UUID, codec=Reversed(), partitions=3, retention="7d")

assert_type(orders, Topic[str, Order])
assert_type(alerts, Topic[int, Alert])
assert_type(tombstones, Topic[str, Order | None])
assert_type(loose, Topic[str, dict[str, Any]])
assert_type(structs, Topic[str, Special])
assert_type(movies, Topic[str, Movie])
assert_type(blobs, Topic[bytes, bytes])
assert_type(lists, Topic[str, list[Order]])
assert_type(mirrored, Topic[UUID, str])


class Customer(pydantic.BaseModel):
    name: str


@attrs.define
class Parcel:
    weight: int


class Shipment(faust.Record):
    id: str


customers = app.topic("customers.v1", value=Customer)
deleted_customers = app.topic("customers.state.v1", value=Customer | None)
parcels = app.topic("parcels.v1", value=Parcel)
shipments = app.topic("shipments.v1", value=Shipment)
pages = app.topic("pages.v1", value=dict[str, Customer])

assert_type(customers, Topic[str, Customer])
assert_type(deleted_customers, Topic[str, Customer | None])
assert_type(parcels, Topic[str, Parcel])
assert_type(shipments, Topic[str, Shipment])
assert_type(pages, Topic[str, dict[str, Customer]])


@app.agent(customers, sink=parcels)
async def pack(customer: Customer) -> Parcel:
    return Parcel(len(customer.name))


@app.agent(parcels, sink=shipments)
async def ship(parcel: Parcel) -> AsyncIterator[Shipment]:
    yield Shipment(id=str(parcel.weight))


@app.agent(shipments)
async def track(record: Record[str, Shipment]) -> None:
    assert_type(record.value, Shipment)


@app.agent(deleted_customers)
async def forget(customer: Customer | None) -> None: ...


@app.agent(orders)
async def audit(order: Order) -> None:
    assert_type(order, Order)


@app.agent(orders, sink=invoices, concurrency=64, timeout="10s", start_from="latest", on_gap="earliest")
async def charge(order: Order) -> Invoice | None:
    return Invoice(order.id) if order.cents else None


@app.agent(
    orders, sink=invoices, concurrency=64, retry=Retry.exponential("5s", factor=6, tiers=3, never=(CardDeclined,))
)
async def charge_again(order: Order) -> Invoice | None:
    match order.cents:
        case 0:
            raise Skip
        case 1:
            raise Reject("too little")
        case 2:
            raise RetryLater("30s")
        case _:
            raise RetryLater(timedelta(seconds=30))


every = Retry.exponential(
    timedelta(seconds=5),
    factor=1.5,
    cap="10m",
    jitter=0,
    in_place=2,
    in_place_wait="1s",
    only=[OSError],
    never={KeyError},
)
assert_type(every, Retry)
assert_type(every.tier_waits, tuple[float, ...])
assert_type(every.never, tuple[type[BaseException], ...])


@app.agent(orders, retry=Retry.delays("5s", timedelta(minutes=1), "10m", only=(ConnectionError, TimeoutError)))
async def notify(order: Order) -> None: ...


@app.agent(orders, retry=Retry.in_place(3, "100ms"), dead_letter=True)
async def notify_in_order(record: Record[str, Order]) -> None: ...


@app.agent(orders, returns, sink=invoices, retry=every, dead_letter="orders.failed")
async def bill(order: Order) -> AsyncIterator[Invoice]:
    yield Invoice(order.id)


@app.agent(orders, sink=alerts, retry=every, dead_letter=blobs)
async def warn(stream: Stream[Order]) -> AsyncIterator[Output[Alert]]:
    async for order in stream:
        yield Output(Alert(order.id), key=1)


@app.agent(orders, batch=Batch(500, within="200ms"), retry=every, dead_letter=False)
async def store(batch: Sequence[Order]) -> None: ...


@app.agent(orders, batch=Batch(500, within="200ms"), sink=invoices, retry=None, dead_letter=None)
async def store_out(batch: Sequence[Order]) -> list[Output[Invoice]]:
    return [Output(Invoice(order.id), key=order.id) for order in batch]


@app.agent(orders, sink=invoices)
async def always(order: Order) -> Invoice:
    return Invoice(order.id)


@app.agent(orders, sink=invoices)
async def keyed(order: Order) -> Output[Invoice]:
    return Output(Invoice(order.id), key=order.id)


@app.agent(orders, sink=invoices)
async def either(order: Order) -> Invoice | Output[Invoice] | None:
    if order.cents > 10:
        return Output(Alert("big"), topic=alerts, key=7)
    return Invoice(order.id)


@app.agent(orders, sink=invoices)
async def split(order: Order) -> AsyncIterator[Invoice]:
    yield Invoice(order.id)


@app.agent(orders, sink=invoices)
async def split_outputs(record: Record[str, Order]) -> AsyncIterator[Invoice | Output[Invoice]]:
    yield Output(Invoice(record.value.id), key=record.key)
    yield Output(Alert("x"), topic=alerts)


@app.agent(orders)
async def trace(record: Record[str, Order]) -> None:
    assert_type(record.key, str | None)
    assert_type(record.value, Order)
    assert_type(record.attempt, int)


@app.agent(orders, sink=invoices)
async def trace_sink(record: Record[str, Order]) -> Invoice | None:
    return Invoice(record.value.id)


@app.agent(orders, batch=Batch(500, within="200ms"))
async def archive(batch: Sequence[Order]) -> None:
    raise BatchError({3: ValueError()})


@app.agent(orders, batch=Batch(500, within=timedelta(seconds=1)), concurrency=4)
async def archive_list(batch: list[Order]) -> None:
    assert_type(batch, list[Order])


@app.agent(orders, batch=Batch(500, within="200ms"))
async def archive_records(batch: Sequence[Record[str, Order]]) -> None:
    assert_type(batch[0].key, str | None)


@app.agent(orders, batch=Batch(500, within="200ms"), sink=invoices)
async def archive_out(batch: Sequence[Record[str, Order]]) -> Sequence[Output[Invoice]]:
    return [Output(Invoice(r.value.id), key=r.key) for r in batch]


@app.agent(orders, batch=Batch(500, within="200ms"), sink=alerts)
async def archive_rekeyed(batch: Iterable[Order]) -> list[Output[Alert]] | None:
    return [Output(Alert(order.id), key=order.cents) for order in batch] or None


@app.agent(orders, sink=invoices)
async def totals(stream: Stream[Order]) -> AsyncIterator[Invoice]:
    async for order in stream:
        assert_type(order, Order)
        yield Invoice(order.id)


@app.agent(orders)
async def loop(stream: Stream[Order]) -> None:
    async for order in stream:
        assert_type(order, Order)


@app.agent(orders)
async def loop_records(stream: Stream[Record[str, Order]]) -> None:
    async for record in stream:
        assert_type(record.key, str | None)


@app.agent(orders, sink=alerts)
async def loop_rekeyed(stream: Stream[Order]) -> AsyncIterator[Output[Alert]]:
    async for order in stream:
        yield Output(Alert(order.id), key=order.cents)


@app.agent(orders, returns, sink=invoices)
async def several(record: Record[str, Order]) -> Invoice:
    return Invoice(record.topic)


@app.agent(tombstones)
async def state(order: Order | None) -> None: ...


@app.agent(tombstones)
async def state_record(record: Record[str, Order | None]) -> None:
    assert_type(record.value, Order | None)


@app.agent(orders, sink=nullable)
async def deletes(order: Order) -> Output[Invoice | None]:
    return Output(None, key=order.id)


@app.agent(loose)
async def on_dict(value: dict[str, Any]) -> None: ...


@app.agent(raw)  # pyright: ignore[reportUnknownArgumentType]
async def on_raw(value: dict[str, Any]) -> None: ...


@app.agent(anything)
async def on_any(value: Any) -> None: ...


@app.agent(movies)
async def on_movie(movie: Movie) -> None: ...


@app.agent(structs)
async def on_struct(value: Special) -> None: ...


@app.agent(text, sink=text)
async def upper(value: str) -> str:
    return value.upper()


@app.agent(lists)
async def on_list(value: list[Order]) -> None: ...


@app.agent(orders)
async def wider(value: object) -> None: ...


@app.agent(orders, order_by=lambda record: record.value.id)
async def ordered(order: Order) -> None: ...


@app.agent(orders)
async def routes(order: Order) -> Output[Any] | None:
    return Output(Alert("x"), topic=alerts, key=1)


@app.agent(orders, sink=alerts)
async def rekeyed(order: Order) -> Output[Alert] | None:
    return Output(Alert(order.id), key=order.cents)


@app.agent(mirrored, order_by="partition", timeout=timedelta(seconds=1), group="elsewhere", name="read")
async def mirror(value: str) -> None: ...


@app.timer("30s")
async def beat() -> None:
    await invoices.send(Invoice("hb"), key="hb")


@app.timer(timedelta(hours=1), name="hourly")
async def hour() -> None: ...


@asynccontextmanager
async def lifespan(app: App) -> AsyncGenerator[dict[str, int], None]:
    yield {"connections": 1}


def report(error: BaseException, record: Record[Any, Any] | None) -> None: ...


living = App("living", lifespan=lifespan, on_error=report, brokers="localhost:9092")


async def calls() -> None:
    await beat()
    await archive([Order("1", 5)])
    await loop(Stream([Order("1", 5)]))
    assert_type(await orders.send_and_wait(Order("1", 1), key="k"), RecordMetadata)
    assert_type(await charge(Order("1", 5)), Invoice | Output[Invoice] | None)
    await audit(Order("1", 5))
    await orders.send(Order("1", 1), key=None)
    await alerts.send(Alert("x"), key=3)
    async for out in split(Order("1", 5)):
        assert_type(out, Invoice | Output[Invoice])
