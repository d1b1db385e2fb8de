"""Every line marked with a capital E comment must be refused, and only those."""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

import attrs
import faust
import pydantic

from streamkit import App, Batch, BatchError, Output, Record, Retry, RetryLater, Stream, Topic


@dataclass(frozen=True, slots=True)
class Order:
    id: str


@dataclass(frozen=True, slots=True)
class Invoice:
    order_id: str


class OrderCodec:
    def encode(self, value: Order, /) -> bytes:
        return value.id.encode()

    def decode(self, data: bytes, /) -> Order:
        return Order(data.decode())


app = App("billing")
orders = app.topic("orders.events.v1", value=Order)
invoices = app.topic("invoices.events.v1", value=Invoice)
alerts = app.topic("alerts.v1", value=str, key=int)
tombstones = app.topic("accounts.v1", value=Order | None)


class Customer(pydantic.BaseModel):
    name: str


@attrs.define
class Parcel:
    weight: int


class Shipment(faust.Record):
    id: str


customers = app.topic("customers.v1", value=Customer)
parcels = app.topic("parcels.v1", value=Parcel)
shipments = app.topic("shipments.v1", value=Shipment)


@app.agent(customers)  # E an attrs class where the topic holds a pydantic model
async def b1(parcel: Parcel) -> None: ...


@app.agent(parcels)  # E a Record of Faust where the topic holds an attrs class, inside Record
async def b2(record: Record[str, Shipment]) -> None: ...


@app.agent(customers, sink=shipments)  # E returns an attrs class where the sink takes a Record of Faust
async def b3(customer: Customer) -> Parcel:
    raise NotImplementedError


async def sends_others() -> None:
    await shipments.send(Parcel(1))  # E an attrs class where the topic holds a Record of Faust


@app.agent(orders)  # E wrong value type
async def a1(order: Invoice) -> None: ...


@app.agent(orders, sink=invoices)  # E returns what the sink does not take
async def a2(order: Order) -> Order:
    raise NotImplementedError


@app.agent(orders)  # E returns a value and has no sink
async def a3(order: Order) -> Invoice:
    raise NotImplementedError


@app.agent(orders)  # E not async
def a4(order: Order) -> None: ...


@app.agent(orders)  # E Sequence without batch=
async def a5(batch: Sequence[Order]) -> None: ...


@app.agent(orders, batch=Batch(5, within="1s"))  # E batch= without Sequence
async def a6(order: Order) -> None: ...


@app.agent(orders)  # E wrong key type
async def a7(record: Record[int, Order]) -> None: ...


@app.agent(orders)  # E wrong value type inside Record
async def a8(record: Record[str, Invoice]) -> None: ...


@app.agent(orders)  # E stream of another type
async def a9(stream: Stream[Invoice]) -> None: ...


@app.agent(orders, batch=Batch(5, within="1s"), sink=invoices)  # E a batch states the keys of what it returns
async def a25(batch: Sequence[Order]) -> list[Invoice]:
    raise NotImplementedError


@app.agent(orders, batch=Batch(5, within="1s"), sink=invoices)  # E outputs of another type
async def a26(batch: Sequence[Order]) -> list[Output[Order]]:
    raise NotImplementedError


@app.agent(orders, batch=Batch(5, within="1s"))  # E a batch returns a value and has no sink
async def a27(batch: Sequence[Order]) -> list[Output[Invoice]]:
    raise NotImplementedError


@app.agent(orders, batch=Batch(5, within="1s"), order_by="key")  # E batches go by partition
async def a28(batch: Sequence[Order]) -> None: ...


@app.agent(orders, batch=5)  # E not a Batch
async def a29(batch: Sequence[Order]) -> None: ...


@app.agent(orders, sink=alerts)  # E a loop states the keys for a sink of other keys
async def a30(stream: Stream[Order]) -> AsyncIterator[str]:
    yield ""


@app.agent(orders, invoices)  # E topics of two types
async def a31(order: Order) -> None: ...


@app.timer("30s")  # E not async
def t1() -> None: ...


@app.timer("30s")  # E takes an argument
async def t2(order: Order) -> None: ...


@app.timer(30)  # E a bare number has no unit
async def t3() -> None: ...


Batch(5)  # E within is missing
Batch(5, within=1)  # E a bare number has no unit
BatchError(["error"])  # E errors go by place


@app.agent(orders, sink=invoices)  # E generator yields another type
async def a10(order: Order) -> AsyncIterator[Order]:
    yield order


