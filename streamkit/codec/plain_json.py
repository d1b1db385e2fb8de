"""JSON of what the standard library, msgspec and attrs define."""

from typing import Any

import msgspec
import orjson

from streamkit.codec.bound import Decode, Encode
from streamkit.codec.family import classes_within
from streamkit.errors import DecodeError
from streamkit.fits import describe

_encoder = msgspec.json.Encoder()
loose: tuple[Decode, Encode] = (orjson.loads, orjson.dumps)


def decode_dict(data: bytes) -> dict[str, Any]:
    value = orjson.loads(data)
    if type(value) is dict:
        return value
    raise DecodeError(f"expected a JSON object, got {type(value).__name__}")


def typed_json(annotation: object) -> tuple[Decode, Encode]:
    """Raises TypeError for a type that is none of JSON."""
    _check_attrs(annotation)
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
            f"{names} cannot be decoded from JSON: use a dataclass, an attrs class, a msgspec.Struct, a TypedDict, a "
            "pydantic model, a faust.Record, dict, str or bytes, or give the topic a codec="
        )
    return decoder.decode, _encoder.encode


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


def _check_attrs(annotation: object) -> None:
    for found in classes_within(annotation):
        for field in getattr(found, "__attrs_attrs__", ()):
            where = f"{describe(found)}, field {field.name!r}"
            if field.name.startswith("_"):
                raise TypeError(
                    f"{where}: msgspec does not write the fields of attrs classes that begin with an underscore, so "
                    "its value would be lost; rename the field, or give the topic a codec="
                )
            if field.name not in getattr(found, "__annotations__", {}) and not _inherits(found, field.name):
                raise TypeError(f"{where} has no annotation: write `{field.name}: int`, so that it can be decoded")


def _inherits(cls: type, name: str) -> bool:
    return any(name in vars(base).get("__annotations__", {}) for base in cls.__mro__)
