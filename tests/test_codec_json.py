"""JSON of dataclasses, attrs, Structs and TypedDicts: each kind of field, and bytes that are not as they should be."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, Optional, TypedDict, TypeVar
from uuid import UUID

import attr
import attrs
import msgspec
import pytest
import typing_extensions

from streamkit.codec import codec_for, key_codec_for
from streamkit.errors import DecodeError, EncodeError

T = TypeVar("T")
Id = NewType("Id", str)
Cents = Annotated[int, msgspec.Meta(gt=0)]


class Color(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Inner:
    name: str
    note: Optional[str] = None  # noqa: UP045


@dataclasses.dataclass
class Everything:
    id: Id
    at: datetime
    on: date
    took: timedelta
    price: Decimal
    uuid: UUID
    color: Color
    level: Level
    kind: Literal["a", "b"]
    cents: Cents
    inner: Inner
    data: bytes
    ratio: float = 0.5
    tags: list[str] = dataclasses.field(default_factory=list)
    by_name: dict[str, Inner] = dataclasses.field(default_factory=dict)
    pair: tuple[int, str] = (1, "a")
    some: set[int] = dataclasses.field(default_factory=set)
    loose: Any = None
    next: Everything | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    id: str
    cents: int = 0

    def __post_init__(self) -> None:
        if self.cents < 0:
            raise ValueError("cents must not be negative")


@dataclasses.dataclass
class Page(Generic[T]):
    items: list[T]


class Shape(msgspec.Struct, tag_field="shape"):
    color: str = "red"


class Circle(Shape, tag="circle"):
    radius: int = 1


class Square(Shape, tag="square"):
    side: int = 1


class Renamed(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    order_id: str


class Pair(NamedTuple):
    x: int
    y: int = 0


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class Show(typing_extensions.TypedDict, total=False):
    title: typing_extensions.Required[str]
    seasons: int


def doubled(cents: int) -> int:
    return cents * 2


@attrs.define
class Order:
    id: str = attrs.field(validator=attrs.validators.min_len(2))
    cents: int = attrs.field(default=0, converter=doubled)
    tags: list[str] = attrs.Factory(list)
    inner: Inner | None = None


@attr.s(auto_attribs=True)
class Older:
    id: str = attr.ib(validator=attr.validators.instance_of(str))
    note: Optional[str] = None  # noqa: UP045


@attrs.frozen(kw_only=True)
class Sealed:
    order: Order

    def __attrs_post_init__(self) -> None:
        if self.order.id == "no":
            raise ValueError("no is no order")


@attrs.define
class Longer(Order):
    hours: int = 24


EVERYTHING = Everything(
    id=Id("a"),
    at=datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    on=date(2024, 1, 2),
    took=timedelta(seconds=90),
    price=Decimal("1.50"),
    uuid=UUID(int=1),
    color=Color.RED,
    level=Level.HIGH,
    kind="b",
    cents=5,
    inner=Inner("é"),
    data=b"\xff",
    by_name={"a": Inner("b", "c")},
    some={1, 2},
    loose={"a": [1, None]},
)
OF_TYPE: list[tuple[Any, Any]] = [
    (Everything, dataclasses.replace(EVERYTHING, next=EVERYTHING)),
    (Frozen, Frozen(id="a", cents=1)),
    (Page[Inner], Page([Inner("a")])),
    (Circle | Square, Square("blue", 3)),
    (Circle | Square | None, Circle()),
    (list[Circle | Square], [Circle(), Square()]),
    (Renamed, Renamed("a")),
    (Pair, Pair(1, 2)),
    (Movie, {"title": "a"}),
    (Show, {"title": "a", "seasons": 2}),
    (Order, Order("ab", 1, ["x"], Inner("a"))),
    (Older, Older("a", "b")),
    (Sealed, Sealed(order=Order("ab"))),
    (list[Order], [Order("ab")]),
    (Cents, 3),
    (Id, "a"),
    (Literal["a", 1], 1),
    (Color, Color.RED),
    (datetime, EVERYTHING.at),
    (Decimal, Decimal("0.1")),
    (int, 10**100),
    (float, 0.5),
    (bool, True),
    (tuple[int, ...], (1, 2)),
    (set[int], {1}),
]


@pytest.mark.parametrize(("annotation", "value"), OF_TYPE, ids=str)
def test_what_is_encoded_decodes_to_the_same(annotation: Any, value: Any) -> None:
    codec = codec_for(annotation)
    read = codec.decode(codec.encode(value) or b"")
    assert (type(read), read) == (type(value), value)


def test_the_wire_forms_are_the_stated_ones() -> None:
    assert (
        codec_for(Everything).encode(EVERYTHING)
        == (
            '{"id":"a","at":"2024-01-02T03:04:05.000006Z","on":"2024-01-02","took":"PT90S","price":"1.50",'
            '"uuid":"00000000-0000-0000-0000-000000000001","color":"red","level":3,"kind":"b","cents":5,'
            '"inner":{"name":"é","note":null},"data":"/w==","ratio":0.5,"tags":[],"by_name":{"a":{"name":"b","note":"c"}},'
            '"pair":[1,"a"],"some":[1,2],"loose":{"a":[1,null]},"next":null}'
        ).encode()
    )
    assert codec_for(Circle | Square).encode(Circle()) == b'{"shape":"circle","color":"red","radius":1}'
    assert codec_for(Renamed).encode(Renamed("a")) == b'{"orderId":"a"}'
    assert codec_for(Pair).encode(Pair(1, 2)) == b"[1,2]"


@pytest.mark.parametrize(
    ("annotation", "data", "told"),
    [
        (Inner, b'{"name":1}', r"Expected `str`, got `int` - at `\$\.name`"),
        (Inner, b"{}", "missing required field `name`"),
        (Cents, b"0", "Expected `int` >= 1"),
        (Frozen, b'{"id":"a","cents":-1}', "cents must not be negative"),
        (Frozen, b'{"id":"a","cents":"1"}', r"Expected `int`, got `str` - at `\$\.cents`"),
        (Frozen, b'{"id":"a","cents":1.5}', "Expected `int`, got `float`"),
        (Renamed, b'{"orderId":"a","more":1}', "contains unknown field `more`"),
        (Circle | Square, b'{"shape":"line"}', "Invalid value 'line'"),
        (Circle | Square, b"{}", "missing required field `shape`"),
        (Literal["a"], b'"b"', "Invalid enum value 'b'"),
        (Page[Inner], b'{"items":[{"name":1}]}', r"at `\$\.items\[0\]\.name`"),
        (Order, b'{"id":"a"}', "Length of 'id' must be >= 2"),
        (Sealed, b'{"order":{"id":"no"}}', "no is no order"),
        (Older, b'{"id":1}', "Expected `str`, got `int`"),
        (Movie, b'{"year":1}', "missing required field `title`"),
        (dict[str, int], b'{"a":"b"}', "Expected `int`, got `str`"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_with_the_field(annotation: Any, data: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        codec_for(annotation).decode(data)


def test_unknown_fields_are_passed_over_and_missing_ones_have_their_defaults() -> None:
    assert codec_for(Inner).decode(b'{"name":"a","more":[1]}') == Inner("a", None)
    assert codec_for(Order).decode(b'{"id":"ab","more":1}') == Order("ab")
    assert codec_for(Movie).decode(b'{"title":"a","more":1}') == {"title": "a"}
    assert codec_for(Inner).decode(b'{"name":"a","name":"b"}') == Inner("b", None)


def test_attrs_validators_run_while_decoding_and_converters_do_not() -> None:
    codec = codec_for(Order)
    order = Order("ab", 4)
    assert order.cents == 8
    assert codec.decode(codec.encode(order) or b"").cents == 8


def test_a_subclass_of_an_attrs_class_is_sent_with_its_own_fields() -> None:
    sent = msgspec.json.decode(codec_for(Order).encode(Longer("ab")) or b"")
    assert sent == {"id": "ab", "cents": 0, "tags": [], "inner": None, "hours": 24}
    with pytest.raises(EncodeError):
        codec_for(Longer).encode(Order("ab"))


HOSTILE = {
    "empty": b"",
    "not JSON": b"nope",
    "cut short": b'{"name":"a"',
    "two values": b'{"name":"a"} {}',
    "NaN": b'{"name":NaN}',
    "Infinity": b'{"name":-Infinity}',
    "out of range": b'{"name":1e400}',
    "not UTF-8": b'{"name":"\xff"}',
    "UTF-16": '{"name":"a"}'.encode("utf-16"),
    "BOM": b'\xef\xbb\xbf{"name":"a"}',
    "lone surrogate": rb'{"name":"\ud800"}',
    "100,000 lists": b"[" * 100_000,
    "100,000 lists in a field": b'{"name":' + b"[" * 100_000,
    "100,000 objects": b'{"name":' * 100_000,
}


@pytest.mark.parametrize("annotation", [dict, Any, Inner, Order, Movie, Renamed, dict[str, Inner]], ids=str)
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_are_refused_by_an_ordinary_error(annotation: Any, data: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        codec_for(annotation).decode(data)


def test_integers_beyond_64_bits_are_exact_in_typed_values_and_rounded_in_loose_ones() -> None:
    assert codec_for(int).decode(b"18446744073709551617") == 2**64 + 1
    assert codec_for(dict).decode(b'{"n":18446744073709551617}') == {"n": 2.0**64}
    with pytest.raises(TypeError, match="64-bit"):
        codec_for(dict).encode({"n": 2**64})
    with pytest.raises(ValueError):
        codec_for(int).decode(b"9" * 5_000)


def test_nan_is_written_as_null_and_then_not_read_as_a_float() -> None:
    for annotation in (float, dict[str, Any]):
        nan: Any = float("nan") if annotation is float else {"n": float("nan")}
        assert b"null" in (codec_for(annotation).encode(nan) or b"")
    with pytest.raises(ValueError):
        codec_for(float).decode(b"null")


def test_text_keeps_a_byte_order_mark_and_may_be_empty() -> None:
    assert codec_for(str).decode(b"\xef\xbb\xbfa") == "\ufeffa"
    assert codec_for(str).decode(b"") == ""
    assert codec_for(bytes).decode(b"") == b""
    with pytest.raises(UnicodeEncodeError):
        codec_for(str).encode("\ud800")


def test_json_null_is_none_where_the_type_allows_it() -> None:
    assert codec_for(Inner | None).decode(b"null") is None
    assert codec_for(Inner | None).encode(None) is None
    with pytest.raises(ValueError):
        codec_for(Inner).decode(b"null")


def test_a_wrong_value_inside_is_written_unchecked_and_refused_where_it_is_read() -> None:
    wrong: Any = 5
    data = codec_for(Inner).encode(Inner(wrong))
    assert data == b'{"name":5,"note":null}'
    with pytest.raises(ValueError):
        codec_for(Inner).decode(data)


@pytest.mark.parametrize(
    ("key", "data", "expected"),
    [
        (int, b"007", 7),
        (int, b"-0", 0),
        (UUID, b"{00000000-0000-0000-0000-00000000000A}", UUID(int=10)),
        (UUID, b"urn:uuid:0000000000000000000000000000000a", UUID(int=10)),
        (str, b"", ""),
    ],
)
def test_keys_are_read_in_every_form_that_python_knows(key: Any, data: bytes, expected: object) -> None:
    assert key_codec_for(key).decode(data) == expected


@pytest.mark.parametrize(
    ("key", "data"), [(int, b"9" * 5_000), (UUID, b""), (UUID, b"x" * 32), (UUID, b"\xff"), (str, b"\xff")]
)
def test_a_key_that_is_not_of_its_type_is_refused(key: Any, data: bytes) -> None:
    with pytest.raises(ValueError):
        key_codec_for(key).decode(data)


def test_json_lists_are_no_dicts() -> None:
    with pytest.raises(DecodeError, match="expected a JSON object, got list"):
        codec_for(dict).decode(b"[]")


DECLARES = """
import dataclasses, sys
import streamkit

@dataclasses.dataclass
class Order:
    id: str

app = streamkit.App("test")
def loaded():
    return sorted({"aiokafka", "aiohttp", "prometheus_client", "faust", "pydantic", "attrs"} & set(sys.modules))
print(loaded())
app.topic("a", value=Order, key=int)
app.topic("b", value=dict)
app.topic("c", value=Order | None)
print(loaded())
"""


def test_importing_streamkit_and_declaring_topics_imports_no_library_of_types() -> None:
    done = subprocess.run([sys.executable, "-c", DECLARES], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n[]\n"


DECLARES_PYDANTIC = """
import sys
import pydantic, streamkit

class Order(pydantic.BaseModel):
    id: str

streamkit.App("test").topic("a", value=Order)
print("faust" in sys.modules)
"""


def test_declaring_a_model_of_one_library_does_not_import_the_other() -> None:
    done = subprocess.run([sys.executable, "-c", DECLARES_PYDANTIC], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
