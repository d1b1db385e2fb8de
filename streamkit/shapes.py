"""What a handler asks for and returns, read from its signature."""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Never, NoReturn, get_args, get_origin

from streamkit.errors import DeclarationError
from streamkit.fits import NONE, describe, fits, members
from streamkit.record import Output, Record
from streamkit.stream import Stream

Shape = Literal["value", "record", "batch", "loop"]
Item = Literal["value", "record"]  # what a batch or a stream holds, or the handler takes

EMPTY = inspect.Parameter.empty
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_LISTS = (list, Sequence, MutableSequence, Collection, Iterable)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Ends:
    """The types at the two ends of an agent: what its topic holds and what its sink takes."""

    topic: str
    key: object
    value: object
    sink: str | None = None
    sink_key: object = None
    sink_value: object = None


@dataclass(frozen=True, slots=True)
class Signature:
    """One handler. An annotation that is missing is EMPTY, and so is a result that cannot be evaluated."""

    agent: str
    parameter: str
    asks: object
    returns: object
    is_generator: bool

    @property
    def verb(self) -> str:
        return "yields" if self.is_generator else "returns"


def read_signature(agent: str, handler: Callable[..., object], scope: Mapping[str, Any]) -> Signature:
    """`scope` holds the names of the place where the agent is declared, for types that are local to it.

    Raises DeclarationError if the handler is not async, does not take exactly one argument, or asks for a type that
    cannot be evaluated.
    """
    inner = _function(handler)
    is_generator = inspect.isasyncgenfunction(inner)
    if not is_generator and not inspect.iscoroutinefunction(inner):
        raise DeclarationError(_not_async(agent, inner))
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError) as error:
        raise DeclarationError(f"agent {agent!r}: its handler's signature cannot be read: {error}") from error
    parameter = _only_parameter(agent, signature)
    names = getattr(inner, "__globals__", {})
    try:
        asks = _evaluate(parameter.annotation, names, scope)
    except Exception as error:
        raise DeclarationError(
            f"agent {agent!r}, parameter {parameter.name!r}: its type {parameter.annotation!r} cannot be evaluated "
            f"({type(error).__name__}: {error}). Import it outside `if TYPE_CHECKING:`, above the agent"
        ) from error
    try:
        returns = _evaluate(signature.return_annotation, names, scope)
    except Exception:  # only the check at import is lost; what is returned is checked again when it is encoded
        returns = EMPTY
    return Signature(agent, parameter.name, asks, returns, is_generator)


def check_shape(signature: Signature, ends: Ends, *, batch: bool) -> tuple[Shape, Item]:
    """What the handler takes: one value or record, a batch of them, or a stream of them.

    Raises DeclarationError if its types are not those of `ends`, or if it does not fit `batch=`.
    """
    shape, asks = _asked(signature, batch)
    item = _check_item(signature, ends, asks)
    if shape == "batch":
        _check_batch_result(signature, ends)
    else:
        _check_result(signature, ends)
    if shape == "value" and item == "record":
        return "record", item
    return shape, item


def _function(handler: Any) -> Any:
    """The function that runs when the handler is called: under decorators, partials and `__call__`."""
    while True:
        inner = inspect.unwrap(handler.func if isinstance(handler, functools.partial) else handler)
        if inner is handler:
            break
        handler = inner
    if inspect.ismethod(handler):
        return handler.__func__
    if isinstance(handler, types.FunctionType) or not callable(handler) or isinstance(handler, type):
        return handler
    return getattr(type(handler).__call__, "__func__", type(handler).__call__)


def _not_async(agent: str, inner: object) -> str:
    if not callable(inner):
        return f"agent {agent!r}: its handler is {inner!r}, not a function"
    if isinstance(inner, type):
        return f"agent {agent!r}: its handler is the class {inner.__qualname__}; decorate an `async def` function"
    kind = "a plain generator" if inspect.isgeneratorfunction(inner) else "not async"
    return (
        f"agent {agent!r}: its handler is {kind}. Declare it with `async def`, and run what blocks with "
        "`await asyncio.to_thread(...)`"
    )


def _only_parameter(agent: str, signature: inspect.Signature) -> inspect.Parameter:
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].kind in (*_POSITIONAL, inspect.Parameter.VAR_POSITIONAL):
        first, *others = parameters
        surplus = [p.name for p in others if p.default is EMPTY and p.kind not in _VARIADIC]
        if not surplus:
            return first
        raise DeclarationError(
            f"agent {agent!r}: its handler is called with one argument, and parameter {surplus[0]!r} would be missing. "
            "Take `Record[K, V]` to see key, headers and the rest"
        )
    raise DeclarationError(
        f"agent {agent!r}: its handler has no parameter to take the value or the record: async def name(order: Order)"
    )


def _evaluate(annotation: Any, names: dict[str, Any], scope: Mapping[str, Any]) -> object:
    # Alone, so that one annotation that cannot be evaluated does not cost the others; get_type_hints sees to strings
    # within strings, which is what a quoted annotation is under `from __future__ import annotations`.
    if annotation is EMPTY:
        return EMPTY
    holder = types.SimpleNamespace(__annotations__={"hint": annotation})
    return typing.get_type_hints(holder, names, dict(scope), include_extras=True)["hint"]


