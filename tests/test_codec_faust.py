"""Records of Faust: the same bytes as a real Faust app reads and writes."""

import asyncio
import dataclasses
import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Optional
from unittest import mock

import orjson
import pytest

with mock.patch.object(sys, "argv", ["pytest"]):  # faust reads it when it is imported
    import faust
from faust.models.fields import StringField
from faust.serializers import codecs
from faust.types.tuples import TP, Message

from streamkit.codec import codec_for
from streamkit.errors import DecodeError, EncodeError


class Customer(faust.Record):
    name: str


class Order(faust.Record):
    id: str
    cents: int = 0


class Express(Order, allow_blessed_key=True):
    hours: int = 24


class Refund(faust.Record, allow_blessed_key=True):
    id: str


class Plain(faust.Record):
    id: str


class Coerced(faust.Record, coerce=True):
    id: str
    cents: int
    at: datetime
    price: Decimal
    customer: Customer
    notes: Optional[str] = None  # noqa: UP045
    customers: list[Customer] = []  # noqa: RUF012


class Dated(faust.Record, isodates=True, decimals=True, coerce=True):
    at: datetime
    price: Decimal


class Checked(faust.Record, validation=True):
    name: str = StringField(max_length=5)
    count: int = 0


class Unmarked(faust.Record, include_metadata=False):
    id: str


class Renamed(faust.Record):
    order_id: str = StringField(field="order_id", input_name="orderId", output_name="orderId")


class Wrapped(faust.Record, serializer="json|binary"):
    id: str


@dataclasses.dataclass
class Decorated(faust.Record):
    """Many do this, and Faust disregards it."""

    id: str
    cents: int = 0


class Late(faust.Record, lazy_creation=True):
    id: str
    order: Order


class Guarded(faust.Record):
    id: str

    def __post_init__(self) -> None:
        if self.id == "no":
            raise LookupError("no such order")


class Animal(faust.Record, abstract=True, polymorphic_fields=True): ...


class Dog(Animal):
    bark: str


class Owner(faust.Record):
    pet: Animal
    others: list[Animal] = []  # noqa: RUF012
    by_name: dict[str, Customer] = {}  # noqa: RUF012


class Event(faust.Record, abstract=True, allow_blessed_key=True): ...


class Created(Event):
    id: str


class Cancelled(Event):
    id: str
    why: str


COERCED = Coerced(
    id="é",
    cents=5,
    at=datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    price=Decimal("1.50"),
    customer=Customer(name="Ann"),
    customers=[Customer(name="Bob")],
)
VALUES: list[Any] = [
    Order(id="a", cents=5),
    Express(id="a", cents=5, hours=1),
    COERCED,
    Dated(at=datetime(2024, 1, 2, tzinfo=UTC), price=Decimal("0.1")),
    Checked(name="abc", count=3),
    Unmarked(id="a"),
    Renamed(order_id="a"),
    Wrapped(id="a"),
    Owner(pet=Dog(bark="wow"), others=[Dog(bark="woof")], by_name={"a": Customer(name="Ann")}),
    Created(id="a"),
    Decorated(id="a", cents=5),
]


@pytest.fixture(scope="module")
def faust_app() -> Any:
    return faust.App("tests", broker="kafka://127.0.0.1:1", store="memory://", web_enabled=False)


def by_faust(app: Any, value_type: Any, data: bytes) -> Any:
    """What a Faust agent would see."""
    message = Message("t", 0, 0, 0.0, 0, [], b"k", data, None, tp=TP("t", 0))
    return asyncio.run(app.topic("t", value_type=value_type).decode(message, propagate=True)).value


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_the_bytes_are_those_of_a_faust_app(faust_app: Any, value: Any) -> None:
    theirs, _ = faust_app.topic("t", value_type=type(value)).prepare_value(value, None)
    assert codec_for(type(value)).encode(value) == theirs


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_what_a_faust_app_writes_is_read_here_and_the_other_way_round(faust_app: Any, value: Any) -> None:
    theirs, _ = faust_app.topic("t", value_type=type(value)).prepare_value(value, None)
    codec = codec_for(type(value))
    here, there = codec.decode(theirs), by_faust(faust_app, type(value), codec.encode(value) or b"")
    assert type(here) is type(there) is type(value)
    assert here == there == value


def test_coercion_is_that_of_faust() -> None:
    data = (
        b'{"id":7,"cents":"5","at":"2024-01-02T03:04:05.000006Z","price":"1.50","customer":{"name":"Ann"},'
        b'"customers":[{"name":"Bob"}]}'
    )
    read = codec_for(Coerced).decode(data)
    assert (read.id, read.cents, read.price) == ("7", 5, Decimal("1.50"))
    assert read.at == COERCED.at
    assert (read.customer, read.customers) == (COERCED.customer, COERCED.customers)


