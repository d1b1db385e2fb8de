"""Whether a value of one type may be passed where another is asked for, as far as annotations tell at run time.

A type checker decides this fully; here only what is surely wrong is refused, and everything unknown fits.
"""

import types
from typing import Annotated, Any, Literal, NewType, TypeVar, Union, get_args, get_origin

from typing_extensions import TypeAliasType, is_typeddict

NONE = type(None)
# What a checker accepts although no subclass says so (PEP 484, "the numeric tower").
_PROMOTIONS: dict[object, tuple[object, ...]] = {float: (int,), complex: (int, float)}


def plain(annotation: object) -> object:
    """The annotation without Annotated, aliases and None's two spellings."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, TypeAliasType):
            annotation = annotation.__value__
        else:
            return NONE if annotation is None else annotation


def members(annotation: object) -> tuple[object, ...]:
    """The members of a union; of anything else the thing itself."""
    annotation = plain(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for argument in get_args(annotation) for member in members(argument))
    return (annotation,)


def fits(given: object, wanted: object) -> bool:
    """False if a `given` is surely not a `wanted`."""
    choices = members(wanted)
    return all(any(_fits(member, choice) for choice in choices) for member in members(given))


def _fits(given: object, wanted: object) -> bool:
    if given == wanted or Any in (given, wanted) or wanted is object:
        return True
    if isinstance(given, NewType):
        return fits(given.__supertype__, wanted)
    if isinstance(wanted, NewType):
        return False
    if get_origin(given) is Literal:
        return all(fits(type(argument), wanted) for argument in get_args(given))
    if is_typeddict(given) and is_typeddict(wanted):
        return False
    return _classes_fit(given, wanted)


def _classes_fit(given: object, wanted: object) -> bool:
    below, above = _class(given), _class(wanted)
    if below is None or above is None or getattr(above, "_is_protocol", False):
        return True
    if not issubclass(below, above) and below not in _PROMOTIONS.get(above, ()):
        return False
    ours, theirs = get_args(given), get_args(wanted)
    return len(ours) != len(theirs) or all(map(fits, ours, theirs))


def _class(annotation: object) -> type | None:
    """The class of a plain annotation, or None if it has none that could be compared."""
    if is_typeddict(annotation):
        return dict
    origin = get_origin(annotation) or annotation
    return origin if isinstance(origin, type) else None


def describe(annotation: object) -> str:
    """The annotation as it is written: `Order | None`, `list[Order]`."""
    if isinstance(annotation, (TypeVar, NewType)):
        return annotation.__name__
    choices = members(annotation)
    if len(choices) > 1:
        return " | ".join(map(describe, choices))
    annotation = plain(annotation)
    if annotation is NONE:
        return "None"
    if arguments := get_args(annotation):
        name = getattr(annotation, "__name__", None) or describe(get_origin(annotation))
        return f"{name}[{', '.join(map(_describe_argument, arguments))}]"
    return annotation.__qualname__.split("<locals>.")[-1] if isinstance(annotation, type) else _name(annotation)


def _describe_argument(argument: object) -> str:
    return describe(argument) if isinstance(argument, type) or get_origin(argument) else _name(argument)


def _name(annotation: object) -> str:
    return repr(annotation).removeprefix("typing.").removeprefix("typing_extensions.")
