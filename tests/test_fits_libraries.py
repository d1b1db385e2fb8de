"""Whether handlers fit topics of attrs, pydantic and Faust, with annotations that are text."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar
from unittest import mock

import attrs
import pydantic
import pytest
from typing_extensions import TypedDict

from streamkit import App, Output, Record
from streamkit.errors import DeclarationError
from streamkit.fits import describe, fits

with mock.patch.object(sys, "argv", ["pytest"]):  # faust reads it when it is imported
    import faust

T = TypeVar("T")


class Model(pydantic.BaseModel):
    id: str


class SubModel(Model):
    more: int = 0


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


@attrs.define
class Attrs:
    id: str


@attrs.define
class SubAttrs(Attrs):
    more: int = 0


class FaustRecord(faust.Record):
    id: str


class SubFaustRecord(FaustRecord):
    more: int = 0


class Row(TypedDict):
    id: str


PAIRS: list[tuple[Any, Any]] = [(Model, SubModel), (Attrs, SubAttrs), (FaustRecord, SubFaustRecord)]


@pytest.mark.parametrize(("base", "derived"), PAIRS, ids=describe)
def test_a_subclass_fits_its_base_and_not_the_other_way_round(base: Any, derived: Any) -> None:
    assert fits(derived, base)
    assert fits(derived, base | None)
    assert fits(list[derived], Sequence[base])
    assert not fits(base, derived)
    assert not fits(base | None, base)
    assert not fits(base, Mapping[str, object])


def test_classes_of_different_libraries_do_not_fit_each_other() -> None:
    kinds = [Model, Attrs, FaustRecord, Row]
    assert [(a, b) for a in kinds for b in kinds if fits(a, b)] == [(kind, kind) for kind in kinds]


def test_generic_models_fit_by_their_arguments() -> None:
    assert fits(Page[Model], Page[Model])
    assert fits(Page[Model], Page)
    assert not fits(Page[Model], Page[int])
    assert describe(Page[Model]) == "Page[Model]"


def test_a_typed_dict_of_typing_extensions_is_one() -> None:
    assert fits(Row, Mapping[str, object])
    assert not fits(Row, Model)


async def on_model(value: Model) -> FaustRecord: ...  # type: ignore[empty-body]


async def on_attrs(value: Attrs | None) -> Attrs | None: ...


async def on_faust(value: FaustRecord) -> SubFaustRecord: ...  # type: ignore[empty-body]


async def on_record(record: Record[str, FaustRecord]) -> Output[SubFaustRecord]: ...  # type: ignore[empty-body]


async def on_rows(value: Row) -> AsyncIterator[Model]:
    yield Model(id=value["id"])


GOOD: list[tuple[Any, Any, Callable[[Any], Any]]] = [
    (Model, FaustRecord, on_model),
    (SubModel, FaustRecord | None, on_model),
    (Attrs | None, Attrs, on_attrs),
    (FaustRecord, FaustRecord, on_faust),
    (SubFaustRecord, FaustRecord, on_record),
    (Row, Model, on_rows),
]
BAD: list[tuple[Any, Any, Callable[[Any], Any], str]] = [
    (Attrs, FaustRecord, on_model, r"parameter 'value': it asks for Model, but topic 'in' holds Attrs"),
    (Model | None, FaustRecord, on_model, r"The value may be None \(a tombstone\)"),
    (Model, Attrs, on_model, r"it returns FaustRecord, but the sink 'out' takes Attrs"),
    (FaustRecord, Model, on_faust, r"it returns SubFaustRecord, but the sink 'out' takes Model"),
    (FaustRecord, Model, on_record, r"it returns Output\[SubFaustRecord\], but the sink 'out' takes Model"),
    (Model, FaustRecord, on_record, r"parameter 'record': .* but topic 'in' holds Model"),
    (Row, SubModel, on_rows, r"it yields Model, but the sink 'out' takes SubModel"),
]


@pytest.mark.parametrize(("value", "sink", "handler"), GOOD)
def test_a_handler_of_these_types_is_accepted(value: Any, sink: Any, handler: Callable[[Any], Any]) -> None:
    app = App("test")
    app.agent(app.topic("in", value=value), sink=app.topic("out", value=sink))(handler)
    assert list(app.agents) == [handler.__name__]


@pytest.mark.parametrize(("value", "sink", "handler", "told"), BAD)
def test_a_handler_of_other_types_is_refused(value: Any, sink: Any, handler: Callable[[Any], Any], told: str) -> None:
    app = App("test")
    with pytest.raises(DeclarationError, match=told):
        app.agent(app.topic("in", value=value), sink=app.topic("out", value=sink))(handler)
