"""A record's key and value as people and scripts see them, and back to bytes that the topic's readers will decode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import msgspec

from streamkit.cli.destination import AsDeclared, BadRecord
from streamkit.cli.dlq.jsonl import text_of
from streamkit.codec import codec_for
from streamkit.errors import UsageError
from streamkit.topic import Topic

ValueEncoding = Literal["json", "utf-8", "base64", "tombstone"]


class Shown(NamedTuple):
    """A value that can be read. `json` is JSON: the value itself, or what it says as a string, or null."""

    encoding: ValueEncoding
    json: bytes


class Values:
    """Of a declared topic, or of one of which nothing is known (None). What makes bytes raises BadRecord.

    JSON stays as it is written, to the last digit and space, unless the topic's own `codec=` writes the bytes; the
    topic's types only check it, so that no field is lost that they do not know.
    """

    def __init__(self, topic: Topic[Any, Any] | None) -> None:
        self._topic = topic

    def shown(self, value: bytes | None) -> Shown:
        if value is None:
            return Shown("tombstone", b"null")
        read = value if self._topic is None or self._topic.codec is None else _through(self._topic, value)
        if read is not None and is_json(read):
            return Shown("json", read)
        text, encoding = text_of(value)
        return Shown("utf-8" if encoding == "utf-8" else "base64", msgspec.json.encode(text))

    def of_json(self, text: bytes) -> bytes | None:
        topic = self._topic
        if topic is None:
            return text
        try:
            value = AsDeclared(topic).value(text)
        except UsageError as error:
            raise BadRecord(str(error)) from error
        return text if value is not None and topic.codec is None else value

    def of_bytes(self, value: bytes | None) -> bytes | None:
        """As they are, if the topic's readers can decode them."""
        if self._topic is not None:
            codec = self._topic.value_codec
            _checked(f"a value of topic {self._topic.name!r} is {codec.type_name}", codec.decode, value, codec.null)
        return value

    def key(self, key: bytes | None) -> bytes | None:
        if self._topic is not None and key is not None:
            codec = self._topic.key_codec
            _checked(f"a key of topic {self._topic.name!r} is {codec.type_name}", codec.decode, key)
        return key


def is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _through(topic: Topic[Any, Any], value: bytes) -> bytes | None:
    """What its own codec reads, as the codec that its type would have without writes it; None if that cannot be."""
    try:
        return codec_for(topic.value_type).encode(topic.value_codec.decode(value))
    except Exception:  # of a codec of the user's own
        return None


def _checked(
    expected: str, decode: Callable[[bytes], Any], data: bytes | None, null: Callable[[], None] | None = None
) -> None:
    try:
        if data is not None:
            decode(data)
        elif null is not None:
            null()
    except Exception as error:  # of a codec of the user's own
        raise BadRecord(f"{expected}: {error or type(error).__name__}") from error
