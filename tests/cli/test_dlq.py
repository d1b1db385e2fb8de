"""`streamkit dlq`: dead letters counted, grouped, found and exported."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamkit.cli.embedded import EmbeddedBroker
from streamkit.record import HeaderList
from streamkit.transport.memory import MemoryBroker, named_broker
from tests.cli.dlq_support import STATE, STATE_CONFIG
from tests.cli.dlq_support import invoke as dlq
from tests.cli.support import program, streamkit
from tests.cli.test_docs import SECTIONS

FAILED = 1_700_000_000_000  # ms: 2023-11-14 22:13:20 UTC
MINUTE = 60_000
DESCRIBED = set(re.findall(r"`(\w+)`", SECTIONS["dlq"].partition("| Key |")[2].partition("\n\n")[0]))
STACK = 'Traceback (most recent call last):\n  File "/srv/shop.py", line 7, in charge\n    pay()\n'

CODE = """
from streamkit import Retry
@app.agent(source, dead_letter=True)
async def charge(order: dict) -> None: raise ValueError(f"order {order['id']} is bad")
"""


def letter_headers(number: int, error: str, message: str, *more: tuple[str, bytes]) -> HeaderList:
    return [
        ("tenant", b"blue" if number % 2 else b"red"),
        ("sk-origin-topic", b"orders"),
        ("sk-origin-partition", b"0"),
        ("sk-origin-offset", b"%d" % number),
        ("sk-group", b"shop.charge"),
        ("sk-attempt", b"%d" % (number + 1)),
        ("sk-failed-at", b"%d" % (FAILED + number * MINUTE)),
        ("sk-error-class", error.encode()),
        ("sk-error-message", message.encode()),
        ("sk-error-stack", STACK.encode()),
        *more,
    ]


@pytest.fixture
def broker(brokers: str) -> Iterator[MemoryBroker]:
    """Four letters: three time-outs, of which the second is archived, and one that is no letter of streamkit's."""
    broker = named_broker(brokers)
    broker.create_topic("orders.dlq", message_timestamp_type="LogAppendTime")
    for number in range(3):
        message = f"call {number} timed out"
        headers = letter_headers(number, "pay.Slow", message)
        broker.append("orders.dlq", key=b"k%d" % number, value=b'{"id": %d}' % number, headers=headers)
    broker.append("orders.dlq", key=None, value=b"\xff\x00", headers=[("sk-attempt", b"many"), ("sk-failed-at", None)])
    broker.create_topic(STATE, 1, **STATE_CONFIG)
    broker.append("orders.dlq.state", key=b"case:0:1", value=b'{"status": "archived"}', headers=[])
    broker.append("orders.dlq.state", key=b"case:0:2", value=b"no JSON", headers=[])
    yield broker


@pytest.mark.usefixtures("broker")
def test_ls_counts_by_agent_and_status(brokers: str) -> None:
    ended = dlq(brokers, "ls", "--topic", "orders", "--json")
    assert (ended.exit_code, ended.stderr) == (0, "")
    (topic,) = json.loads(ended.stdout)["topics"]
    agents = {agent["group"]: agent for agent in topic["agents"]}
    assert topic["topic"] == "orders.dlq"
    assert {name: (each["open"], each["archived"]) for name, each in agents.items()} == {
        "shop.charge": (2, 1),
        None: (1, 0),
    }
    assert agents["shop.charge"]["oldest_open"] == "2023-11-14T22:13:20.000Z"
    assert agents["shop.charge"]["errors"] == [{"error_class": "pay.Slow", "count": 2}]


@pytest.mark.usefixtures("broker")
def test_groups_put_alike_errors_together(brokers: str) -> None:
    found = json.loads(dlq(brokers, "groups", "--topic", "orders.dlq", "--json").stdout)["topics"][0]["groups"]
    assert [(each["count"], each["error_class"], each["frame"], each["sample"]) for each in found] == [
        (3, "pay.Slow", "shop.py:charge", "0:2"),
        (1, None, None, "0:3"),
    ]


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ((), ["0:0", "0:1", "0:2", "0:3"]),
        (("--error", "call [12]"), ["0:1", "0:2"]),
        (("--class", "Slow"), ["0:0", "0:1", "0:2"]),
        (("--key", "k1"), ["0:1"]),
        (("--to", "2023-11-14T22:14:00Z"), ["0:0"]),
        (("--from", "2023-11-14 22:15"), ["0:2", "0:3"]),
        (("--from", "1h"), ["0:3"]),
        (("--attempts", ">1"), ["0:1", "0:2"]),
        (("--header", "tenant=red"), ["0:0", "0:2"]),
        (("--status", "archived"), ["0:1"]),
        (("--agent", "shop.charge", "--limit", "2"), ["0:0", "0:1"]),
    ],
)
def test_search_finds_what_fits_all_filters(brokers: str, filters: tuple[str, ...], ids: list[str]) -> None:
    ended = dlq(brokers, "search", "--topic", "orders", *filters, "--json")
    assert ended.exit_code == 0
    assert [json.loads(line)["id"] for line in ended.stdout.splitlines()] == ids


