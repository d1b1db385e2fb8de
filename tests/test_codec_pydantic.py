"""Models of pydantic: read and written as their author expects, and errors that say which field."""

import dataclasses
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

import pydantic
import pydantic.v1
import pytest
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from streamkit.codec import codec_for
from streamkit.errors import DecodeError, EncodeError

T = TypeVar("T")


class Color(Enum):
    RED = "red"


class Customer(BaseModel):
    name: str


class Order(BaseModel):
    id: str
    cents: int = 0
    customer: Customer | None = None


class Express(Order):
    hours: int = 24


class Everything(BaseModel):
    at: datetime
    price: Decimal
    id: UUID
    color: Color
    orders: list[Order] = []
    by_name: dict[str, Order] = {}
    next: "Everything | None" = None


class Aliased(BaseModel):
    order_id: str = Field(alias="orderId")


class ByName(BaseModel):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=False)
    order_id: str = Field(alias="orderId")


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    count: int


class Positive(BaseModel):
    count: Annotated[int, Field(gt=0)]

    @pydantic.field_validator("count")
    @classmethod
    def _even(cls, count: int) -> int:
        if count % 2:
            raise ValueError("odd counts are not for us")
        return count


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


class Page(BaseModel, Generic[T]):
    items: list[T]


class Numbers(pydantic.RootModel[list[int]]): ...


@pydantic.dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Point3D(Point):
    """Derived without a decorator."""


@dataclasses.dataclass
class Holder:
    order: Order
    note: str = ""


class Row(TypedDict):
    order: Order


@dataclasses.dataclass
class Bounded:
    count: Annotated[int, Field(gt=0)]


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]
BY_NAME = ByName.model_validate({"order_id": "a"})
ORDER = Order(id="é", cents=5, customer=Customer(name="Ann"))
EVERYTHING = Everything(
    at=datetime(2024, 1, 2, tzinfo=UTC),
    price=Decimal("1.50"),
    id=UUID(int=1),
    color=Color.RED,
    orders=[ORDER],
    by_name={"a": ORDER},
)
OF_TYPE: list[tuple[Any, Any]] = [
    (Order, ORDER),
    (Order | None, ORDER),
    (Everything, EVERYTHING.model_copy(update={"next": EVERYTHING})),
    (Aliased, Aliased(orderId="a")),
    (ByName, BY_NAME),
    (list[Order], [ORDER]),
    (dict[str, Order], {"a": ORDER}),
    (Pet, Dog()),
    (Cat | Dog, Dog()),
    (Page[Order], Page[Order](items=[ORDER])),
    (Numbers, Numbers([1, 2])),
    (Point, Point(1, 2)),
    (Point3D, Point3D(1, 2)),
    (Holder, Holder(ORDER, "x")),
    (Row, {"order": ORDER}),
    (Bounded, Bounded(1)),
]


@pytest.mark.parametrize(("annotation", "value"), OF_TYPE, ids=lambda item: "" if isinstance(item, BaseModel) else None)
def test_what_is_encoded_decodes_to_the_same(annotation: Any, value: Any) -> None:
    codec = codec_for(annotation)
    read = codec.decode(codec.encode(value) or b"")
    assert (type(read), read) == (type(value), value)


def test_the_wire_form_is_that_of_pydantic_under_the_names_that_are_read() -> None:
    assert codec_for(Order).encode(ORDER) == ORDER.model_dump_json().encode()
    assert codec_for(Aliased).encode(Aliased(orderId="a")) == b'{"orderId":"a"}'
    assert codec_for(list[Aliased]).encode([Aliased(orderId="a")]) == b'[{"orderId":"a"}]'
    assert codec_for(ByName).encode(BY_NAME) == b'{"order_id":"a"}'


def test_coercion_is_pydantics_default_unless_the_model_is_strict() -> None:
    assert codec_for(Order).decode(b'{"id":"a","cents":"5","more":1}') == Order(id="a", cents=5)
    with pytest.raises(DecodeError, match="count: Input should be a valid integer"):
        codec_for(Strict).decode(b'{"count":"5"}')
    with pytest.raises(DecodeError, match="more: Extra inputs are not permitted"):
        codec_for(Strict).decode(b'{"count":5,"more":1}')


