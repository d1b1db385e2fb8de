"""The programs on the page about types run, and do what the page says."""

import asyncio
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest

with mock.patch.object(sys, "argv", ["pytest"]):  # faust reads it when it is imported
    import faust
from faust.types.tuples import TP, Message

PAGE = Path(__file__).parents[2] / "docs" / "types.md"


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the page's programs define, run one after the other."""
    page = ModuleType("page")
    programs = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(programs) == 3
    with mock.patch.dict(sys.modules, page=page):  # dataclasses look for their module
        for program in programs:
            exec(program, vars(page))
    return vars(page)


def test_the_programs_declare_their_topics(names: dict[str, Any]) -> None:
    app = names["app"]
    assert {name: topic.value_codec.type_name for name, topic in app.topics.items()} == {
        "orders.events.v1": "Order",
        "accounts.state.v1": "Order | None",
        "pages.v1": "str",
        "names.v1": "str",
    }


def test_the_codec_that_zips_reads_what_it_writes(names: dict[str, Any]) -> None:
    codec = names["pages"].value_codec
    assert codec.decode(codec.encode("text" * 100)) == "text" * 100
    assert codec.encode("") is None


def test_the_codec_for_text_reads_and_writes_what_a_faust_app_does(names: dict[str, Any]) -> None:
    codec = names["names"].value_codec
    app = faust.App("tests", broker="kafka://127.0.0.1:1", store="memory://", web_enabled=False)
    topic = app.topic("names.v1", key_type=str, value_type=str)
    theirs, _ = topic.prepare_value("é", None)
    assert codec.decode(theirs) == "é"
    assert codec.encode("é") == theirs == '"é"'.encode()
    message = Message("names.v1", 0, 0, 0.0, 0, [], b"k", codec.encode("é"), None, tp=TP("names.v1", 0))
    assert asyncio.run(topic.decode(message, propagate=True)).value == "é"
    assert app.topic("raw", value_type=str, value_serializer="raw").prepare_value("é", None)[0] == "é".encode()
    keys: list[tuple[Any, Any, Any]] = [(str, None, "é"), (int, "json", -5)]
    for key_type, serializer, key in keys:
        keyed = app.topic("keys", key_type=key_type, key_serializer=serializer)
        streamkit_topic = names["App"]("keys").topic("keys", value=dict, key=key_type)
        assert streamkit_topic.key_codec.encode(key) == keyed.prepare_key(key, None)[0]
