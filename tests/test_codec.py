import dataclasses
from typing import Any, Literal, NewType, TypedDict
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamkit.codec import codec_for, key_codec_for
from streamkit.errors import DecodeError, EncodeError


@dataclasses.dataclass(frozen=True)
class Order:
    id: str
    cents: int = 0


@dataclasses.dataclass(frozen=True)
class Express(Order):
    hours: int = 24


class Invoice(msgspec.Struct, frozen=True):
    order_id: str


class Movie(TypedDict):
    title: str


class Stranger:
    def __init__(self, name: str) -> None:
        self.name = name


@dataclasses.dataclass
class Carrier:
    inside: list[Stranger]


@dataclasses.dataclass
class Node:
    next: "Node | None"


text = st.text()
numbers = st.integers(-(2**63), 2**63 - 1)
json = st.recursive(
    st.none() | st.booleans() | numbers | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=10,
)
OF_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    str: text,
    bytes: st.binary(),
    int: numbers,
    Order: st.builds(Order, text, numbers),
    Invoice: st.builds(Invoice, text),
    Movie: st.fixed_dictionaries({"title": text}),
    dict: st.dictionaries(text, json),
    dict[str, Any]: st.dictionaries(text, json),
    dict[str, Order]: st.dictionaries(text, st.builds(Order, text, numbers)),
    list[Order]: st.lists(st.builds(Order, text, numbers)),
    # None is not sent as JSON: at the top it is the tombstone.
    Any: json.filter(lambda value: value is not None),
    Order | None: st.builds(Order, text, numbers),
    Literal["a", "b"]: st.sampled_from(["a", "b"]),
}


@pytest.mark.parametrize("annotation", OF_TYPE, ids=str)
def test_what_is_encoded_decodes_to_the_same(annotation: Any) -> None:
    codec = codec_for(annotation)

    @settings(max_examples=50)
    @given(OF_TYPE[annotation])
    def round_trip(value: object) -> None:
        assert codec.decode(codec.encode(value) or b"") == value

    round_trip()


@pytest.mark.parametrize(
    ("annotation", "strategy"), [(str, text), (bytes, st.binary()), (int, st.integers()), (UUID, st.uuids())], ids=str
)
def test_a_key_that_is_encoded_decodes_to_the_same(annotation: Any, strategy: st.SearchStrategy[Any]) -> None:
    codec = key_codec_for(annotation)

    @settings(max_examples=50)
    @given(strategy)
    def round_trip(key: object) -> None:
        assert codec.decode(codec.encode(key) or b"") == key

    round_trip()


def test_the_wire_forms_are_the_stated_ones() -> None:
    assert codec_for(str).encode("é") == "é".encode()
    assert codec_for(bytes).encode(b"\x00") == b"\x00"
    assert codec_for(Order).encode(Order("a", 5)) == b'{"id":"a","cents":5}'
    assert key_codec_for(int).encode(-12) == b"-12"
    assert key_codec_for(UUID).encode(UUID(int=1)) == b"00000000-0000-0000-0000-000000000001"


def test_decoding_has_no_python_function_in_between() -> None:
    for annotation in (str, bytes, Any, Order, Invoice, Movie, list[Order]):
        assert not hasattr(codec_for(annotation).decode, "__code__"), annotation


@pytest.mark.parametrize(
    ("annotation", "data"),
    [
        (Order, b'{"cents":1}'),
        (Order, b'{"id":7}'),
        (Order, b"{"),
        (Order, b"null"),
        (Order, b""),
        (str, b"\xff"),
        (dict, b"[1]"),
        (dict, b"nope"),
        (Any, b""),
        (list[Order], b'[{"id":1}]'),
    ],
    ids=str,
)
def test_bytes_of_another_type_are_refused(annotation: Any, data: bytes) -> None:
    with pytest.raises(ValueError):
        codec_for(annotation).decode(data)


@pytest.mark.parametrize("data", [b"", b" 1", b"+1", b"1_0", b"0x1", b"1.0", b"\xd9\xa1"])
def test_a_key_that_is_not_decimal_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError, match="not a decimal number"):
        key_codec_for(int).decode(data)