@app.agent(orders, sink=invoices)  # E plain generator
def a11(order: Order) -> Iterator[Invoice]:
    yield Invoice(order.id)


@app.agent(orders)  # E generator without a sink
async def a12(order: Order) -> AsyncIterator[Invoice]:
    yield Invoice(order.id)


@app.agent(tombstones)  # E the value may be None
async def a13(order: Order) -> None: ...


@app.agent(tombstones)  # E the value may be None
async def a14(record: Record[str, Order]) -> None: ...


@app.agent(orders)  # E two parameters
async def a15(key: str, order: Order) -> None: ...


@app.agent(orders)  # E no parameter
async def a16() -> None: ...


@app.agent(orders, sink=invoices)  # E Output of another type
async def a17(order: Order) -> Output[Order]:
    raise NotImplementedError


@app.agent(orders, order_by="keys")  # E unknown order
async def a18(order: Order) -> None: ...


@app.agent(orders, timeout=5)  # E a bare number has no unit
async def a20(order: Order) -> None: ...


@app.agent(orders, start_from="newest")  # E unknown start
async def a21(order: Order) -> None: ...


@app.agent(orders, on_gap="skip")  # E unknown way over a gap
async def a22(order: Order) -> None: ...


@app.agent(orders, concurrency="8")  # E not a number
async def a23(order: Order) -> None: ...


@app.agent(orders, sink="invoices")  # E the sink is not a topic
async def a24(order: Order) -> None: ...


@app.agent(orders, retry="5s")  # E not a Retry
async def r1(order: Order) -> None: ...


@app.agent(orders, retry=Retry)  # E the class, not one of it
async def r2(order: Order) -> None: ...


@app.agent(orders, sink=invoices, retry=3)  # E a bare number says nothing of waits
async def r3(order: Order) -> Invoice:
    raise NotImplementedError


@app.agent(orders, batch=Batch(5, within="1s"), retry="5s")  # E not a Retry
async def r4(batch: Sequence[Order]) -> None: ...


@app.agent(orders, dead_letter=3)  # E neither a topic nor its name
async def r5(order: Order) -> None: ...


@app.agent(orders, sink=invoices, dead_letter=[invoices])  # E one topic, or none
async def r6(order: Order) -> Invoice:
    raise NotImplementedError


Retry("5s")  # E built by its class methods
Retry(tier_waits=(5.0,))  # E built by its class methods
Retry.exponential(5)  # E a bare number has no unit
Retry.exponential("5s", tiers="3")  # E not a number
Retry.exponential("5s", 2)  # E factor or tiers?
Retry.exponential("5s", never=ValueError)  # E a class alone
Retry.exponential("5s", never=ValueError())  # E an exception, not its class
Retry.exponential("5s", only=(ValueError(),))  # E an exception, not its class
Retry.exponential("5s", only=("ValueError",))  # E names are no classes
Retry.exponential("5s", never=(int,))  # E not an exception
Retry.delays(5)  # E a bare number has no unit
Retry.delays(["5s", "1m"])  # E each is an argument of its own
Retry.delays("5s", jitter="10%")  # E not a number
Retry.in_place("3")  # E not a number
Retry.in_place(3, 0.1)  # E a bare number has no unit
Retry.in_place(3, jitter=0.1)  # E there is no jitter in place
Retry.in_place(3).jitter = 0.5  # E cannot be changed
RetryLater(30)  # E a bare number has no unit


@app.agent(orders, sink=alerts)  # E the sink's key type differs and no key is stated
async def a19(order: Order) -> str:
    return order.id


async def sends() -> None:
    await orders.send(Invoice("1"), key="k")  # E wrong value
    await orders.send(Order("1"), key=1)  # E wrong key
    Output(Invoice("1"), topic=orders)  # E value of another topic
    Output("text", topic=alerts, key="k")  # E key of another type
    await alerts.send("text", key="k")  # E key of another type


@app.agent(orders)
async def needs_key(record: Record[str, Order]) -> None:
    record.key.upper()  # E the key may be None


@app.agent(orders)
async def good(order: Order) -> None: ...


async def calls() -> None:
    await good(Invoice("1"))  # E wrong argument


wrong: Topic[str, Invoice] = app.topic("x", value=Order)  # E value= and annotation differ
app.topic("x", value=Order(""))  # E not a type
app.topic("x", value=Invoice, codec=OrderCodec())  # E codec of another type
app.topic("x", value=Order, codec=Order)  # E not a codec
app.agent("orders")  # E not a topic
