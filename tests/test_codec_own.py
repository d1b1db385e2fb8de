"""`codec=`: one's own, with the check of types kept and its failures told."""

import json
from typing import Any

import pytest

from streamkit import App
from streamkit.codec import codec_for
from streamkit.errors import DeclarationError, EncodeError, RecordFailed
from tests.ids import without_address
from tests.runtime.support import World, simulated


class Text:
    """Text, in which the empty one is a tombstone."""

    def encode(self, value: str, /) -> bytes | None:
        return value.encode() or None

    def decode(self, data: bytes, /) -> str:
        return data.decode()


class Failing(Text):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def encode(self, value: str, /) -> bytes | None:
        raise self.error

    def decode(self, data: bytes, /) -> str:
        raise self.error


class Sloppy(Text):
    def __init__(self, encoded: Any) -> None:
        self.encoded = encoded

    def encode(self, value: str, /) -> bytes | None:
        return self.encoded  # type: ignore[no-any-return]


class AsyncDecode(Text):
    async def decode(self, data: bytes, /) -> str:  # type: ignore[override]
        return data.decode()


class AsyncEncode(Text):
    async def encode(self, value: str, /) -> bytes:  # type: ignore[override]
        return value.encode()


class OnlyEncodes:
    def encode(self, value: str, /) -> bytes:
        return value.encode()


def test_a_codec_may_turn_a_value_into_a_tombstone() -> None:
    codec = codec_for(str, Text())
    assert codec.encode("") is None
    assert codec.encode("a") == b"a"
    assert not codec.nullable


def test_the_decode_of_ones_own_codec_is_called_directly() -> None:
    own = Text()
    assert codec_for(str, own).decode == own.decode


def test_a_module_or_a_function_holder_is_a_codec_as_well() -> None:
    class Json:
        encode = staticmethod(lambda value: json.dumps(value).encode())
        decode = staticmethod(json.loads)

    assert codec_for(dict, Json()).decode(b'{"a": 1}') == {"a": 1}


@pytest.mark.parametrize("encoded", ["text", bytearray(b"a"), 5, [b"a"]])
def test_what_is_not_bytes_is_not_sent(encoded: object) -> None:
    with pytest.raises(EncodeError, match="expected bytes or None from the codec's encode, got "):
        codec_for(str, Sloppy(encoded)).encode("a")


@pytest.mark.parametrize(
    ("codec", "told"),
    [
        (AsyncDecode(), r"topic 'in', codec: decode of AsyncDecode is async; codecs .* must not wait"),
        (AsyncEncode(), r"topic 'in', codec: encode of AsyncEncode is async"),
        (OnlyEncodes(), r"topic 'in', codec: .* has no method decode; give an object with encode and decode"),
        (Text, r"topic 'in', codec: .* is a class; give an object"),
        (5, r"topic 'in', codec: 5 has no method encode"),
    ],
    ids=without_address,
)
def test_what_is_no_codec_is_refused_at_declaration(codec: Any, told: str) -> None:
    with pytest.raises(DeclarationError, match=told):
        App("test").topic("in", value=str, codec=codec)


ERRORS = [ValueError("no such schema"), KeyError("schema 7"), StopIteration("odd"), TimeoutError("registry")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_codec_that_raises_while_decoding_fails_the_record_with_its_own_error(error: Exception) -> None:
    @simulated
    async def case() -> None:
        world = World()
        world.fill(["a"], value=b"bytes")
        app = App("test")

        @app.agent(app.topic("in", value=str, codec=Failing(error)))
        async def work(value: str) -> None:
            raise AssertionError("never called")

        failure = await world.failing(app)
        assert isinstance(failure, RecordFailed)
        assert (failure.stage, failure.cause, failure.raw) == ("decode-value", error, b"bytes")
        assert f"{type(error).__name__}: {error}" in str(failure)

    case()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_codec_that_raises_while_encoding_fails_the_record_at_its_sink(error: Exception) -> None:
    @simulated
    async def case() -> None:
        world = World()
        world.broker.create_topic("out", 1)
        world.fill(["a"])
        app = App("test")
        out = app.topic("out", value=str, codec=Failing(error))

        @app.agent(app.topic("in", value=bytes), sink=out)
        async def work(value: bytes) -> str:
            return "text"

        failure = await world.failing(app)
        assert isinstance(failure, RecordFailed)
        assert (failure.stage, failure.cause) == ("sink", error)
        assert f"{type(error).__name__}: {error}" in str(failure)

    case()