def _asked(signature: Signature, batch: bool) -> tuple[Shape, object]:
    """The shape, as far as one item does not tell, and the type of one item."""
    asks = signature.asks
    if asks is Stream or get_origin(asks) is Stream:
        if batch:
            raise _wrong_asking(signature, "it asks for a Stream, to which batch= does not apply")
        return "loop", next(iter(get_args(asks)), EMPTY)
    if not batch:
        return "value", asks
    if asks is EMPTY or asks is Any:
        return "batch", EMPTY
    origin = get_origin(asks) or asks
    if not isinstance(origin, type) or not issubclass(list, origin) or origin is object:
        raise _wrong_asking(
            signature, f"it asks for {describe(asks)}, but batch= passes a list: ask for Sequence[{describe(asks)}]"
        )
    return "batch", next(iter(get_args(asks)), EMPTY)


def _wrong_asking(signature: Signature, problem: str) -> DeclarationError:
    return DeclarationError(f"agent {signature.agent!r}, parameter {signature.parameter!r}: {problem}")


def _check_item(signature: Signature, ends: Ends, asks: object) -> Item:
    if asks is Record or get_origin(asks) is Record:
        _check_record(signature, ends, asks)
        return "record"
    if asks is not EMPTY and not fits(ends.value, asks):
        raise _wrong_parameter(signature, f"topic {ends.topic!r} holds {describe(ends.value)}", ends.value, asks)
    return "value"


def _check_record(signature: Signature, ends: Ends, asks: object) -> None:
    if not (arguments := get_args(asks)):
        return
    key, value = arguments
    if not fits(ends.key, key):
        raise _wrong_parameter(signature, f"topic {ends.topic!r} has keys of type {describe(ends.key)}", ends.key, key)
    if not fits(ends.value, value):
        raise _wrong_parameter(signature, f"topic {ends.topic!r} holds {describe(ends.value)}", ends.value, value)


def _wrong_parameter(signature: Signature, fact: str, given: object, asked: object) -> DeclarationError:
    hint = ""
    if NONE in members(given) and NONE not in members(asked):
        hint = ". The value may be None (a tombstone), so the handler must take None as well"
    elif get_origin(asked) in _LISTS and any(fits(given, item) for item in get_args(asked)):
        hint = ". To get several at a time, declare batch=Batch(size, within=...)"
    return _wrong_asking(signature, f"it asks for {describe(signature.asks)}, but {fact}{hint}")


def _check_result(signature: Signature, ends: Ends) -> None:
    if signature.is_generator and ends.sink is None:
        raise _wrong_result(signature, "it yields values, but the agent has no sink=; give it one")
    if signature.returns is EMPTY:
        return
    for member in members(_yielded(signature)):
        _check_returned(signature, member, ends)


def _check_batch_result(signature: Signature, ends: Ends) -> None:
    """A batch has many keys, so each output states its own."""
    if signature.is_generator:
        raise _wrong_result(signature, "it yields, but a batch is settled as a whole: return a list of Output")
    if signature.returns is EMPTY:
        return
    for member in members(signature.returns):
        if member in (Any, Never, NoReturn) or member is NONE:
            continue
        for item in members(_item_of(signature, member)):
            if item is Output or get_origin(item) is Output:
                _check_output(signature, item, ends)
            elif item not in (Any, Never):
                raise _wrong_result(
                    signature,
                    f"it returns {describe(member)}, but for a batch each output states its key: "
                    f"return Iterable[Output[{describe(item)}]]",
                )


def _item_of(signature: Signature, member: object) -> object:
    origin = get_origin(member) or member
    if isinstance(origin, type) and issubclass(origin, Iterable) and origin not in (str, bytes, dict):
        return next(iter(get_args(member)), Any)
    raise _wrong_result(signature, f"it returns {describe(member)}, but a batch returns an Iterable of Output, or None")


def _yielded(signature: Signature) -> object:
    """The type of one result. A bare AsyncIterator yields Any."""
    if not signature.is_generator:
        return signature.returns
    arguments = get_args(signature.returns)
    return arguments[0] if arguments else Any


def _check_returned(signature: Signature, member: object, ends: Ends) -> None:
    if member in (Any, Never, NoReturn) or (member is NONE and not signature.is_generator):
        return
    if member is Output or get_origin(member) is Output:
        _check_output(signature, member, ends)
    elif ends.sink is None:
        raise _wrong_result(
            signature,
            f"it {signature.verb} {describe(member)}, but the agent has no sink=; give it one, or return None",
        )
    elif not fits(member, ends.sink_value):
        raise _wrong_sink(signature, member, ends)
    elif ends.key != ends.sink_key:
        raise _wrong_result(
            signature,
            f"the keys of {ends.topic!r} are {describe(ends.key)} and those of the sink {ends.sink!r} are "
            f"{describe(ends.sink_key)}, so the record's key cannot be passed on: return Output(value, key=...)",
        )


def _check_output(signature: Signature, member: object, ends: Ends) -> None:
    value = next(iter(get_args(member)), Any)
    if value in (Any, Never, NoReturn):
        return
    if ends.sink is None:
        raise _wrong_result(
            signature,
            f"it {signature.verb} {describe(member)}, but the agent has no sink=; give it one, or return None",
        )
    if not fits(value, ends.sink_value):
        raise _wrong_sink(signature, member, ends)


def _wrong_sink(signature: Signature, member: object, ends: Ends) -> DeclarationError:
    return _wrong_result(
        signature,
        f"it {signature.verb} {describe(member)}, but the sink {ends.sink!r} takes {describe(ends.sink_value)}",
    )


def _wrong_result(signature: Signature, problem: str) -> DeclarationError:
    return DeclarationError(f"agent {signature.agent!r}, result: {problem}")