def test_without_coercion_faust_takes_fields_of_any_type() -> None:
    assert codec_for(Order).decode(b'{"id":7}').id == 7


def test_fields_that_faust_would_convert_at_first_use_are_converted_while_decoding() -> None:
    read = codec_for(Owner).decode(codec_for(Owner).encode(VALUES[8]) or b"")
    assert type(vars(read)["pet"]) is Dog
    assert type(vars(read)["others"][0]) is Dog
    assert type(vars(read)["by_name"]["a"]) is Customer


@pytest.mark.parametrize(
    ("value_type", "data", "told"),
    [
        (Order, b"{}", "Order: field 'id' is missing"),
        (Order, b"[1]", "Order: expected an object, got list"),
        (Order, b"null", "Order: expected an object, got NoneType"),
        (Coerced, b'{"id":"a","cents":"x"}', "Coerced: field 'cents': invalid literal for int"),
        (Checked, b'{"name":"much too long"}', "Checked: .*name"),
        (Coerced, b'{"id":"a","cents":1,"at":"never","price":"1","customer":{"name":"x"}}', "Coerced: field 'at': "),
        (
            Coerced,
            b'{"id":"a","cents":1,"at":"2024-01-02","price":"1","customer":{}}',
            "Coerced: field 'customer': .*missing 1 required .*'name'",
        ),
        (Owner, b'{"pet":{"bark":"x"}}', "Owner: field 'pet' does not hold Animal"),
        (Owner, b'{"pet":5}', "Owner: field 'pet' does not hold Animal"),
        (Owner, b'{"pet":null,"others":[{"bark":"x"}]}', r"Owner: field 'others' does not hold \w+\[Animal\]"),
        (Guarded, b'{"id":"no"}', "Guarded: LookupError: no such order"),
        (Order, b'{"id":"a","self":1}', "Order: .*'self'"),
        (Order, b'{"id":"a","__strict__":true}', "Order: .*'__strict__'"),
    ],
)
def test_what_is_wrong_is_said_with_the_field(value_type: Any, data: bytes, told: str) -> None:
    with pytest.raises(DecodeError, match=f"^{told}"):
        codec_for(value_type).decode(data)


@pytest.mark.parametrize(
    "data", [b"", b"{", b'{"id":"\xff"}', b"[" * 100_000, b'\xef\xbb\xbf{"id":"a"}', b'{"id":NaN}']
)
def test_bytes_that_are_no_json_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        codec_for(Order).decode(data)


def test_an_error_never_holds_the_whole_value() -> None:
    with pytest.raises(DecodeError) as caught:
        codec_for(Coerced).decode(b'{"id":"a","cents":"' + b"x" * 100_000 + b'"}')
    assert len(str(caught.value)) < 400


def named(cls: Any, **fields: object) -> bytes:
    return orjson.dumps({**fields, "__faust": {"ns": cls._options.namespace}})


def test_a_subclass_is_revived_where_faust_does_so(faust_app: Any) -> None:
    data = named(Express, id="a", hours=2)
    assert codec_for(Order).decode(data) == by_faust(faust_app, Order, data) == Express(id="a", cents=0, hours=2)


@pytest.mark.parametrize("stranger", [Refund, Plain], ids=["which Faust would revive", "which Faust would disregard"])
def test_a_value_that_says_it_is_of_an_unrelated_class_is_refused(stranger: Any) -> None:
    with pytest.raises(DecodeError, match=rf"^Order: the value says that it is a {stranger.__name__} \(.*\)$"):
        codec_for(Order).decode(named(stranger, id="a"))


def test_a_record_of_an_unrelated_class_inside_another_is_refused() -> None:
    inner = {"bark": "x", "id": "a", "__faust": {"ns": Refund._options.namespace}}
    with pytest.raises(DecodeError, match=r"^Owner: field 'pet' does not hold Animal"):
        codec_for(Owner).decode(named(Owner, pet=inner))


def test_a_class_that_only_the_other_app_knows_is_read_as_the_declared_one() -> None:
    assert codec_for(Order).decode(b'{"id":"a","__faust":{"ns":"their.module.Order"}}') == Order(id="a")
    assert codec_for(Order).decode(b'{"id":"a","__faust":5}') == Order(id="a")


@pytest.mark.parametrize("value_type", [Event, Created | Cancelled], ids=str)
def test_of_several_classes_the_value_says_which_it_is(value_type: Any) -> None:
    codec = codec_for(value_type)
    for value in (Created(id="a"), Cancelled(id="a", why="b")):
        read = codec.decode(codec.encode(value) or b"")
        assert (type(read), read) == (type(value), value)
    with pytest.raises(DecodeError, match="names no record that this process knows"):
        codec.decode(b'{"id":"a"}')
    with pytest.raises(DecodeError, match="it is a Order"):
        codec.decode(named(Order, id="a"))
    with pytest.raises(EncodeError):
        codec.encode(Order(id="a"))


