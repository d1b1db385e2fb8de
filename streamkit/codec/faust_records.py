"""Records of Faust, read and written by Faust's own code. Importing this imports faust."""

from collections.abc import Callable, Hashable
from functools import cache
from typing import Any, get_args

from faust.models.base import Model, registry
from faust.models.record import Record
from faust.serializers import codecs

from streamkit.codec.bound import Decode, Encode
from streamkit.errors import DecodeError
from streamkit.fits import NONE, describe, members

_MOST_TEXT = 300  # characters of what Faust says of a value


def faust_codec(annotation: object, classes: list[type]) -> tuple[Decode, Encode]:
    """The codec of one kind of Record, or of several. Raises TypeError for what Faust could not read back.

    The serializer is the class's own, else JSON, as it is in a Faust app that sets none.
    """
    for cls in classes:
        _check_class(cls)
    serializer = _serializer(classes)
    nullable = NONE in members(annotation)
    make = _maker(classes)

    def decode(data: bytes) -> Any:
        loaded = serializer.loads(data)
        if loaded is None and nullable:
            return None
        if type(loaded) is not dict:
            raise DecodeError(f"{describe(annotation)}: expected an object, got {type(loaded).__name__}")
        return make(loaded)

    def encode(value: Any) -> bytes:
        data: bytes = value.dumps(serializer=serializer)
        return data

    return decode, encode


def _options(cls: Any) -> Any:
    return cls._options


def _check_class(cls: Any) -> None:
    if cls in (Record, Model):
        raise TypeError(f"faust.{cls.__name__} has no fields to read: name your own record, or use value=dict")
    if not issubclass(cls, Record):
        raise TypeError(f"{describe(cls)} is a model of Faust, but no faust.Record")
    cls.make_final()  # a record with lazy_creation=True has no fields before
    if not cls.__is_abstract__ and not cls._options.fields:
        raise TypeError(f"{describe(cls)} is a faust.Record without fields; give it some, or use value=dict")


def _serializer(classes: list[type]) -> Any:
    names = {_options(cls).serializer or "json" for cls in classes}
    if len(names) > 1:
        raise TypeError(f"records of one topic need one serializer, these have {', '.join(sorted(map(str, names)))}")
    name = names.pop()
    try:
        codec: Any = codecs.get_codec(name)
        nodes = codec.nodes
    except Exception as error:
        raise TypeError(
            f"Faust knows no serializer {name!r}; register it with faust.serializers.codecs.register, above the topic"
        ) from error
    if any(isinstance(node, (codecs.raw_pickle, codecs.raw_fickling_pickle)) for node in nodes):
        raise TypeError(
            f"serializer {name!r}: whoever can write to the topic could run code in this process, so pickle is not "
            "read here; use 'json', or 'pickle_restricted' for what is in the topic already"
        )
    if all(type(node).__module__ == codecs.__name__ for node in nodes):
        _check_round_trip(name, codec)
    return codec


def _check_round_trip(name: str, codec: Any) -> None:
    """Of Faust's own serializers only: another may have to ask a schema registry."""
    probe = {"name": "value"}
    try:
        data = codec.dumps(probe)
        kept = type(data) is bytes and codec.loads(data) == probe
        reason = "it holds bytes; use 'json', or a chain such as 'json|binary'"
    except Exception as error:
        kept, reason = False, str(error)
    if not kept:
        raise TypeError(f"serializer {name!r} cannot hold a faust.Record: {reason}")


def _maker(classes: list[Any]) -> Callable[[dict[str, Any]], Any]:
    """From what was loaded to a record of one of the classes; raises DecodeError."""
    one = classes[0] if len(classes) == 1 and not classes[0].__is_abstract__ else None
    expected = tuple(classes)
    names = " | ".join(map(describe, classes))

    def make(data: dict[str, Any]) -> Any:
        named = _named_class(data)
        if named is None and one is None:
            raise DecodeError(f"{names}: '__faust.ns' names no record that this process knows, so the class is unknown")
        if named is not None and not _related(named, expected):
            raise DecodeError(f"{names}: the value says that it is a {describe(named)} ({named._options.namespace})")
        cls: Any = one or named
        # Faust makes attributes of unknown fields. In the place of its own ones they would change what it does.
        for name in _reserved(cls).intersection(data):
            del data[name]
        try:
            record = cls.from_data(data, preferred_type=cls)
            if not isinstance(record, expected):
                raise DecodeError(f"Faust made a {describe(type(record))} of it")
            _read_lazy_fields(record)
        except Exception as error:
            raise DecodeError(f"{describe(cls)}: {_explain(cls, data, error)}"[:_MOST_TEXT]) from error
        return record

    return make


def _named_class(data: dict[str, Any]) -> Any:
    """The class that `{"__faust": {"ns": ...}}` names, if it is known here: another app has other modules."""
    mark = data.get("__faust")
    name = mark.get("ns") if type(mark) is dict else None
    return registry.get(name) if type(name) is str else None


def _related(named: type, expected: tuple[type, ...]) -> bool:
    return issubclass(named, expected) or any(issubclass(cls, named) for cls in expected)


@cache
def _reserved(cls: Hashable) -> frozenset[str]:
    descriptors = _options(cls).descriptors
    return frozenset(dir(cls)).difference(descriptors, (descriptor.input_name for descriptor in descriptors.values()))


def _read_lazy_fields(record: Any) -> None:
    """Faust converts fields that hold records or lists when they are first read. Read them, so that what is wrong with
    them is found while decoding and not by the handler.
    """
    for name, annotation in _lazy_fields(record.__class__):
        try:
            value = getattr(record, name)
        except Exception as error:
            raise DecodeError(f"field {name!r}: {error}") from error
        if not _holds(value, annotation):
            raise DecodeError(f"field {name!r} does not hold {describe(annotation)}")


@cache
def _lazy_fields(cls: Hashable) -> list[tuple[str, object]]:
    return [(name, field.type) for name, field in _options(cls).descriptors.items() if field.lazy_coercion]


def _holds(value: Any, annotation: object) -> bool:
    """Whether every record in the value, at any depth, is of the class that stands in its place."""
    if isinstance(value, Record):
        _read_lazy_fields(value)
    return any(_is_one(value, choice) for choice in members(annotation))


def _is_one(value: Any, wanted: object) -> bool:
    if isinstance(wanted, type) and issubclass(wanted, Model):
        return value is None or isinstance(value, wanted)
    if isinstance(value, Record):
        return wanted in (Any, object)
    if not (arguments := get_args(wanted)):
        return True
    if isinstance(value, dict):
        return all(_holds(item, arguments[-1]) for item in value.values())
    if isinstance(value, tuple) and Ellipsis not in arguments:
        return all(map(_holds, value, arguments))
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(_holds(item, arguments[0]) for item in value)
    return True


def _explain(cls: Any, data: dict[str, Any], error: Exception) -> str:
    """Which field it is: Faust's own errors do not always say."""
    if isinstance(error, DecodeError):
        return str(error)
    for name, descriptor in cls._options.descriptors.items():
        if name not in data:
            if descriptor.required:
                return f"field {name!r} is missing"
            continue
        try:
            descriptor.to_python(data[name])
        except Exception as cause:
            return f"field {name!r}: {cause}"
    if isinstance(error, (TypeError, ValueError)):
        return str(error).rpartition("__init__() ")[2]
    return f"{type(error).__name__}: {error}"
