"""Which library a type of values comes from, found without importing any of them."""

import dataclasses
import sys
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NewType, get_args, get_origin

from typing_extensions import TypeAliasType


def is_faust(cls: object) -> bool:
    """Whether it is a `faust.Record`, or another of Faust's models."""
    models = sys.modules.get("faust.models.base")
    return models is not None and isinstance(cls, type) and issubclass(cls, models.Model)


def is_pydantic(cls: object) -> bool:
    """Whether it is a model, a dataclass or one of the special types of pydantic."""
    if not isinstance(cls, type) or "pydantic" not in sys.modules:
        return False
    return any("__pydantic_core_schema__" in vars(base) or _library(base) == "pydantic" for base in cls.__mro__)


def classes_within(annotation: object) -> Iterator[type]:
    """The classes that an annotation is made of, with those of their fields; each once."""
    waiting: list[Any] = [annotation]
    seen: set[object] = set()
    while waiting:
        found = waiting.pop()
        if isinstance(found, TypeAliasType):
            found = found.__value__
        if isinstance(found, NewType):
            found = found.__supertype__
        if get_origin(found) is Annotated:
            waiting.extend(type(note) for note in get_args(found)[1:])
        if get_origin(found) is Literal:
            continue
        waiting.extend(get_args(found))
        found = get_origin(found) or found
        if isinstance(found, type) and found not in seen:
            seen.add(found)
            yield found
            waiting.extend(_fields(found))


def _fields(cls: type) -> list[object]:
    """The types of its fields; none where they cannot be evaluated, which whoever decodes them will tell."""
    if not (dataclasses.is_dataclass(cls) or _library(cls) not in _WITHOUT_FIELDS):
        return []
    try:
        return list(typing.get_type_hints(cls, include_extras=True).values())
    except Exception:
        return []


_WITHOUT_FIELDS = frozenset(("builtins", "typing", "collections", "datetime", "decimal", "uuid", "enum", "pydantic"))


def _library(cls: type) -> str:
    return cls.__module__.partition(".")[0]
