"""How long one order of about 150 bytes takes to decode and encode as each type: `python -m benchmarks.value_types`.

Through the codecs as the engine calls them, on one core, without Kafka. Of each, the median of many rounds.
"""

import dataclasses
import platform
import statistics
import sys
import timeit
from functools import partial
from typing import Any, TypedDict

import attrs
import faust
import msgspec
import pydantic

from streamkit.codec import codec_for

ROUNDS = 51
CALLS = 5_000


@dataclasses.dataclass(slots=True)
class DataclassOrder:
    id: str
    customer: str
    email: str
    cents: int
    currency: str
    quantity: int
    express: bool
    note: str


class StructOrder(msgspec.Struct):
    id: str
    customer: str
    email: str
    cents: int
    currency: str
    quantity: int
    express: bool
    note: str


@attrs.define
class AttrsOrder:
    id: str
    customer: str
    email: str
    cents: int
    currency: str
    quantity: int
    express: bool
    note: str


class TypedDictOrder(TypedDict):
    id: str
    customer: str
    email: str
    cents: int
    currency: str
    quantity: int
    express: bool
    note: str


class PydanticOrder(pydantic.BaseModel):
    id: str
    customer: str
    email: str
    cents: int
    currency: str
    quantity: int
    express: bool
    note: str


class FaustOrder(faust.Record, include_metadata=False):
    id: str
    customer: str
    email: str
    cents: int
    currency: str
    quantity: int
    express: bool
    note: str


class CoercedFaustOrder(FaustOrder, coerce=True, include_metadata=False): ...


DATA = (
    b'{"id":"o-10042","customer":"Ada Lovelace","email":"ada@example.org","cents":129900,"currency":"EUR",'
    b'"quantity":3,"express":true,"note":"ring twice, please"}'
)
TYPES: dict[str, Any] = {
    "`msgspec.Struct`": StructOrder,
    "dataclass (with slots)": DataclassOrder,
    "attrs (`@attrs.define`)": AttrsOrder,
    "TypedDict": TypedDictOrder,
    "`dict`": dict,
    "pydantic model": PydanticOrder,
    "`faust.Record`": FaustOrder,
    "`faust.Record`, `coerce=True`": CoercedFaustOrder,
}


def calls() -> dict[str, tuple[Any, Any]]:
    """What decodes and what encodes, by type; last, Faust's own methods beside the codec that uses them."""
    found: dict[str, tuple[Any, Any]] = {}
    for name, value_type in TYPES.items():
        codec = codec_for(value_type)
        value = codec.decode(DATA)
        found[name] = partial(codec.decode, DATA), partial(codec.encode, value)
    order = FaustOrder.loads(DATA, serializer="json")
    found["(Faust's own `loads` and `dumps`)"] = (
        partial(FaustOrder.loads, DATA, serializer="json"),
        partial(order.dumps, serializer="json"),
    )
    return found


def measure(pairs: dict[str, tuple[Any, Any]]) -> dict[str, list[float]]:
    """Medians in microseconds. The types take turns, so that a busy machine is busy for all of them."""
    times: dict[str, list[list[float]]] = {name: [[], []] for name in pairs}
    for _ in range(ROUNDS):
        for name, pair in pairs.items():
            for taken, call in zip(times[name], pair, strict=True):
                taken.append(timeit.timeit(call, number=CALLS) / CALLS * 1e6)
    return {name: [statistics.median(taken) for taken in both] for name, both in times.items()}


def main() -> int:
    print(f"Python {platform.python_version()}, {len(DATA)} bytes, medians of {ROUNDS} rounds of {CALLS:,} calls\n")
    print("| type | decode, µs | encode, µs | both, µs |\n|---|---:|---:|---:|")
    for name, (decode, encode) in measure(calls()).items():
        print(f"| {name} | {decode:.2f} | {encode:.2f} | {decode + encode:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
