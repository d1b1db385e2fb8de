"""Between the bytes that Kafka holds and the types that handlers see."""

import re
from collections.abc import Callable
from typing import Any, Final, Generic, Literal, NewType, Protocol, TypeVar, final, get_args, get_origin, is_typeddict
from uuid import UUID

import msgspec
import orjson

from streamkit.errors import DecodeError, EncodeError
from streamkit.fits import NONE, describe, members, plain

T = TypeVar("T")


class Codec(Protocol[T]):
    """What `codec=` takes. Both may raise: the record then fails at stage `decode-value`, or `sink`.

    A null value never reaches a codec; `encode` may return None, which is a tombstone.
    """

    def encode(self, value: T, /) -> bytes | None: ...
    def decode(self, data: bytes, /) -> T: ...


@final
class BoundCodec(Generic[T]):
    """A codec as the engine calls it: two functions, looked up once.

    `decode` is the library's own function, with no Python in between: it is called for every record. `encode` refuses
    values of another class with an EncodeError, and turns None into a tombstone if the type is `nullable`.
    """

    __slots__ = ("decode", "encode", "nullable", "type_name")

    def __init__(
        self, decode: Callable[[bytes], T], encode: Callable[[T], bytes | None], type_name: str, nullable: bool
    ) -> None:
        self.decode: Final = decode
        self.encode: Final = encode
        self.type_name: Final = type_name
        self.nullable: Final = nullable

    def null(self) -> None:
        """What a null value decodes to. Raises DecodeError if the type does not allow None."""
        if not self.nullable:
            raise DecodeError(
                f"the value is null (a tombstone), and the topic's type is {self.type_name}: "
                f"declare value={self.type_name} | None if None may come"
            )


def codec_for(annotation: object, codec: Codec[Any] | None = None) -> BoundCodec[Any]:
    """The codec of a topic's values: JSON, but `str` is UTF-8 and `bytes` are as they are.

    `codec` replaces the choice; the check of types remains. Raises TypeError for what can be none.
    """
    choices = members(annotation)
    nullable = NONE in choices or Any in choices or object in choices
    decode, encode = _choose(annotation) if codec is None else (codec.decode, codec.encode)
    encode = _checked(encode, _classes(annotation), describe(annotation), nullable)
    return BoundCodec(decode, encode, describe(annotation), nullable)


def key_codec_for(annotation: object) -> BoundCodec[Any]:
    """The codec of a topic's keys. Raises TypeError for types that are not among the four."""
    if annotation not in _KEYS:
        raise TypeError(f"keys may be str, bytes, int or UUID, and each may be null anyway; not {describe(annotation)}")
    decode, encode = _KEYS[annotation]
    name = describe(annotation)
    return BoundCodec(decode, _checked(encode, _classes(annotation), name, nullable=True), name, nullable=True)


def _choose(annotation: object) -> tuple[Callable[[bytes], Any], Callable[[Any], bytes]]:
    choices = [choice for choice in members(annotation) if choice is not NONE]
    if not choices:
        raise TypeError("a topic of nothing but tombstones has no type of values")
    chosen = choices[0]
    if Any in choices or object in choices:
        return orjson.loads, orjson.dumps
    if len(choices) == 1 and (chosen is dict or (get_origin(chosen) is dict and get_args(chosen) in _LOOSE)):
        return _decode_dict, orjson.dumps
    if choices == [str]:
        return bytes.decode, str.encode
    if choices == [bytes]:
        return bytes, bytes
    return _json(annotation)


_LOOSE = ((str, Any), (str, object), (Any, Any))


def _decode_dict(data: bytes) -> dict[str, Any]:
    value = orjson.loads(data)
    if type(value) is dict:
        return value
    raise DecodeError(f"expected a JSON object, got {type(value).__name__}")


def _json(annotation: object) -> tuple[Callable[[bytes], Any], Callable[[Any], bytes]]:
    try:
        strangers = _strangers(msgspec.inspect.type_info(annotation))
        decoder = msgspec.json.Decoder(annotation)
    except NameError as error:
        raise TypeError(f"{describe(annotation)}: {error}; its fields' types must be importable at run time") from error
    except Exception as error:
        raise TypeError(f"{describe(annotation)} is not a type that JSON can be decoded to: {error}") from error
    if strangers:
        names = ", ".join(sorted(strangers))
        raise TypeError(
            f"{names} cannot be decoded from JSON: use a dataclass, a msgspec.Struct, dict, str or bytes, "
            "or give the topic a codec="
        )
    return decoder.decode, _encoder.encode


_encoder = msgspec.json.Encoder()


def _strangers(info: object) -> set[str]:
    """The classes in a type's description that msgspec could only pass through."""
    found: set[str] = set()
    waiting, seen = [info], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, msgspec.inspect.CustomType):
            found.add(describe(node.cls))
        elif isinstance(node, (tuple, list)):
            waiting.extend(node)
        elif isinstance(node, (msgspec.inspect.Type, msgspec.inspect.Field)):
            waiting.extend(getattr(node, name) for name in node.__struct_fields__)
    return found


def _checked(
    encode: Callable[[Any], bytes | None], classes: tuple[type, ...] | None, type_name: str, nullable: bool
) -> Callable[[Any], bytes | None]:
    expected = classes[0] if classes else None

    def checked(value: Any) -> bytes | None:
        if type(value) is expected:
            return encode(value)
        if value is None and nullable:
            return None
        if classes is None or (isinstance(value, classes) and (type(value) is not bool or bool in classes)):
            return encode(value)
        raise EncodeError(type_name, value)

    return checked


def _classes(annotation: object) -> tuple[type, ...] | None:
    """The classes that values of this type may be of, the likeliest first; None if that cannot be said."""
    found: list[type] = []
    for member in members(annotation):
        if member is NONE:
            continue
        classes = _member_classes(member)
        if classes is None:
            return None
        found.extend(classes)
    return tuple(found)


def _member_classes(member: object) -> tuple[type, ...] | None:
    if isinstance(member, NewType):
        return _classes(member.__supertype__)
    if get_origin(member) is Literal:
        return tuple({type(argument) for argument in get_args(member)} - {NONE})
    if is_typeddict(member):
        return (dict,)
    if member is float:
        return (float, int)
    origin = plain(get_origin(member)) if get_origin(member) else member
    return (origin,) if isinstance(origin, type) and origin not in (Any, object) else None


_DECIMAL = re.compile(rb"-?[0-9]+")


def _decode_int(data: bytes) -> int:
    # int() alone would also take blanks, underscores and a plus.
    if _DECIMAL.fullmatch(data) is None:
        raise DecodeError("the key is not a decimal number")
    return int(data)


def _decode_uuid(data: bytes) -> UUID:
    return UUID(data.decode())


def _encode_text(value: object) -> bytes:
    return str(value).encode()


_KEYS: dict[object, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]] = {
    str: (bytes.decode, str.encode),
    bytes: (bytes, bytes),
    int: (_decode_int, _encode_text),
    UUID: (_decode_uuid, _encode_text),
}
