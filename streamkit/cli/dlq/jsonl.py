"""A dead letter as one JSON object, from which the record could be made again byte for byte."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import orjson

from streamkit.cli.dlq.selecting import Case
from streamkit.cli.dlq.times import iso


def line(topic: str, case: Case) -> bytes:
    return orjson.dumps(as_json(topic, case))


def as_json(topic: str, case: Case) -> dict[str, Any]:
    """The keys are described in docs/cli.md."""
    letter = case.letter
    key, key_encoding = text_of(letter.key)
    value, value_encoding = text_of(letter.value)
    return {
        "id": letter.id,
        "topic": topic,
        "case": case.id,
        "status": case.status.status,
        "group": letter.group,
        "stage": letter.stage,
        "attempts": letter.attempts,
        "error_class": letter.error_class,
        "error_message": letter.error_message,
        "appended": iso(letter.appended),
        "failed": iso(letter.failed),
        "first_failed": iso(letter.first_failed),
        "origin_topic": letter.origin_topic,
        "origin_partition": letter.origin_partition,
        "origin_offset": letter.origin_offset,
        "origin_timestamp": iso(letter.origin_timestamp),
        "key": key,
        "key_encoding": key_encoding,
        "value": value,
        "value_encoding": value_encoding,
        "headers": [header_json(name, value) for name, value in letter.headers],
    }


def text_of(data: bytes | None) -> tuple[str | None, str | None]:
    """The bytes as text, and how: as they are if they are UTF-8, else base64. Null has neither."""
    if data is None:
        return None, None
    try:
        return data.decode(), "utf-8"
    except UnicodeDecodeError:
        return b64encode(data).decode(), "base64"


def bytes_of(text: str | None, encoding: str | None) -> bytes | None:
    """What `text_of` was given. Raises ValueError."""
    if text is None:
        return None
    if encoding == "utf-8":
        return text.encode()
    if encoding == "base64":
        return b64decode(text, validate=True)
    raise ValueError(f"the encoding {encoding!r} is neither utf-8 nor base64")


def header_json(name: str, data: bytes | None) -> dict[str, str | None]:
    text, encoding = text_of(data)
    return {"name": name, "value": text, "encoding": encoding}
