"""Between the bytes that Kafka holds and the types that handlers see."""

import inspect
from typing import Any, Protocol, TypeVar, get_args, get_origin

from streamkit.codec.bound import BoundCodec, Decode, Encode, checked
from streamkit.codec.family import classes_within, is_faust, is_pydantic
from streamkit.codec.keys import KEYS
from streamkit.codec.plain_json import decode_dict, loose, typed_json
from streamkit.errors import EncodeError
from streamkit.fits import NONE, describe, members

__all__ = ["BoundCodec", "Codec", "check_codec", "codec_for", "key_codec_for"]

T = TypeVar("T")

_LOOSE_DICTS = ((str, Any), (str, object), (Any, Any))
_TYPES_OF_ANNOTATIONS = ("builtins", "typing", "typing_extensions", "types")


class Codec(Protocol[T]):
    """What `codec=` takes. Both may raise: the record then fails at stage `decode-value`, or `sink`.

    A null value never reaches a codec; `encode` may return None, which is a tombstone.
    """

    def encode(self, value: T, /) -> bytes | None: ...
    def decode(self, data: bytes, /) -> T: ...


def codec_for(annotation: object, codec: Codec[Any] | None = None) -> BoundCodec[Any]:
    """The codec of a topic's values: JSON, but `str` is UTF-8, `bytes` are as they are, and a faust.Record is in the
    form that its class states.

    `codec`, one that `check_codec` lets pass, replaces the choice; the check of types remains. Raises TypeError for a
    type that can be none.
    """
    _check_type(annotation)
    choices = members(annotation)
    nullable = NONE in choices or Any in choices or object in choices
    decode, encode = _choose(annotation) if codec is None else _own(codec)
    name = describe(annotation)
    return BoundCodec(decode, checked(encode, annotation, name, nullable=nullable), name, nullable)


def check_codec(codec: object) -> None:
    """Raises TypeError for what is no codec of one's own: a class, something without both methods, async methods."""
    if isinstance(codec, type):
        raise TypeError(f"{codec!r} is a class; give an object with encode and decode")
    for name in ("encode", "decode"):
        method = getattr(codec, name, None)
        if not callable(method):
            raise TypeError(f"{codec!r} has no method {name}; give an object with encode and decode")
        if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            raise TypeError(
                f"{name} of {type(codec).__qualname__} is async; codecs are called between records and must not wait. "
                "Do what waits in the handler"
            )


def key_codec_for(annotation: object) -> BoundCodec[Any]:
    """The codec of a topic's keys. Raises TypeError for types that are not among the four."""
    if not isinstance(annotation, type) or annotation not in KEYS:
        raise TypeError(f"keys may be str, bytes, int or UUID, and each may be null anyway; not {describe(annotation)}")
    decode, encode = KEYS[annotation]
    name = describe(annotation)
    return BoundCodec(decode, checked(encode, annotation, name, nullable=True), name, nullable=True)


def _check_type(annotation: object) -> None:
    if isinstance(annotation, str):
        raise TypeError(f"{annotation!r} is text; give the class itself")
    cls = type(annotation)
    if not isinstance(annotation, type) and cls.__module__ not in _TYPES_OF_ANNOTATIONS:
        raise TypeError(f"an object of class {describe(cls)} is not a type; give a class, such as {describe(cls)}")


def _choose(annotation: object) -> tuple[Decode, Encode]:
    choices = [choice for choice in members(annotation) if choice is not NONE]
    if not choices:
        raise TypeError("a topic of nothing but tombstones has no type of values")
    chosen = choices[0]
    if Any in choices or object in choices:
        return loose
    if len(choices) == 1 and (chosen is dict or (get_origin(chosen) is dict and get_args(chosen) in _LOOSE_DICTS)):
        return decode_dict, loose[1]
    if choices == [str]:
        return bytes.decode, str.encode
    if choices == [bytes]:
        return bytes, bytes
    return _structured(annotation, choices)


def _structured(annotation: object, choices: list[object]) -> tuple[Decode, Encode]:
    # Each of these modules imports its library: only a user who brought the library himself gets there.
    if all(map(is_faust, choices)):
        from streamkit.codec.faust_records import faust_codec

        return faust_codec(annotation, [choice for choice in choices if isinstance(choice, type)])
    within = list(classes_within(annotation))
    if records := [cls for cls in within if is_faust(cls)]:
        raise TypeError(
            f"{describe(annotation)}: Faust reads and writes a record as the whole value, not as a part of something "
            f"else; use value={describe(records[0])}, or give the topic a codec="
        )
    if any(map(is_pydantic, within)):
        from streamkit.codec.pydantic_models import pydantic_codec

        return pydantic_codec(annotation, choices)
    return typed_json(annotation)


def _own(codec: Codec[Any]) -> tuple[Decode, Encode]:
    given = codec.encode

    def encode(value: Any) -> bytes | None:
        data = given(value)
        if data is None or type(data) is bytes:
            return data
        # Anything else would be noticed only by the client, and there it would break the whole batch.
        raise EncodeError("bytes or None from the codec's encode", data)

    return codec.decode, encode
