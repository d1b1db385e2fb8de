"""How long one order of about 150 bytes takes to decode and encode as each type: `python -m benchmarks.value_types`.

Through the codecs as the engine calls them, on one core, without Kafka. Of each, the median of several rounds.
"""

import dataclasses
import platform
import statistics
import sys
import timeit
from typing import Any, TypedDict

import attrs
import faust
import msgspec
import pydantic

from streamkit.codec import codec_for

ROUNDS = 15
CALLS = 20_000


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


def microseconds(call: Any) -> float:
    return statistics.median(timeit.repeat(call, number=CALLS, repeat=ROUNDS)) / CALLS * 1e6


def main() -> int:
    print(f"Python {platform.python_version()}, {len(DATA)} bytes, medians of {ROUNDS} rounds of {CALLS:,} calls\n")
    print("| type | decode, µs | encode, µs | both, µs |\n|---|---:|---:|---:|")
    for name, value_type in TYPES.items():
        codec = codec_for(value_type)
        value = codec.decode(DATA)
        decode = microseconds(lambda codec=codec: codec.decode(DATA))
        encode = microseconds(lambda codec=codec, value=value: codec.encode(value))
        print(f"| {name} | {decode:.2f} | {encode:.2f} | {decode + encode:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
