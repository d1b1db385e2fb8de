"""`streamkit agents`."""

import json
import re
from pathlib import Path
from uuid import uuid4

import pytest

from streamkit.cli.embedded import EmbeddedBroker
from tests.cli.support import create_topic, program, streamkit

CODE = """
from streamkit import App, Record, Retry
app = App("{name}")
orders = app.topic("{name}.orders", value=dict, partitions=3)
invoices = app.topic("{name}.invoices", value=dict)

@app.agent(orders, sink=invoices, concurrency=64, retry=Retry.delays("5s", "1m", in_place=2))
async def charge(order: dict) -> dict: return order

def region(record): return record.value["region"]

@app.agent(invoices, order_by=region, retry=Retry.delays("1s"), dead_letter=False)
async def trace(record: Record[str, dict]) -> None: ...
"""
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def name(tmp_path: Path) -> str:
    name = f"agents-{uuid4().hex[:8]}"
    (tmp_path / "shop.py").write_text(CODE.format(name=name))
    return name


def topic_row(
    name: str, role: str, *, exists: bool, declared: int | None = None, partitions: int | None = None
) -> dict[str, object]:
    return {
        "name": name,
        "role": role,
        "declared_partitions": declared,
        "exists": exists,
        "partitions": partitions,
    }


def test_json_says_what_is_declared_what_exists_and_what_is_left(
    tmp_path: Path, embedded: EmbeddedBroker, name: str
) -> None:
    create_topic(embedded.brokers, f"{name}.orders", 5)
    tier = f"{name}.orders.{name}.charge.retry"
    left = [f"{tier}-3", f"{name}.orders.{name}.refund.retry-1"]
    for topic in (f"{tier}-1", f"{name}.orders.dlq", *left):
        create_topic(embedded.brokers, topic)
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
                "tier_waits": [5, 60],
                "times_in_place": 2,
                "wait_in_place": 0.1,
                "dead_letters": {f"{name}.orders": f"{name}.orders.dlq"},
            },
            {
                "name": "trace",
                "shape": "record",
                "topics": [f"{name}.invoices"],
                "sink": None,
                "group": f"{name}.trace",
                "concurrency": 1,
                "order_by": "region",
                "tier_waits": [1],
                "times_in_place": 0,
                "wait_in_place": None,
                "dead_letters": {},
            },
        ],
        "topics": [
            topic_row(f"{name}.orders", "declared", exists=True, declared=3, partitions=5),
            topic_row(f"{name}.invoices", "declared", exists=False),
            topic_row(f"{tier}-1", "retry", exists=True, partitions=1),
            topic_row(f"{tier}-2", "retry", exists=False),
            topic_row(f"{name}.orders.dlq", "dead_letter", exists=True, partitions=1),
            topic_row(f"{name}.invoices.{name}.trace.retry-1", "retry", exists=False),
        ],
        "orphans": {"topics": left, "groups": []},
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
        rf"charge +value +64 +key +{name}\.orders *\n +→ {name}\.invoices *\n +group {name}\.charge *\n"
        rf" +retry in place 2 × 100ms *\n +retry after 5s, 1m *\n +dead letters {name}\.orders\.dlq *\n",
        ended.output,
    )
    assert re.search(rf"group {name}\.trace *\n +retry after 1s *\n +no dead letters *\n", ended.output)
    assert re.search(rf"{name}\.orders\.dlq +– +no +–", ended.output)
    assert re.search(rf"{name}\.orders +3 +yes +5", ended.output)
    assert re.search(rf"{name}\.invoices +– +no +–", ended.output)


def test_without_brokers_the_declared_part_is_shown(tmp_path: Path, name: str) -> None:
    ended = streamkit(tmp_path, "agents", "shop", "--brokers", NOWHERE)
    assert (ended.code, ended.errors) == (0, "")
    assert f"The cluster at {NOWHERE} could not be asked: none of them accepts a connection\n" in ended.output
    assert re.search(rf"{name}\.orders +3 +\? +–", ended.output)
    found = json.loads(streamkit(tmp_path, "agents", "shop", "--brokers", NOWHERE, "--json").output)
    assert found["error"] == "none of them accepts a connection"
    assert {topic["exists"] for topic in found["topics"]} == {None}


def test_an_app_without_agents_and_topics_is_shown_too(tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text("from streamkit import App\napp = App('bare')\n")
    assert streamkit(tmp_path, "agents", "bare", "--brokers", NOWHERE).code == 0


def test_a_bad_target_exits_2(tmp_path: Path) -> None:
    assert streamkit(tmp_path, "agents", "nowhere").code == 2
