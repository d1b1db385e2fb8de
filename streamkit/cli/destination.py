"""From TOPIC of `streamkit send` to a topic, and to bytes that its readers will decode."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Any, Protocol

import msgspec

from streamkit.app import App
from streamkit.checks import valid_topic_name
from streamkit.cli.target import imported, instead, module_of
from streamkit.codec import codec_for
from streamkit.errors import DeclarationError, UsageError
from streamkit.fits import NONE, members
from streamkit.settings import Settings, SettingValue
from streamkit.topic import Topic


class BadRecord(ValueError):
    """What was given cannot become a record of the topic; the text says why."""


class Encoding(Protocol):
    """From text to bytes. Each method raises BadRecord."""

    def value(self, text: bytes) -> bytes | None: ...
    def json(self, raw: bytes) -> bytes | None:
        """A value within other JSON, where a string stands for its text if that is what the topic holds."""
        ...

    def null(self) -> None:
        """Whether a tombstone may be sent."""
        ...

    def key(self, text: bytes) -> bytes: ...


class AsGiven:
    """Of a topic that nobody has declared, nothing is known."""

    def value(self, text: bytes) -> bytes | None:
        return text

    def json(self, raw: bytes) -> bytes | None:
        return None if raw == b"null" else _text_of(raw) if raw.startswith(b'"') else raw

    def null(self) -> None: ...

    def key(self, text: bytes) -> bytes:
        return text


class AsDeclared:
    """By the topic's types: read as its default codec reads, written as its own codec writes, and read once more."""

    def __init__(self, topic: Topic[Any, Any]) -> None:
        self._topic = topic
        try:
            self._read = codec_for(topic.value_type).decode
        except TypeError as error:
            raise UsageError(
                f"the values of topic {topic.name!r} cannot be written as text ({error}); send them from Python, "
                "with topic.send"
            ) from error
        kinds = [member for member in members(topic.value_type) if member is not NONE]
        self._holds_text = kinds in ([str], [bytes])

    def value(self, text: bytes) -> bytes | None:
        codec = self._topic.value_codec
        try:
            raw = codec.encode(self._read(text))
            if raw is None:
                codec.null()
            else:
                codec.decode(raw)
        except Exception as error:
            expected = f"a value of topic {self._topic.name!r} is {codec.type_name}"
            raise BadRecord(f"{expected}: {_reason(error)}") from error
        return raw

    def json(self, raw: bytes) -> bytes | None:
        if raw == b"null":
            self.null()
            return None
        if not self._holds_text:
            return self.value(raw)
        if not raw.startswith(b'"'):
            raise BadRecord(f"the topic holds {self._topic.value_codec.type_name}: write the value as a JSON string")
        return self.value(_text_of(raw))

    def null(self) -> None:
        try:
            self._topic.value_codec.null()
        except Exception as error:
            raise BadRecord(_reason(error)) from error

    def key(self, text: bytes) -> bytes:
        codec = self._topic.key_codec
        try:
            raw = codec.encode(codec.decode(text))
        except Exception as error:
            raise BadRecord(f"the key is not {codec.type_name}: {_reason(error)}") from error
        assert raw is not None, "no text is null"
        return raw


@dataclass(frozen=True)
class Destination:
    topic: str
    encoding: Encoding
    declared: Topic[Any, Any] | None
    app_settings: Mapping[str, SettingValue]

    def settings(self, brokers: str | None) -> Settings:
        """Those of the app that declares the topic, under the environment and the command line."""
        return Settings.load({"brokers": brokers}, os.environ, self.app_settings)


def destination(text: str) -> Destination:
    """`NAME`, or `module:variable` or `module:NAME` for a declared topic. Raises UsageError, ImportFailed."""
    _, colon, path = text.partition(":")
    if not colon:
        try:
            return Destination(valid_topic_name(text), AsGiven(), None, MappingProxyType({}))
        except DeclarationError as error:
            raise UsageError(str(error)) from error
    if not path:
        raise UsageError(f"{text!r} is no topic; write NAME, or module:topic for a declared one")
    module = imported(module_of(text))
    topic = _topic(module, path)
    app = next((app for app in _apps(module) if app.topics.get(topic.name) is topic), None)
    return Destination(topic.name, AsDeclared(topic), topic, app.given_settings if app else MappingProxyType({}))


def _topic(module: ModuleType, path: str) -> Topic[Any, Any]:
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name, None)
    if isinstance(found, Topic):
        return found
    declared = {name: topic for app in _apps_in(module) for name, topic in app.topics.items()}
    if path in declared:
        return declared[path]
    variables = [name for name, value in vars(module).items() if isinstance(value, Topic)]
    known = [*variables, *declared]
    if found is not None:
        raise UsageError(f"{module.__name__}:{path} is no Topic ({type(found).__name__}){instead(path, known)}")
    raise UsageError(f"module {module.__name__!r} has no topic {path!r}{instead(path, known)}")


def _apps(module: ModuleType) -> Iterator[App]:
    """Those of the module first: it may have imported the topic from where its app is."""
    yield from _apps_in(module)
    for other in list(sys.modules.values()):
        yield from _apps_in(other)


def _apps_in(module: ModuleType) -> list[App]:
    return [value for value in list(getattr(module, "__dict__", {}).values()) if isinstance(value, App)]


def _text_of(raw: bytes) -> bytes:
    return msgspec.json.decode(raw, type=str).encode()


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
