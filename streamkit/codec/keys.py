"""Keys: text, bytes, decimal numbers and UUIDs."""

import re
from uuid import UUID

from streamkit.codec.bound import Decode, Encode
from streamkit.errors import DecodeError

_DECIMAL = re.compile(rb"-?[0-9]+")


def _decode_int(data: bytes) -> int:
    # int() alone would also take blanks, underscores and a plus.
    if _DECIMAL.fullmatch(data) is None:
        raise DecodeError("the key is not a decimal number")
    return int(data)


def _decode_uuid(data: bytes) -> UUID:
    return UUID(data.decode())


def _encode_text(value: object) -> bytes:
    return str(value).encode()


KEYS: dict[object, tuple[Decode, Encode]] = {
    str: (bytes.decode, str.encode),
    bytes: (bytes, bytes),
    int: (_decode_int, _encode_text),
    UUID: (_decode_uuid, _encode_text),
}