def test_a_subclass_is_sent_with_its_own_fields() -> None:
    assert codec_for(Order).encode(Express(id="a")) == b'{"id":"a","cents":0,"customer":null,"hours":24}'


@pytest.mark.parametrize(
    ("annotation", "data", "told"),
    [
        (Order, b"{}", "^Order: id: Field required$"),
        (
            Order,
            b'{"cents":"x","customer":{}}',
            "^Order: id: Field required; cents: Input should be a valid integer, unable to parse string as an integer; "
            r"customer\.name: Field required$",
        ),
        (Positive, b'{"count":-2}', "^Positive: count: Input should be greater than 0$"),
        (Positive, b'{"count":3}', "^Positive: count: Value error, odd counts are not for us$"),
        (Bounded, b'{"count":0}', "^Bounded: count: Input should be greater than 0$"),
        (Pet, b'{"kind":"cow"}', "the value: Input tag 'cow' found using 'kind' does not match"),
        (list[Order], b'[{"id":"a"},{"id":1}]', r"^list\[Order\]: 1\.id: Input should be a valid string$"),
        (Order, b"null", "^Order: the value: "),
        (Order, b"", "^Order: the value: Invalid JSON: EOF"),
        (Order, b"[" * 100_000, "^Order: the value: Invalid JSON: recursion limit exceeded"),
        (Order, b'{"id":"\xff"}', "^Order: the value: Invalid JSON: invalid unicode"),
        (Order, b'\xef\xbb\xbf{"id":"a"}', "^Order: the value: Invalid JSON"),
        (Order, b'{"id":"a","cents":NaN}', "^Order: cents: Input should be a finite number$"),
        (Order, b'{"id":"a","cents":' + b"9" * 5_000 + b"}", "^Order: the value: Invalid JSON: number out of range"),
    ],
)
def test_what_is_wrong_is_said_with_the_field(annotation: Any, data: bytes, told: str) -> None:
    with pytest.raises(DecodeError, match=told):
        codec_for(annotation).decode(data)


def test_nan_is_read_by_floats_unless_the_model_says_otherwise_and_written_as_null() -> None:
    class Loose(BaseModel):
        ratio: float

    class Finite(BaseModel):
        ratio: pydantic.FiniteFloat

    for data in (b'{"ratio":NaN}', b'{"ratio":-Infinity}', b'{"ratio":1e400}'):
        assert codec_for(Loose).encode(codec_for(Loose).decode(data)) == b'{"ratio":null}'
        with pytest.raises(DecodeError, match="ratio: Input should be a finite number"):
            codec_for(Finite).decode(data)


def test_an_error_never_holds_the_whole_value() -> None:
    with pytest.raises(DecodeError) as caught:
        codec_for(list[Order]).decode(b"[" + b",".join([b'{"id":["' + b"x" * 1000 + b'"]}'] * 100) + b"]")
    assert str(caught.value).endswith("; and 95 more")
    assert "xxx" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_tombstones_and_json_null_are_none_where_the_type_allows_it() -> None:
    codec = codec_for(Order | None)
    assert codec.encode(None) is None
    assert codec.decode(b"null") is None
    codec.null()


@pytest.mark.parametrize(("annotation", "value"), [(Order, {"id": "a"}), (Order, Customer(name="a")), (Pet, ORDER)])
def test_a_value_of_another_class_is_refused(annotation: Any, value: object) -> None:
    with pytest.raises(EncodeError):
        codec_for(annotation).encode(value)


class OldStyle(pydantic.v1.BaseModel):
    id: str


class Incomplete(BaseModel):
    later: "Nowhere"  # type: ignore[name-defined]  # noqa: F821


class Opaque: ...


@dataclasses.dataclass
class Stranger:
    order: Order
    inside: Opaque


@pytest.mark.parametrize(
    ("annotation", "told"),
    [
        (ORDER, "an object of class Order is not a type; give a class, such as Order"),
        (BaseModel, r"pydantic\.BaseModel has no fields to read: name your own model"),
        (OldStyle, "OldStyle is a model of pydantic 1 .*: derive it from pydantic.BaseModel"),
        (Incomplete, "Incomplete is not a type that pydantic can read: .*Nowhere"),
        (Stranger, "Stranger is not a type that pydantic can read: Unable to generate"),
    ],
    ids=str,
)
def test_what_pydantic_cannot_read_is_refused_at_declaration(annotation: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        codec_for(annotation)
