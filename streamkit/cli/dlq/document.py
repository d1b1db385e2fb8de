"""A dead letter as the JSON document that is edited."""

from __future__ import annotations

import difflib
import re
from codecs import BOM_UTF8
from typing import Any, Literal, NamedTuple

import msgspec

from streamkit.cli.destination import BadRecord
from streamkit.cli.dlq.jsonl import bytes_of, header_json, text_of
from streamkit.cli.dlq.values import ValueEncoding, Values
from streamkit.core.letters import Letter
from streamkit.core.replays import kept_headers, may_be_kept
from streamkit.record import HeaderList

Encoding = Literal["utf-8", "base64"]
_BYTE = re.compile(r" \(byte ([0-9]+)\)$")


class Header(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    name: str
    value: str | None
    encoding: Encoding = "utf-8"


class Document(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    key: str | None
    key_encoding: Encoding = "utf-8"
    headers: list[Header]
    value_encoding: ValueEncoding
    value: msgspec.Raw


class Content(NamedTuple):
    """What a record says: all that can be edited. The headers are the user's own."""

    key: bytes | None
    value: bytes | None
    headers: HeaderList

    def as_json(self) -> dict[str, Any]:
        (key, key_encoding), (value, value_encoding) = text_of(self.key), text_of(self.value)
        return {
            "key": key,
            "key_encoding": key_encoding,
            "value": value,
            "value_encoding": value_encoding,
            "headers": [header_json(*each) for each in self.headers],
        }

    @classmethod
    def of_json(cls, given: dict[str, Any]) -> Content:
        """What `as_json` gave."""
        headers = [(each["name"], bytes_of(each["value"], each["encoding"])) for each in given["headers"]]
        key, value = (bytes_of(given[name], given[f"{name}_encoding"]) for name in ("key", "value"))
        return cls(key, value, headers)


def content_of(letter: Letter) -> Content:
    return Content(letter.key, letter.value, kept_headers(letter))


def text(content: Content, values: Values) -> str:
    document = _document(content, values)
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def edited(data: bytes, content: Content, values: Values) -> Content:
    """What the document says. What it says as before keeps its bytes. Raises BadRecord."""
    data = data.removeprefix(BOM_UTF8)
    try:
        data.decode()
        after = msgspec.json.decode(data, type=Document)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadRecord(f"the document cannot be read: {_with_line(str(error), data)}") from error
    before = _document(content, values)
    if (after.key, after.key_encoding) == (before.key, before.key_encoding):
        key = content.key
    else:
        key = values.key(_bytes("key", after.key, after.key_encoding))
    if (after.value_encoding, _small(after.value)) == (before.value_encoding, _small(before.value)):
        value = content.value
    else:
        value = _value(after, values)
    return Content(key, value, [_header(each) for each in after.headers])


def diff(before: str, after: str) -> list[str]:
    """The lines of a unified diff."""
    lines = before.splitlines(), after.splitlines()
    return list(difflib.unified_diff(*lines, "the dead letter", "what is sent", lineterm=""))


def _document(content: Content, values: Values) -> Document:
    key, key_encoding = text_of(content.key)
    headers = [_shown(*each) for each in content.headers]
    shown = values.shown(content.value)
    return Document(
        key=key,
        key_encoding="base64" if key_encoding == "base64" else "utf-8",
        headers=headers,
        value_encoding=shown.encoding,
        value=msgspec.Raw(shown.json),
    )


def _shown(name: str, value: bytes | None) -> Header:
    text, encoding = text_of(value)
    return Header(name, text, "base64" if encoding == "base64" else "utf-8")


def _header(header: Header) -> tuple[str, bytes | None]:
    name = header.name
    if not name:
        raise BadRecord("a header needs a name")
    if not may_be_kept(name):
        raise BadRecord(f"header {name!r}: a replay carries none of this name but its own")
    return name, _bytes(f"the value of header {name!r}", header.value, header.encoding)


def _value(document: Document, values: Values) -> bytes | None:
    raw, encoding = _small(document.value), document.value_encoding
    if encoding == "json":
        return values.of_json(raw)
    try:
        told = msgspec.json.decode(raw, type=str | None)
    except (msgspec.MsgspecError, RecursionError):
        raise BadRecord(f"value: with value_encoding {encoding!r} it is a string, or null") from None
    if (encoding == "tombstone") != (told is None):
        raise BadRecord("value: null, and only null, has the value_encoding 'tombstone'; of JSON's null it is 'json'")
    return values.of_bytes(_bytes("value", told, encoding))


def _bytes(what: str, text: str | None, encoding: str) -> bytes | None:
    try:
        return bytes_of(text, encoding)
    except ValueError as error:
        raise BadRecord(f"{what}: {error}") from error


def _small(raw: msgspec.Raw) -> bytes:
    return msgspec.json.format(bytes(raw), indent=-1)


def _with_line(message: str, data: bytes) -> str:
    """With the line in the place of the byte."""
    found = _BYTE.search(message)
    if found is None:
        return message
    line = data.count(b"\n", 0, int(found[1])) + 1
    return f"{message[: found.start()]} (line {line})"
