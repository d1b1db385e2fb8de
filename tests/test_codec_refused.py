"""What cannot be a topic's type is refused where the topic is declared, saying what to use instead."""

import collections
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import attr
import msgspec
import pytest

from streamkit import App
from streamkit.errors import DeclarationError
from tests.ids import without_address

INSTEAD = "cannot be decoded from JSON: use a dataclass, an attrs class, a msgspec.Struct, a TypedDict, a pydantic "


class Plain:
    def __init__(self, id: str) -> None:
        self.id = id


class ModelBase(type):
    """As in an ORM, whose models look like classes with fields and are none to anybody else."""


class OrmModel(metaclass=ModelBase):
    id: int
    objects: Any = None


@dataclasses.dataclass
class Order:
    id: str
    inside: Plain | None = None


@dataclasses.dataclass
class Good:
    id: str


@dataclasses.dataclass
class WithInit:
    id: str
    extra: dataclasses.InitVar[int]


@dataclasses.dataclass
class Unresolved:
    id: "Nowhere"  # type: ignore[name-defined]  # noqa: F821


@attr.s(auto_attribs=True)
class Private:
    _id: str = ""


@attr.s
class Untyped:
    id = attr.ib()  # type: ignore[var-annotated]


class Cat(msgspec.Struct):
    lives: int


class Dog(msgspec.Struct):
    lives: int


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Plain, f"Plain {INSTEAD}"),
        (OrmModel, f"OrmModel {INSTEAD}"),
        (set[Plain], f"Plain {INSTEAD}"),
        (Order, f"Plain {INSTEAD}"),
        (collections.OrderedDict, f"OrderedDict {INSTEAD}"),
        (Iterator[int], f"Iterator {INSTEAD}"),
        (Good("a"), "an object of class Good is not a type; give a class, such as Good"),
        (Plain("a"), "an object of class Plain is not a type; give a class, such as Plain"),
        ("Order", "'Order' is text; give the class itself"),
        (5, "5 is not a type that JSON can be decoded to"),
        ([Good], "is not a type that JSON can be decoded to"),
        (None, "a topic of nothing but tombstones has no type of values"),
        (Good | WithInit, "is not a type that JSON can be decoded to: .*more than one"),
        (Cat | Dog, "is not a type that JSON can be decoded to: .*tagged"),
        (WithInit, "is not a type that JSON can be decoded to: .*InitVar"),
        (Unresolved, "name 'Nowhere' is not defined; its fields' types must be importable at run time"),
        (list["Good"], "name 'Good' is not defined|is not a type"),
        (Private, "Private, field '_id': msgspec does not write the fields of attrs classes that begin with an under"),
        (Untyped, "Untyped, field 'id' has no annotation: write `id: int`"),
        (Callable[[int], int], "not a type"),
    ],
    ids=without_address,
)
def test_a_type_that_cannot_be_is_refused_naming_the_topic(value: Any, told: str) -> None:
    with pytest.raises(DeclarationError, match=f"^topic 'orders', value: .*({told})"):
        App("test").topic("orders", value=value)


@pytest.mark.parametrize("key", [float, str | None, Good, bool, [str], "str", None], ids=str)
def test_a_key_of_another_type_is_refused_naming_the_topic(key: Any) -> None:
    with pytest.raises(DeclarationError, match=r"^topic 'orders', key: keys may be str, bytes, int or UUID"):
        App("test").topic("orders", value=str, key=key)
