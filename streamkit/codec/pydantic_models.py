"""Models of pydantic 2. Importing this imports pydantic."""

from typing import Any

import pydantic
from pydantic_core import ValidationError

from streamkit.codec.bound import Decode, Encode
from streamkit.codec.family import classes_within
from streamkit.errors import DecodeError
from streamkit.fits import describe

_MOST_FIELDS = 5  # named in one error
_MOST_TEXT = 200  # characters of what pydantic, or a validator, says of one of them


def pydantic_codec(annotation: Any, choices: list[object]) -> tuple[Decode, Encode]:
    """JSON as pydantic reads it with its defaults, written under the names that are read.

    Raises TypeError for what pydantic has no schema for.
    """
    _check(annotation)
    try:
        adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(annotation)
        if not adapter.pydantic_complete:
            adapter.rebuild(raise_errors=True)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise TypeError(f"{describe(annotation)} is not a type that pydantic can read: {reason}") from error
    return _decoder(adapter, describe(annotation)), _encoder(adapter, annotation, choices)


def _check(annotation: object) -> None:
    for cls in classes_within(annotation):
        if any(base.__module__.startswith("pydantic.v1.") for base in cls.__mro__):
            raise TypeError(
                f"{describe(cls)} is a model of pydantic 1 (pydantic.v1): derive it from pydantic.BaseModel, or give "
                "the topic a codec="
            )
        if cls is pydantic.BaseModel:
            raise TypeError("pydantic.BaseModel has no fields to read: name your own model, or use value=dict")


def _decoder(adapter: pydantic.TypeAdapter[Any], type_name: str) -> Decode:
    validate = adapter.validator.validate_json

    def decode(data: bytes) -> Any:
        try:
            return validate(data)
        except ValidationError as error:
            raise DecodeError(f"{type_name}: {_explain(error)}") from None

    return decode


def _explain(error: ValidationError) -> str:
    """`customer.name: Field required; cents: Input should be a valid integer`, without what was read."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    told = [f"{'.'.join(map(str, item['loc'])) or 'the value'}: {item['msg'][:_MOST_TEXT]}" for item in found]
    more = [f"and {len(told) - _MOST_FIELDS} more"] if len(told) > _MOST_FIELDS else []
    return "; ".join(told[:_MOST_FIELDS] + more)


def _encoder(adapter: pydantic.TypeAdapter[Any], annotation: object, choices: list[object]) -> Encode:
    write = adapter.serializer.to_json
    by_alias = _by_alias(annotation)
    declared = frozenset(choice for choice in choices if isinstance(choice, type))

    def encode(value: Any) -> bytes:
        cls = type(value)
        if cls in declared or not hasattr(cls, "__pydantic_serializer__"):
            return write(value, by_alias=by_alias)
        # A subclass: as the declared class it would be written without its own fields.
        data: bytes = cls.__pydantic_serializer__.to_json(value, by_alias=by_alias)
        return data

    return encode


def _by_alias(annotation: object) -> bool | None:
    """Pydantic reads aliases and writes names, unless told; written here are the aliases, which the type can read.

    None, which is the model's own way, if a model says which of the two it reads or writes.
    """
    configs = [getattr(cls, "model_config", {}) for cls in classes_within(annotation)]
    said = any("serialize_by_alias" in config or config.get("validate_by_alias") is False for config in configs)
    return None if said else True