def test_a_value_of_another_class_is_refused_naming_both() -> None:
    with pytest.raises(EncodeError, match="expected Order, got Invoice: Invoice"):
        codec_for(Order).encode(Invoice("a"))


@pytest.mark.parametrize(
    ("annotation", "value"),
    [(Order, {"id": "a"}), (Order, None), (str, b"a"), (bytes, "a"), (dict, [1]), (list[Order], ()), (int, True)],
    ids=str,
)
def test_a_value_that_merely_looks_alike_is_refused(annotation: Any, value: object) -> None:
    with pytest.raises(EncodeError):
        codec_for(annotation).encode(value)


@pytest.mark.parametrize(("annotation", "key"), [(str, 1), (int, "1"), (int, True), (bytes, "a"), (UUID, "a")], ids=str)
def test_a_key_of_another_type_is_refused(annotation: Any, key: object) -> None:
    with pytest.raises(EncodeError):
        key_codec_for(annotation).encode(key)


def test_a_subclass_may_be_sent() -> None:
    assert codec_for(Order).encode(Express("a")) == b'{"id":"a","cents":0,"hours":24}'
    assert codec_for(float).encode(1) == b"1"
    assert codec_for(NewType("Id", str)).encode("a") == b'"a"'


def test_none_is_a_tombstone_where_the_type_allows_it() -> None:
    for annotation in (Order | None, str | None, bytes | None, dict[str, Any] | None, Any, object):
        codec = codec_for(annotation)
        assert codec.nullable
        assert codec.encode(None) is None
        codec.null()


def test_a_null_value_is_refused_where_the_type_does_not_allow_it() -> None:
    with pytest.raises(DecodeError, match=r"the value is null .* value=Order \| None"):
        codec_for(Order).null()


def test_text_that_may_be_a_tombstone_is_still_plain_text() -> None:
    assert codec_for(str | None).encode("a") == b"a"
    assert codec_for(bytes | None).decode(b"\xff") == b"\xff"


def test_keys_may_always_be_null() -> None:
    assert key_codec_for(str).encode(None) is None


@pytest.mark.parametrize("annotation", [Stranger, Carrier, Stranger | None, dict[str, Stranger]], ids=str)
def test_a_class_that_json_does_not_know_is_refused_at_declaration(annotation: Any) -> None:
    with pytest.raises(TypeError, match="Stranger cannot be decoded from JSON: use a dataclass"):
        codec_for(annotation)


@pytest.mark.parametrize("annotation", [Order("a"), "Order", 5, Order | Express, None], ids=str)
def test_what_is_no_type_is_refused(annotation: Any) -> None:
    with pytest.raises(TypeError):
        codec_for(annotation)


@pytest.mark.parametrize("annotation", [float, str | None, Order, bool], ids=str)
def test_other_types_of_keys_are_refused(annotation: Any) -> None:
    with pytest.raises(TypeError, match="keys may be str, bytes, int or UUID"):
        key_codec_for(annotation)


def test_a_type_that_holds_itself_is_allowed() -> None:
    codec = codec_for(Node)
    assert codec.decode(codec.encode(Node(Node(None))) or b"") == Node(Node(None))


def test_ones_own_codec_is_used_and_types_are_still_checked() -> None:
    class Shout:
        def encode(self, value: str, /) -> bytes:
            return value.upper().encode()

        def decode(self, data: bytes, /) -> str:
            return data.decode().lower()

    codec = codec_for(str | None, Shout())
    assert codec.encode("a") == b"A"
    assert codec.decode(b"B") == "b"
    assert codec.encode(None) is None
    with pytest.raises(EncodeError):
        codec.encode(5)


def test_ones_own_codec_takes_types_that_json_does_not_know() -> None:
    class Names:
        def encode(self, value: Stranger, /) -> bytes:
            return value.name.encode()

        def decode(self, data: bytes, /) -> Stranger:
            return Stranger(data.decode())

    assert codec_for(Stranger, Names()).decode(b"x").name == "x"
