"""What a user is told, in full, of each mistake that shows while the agents run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from streamkit import App, Batch, BatchError, Output, Record, Stream
from tests.runtime.support import World, simulated

NEXT_START = "The record is not committed: the next start runs it again."
SKIP = (
    "To pass over it, stop all workers of the group and run: kafka-consumer-groups.sh "
    "--bootstrap-server localhost:9092 --group test.work --topic in:0 --reset-offsets --to-offset 1 --execute"
)
MEND_HANDLER = (
    'Mend the handler, or declare retry=Retry.exponential("5s") to run such records again, '
    "or dead_letter=True to set them aside."
)
MEND_SINK = (
    "Mend what the handler returns, or the topic that it goes to; "
    "or declare dead_letter=True to set such records aside."
)
MEND_BATCH = (
    "Mend the handler, or raise BatchError({place: error}) to say which records failed. "
    "Nothing of the batch is committed: the next start runs it again."
)
AT = "on in[0] offset 0, key b'k':"


@dataclass
class Order:
    id: str


class Declared:
    """The topics of each case; `work` is the agent's name throughout."""

    def __init__(self) -> None:
        self.app = App("test")
        self.orders = self.app.topic("in", value=Order)
        self.texts = self.app.topic("texts", value=str)
        self.numbered = self.app.topic("numbered", value=str, key=int)

    def agent(self, **options: Any) -> Callable[[Any], object]:
        declare: Callable[[Any], object] = self.app.agent(options.pop("topic", self.orders), name="work", **options)
        return declare


def undecodable(declared: Declared) -> None:
    @declared.agent()
    async def work(order: Order) -> None: ...


def raises(declared: Declared) -> None:
    @declared.agent()
    async def work(order: Order) -> None:
        raise ValueError("no such customer")


def raises_nothing_to_say(declared: Declared) -> None:
    @declared.agent()
    async def work(order: Order) -> None:
        raise KeyError


def asserts_with_notes(declared: Declared) -> None:
    @declared.agent()
    async def work(order: Order) -> None:
        error = ValueError("no")
        error.add_note("The customer left in May.")
        raise error


def takes_too_long(declared: Declared) -> None:
    @declared.agent(timeout="2s")
    async def work(order: Order) -> None:
        await asyncio.sleep(60)


def cancels_itself(declared: Declared) -> None:
    @declared.agent()
    async def work(order: Order) -> None:
        raise asyncio.CancelledError


def returns_another_type(declared: Declared) -> None:
    @declared.agent(sink=declared.texts)
    async def work(order: Order) -> Any:
        return 5


def returns_without_a_sink(declared: Declared) -> None:
    @declared.agent()
    async def work(order: Order) -> Any:
        return "text"


def states_a_key_of_another_type(declared: Declared) -> None:
    @declared.agent(sink=declared.numbered)
    async def work(order: Order) -> Output[str]:
        return Output("text", key="seven")


def returns_too_much(declared: Declared) -> None:
    @declared.agent(sink=declared.texts)
    async def work(order: Order) -> str:
        return "x" * 2_000_000


def sends_another_type(declared: Declared) -> None:
    @declared.agent()
    async def work(order: Order) -> None:
        await declared.texts.send(order)  # type: ignore[arg-type]


def sends_to_no_such_partition(declared: Declared) -> None:
    @declared.agent()
    async def work(order: Order) -> None:
        await declared.texts.send("a", partition=7)


def fails_a_batch(declared: Declared) -> None:
    @declared.agent(batch=Batch(2, within="1s"))
    async def work(batch: Sequence[Order]) -> None:
        raise OSError("the database is down")


def fails_a_part_of_a_batch(declared: Declared) -> None:
    @declared.agent(batch=Batch(2, within="1s"))
    async def work(batch: Sequence[Order]) -> None:
        raise BatchError({0: ValueError("bad row")})


def names_a_place_that_is_none(declared: Declared) -> None:
    @declared.agent(batch=Batch(2, within="1s"))
    async def work(batch: Sequence[Order]) -> None:
        raise BatchError({5: ValueError("bad row")})


def returns_values_of_a_batch(declared: Declared) -> None:
    @declared.agent(batch=Batch(2, within="1s"), sink=declared.texts)
    async def work(batch: Sequence[Order]) -> Any:
        return ["text"]


def breaks_out_of_its_loop(declared: Declared) -> None:
    @declared.agent()
    async def work(stream: Stream[Order]) -> None:
        async for _ in stream:
            break


def loop_raises(declared: Declared) -> None:
    @declared.agent(sink=declared.texts)
    async def work(stream: Stream[Record[str, Order]]) -> AsyncIterator[str]:
        async for record in stream:
            raise ValueError(f"no room for {record.value.id}")
            yield ""


def order_by_raises(declared: Declared) -> None:
    @declared.agent(order_by=lambda record: record.value.customer)
    async def work(order: Order) -> None: ...


