"""A codec as the engine calls it, and the check of what it is given."""

from collections.abc import Callable
from typing import Any, Final, Generic, Literal, NewType, TypeVar, final, get_args, get_origin

from typing_extensions import is_typeddict

from streamkit.errors import DecodeError, EncodeError
from streamkit.fits import NONE, members, plain

T = TypeVar("T")

Decode = Callable[[bytes], Any]
Encode = Callable[[Any], bytes | None]


@final
class BoundCodec(Generic[T]):
    """A codec as the engine calls it: two functions, looked up once.

    `decode` is the library's own function where that can be, with no Python in between: it is called for every record.
    `encode` refuses values of another class with an EncodeError, and turns None into a tombstone if the type is
    `nullable`.
    """

    __slots__ = ("decode", "encode", "nullable", "type_name")

    def __init__(
        self, decode: Callable[[bytes], T], encode: Callable[[T], bytes | None], type_name: str, nullable: bool
    ) -> None:
        self.decode: Final = decode
        self.encode: Final = encode
        self.type_name: Final = type_name
        self.nullable: Final = nullable

    def null(self) -> None:
        """What a null value decodes to. Raises DecodeError if the type does not allow None."""
        if not self.nullable:
            raise DecodeError(
                f"the value is null (a tombstone), and the topic's type is {self.type_name}: "
                f"declare value={self.type_name} | None if None may come"
            )


def checked(encode: Encode, annotation: object, type_name: str, *, nullable: bool) -> Encode:
    """`encode` for values of the annotation's classes only."""
    classes = _classes(annotation)
    expected = classes[0] if classes else None

    def check_and_encode(value: Any) -> bytes | None:
        if type(value) is expected:
            return encode(value)
        if value is None and nullable:
            return None
        if classes is None or (isinstance(value, classes) and (type(value) is not bool or bool in classes)):
            return encode(value)
        raise EncodeError(type_name, value)

    return check_and_encode


def _classes(annotation: object) -> tuple[type, ...] | None:
    """The classes that values of this type may be of, the likeliest first; None if that cannot be said."""
    found: list[type] = []
    for member in members(annotation):
        if member is NONE:
            continue
        classes = _member_classes(member)
        if classes is None:
            return None
        found.extend(classes)
    return tuple(found)


def _member_classes(member: object) -> tuple[type, ...] | None:
    if isinstance(member, NewType):
        return _classes(member.__supertype__)
    if get_origin(member) is Literal:
        return tuple({type(argument) for argument in get_args(member)} - {NONE})
    if is_typeddict(member):
        return (dict,)
    if member is float:
        return (float, int)
    origin = plain(get_origin(member)) if get_origin(member) else member
    return (origin,) if isinstance(origin, type) and origin not in (Any, object) else None