@pytest.mark.usefixtures("broker")
def test_what_people_see_fits_80_columns_without_colours(brokers: str) -> None:
    for command in ("ls", "groups", "search"):
        ended = dlq(brokers, command, "--topic", "orders")
        assert (ended.exit_code, "\x1b" in ended.stdout) == (0, False)
        assert max(map(len, ended.stdout.splitlines())) <= 80


@pytest.mark.usefixtures("broker")
def test_export_holds_the_bytes(brokers: str, tmp_path: Path) -> None:
    path = tmp_path / "letters.jsonl"
    assert dlq(brokers, "export", "--topic", "orders", "-o", str(path)).exit_code == 0
    first, *_, last = map(json.loads, path.read_text().splitlines())
    assert (first["key"], first["value"], first["value_encoding"]) == ("k0", '{"id": 0}', "utf-8")
    assert first["headers"][0] == {"name": "tenant", "value": "red", "encoding": "utf-8"}
    assert (last["key"], last["value"], last["value_encoding"], last["attempts"]) == (None, "/wA=", "base64", None)
    assert last["headers"][1] == {"name": "sk-failed-at", "value": None, "encoding": None}


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize("command", [("ls",), ("groups",), ("search",), ("show", "0:1")])
def test_every_key_of_the_json_is_described(brokers: str, command: tuple[str, ...]) -> None:
    output = dlq(brokers, *command, "--topic", "orders", "--json").stdout
    found = keys([json.loads(line) for line in (output.splitlines() if command == ("search",) else [output])])
    assert "topic" in found and found <= DESCRIBED


@pytest.mark.usefixtures("broker")
def test_every_key_of_what_was_changed_is_described(brokers: str) -> None:
    where = ("--topic", "orders", "--json")
    result = json.loads(dlq(brokers, "archive", "0:0", "9:9", "--yes", *where).stdout)
    audit = json.loads(dlq(brokers, "audit", *where).stdout)
    assert "unfit" in result and set(result) <= DESCRIBED
    assert "unfit" in audit and set(audit) <= DESCRIBED


def keys(value: object) -> set[str]:
    """Of all objects that it holds."""
    if isinstance(value, dict):
        return set(value).union(*map(keys, value.values()))
    return set().union(*map(keys, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize("command", ["ls", "groups", "search", "export"])
def test_a_topic_that_does_not_exist_has_no_dead_letters(brokers: str, command: str) -> None:
    ended = dlq(brokers, command, "--topic", "orders")
    assert (ended.exit_code, ended.stderr) == (
        0,
        f"no dead letters: topic 'orders.dlq' does not exist at {brokers}\n",
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ls",), "Give TARGET"),
        (("search", "--topic", "a b"), "--topic:"),
        (("search", "--topic", "t", "--attempts", "lots"), "--attempts 'lots': not a number of attempts"),
        (("search", "--topic", "t", "--error", "("), "--error '(': not a regular expression"),
        (("groups", "--topic", "t", "--from", "yesterday"), "--from 'yesterday': no time"),
        (("groups", "--topic", "t", "--header", "x"), "--header 'x': not a header"),
    ],
)
def test_what_cannot_be_followed_exits_2(brokers: str, arguments: tuple[str, ...], said: str) -> None:
    ended = dlq(brokers, *arguments)
    assert (ended.exit_code, said in ended.stderr) == (2, True), ended.stderr


@pytest.mark.parametrize("command", ["ls", "groups", "search", "export"])
def test_without_a_broker_one_line_says_so(tmp_path: Path, command: str) -> None:
    ended = streamkit(tmp_path, "dlq", command, "--topic", "orders", "--brokers", "127.0.0.1:1")
    assert (ended.code, ended.output) == (1, "")
    assert ended.errors == ("error: cannot reach the brokers at 127.0.0.1:1: none of them accepts a connection\n")


def test_dead_letters_of_a_worker_are_found_by_target(tmp_path: Path, embedded: EmbeddedBroker) -> None:
    made = program(tmp_path, embedded.brokers, CODE, [b'{"id": 1}', b'{"id": 2}'])
    assert made.run("--create-topics", "--stop-when-idle", "100ms").code == 0
    ended = streamkit(tmp_path, "dlq", "groups", "program", "--brokers", embedded.brokers, "--json")
    assert (ended.code, ended.errors) == (0, "")
    ((found,),) = (topic["groups"] for topic in json.loads(ended.output)["topics"])
    assert (found["count"], found["error_class"], found["frame"]) == (2, "ValueError", "program.py:charge")
    shown = streamkit(tmp_path, "dlq", "ls", "program", "--agent", "charge", "--brokers", embedded.brokers)
    assert f"{made.name}.charge" in shown.output
