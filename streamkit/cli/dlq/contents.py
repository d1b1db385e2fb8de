"""Keys and values as people read them: by the declared type, else as JSON, as text, or byte by byte."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import orjson

from streamkit.codec import BoundCodec, codec_for
from streamkit.errors import named
from streamkit.topic import Topic

MOST = 10_000  # characters that are shown of a text
DUMPED = 512  # bytes that are shown one by one
_A_ROW = 16


class Reading(NamedTuple):
    """Bytes, and what the declared type makes of them."""

    raw: bytes | None
    type_name: str | None = None  # of the declared type, if there is one
    decoded: bytes | None = None  # what the type reads, as JSON; None too if that cannot be written as JSON
    shown: str | None = None  # the same for people
    error: str | None = None  # why the type cannot read them


def key_of(raw: bytes | None, topic: Topic[Any, Any] | None) -> Reading:
    if topic is None or raw is None:  # any key may be null
        return Reading(raw)
    return _read(raw, topic.key_codec, orjson.dumps)


def value_of(raw: bytes | None, topic: Topic[Any, Any] | None) -> Reading:
    if topic is None:
        return Reading(raw)

    def write(value: Any) -> bytes | None:
        # The topic's own codec may write anything; what is written for the type alone is JSON.
        return orjson.dumps(value) if isinstance(value, str) else codec_for(topic.value_type).encode(value)

    return _read(raw, topic.value_codec, write)


def _read(raw: bytes | None, codec: BoundCodec[Any], write: Callable[[Any], bytes | None]) -> Reading:
    name = codec.type_name
    try:
        if raw is None:
            codec.null()
            return Reading(None, name)
        value = codec.decode(raw)
    except Exception as error:  # codecs are the user's, too
        return Reading(raw, name, error=named(error))
    if isinstance(value, bytes):
        return Reading(raw, name)
    try:
        decoded = write(value) or b"null"
        shown = _pretty(decoded)
    except Exception:
        return Reading(raw, name, shown=_repr(value))
    text = text_of(raw)
    plain = isinstance(value, str | int | UUID) and str(value) == text
    return Reading(raw, name, decoded, text if plain else shown)


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:
        return f"<its repr() raised {type(error).__name__}>"


class Part(NamedTuple):
    what: str
    text: str = ""


def parts(content: Reading) -> Iterator[Part]:
    """For people; a second part where the type leaves something out, or adds to it."""
    raw = content.raw
    if raw is None:
        yield Part("null")
        return
    size = f"{len(raw):,} byte{'' if len(raw) == 1 else 's'}"
    if content.shown is None:
        yield _untyped(raw, size)
        return
    yield Part(f"{content.type_name}, {size}", start_of(content.shown))
    if _differs(content, raw):
        yield _untyped(raw, "as it lies in the topic")


def _untyped(raw: bytes, where: str) -> Part:
    text = text_of(raw)
    if text is None:
        return Part(f"binary, {where}", dump(raw))
    try:
        return Part(f"JSON, {where}", start_of(_pretty(raw)))
    except (msgspec.DecodeError, RecursionError):
        return Part(f"text, {where}", start_of(text))


def _differs(content: Reading, raw: bytes) -> bool:
    """Whether text that lies there holds something else. Not of other bytes: they say nothing to people."""
    text = text_of(raw)
    if text is None or text == content.shown:
        return False
    try:
        # Not by orjson, which makes floats of large numbers.
        return content.decoded is None or bool(json.loads(text) != json.loads(content.decoded))
    except (ValueError, RecursionError):
        return True


def _pretty(data: bytes) -> str:
    """JSON, indented; numbers stay as they are written."""
    return msgspec.json.format(data, indent=2).decode()


def start_of(text: str) -> str:
    """For people; the last line says how much is left out."""
    left = len(text) - MOST
    return text if left <= 0 else f"{text[:MOST]}\n{left:,} more characters left out; --json gives all"


def text_of(raw: bytes) -> str | None:
    """None if they are no UTF-8, or hold control characters."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    return text if all(each.isprintable() or each in "\t\r\n" for each in text) else None


def dump(raw: bytes) -> str:
    """The first of them as hex, in 77 columns; the last line says how many are left out."""
    rows = [_row(raw, start) for start in range(0, min(len(raw), DUMPED), _A_ROW)]
    left = len(raw) - DUMPED
    if left > 0:
        rows.append(f"{left:,} more byte{'' if left == 1 else 's'} left out; --json gives all")
    return "\n".join(rows)


def _row(raw: bytes, start: int) -> str:
    data = raw[start : min(start + _A_ROW, DUMPED)]
    text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)
    return f"{start:08x}  {data.hex(' '):<47}  |{text}|"


def line_of(raw: bytes | None) -> str:
    """All of it on one line."""
    if raw is None:
        return "null"
    text = text_of(raw)
    return f"hex {raw.hex(' ')}" if text is None else " ".join(text.split())