def test_unknown_fields_become_attributes_as_in_faust_but_never_replace_what_a_record_can_do() -> None:
    codec = codec_for(Order)
    read = codec.decode(b'{"id":"a","more":1,"asdict":2,"_blessed_key":"id","_options":3,"__evaluated_fields__":4}')
    assert read.more == 1
    assert codec.encode(read) == codec.encode(Order(id="a"))


def test_validation_cannot_be_turned_off_by_what_is_read() -> None:
    with pytest.raises(DecodeError, match="name"):
        codec_for(Checked).decode(b'{"name":"much too long","__validation_errors__":[]}')


def test_tombstones_and_json_null_are_none_where_the_type_allows_it(faust_app: Any) -> None:
    codec = codec_for(Order | None)
    assert codec.encode(None) is None
    # This is how Faust sends None.
    null, _ = faust_app.topic("t", value_type=Order).prepare_value(None, None)
    assert (null, codec.decode(null)) == (b"null", None)
    assert codec.encode(Order(id="a")) == codec_for(Order).encode(Order(id="a"))


def test_a_record_of_another_class_is_not_sent() -> None:
    with pytest.raises(EncodeError, match="expected Order, got Refund"):
        codec_for(Order).encode(Refund(id="a"))


def test_a_serializer_that_is_registered_with_faust_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reversed(codecs.Codec):
        def _dumps(self, s: Any) -> bytes:
            return bytes(codecs.codecs["json"].dumps(s))[::-1]

        def _loads(self, s: bytes) -> Any:
            return codecs.codecs["json"].loads(s[::-1])

    monkeypatch.setitem(codecs.codecs, "reversed", Reversed())

    class Odd(faust.Record, serializer="reversed"):
        id: str

    codec = codec_for(Odd)
    assert (codec.encode(Odd(id="a")) or b"").startswith(b"}}")
    assert codec.decode(codec.encode(Odd(id="a")) or b"") == Odd(id="a")


def with_serializer(name: str) -> Any:
    class Written(faust.Record, serializer=name):
        id: str

    return Written


@pytest.mark.parametrize("name", ["pickle", "pickle_fickling", "pickle|binary"])
def test_pickle_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match="could run code in this process, so pickle is not read here"):
        codec_for(with_serializer(name))


@pytest.mark.parametrize(
    ("value_type", "told"),
    [
        (with_serializer("raw"), "serializer 'raw' cannot hold a faust.Record: it holds bytes"),
        (with_serializer("binary"), "serializer 'binary' cannot hold a faust.Record"),
        (with_serializer("nope"), "Faust knows no serializer 'nope'; register it"),
        (with_serializer("nope|json"), r"Faust knows no serializer 'nope\|json'; register it"),
        (Order | Wrapped, r"records of one topic need one serializer, these have json, json\|binary"),
        (faust.Record, "faust.Record has no fields to read: name your own record"),
        (list[Order], r"list\[Order\]: Faust reads and writes a record as the whole value.*use value=Order"),
        (dict[str, Order], "Faust reads and writes a record as the whole value"),
        (Order | dict, "Faust reads and writes a record as the whole value"),
    ],
    ids=str,
)
def test_what_faust_could_not_read_back_is_refused(value_type: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        codec_for(value_type)


def test_a_record_that_is_created_late_is_completed_at_declaration() -> None:
    codec = codec_for(Late)
    late = Late(id="a", order=Order(id="b"))
    assert codec.decode(codec.encode(late) or b"") == late


def test_a_record_without_fields_is_refused() -> None:
    class Empty(faust.Record): ...

    with pytest.raises(TypeError, match=r"Empty is a faust\.Record without fields"):
        codec_for(Empty)


def test_chains_and_the_restricted_pickle_are_read_and_written() -> None:
    for name in ("json", "json|binary", "json|raw", "pickle_restricted"):
        cls = with_serializer(name)
        codec = codec_for(cls)
        assert codec.decode(codec.encode(cls(id="a")) or b"") == cls(id="a"), name


def test_text_of_a_faust_topic_is_json_and_read_by_a_codec_of_ones_own(faust_app: Any) -> None:
    class JsonText:
        def encode(self, value: str, /) -> bytes:
            return bytes(codecs.codecs["json"].dumps(value))

        def decode(self, data: bytes, /) -> str:
            return str(codecs.codecs["json"].loads(data))

    theirs, _ = faust_app.topic("t", value_type=str).prepare_value("é", None)
    assert theirs == '"é"'.encode()
    codec = codec_for(str, JsonText())
    assert (codec.encode("é"), codec.decode(theirs)) == (theirs, "é")
    assert by_faust(faust_app, str, codec.encode("é") or b"") == "é"
    assert faust_app.topic("t", key_type=str).prepare_key("é", None)[0] == "é".encode()
