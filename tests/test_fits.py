from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NewType, Optional, Protocol, TypedDict, TypeVar

import pytest
from typing_extensions import TypeAliasType

from streamkit.fits import describe, fits


@dataclass
class Animal: ...


@dataclass
class Dog(Animal): ...


class Movie(TypedDict):
    title: str


class Show(TypedDict):
    title: str


class Named(Protocol):
    name: str


T = TypeVar("T")
Id = NewType("Id", str)
MaybeDog = TypeAliasType("MaybeDog", "Dog | None", type_params=())


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (Dog, Dog),
        (Dog, Animal),
        (Dog, object),
        (Dog, Any),
        (Any, Dog),
        (Dog, Dog | None),
        (None, Dog | None),
        (Dog | None, Optional[Dog]),  # noqa: UP045
        (Dog | str, str | Animal),
        (Dog, T),
        (Dog, Named),
        (Annotated[Dog, "good"], Dog),
        (Dog, Annotated[Dog, "good"]),
        (int, float),
        (Id, str),
        (Id, Id),
        (Literal["a", "b"], str),
        (list[Dog], Sequence[Dog]),
        (list[Dog], Iterable[Animal]),
        (dict, dict[str, Any]),
        (dict[str, Any], Mapping[str, object]),
        (Movie, Movie),
        (Movie, Mapping[str, object]),
        (list[Dog], list),
    ],
)
def test_what_may_be_right_fits(given: object, wanted: object) -> None:
    assert fits(given, wanted)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (Animal, Dog),
        (Dog, str),
        (Dog | None, Dog),
        (Dog, None),
        (str, Id),
        (float, int),
        (Literal["a"], int),
        (list[Dog], Sequence[str]),
        (Dog, Sequence[Dog]),
        (Movie, Show),
        (Movie, str),
        (dict[str, int], dict[str, str]),
    ],
)
def test_what_is_surely_wrong_does_not_fit(given: object, wanted: object) -> None:
    assert not fits(given, wanted)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (Dog, "Dog"),
        (Dog | None, "Dog | None"),
        (list[Dog], "list[Dog]"),
        (dict[str, Any], "dict[str, Any]"),
        (Any, "Any"),
        (None, "None"),
        (Id, "Id"),
        (T, "T"),
        (Literal["a"], "Literal['a']"),
        (Dog(), "test_fits.Dog()"),
        (list["Dog"], "list['Dog']"),
    ],
)
def test_types_are_described_as_they_are_written(annotation: object, text: str) -> None:
    assert describe(annotation).replace("tests.", "") == text.replace("test_fits.", "")


def test_a_local_class_is_described_by_its_name_alone() -> None:
    class Local: ...

    assert describe(Local) == "Local"