RECORDS = [
    (
        undecodable,
        b'{"id": 5}',
        f"stage decode-value {AT} ValidationError: Expected `str`, got `int` - at `$.id`",
        'The bytes: 7b 22 69 64 22 3a 20 35 7d |{"id": 5}| (9 bytes)',
        f"Declare the topic with the value type that its producers write, or give it a codec= for them; "
        f"or declare dead_letter=True to set such records aside. {NEXT_START}",
    ),
    (
        undecodable,
        None,
        f"stage decode-value {AT} DecodeError: the value is null (a tombstone), and the topic's type is Order: "
        "declare value=Order | None if None may come",
        f"Declare the topic with the value type that its producers write, or give it a codec= for them; "
        f"or declare dead_letter=True to set such records aside. {NEXT_START}",
    ),
    (raises, b'{"id": "1"}', f"stage handle {AT} ValueError: no such customer", f"{MEND_HANDLER} {NEXT_START}"),
    (raises_nothing_to_say, b'{"id": "1"}', f"stage handle {AT} KeyError", f"{MEND_HANDLER} {NEXT_START}"),
    (
        asserts_with_notes,
        b'{"id": "1"}',
        f"stage handle {AT} ValueError: no",
        "The customer left in May.",
        f"{MEND_HANDLER} {NEXT_START}",
    ),
    (
        takes_too_long,
        b'{"id": "1"}',
        f"stage handle {AT} TimeoutError: not done within its timeout of 2 s",
        f"{MEND_HANDLER} {NEXT_START}",
    ),
    (cancels_itself, b'{"id": "1"}', f"stage handle {AT} CancelledError", f"{MEND_HANDLER} {NEXT_START}"),
    (
        returns_another_type,
        b'{"id": "1"}',
        f"stage sink {AT} EncodeError: expected str, got int: 5",
        f"{MEND_SINK} {NEXT_START}",
    ),
    (
        returns_without_a_sink,
        b'{"id": "1"}',
        f"stage sink {AT} TypeError: the agent has no sink for the str it returned",
        f"{MEND_SINK} {NEXT_START}",
    ),
    (
        states_a_key_of_another_type,
        b'{"id": "1"}',
        f"stage sink {AT} EncodeError: expected int, got str: 'seven'",
        f"{MEND_SINK} {NEXT_START}",
    ),
    (
        returns_too_much,
        b'{"id": "1"}',
        f"stage sink {AT} RecordTooLarge: an output of 2,000,071 bytes; 'texts' takes 1,048,576 at the most",
        f"{MEND_SINK} {NEXT_START}",
    ),
    (
        sends_another_type,
        b'{"id": "1"}',
        f"stage handle {AT} EncodeError: expected str, got Order: Order(id='1')",
        f"{MEND_HANDLER} {NEXT_START}",
    ),
    (
        sends_to_no_such_partition,
        b'{"id": "1"}',
        f"stage handle {AT} ValueError: there is no partition 7: the topic has 1",
        f"{MEND_HANDLER} {NEXT_START}",
    ),
    (
        fails_a_part_of_a_batch,
        b'{"id": "1"}',
        f"stage handle {AT} ValueError: bad row",
        f"{MEND_HANDLER} {NEXT_START}",
    ),
    (
        breaks_out_of_its_loop,
        b'{"id": "1"}',
        f"stage handle {AT} RuntimeError: the loop ended before its stream did: "
        "`async for` must go on until the stream ends",
        f"{MEND_HANDLER} {NEXT_START}",
    ),
    (loop_raises, b'{"id": "1"}', f"stage handle {AT} ValueError: no room for 1", f"{MEND_HANDLER} {NEXT_START}"),
    (
        order_by_raises,
        b'{"id": "1"}',
        f"stage decode-value {AT} AttributeError: 'Order' object has no attribute 'customer'",
        'The bytes: 7b 22 69 64 22 3a 20 22 31 22 7d |{"id": "1"}| (11 bytes)',
        f"Declare the topic with the value type that its producers write, or give it a codec= for them; "
        f"or declare dead_letter=True to set such records aside. {NEXT_START}",
    ),
]

BATCHES = [
    (fails_a_batch, "handle", "OSError: the database is down", ()),
    (
        names_a_place_that_is_none,
        "handle",
        "BatchError: 1 failed, the first at 5: ValueError: bad row",
        ("The batch had 1 records: there is no place 5.",),
    ),
    (
        returns_values_of_a_batch,
        "sink",
        "TypeError: a str that belongs to no single record has no key to go under: make it an Output(value, key=...)",
        (),
    ),
]


async def failure(declare: Callable[[Declared], None], value: bytes | None) -> str:
    world, declared = World(), Declared()
    for topic in ("texts", "numbered"):
        world.broker.create_topic(topic)
    world.broker.append("in", value, key=b"k")
    declare(declared)
    return str(await world.failing(declared.app))


@pytest.mark.parametrize(("declare", "value", "lines"), [(row[0], row[1], row[2:]) for row in RECORDS])
def test_a_failed_record_is_told_with_where_it_is_and_what_to_do(
    declare: Callable[[Declared], None], value: bytes | None, lines: Sequence[str]
) -> None:
    @simulated
    async def case() -> None:
        said = await failure(declare, value)
        assert said.split("\n") == [f"agent 'work' failed at {lines[0]}", *lines[1:], SKIP]

    case()


@pytest.mark.parametrize(("declare", "stage", "cause", "notes"), BATCHES)
def test_a_failed_batch_is_told_as_a_whole(
    declare: Callable[[Declared], None], stage: str, cause: str, notes: Sequence[str]
) -> None:
    @simulated
    async def case() -> None:
        said = await failure(declare, b'{"id": "1"}')
        first = f"agent 'work' failed at stage {stage} on a batch of 1 records from in[0] offset 0 on: {cause}"
        assert said.split("\n") == [first, *notes, MEND_BATCH]

    case()
