"""From a line of text to a record that can be sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from streamkit.cli.destination import BadRecord, Encoding
from streamkit.core.selection import parse_header
from streamkit.errors import UsageError
from streamkit.record import HeaderList


class Outgoing(NamedTuple):
    key: bytes | None
    value: bytes | None
    headers: HeaderList
    partition: int | None
    timestamp: int | None  # milliseconds since 1970; None: now


class Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """One line of `--envelope`."""

    value: msgspec.Raw
    key: str | None = None
    headers: dict[str, str | None] = {}
    partition: int | None = None
    timestamp: int | None = None


@dataclass(frozen=True)
class Form:
    """How lines are read, and what the command line adds to each. `read` raises BadRecord."""

    encoding: Encoding
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()
    partition: int | None = None
    key_field: str | None = None
    envelope: bool = False

    def read(self, line: bytes) -> Outgoing:
        if self.envelope:
            return self._opened(line)
        value = self.encoding.value(line)
        key = self.key if self.key_field is None else self.encoding.key(_field(line, self.key_field))
        return Outgoing(key, value, list(self.headers), self.partition, None)

    def tombstone(self) -> Outgoing:
        self.encoding.null()
        return Outgoing(self.key, None, list(self.headers), self.partition, None)

    def _opened(self, line: bytes) -> Outgoing:
        try:
            envelope = _envelopes.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadRecord(f"not an envelope: {error}") from error
        value = self.encoding.json(bytes(envelope.value))
        key = None if envelope.key is None else self.encoding.key(envelope.key.encode())
        headers = [(name, None if text is None else text.encode()) for name, text in envelope.headers.items()]
        return Outgoing(key, value, [*headers, *self.headers], envelope.partition, envelope.timestamp)


_envelopes = msgspec.json.Decoder(Envelope)


def _field(line: bytes, name: str) -> bytes:
    try:
        value = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRecord(f"not JSON, so it has no field {name!r} for the key: {error}") from error
    if not isinstance(value, dict) or name not in value:
        raise BadRecord(f"it has no field {name!r} for the key")
    key = value[name]
    if isinstance(key, str) or type(key) is int:
        return str(key).encode()
    raise BadRecord(f"the field {name!r} is no key: a string or a whole number is needed, not {key!r}")


def parse_headers(given: Sequence[str]) -> list[tuple[str, bytes | None]]:
    """`NAME=VALUE` each. Raises UsageError."""
    headers: list[tuple[str, bytes | None]] = []
    for text in given:
        try:
            headers.append(parse_header(text))
        except ValueError as error:
            raise UsageError(f"--header {text!r}: {error}") from error
    return headers
