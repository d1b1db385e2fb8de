"""`streamkit agents`."""

import json
import re
from pathlib import Path
from uuid import uuid4

import pytest

from streamkit.cli.embedded import EmbeddedBroker
from tests.cli.support import create_topic, program, streamkit

CODE = """
from streamkit import App, Record
app = App("{name}")
orders = app.topic("{name}.orders", value=dict, partitions=3)
invoices = app.topic("{name}.invoices", value=dict)

@app.agent(orders, sink=invoices, concurrency=64)
async def charge(order: dict) -> dict: return order

def region(record): return record.value["region"]

@app.agent(invoices, order_by=region)
async def trace(record: Record[str, dict]) -> None: ...
"""
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def name(tmp_path: Path) -> str:
    name = f"agents-{uuid4().hex[:8]}"
    (tmp_path / "shop.py").write_text(CODE.format(name=name))
    return name


def test_json_says_what_is_declared_what_exists_and_what_is_left(
    tmp_path: Path, embedded: EmbeddedBroker, name: str
) -> None:
    create_topic(embedded.brokers, f"{name}.orders", 5)
    for left in ("refund", "charge"):
        create_topic(embedded.brokers, f"{name}.orders.{name}.{left}.retry-1")
    ended = streamkit(tmp_path, "agents", "shop", "--json", "--brokers", embedded.brokers)
    assert (ended.code, ended.errors) == (0, "")
    assert json.loads(ended.output) == {
        "app": name,
        "brokers": embedded.brokers,
        "error": None,
        "agents": [
            {
                "name": "charge",
                "shape": "value",
                "topics": [f"{name}.orders"],
                "sink": f"{name}.invoices",
                "group": f"{name}.charge",
                "concurrency": 64,
                "order_by": "key",
            },
            {
                "name": "trace",
                "shape": "record",
                "topics": [f"{name}.invoices"],
                "sink": None,
                "group": f"{name}.trace",
                "concurrency": 1,
                "order_by": "region",
            },
        ],
        "topics": [
            {"name": f"{name}.orders", "declared_partitions": 3, "exists": True, "partitions": 5},
            {"name": f"{name}.invoices", "declared_partitions": None, "exists": False, "partitions": None},
        ],
        "orphans": {"topics": [f"{name}.orders.{name}.refund.retry-1"], "groups": []},
    }


def test_a_group_whose_agent_is_gone_is_an_orphan(tmp_path: Path, embedded: EmbeddedBroker) -> None:
    handler = "\n@app.agent(source)\nasync def {}(order: dict) -> None: ...\n"
    made = program(tmp_path, embedded.brokers, handler.format("before"), [b"{}"])
    assert made.run("--stop-when-idle", "100ms").code == 0
    path = tmp_path / "program.py"
    path.write_text(path.read_text().replace("def before", "def after"))
    ended = streamkit(tmp_path, "agents", "program", "--brokers", embedded.brokers)
    assert f"Orphaned groups, which app {made.name} does not declare any more:\n  {made.name}.before\n" in ended.output


def test_the_table_has_no_colours_and_at_most_80_columns_when_it_is_piped(
    tmp_path: Path, embedded: EmbeddedBroker, name: str
) -> None:
    create_topic(embedded.brokers, f"{name}.orders", 5)
    ended = streamkit(tmp_path, "agents", "shop", "--brokers", embedded.brokers)
    assert (ended.code, ended.errors) == (0, "")
    assert "\x1b" not in ended.output
    assert max(map(len, ended.output.splitlines())) <= 80
    assert re.search(
        rf"charge +value +64 +key +{name}\.orders *\n +→ {name}\.invoices *\n +group {name}\.charge", ended.output
    )
    assert re.search(rf"{name}\.orders +3 +yes +5", ended.output)
    assert re.search(rf"{name}\.invoices +– +no +–", ended.output)


def test_without_brokers_the_declared_part_is_shown(tmp_path: Path, name: str) -> None:
    ended = streamkit(tmp_path, "agents", "shop", "--brokers", NOWHERE)
    assert (ended.code, ended.errors) == (0, "")
    assert f"The cluster at {NOWHERE} could not be asked: none of them accepts a connection\n" in ended.output
    assert re.search(rf"{name}\.orders +3 +\? +–", ended.output)
    found = json.loads(streamkit(tmp_path, "agents", "shop", "--brokers", NOWHERE, "--json").output)
    assert found["error"] == "none of them accepts a connection"
    assert [topic["exists"] for topic in found["topics"]] == [None, None]


def test_an_app_without_agents_and_topics_is_shown_too(tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text("from streamkit import App\napp = App('bare')\n")
    assert streamkit(tmp_path, "agents", "bare", "--brokers", NOWHERE).code == 0


def test_a_bad_target_exits_2(tmp_path: Path) -> None:
    assert streamkit(tmp_path, "agents", "nowhere").code == 2
