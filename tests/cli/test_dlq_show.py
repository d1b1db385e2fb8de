"""`streamkit dlq show`: one dead letter, whole."""

import asyncio
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import orjson
import pytest
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner, Result

from streamkit.app import App
from streamkit.cli.dlq.contents import MOST, key_of, parts, value_of
from streamkit.cli.dlq.ids import target_and_ids
from streamkit.cli.embedded import EmbeddedBroker
from streamkit.cli.group import group
from streamkit.errors import UsageError
from streamkit.record import HeaderList, TopicPartition
from streamkit.topic import Topic
from streamkit.transport.base import AccessDenied
from streamkit.transport.memory import MemoryBroker, named_broker
from streamkit.transport.memory.reader import MemoryReader
from tests.cli.dlq_support import dlq, say
from tests.cli.support import Program, create_topic, module, program, streamkit
from tests.kafka.server import ExistingKafka, GenuineKafka

FAILED = 1_700_000_000_000  # ms: 2023-11-14 22:13:20 UTC
STACK = 'Traceback (most recent call last):\n  File "/srv/shop.py", line 7, in charge\n    pay()\n'

CODE = """
from dataclasses import dataclass
from streamkit import Retry
@dataclass
class Order:
    id: int
orders = app.topic(source.name + ".typed", value=Order, partitions=1)
@app.agent(orders, dead_letter=True)
async def charge(order: Order) -> None: raise ValueError(f"order {order.id} is bad")
"""
SECOND = """
@app.agent(source, dead_letter=True)
async def count(order: dict) -> None: ...
"""


@pytest.fixture
def broker(brokers: str) -> Iterator[MemoryBroker]:
    """A source of 300 records with ten keys in turn, and one letter of its record 150."""
    broker = named_broker(brokers)
    broker.create_topic("orders")
    for number in range(300):
        value = None if number == 160 else b'{"id": %d}' % number
        broker.append("orders", key=b"k%d" % (number % 10), value=value, timestamp=FAILED - 300 + number)
    broker.create_topic("orders.dlq", message_timestamp_type="LogAppendTime")
    append(broker, 150)
    yield broker


def headers_of(number: int, *more: tuple[str, bytes | None]) -> HeaderList:
    return [
        ("tenant", b"blue"),
        ("raw", b"\xff\x00"),
        ("nothing", None),
        ("sk-origin-topic", b"orders"),
        ("sk-origin-partition", b"0"),
        ("sk-origin-offset", b"%d" % number),
        ("sk-origin-timestamp", b"%d" % (FAILED - 300 + number)),
        ("sk-group", b"shop.charge"),
        ("sk-attempt", b"3"),
        ("sk-first-failed-at", b"%d" % FAILED),
        ("sk-failed-at", b"%d" % (FAILED + 60_000)),
        ("sk-stage", b"handle"),
        ("sk-error-class", b"pay.Slow"),
        ("sk-error-message", b"timed out"),
        ("sk-error-stack", STACK.encode()),
        *more,
    ]


def append(broker: MemoryBroker, number: int, *more: tuple[str, bytes | None]) -> str:
    """The letter of a record of `orders`; its ID."""
    key, value = b"k%d" % (number % 10), b'{"id": %d}' % number
    return f"0:{broker.append('orders.dlq', key=key, value=value, headers=headers_of(number, *more))}"


def show(brokers: str, *arguments: str, topic: str = "orders") -> Result:
    return dlq(brokers, "show", *arguments, topic=topic)


def shown(brokers: str, *arguments: str, topic: str = "orders") -> dict[str, Any]:
    ended = show(brokers, *arguments, "--json", topic=topic)
    assert (ended.exit_code, ended.stderr) == (0, "")
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@pytest.mark.usefixtures("broker")
def test_a_letter_is_shown_to_people(brokers: str) -> None:
    ended = show(brokers, "0:0")
    assert (ended.exit_code, ended.stderr) == (0, "")
    appended = shown(brokers, "0:0")["appended"]
    assert (
        ended.stdout
        == f"""\
orders.dlq 0:0
  status        open
  case          0:0
  group         shop.charge
  stage         handle
  attempts      3
  first failed  2023-11-14 22:13:20Z
  failed        2023-11-14 22:14:20Z
  appended      {appended[:10]} {appended[11:19]}Z

error
  pay.Slow: timed out

stack
  Traceback (most recent call last):
    File "/srv/shop.py", line 7, in charge
      pay()

key (text, 2 bytes)
  k0

value (JSON, 11 bytes)
  {{
    "id": 150
  }}

headers
  tenant   blue
  raw      hex ff 00
  nothing  null

headers of streamkit
  sk-origin-topic      orders
  sk-origin-partition  0
  sk-origin-offset     150
  sk-origin-timestamp  1699999999850
  sk-group             shop.charge
  sk-attempt           3
  sk-first-failed-at   1700000000000
  sk-failed-at         1700000060000
  sk-stage             handle
  sk-error-class       pay.Slow
  sk-error-message     (above)
  sk-error-stack       (above)

history
  0:0: nothing was done with it

source
  orders[0] offset 150, 2023-11-14 22:13:19Z
  still there
  of its key, among the 100 offsets before:
           100 2023-11-14 22:13:19Z     11 bytes  {{"id": 100}}
           110 2023-11-14 22:13:19Z     11 bytes  {{"id": 110}}
           120 2023-11-14 22:13:19Z     11 bytes  {{"id": 120}}
           130 2023-11-14 22:13:19Z     11 bytes  {{"id": 130}}
           140 2023-11-14 22:13:19Z     11 bytes  {{"id": 140}}
  of its key, among the 100 offsets after:
           160 2023-11-14 22:13:19Z         null
           170 2023-11-14 22:13:19Z     11 bytes  {{"id": 170}}
           180 2023-11-14 22:13:19Z     11 bytes  {{"id": 180}}
           190 2023-11-14 22:13:19Z     11 bytes  {{"id": 190}}
           200 2023-11-14 22:13:19Z     11 bytes  {{"id": 200}}
"""
    )


def test_a_letter_is_found_without_reading_the_topic(
    broker: MemoryBroker, brokers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(9_999):
        append(broker, number % 300)
    polled, poll = 0, MemoryReader.poll

    async def counting(self: MemoryReader, *, max_records: int, timeout: float) -> Any:
        nonlocal polled
        found = await poll(self, max_records=max_records, timeout=timeout)
        polled += sum(map(len, found.values()))
        return found

    monkeypatch.setattr(MemoryReader, "poll", counting)
    assert shown(brokers, "0:5000")["id"] == "0:5000"
    assert polled < 3_000


@pytest.mark.usefixtures("broker")
def test_json_holds_what_export_writes_and_more(brokers: str) -> None:
    found = shown(brokers, "0:0")
    exported = CliRunner().invoke(group, ["dlq", "export", "--topic", "orders", "--brokers", brokers])
    assert found.items() >= json.loads(exported.stdout).items()
    assert (found["error_stack"], found["omitted"], found["failed_again"]) == (STACK, [], False)
    assert found["value_read"] == {"type": None, "json": None, "error": None}
    assert found["history"]["letter"] == {
        "status": "open",
        "at": None,
        "who": None,
        "reason": None,
        "job": None,
        "replays": 0,
    }
    source = found["source"]
    assert (source["state"], source["error"]) == ("kept", None)
    assert [each["offset"] for each in source["before"]] == [100, 110, 120, 130, 140]
    assert source["after"][0] == {
        "offset": 160,
        "timestamp": "2023-11-14T22:13:19.860Z",
        "size": None,
        "start": None,
        "start_encoding": None,
    }
    assert source["after"][1]["start"] == '{"id": 170}'


def test_what_was_done_is_told_by_the_state_topic(broker: MemoryBroker, brokers: str) -> None:
    again = append(broker, 150, ("sk-dlq-id", b"0:0"))
    done = {"status": "replayed", "at": FAILED, "who": "ann", "reason": "the bank is back", "job": "j1", "replays": 1}
    say(broker, "case:0:0", {**done, "group": "shop.charge"})
    say(broker, "case:0:7", {"status": "discarded"})
    say(
        broker,
        "run:0:0:shop.charge",
        {"group": "shop.charge", "outcome": "dead", "attempt": 2, "at": FAILED, "letter": again},
    )
    found = shown(brokers, again)
    assert (found["case"], found["failed_again"]) == ("0:0", True)
    assert found["history"]["case"] == {
        "status": "replayed",
        "at": "2023-11-14T22:13:20.000Z",
        "who": "ann",
        "reason": "the bank is back",
        "job": "j1",
        "replays": 1,
    }
    assert found["history"]["run"] == {
        "outcome": "dead",
        "attempt": 2,
        "at": "2023-11-14T22:13:20.000Z",
        "letter": again,
    }
    page = show(brokers, again).stdout
    assert "  case          0:0, which failed again\n" in page
    assert "  0:0: 2023-11-14 22:13:20Z replayed by ann (job j1), 1 replay so far: the bank \n  is back\n" in page
    assert "  0:0: 2023-11-14 22:13:20Z its copy failed for good, attempt 2, as 0:1\n" in page
    assert "  0:1: nothing was done with it\n" in page


@pytest.mark.parametrize(
    "run",
    [
        {"group": "other", "outcome": "handled"},
        {"group": "shop.charge", "outcome": "eaten"},
        ["handled"],
        None,
    ],
)
def test_a_run_that_makes_no_sense_tells_nothing(broker: MemoryBroker, brokers: str, run: object) -> None:
    say(broker, "case:0:0", {"status": "replayed", "replays": 1})
    say(broker, "run:0:0:shop.charge", run)
    assert shown(brokers, "0:0")["history"]["run"] is None


def test_a_run_of_a_letter_that_was_not_replayed_tells_nothing(broker: MemoryBroker, brokers: str) -> None:
    say(broker, "run:0:0:shop.charge", {"group": "shop.charge", "outcome": "handled"})
    assert shown(brokers, "0:0")["history"]["run"] is None


def test_fields_of_a_run_that_make_no_sense_are_missing(broker: MemoryBroker, brokers: str) -> None:
    say(broker, "case:0:0", {"status": "replayed", "replays": 1, "group": "shop.charge"})
    run = {"group": "shop.charge", "outcome": "retried", "at": -1, "attempt": "two", "letter": "none"}
    say(broker, "run:0:0:shop.charge", run)
    found = shown(brokers, "0:0")["history"]["run"]
    assert found == {"outcome": "retried", "at": None, "attempt": None, "letter": None}


def test_a_source_record_that_compaction_removed_is_missing(broker: MemoryBroker, brokers: str) -> None:
    log = broker.log(TopicPartition("orders", 0))
    for offset in (150, 160):
        log.punch(offset)
    source = shown(brokers, "0:0")["source"]
    assert (source["state"], source["before"][-1]["offset"], source["after"][0]["offset"]) == ("missing", 140, 170)
    assert "  gone: compaction has removed it" in show(brokers, "0:0").stdout


def test_a_source_record_that_fell_to_retention_is_removed(broker: MemoryBroker, brokers: str) -> None:
    broker.delete_records("orders", 175)
    source = shown(brokers, "0:0")["source"]
    assert (source["state"], source["before"]) == ("removed", [])
    assert [each["offset"] for each in source["after"]] == [180, 190, 200, 210, 220]
    broker.delete_records("orders", 300)
    source = shown(brokers, "0:0")["source"]
    assert (source["state"], source["before"], source["after"]) == ("removed", [], [])


def test_a_source_topic_that_was_made_anew_is_not_taken_for_the_old_one(broker: MemoryBroker, brokers: str) -> None:
    broker.delete_topic("orders")
    assert shown(brokers, "0:0")["source"]["state"] == "no_topic"
    broker.create_topic("orders")
    assert shown(brokers, "0:0")["source"]["state"] == "beyond"
    for _ in range(200):
        broker.append("orders", b"new")
    assert shown(brokers, "0:0")["source"]["state"] == "replaced"


@pytest.mark.parametrize(
    ("headers", "state"),
    [
        ([("sk-origin-topic", b"orders")], "unstated"),
        (headers_of(0, ("sk-origin-partition", b"1")), "no_partition"),
        (headers_of(0, ("sk-origin-topic", b"no topic/")), "unreadable"),
        (headers_of(0, ("sk-origin-offset", b"%d" % ((1 << 63) - 1))), "beyond"),
        (headers_of(0, ("sk-origin-topic", b"\x1b[31m\nhistory")), "unreadable"),
    ],
)
def test_what_headers_say_of_the_source_is_not_believed(
    broker: MemoryBroker, brokers: str, headers: HeaderList, state: str
) -> None:
    broker.append("orders.dlq", key=b"k", value=b"v", headers=headers)
    assert shown(brokers, "0:1")["source"]["state"] == state
    ended = show(brokers, "0:1")
    assert (ended.exit_code, "\x1b" in ended.stdout, ended.stdout.count("\nhistory\n")) == (0, False, 1)


@pytest.mark.usefixtures("broker")
def test_a_source_that_may_not_be_read_hides_no_letter(brokers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = MemoryReader.log_ranges

    async def denied(self: MemoryReader, partitions: Collection[TopicPartition]) -> Any:
        if any(each.topic == "orders" for each in partitions):
            raise AccessDenied("not authorised to read orders")
        return await ranges(self, partitions)

    monkeypatch.setattr(MemoryReader, "log_ranges", denied)
    source = shown(brokers, "0:0")["source"]
    assert (source["state"], source["error"]) == ("unreadable", "not authorised to read orders")
    assert "  cannot be looked for: not authorised to read orders\n" in show(brokers, "0:0").stdout


def test_a_letter_without_any_headers_is_shown(broker: MemoryBroker, brokers: str) -> None:
    broker.append("orders.dlq", key=None, value=b"\xff" * 600)
    ended = show(brokers, "0:1")
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert "  (no error stated)\n\nkey (null)\n\nvalue (binary, 600 bytes)\n  00000000  ff ff" in ended.stdout
    assert "  88 more bytes left out; --json gives all\n" in ended.stdout
    assert "headers" not in ended.stdout
    found = shown(brokers, "0:1")
    assert (found["key"], found["value_encoding"], len(found["value"])) == (None, "base64", 800)


def test_a_page_fits_80_columns_and_steers_no_terminal(broker: MemoryBroker, brokers: str) -> None:
    value = json.dumps({"long": "ab " * 100, "deep": {"wide": "漢" * 60}}, ensure_ascii=False).encode()
    forged = ("long\nname", b"a\nstatus open " * 20), ("sk-group", b"\x1b]0;pwned\x07" * 20)
    errors = ("sk-error-message", b"\x1b[2J" * 40), ("sk-error-stack", STACK.encode() + b"    \x07" + b"x" * 200)
    headers = headers_of(150, *forged, *errors)
    broker.append("orders.dlq", key=b"\x1b[31m", value=value, headers=headers)
    say(broker, "case:0:1", {"status": "archived", "by": "\x1b[31mann", "why": "because " * 30})
    ended = show(brokers, "0:1")
    assert (ended.exit_code, "\x1b" in ended.stdout, "\x07" in ended.stdout) == (0, False, False)
    assert max(len(line) + line.count("漢") for line in ended.stdout.splitlines()) <= 80
    assert ("ab " * 100).strip() in ended.stdout.replace("\n    ", "")


def test_a_page_is_bounded_whatever_the_headers_hold(broker: MemoryBroker, brokers: str) -> None:
    huge = b"x" * 500_000
    names = "sk-group", "sk-stage", "sk-error-class", "sk-error-message", "sk-error-stack", "own", "sk-origin-topic"
    headers: HeaderList = [(name, huge) for name in names]
    broker.append("orders.dlq", key=huge, value=huge, headers=headers)
    ended = show(brokers, "0:1")
    assert (ended.exit_code, len(ended.stdout) < 80_000) == (0, True)
    assert ended.stdout.count("more characters left out; --json gives all\n") == 4
    assert [len(each["value"]) for each in shown(brokers, "0:1")["headers"]] == [500_000] * len(names)


def test_a_header_that_is_there_twice_is_shown_twice(broker: MemoryBroker, brokers: str) -> None:
    headers = headers_of(150, ("sk-error-message", b"later"), ("tenant", b"red"))
    broker.append("orders.dlq", b"v", headers=headers)
    page = show(brokers, "0:1").stdout
    assert "  tenant   blue\n" in page
    assert "  tenant   red\n" in page
    assert "  sk-error-message     timed out\n" in page
    assert "  sk-error-message     (above)\n" in page
    assert "\nerror\n  pay.Slow: later\n" in page


def test_what_the_copy_lacks_is_not_taken_for_null(broker: MemoryBroker, brokers: str) -> None:
    headers = headers_of(150, ("sk-omitted", b"key,value,headers"))
    broker.append("orders.dlq", key=None, value=None, headers=headers)
    page = show(brokers, "0:1").stdout
    assert page.count("would have been too large with") == 3
    assert shown(brokers, "0:1")["omitted"] == ["key", "value", "headers"]
    # The key is that of the source record.
    assert shown(brokers, "0:1")["source"]["before"][-1]["offset"] == 140


def test_a_null_key_has_no_neighbours(broker: MemoryBroker, brokers: str) -> None:
    for _ in range(3):
        broker.append("orders", b"no key")
    broker.append("orders.dlq", key=None, value=b"no key", headers=headers_of(301))
    source = shown(brokers, "0:1")["source"]
    assert (source["before"], source["after"]) == ([], [])


def test_neighbours_are_looked_for_100_offsets_away_and_no_further(broker: MemoryBroker, brokers: str) -> None:
    for number in range(300):
        key = b"far" if number in (49, 50, 150, 250, 251) else b"other"
        broker.append("orders", "ü".encode() * 60 + b"!", key=key, timestamp=FAILED + number)
    headers = headers_of(450, ("sk-origin-timestamp", b"%d" % (FAILED + 150)))
    broker.append("orders.dlq", key=b"far", value=b"", headers=headers)
    source = shown(brokers, "0:1")["source"]
    (before,), (after,) = source["before"], source["after"]
    assert (source["state"], before["offset"], after["offset"]) == ("kept", 350, 550)
    assert (before["size"], before["start"]) == (121, "ü" * 50)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, 'which dead letter? Give its ID: partition and offset, as in "0:1234"'),
        (("0-1",), 2, "'0-1' is none"),
        (("0:0", "0:1"), 2, "one at a time: 0:0, 0:1"),
        (("99999999999:1",), 2, "not the ID of a dead letter"),
        (("1:0",), 1, "orders.dlq has no partition 1, but 0 only"),
        (("0:2",), 1, "orders.dlq[0] has no offset 2 yet: the next to come is 0:2"),
        (("0:0", "--agent", "other"), 1, "0:0 of orders.dlq is of group 'shop.charge', not of 'other'"),
    ],
)
def test_what_is_not_there_is_said(
    broker: MemoryBroker, brokers: str, arguments: tuple[str, ...], code: int, said: str
) -> None:
    broker.append_marker("orders.dlq")
    ended = show(brokers, *arguments)
    assert (ended.exit_code, ended.stdout, said in ended.stderr) == (code, "", True), ended.stderr


def test_a_letter_that_is_gone_is_told_from_one_to_come(broker: MemoryBroker, brokers: str) -> None:
    broker.append_marker("orders.dlq")
    append(broker, 3)
    assert "[0] holds no record at offset 1: it was removed, or is a mark of" in show(brokers, "0:1").stderr
    broker.delete_records("orders.dlq", 2)
    assert "the first that is kept is 0:2; retention or a purge removed it" in show(brokers, "0:0").stderr
    broker.delete_records("orders.dlq", 3)
    ended = show(brokers, "0:0")
    assert (ended.exit_code, "it is empty; retention or a purge removed it" in ended.stderr) == (1, True)


def test_a_dead_letter_topic_that_does_not_exist_holds_no_letter(brokers: str) -> None:
    ended = show(brokers, "0:0")
    assert (ended.exit_code, ended.stderr) == (
        1,
        f"error: no dead letters: topic 'orders.dlq' does not exist at {brokers}\n",
    )


@pytest.mark.parametrize(
    ("words", "target", "ids"),
    [
        ((), None, ()),
        (("shop",), "shop", ()),
        (("shop:app", "0:1", "1:2"), "shop:app", ("0:1", "1:2")),
        (("0:1",), None, ("0:1",)),
        (("0:1", "00:01", "0:2"), None, ("0:1", "0:2")),
    ],
)
def test_ids_are_told_from_a_target_by_their_form(words: Sequence[str], target: str | None, ids: Sequence[str]) -> None:
    assert target_and_ids(words) == (target, ids)


@pytest.mark.parametrize("words", [("0:1", "shop"), ("shop", "0:x"), ("0:99999999999999999999",), ("shop", "")])
def test_what_is_no_id_is_refused(words: Sequence[str]) -> None:
    with pytest.raises(UsageError, match="not the ID of a dead letter"):
        target_and_ids(words)


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Upside:
    """A codec of one's own, whose bytes are no JSON."""

    def encode(self, value: Any) -> bytes:
        return bytes(255 - byte for byte in orjson.dumps(value))

    def decode(self, data: bytes) -> Any:
        return orjson.loads(bytes(255 - byte for byte in data))


class Unprintable:
    """A codec that makes of all bytes what is no JSON, and cannot be shown."""

    def encode(self, value: Any) -> bytes:
        return b""

    def decode(self, data: bytes) -> Any:
        return Unspeakable()


class Unspeakable:
    def __repr__(self) -> str:
        raise ValueError


def declared(value: Any, key: Any = str, codec: Any = None) -> Topic[Any, Any]:
    return App("shop").topic("orders", value=value, key=key, codec=codec)


@pytest.mark.parametrize(
    ("value", "raw", "shown"),
    [
        (Point, b'{"x":1,"y":2}', [("Point, 13 bytes", '{\n  "x": 1,\n  "y": 2\n}')]),
        (
            Point,
            b'{"x":1,"z":1.10}',
            [
                ("Point, 16 bytes", '{\n  "x": 1,\n  "y": 0\n}'),
                ("JSON, as it lies in the topic", '{\n  "x": 1,\n  "z": 1.10\n}'),
            ],
        ),
        (Point, b'{"x":"1"}', [("JSON, 9 bytes", '{\n  "x": "1"\n}')]),
        (Point, b"{", [("text, 1 byte", "{")]),
        (Point | None, b"null", [("Point | None, 4 bytes", "null")]),
        (Point | None, None, [("null", "")]),
        (Point, None, [("null", "")]),
        (str, b"a b", [("str, 3 bytes", "a b")]),
        (str, b"12", [("str, 2 bytes", "12")]),
        (str, b"a\x1b", [("str, 2 bytes", '"a\\u001b"')]),
        (bytes, b"a\x00", [("binary, 2 bytes", "00000000  61 00" + " " * 44 + "|a.|")]),
        (bytes, b"", [("text, 0 bytes", "")]),
        (Any, b'"a"', [("Any, 3 bytes", '"a"')]),
        (
            dict,
            b'{"n":12345678901234567890123}',
            [
                ("dict, 29 bytes", '{\n  "n": 1.2345678901234568e+22\n}'),
                ("JSON, as it lies in the topic", '{\n  "n": 12345678901234567890123\n}'),
            ],
        ),
        (None, b"[" * 5_000, [("text, 5,000 bytes", "[" * 5_000)]),
        (None, b'{"n":12345678901234567890123}', [("JSON, 29 bytes", '{\n  "n": 12345678901234567890123\n}')]),
    ],
)
def test_a_value_is_shown_as_its_type_reads_it(value: Any, raw: bytes | None, shown: list[tuple[str, str]]) -> None:
    assert list(parts(value_of(raw, None if value is None else declared(value)))) == shown


def test_a_value_that_its_type_cannot_read_says_why() -> None:
    assert value_of(b'{"x":"1"}', declared(Point)).error == "ValidationError: Expected `int`, got `str` - at `$.x`"
    assert (value_of(None, declared(Point)).error or "").startswith("DecodeError: the value is null (a tombstone)")
    assert value_of(None, declared(Point | None)).error is None


def test_a_codec_of_ones_own_reads_what_is_no_json() -> None:
    topic = declared(dict, codec=Upside())
    raw = topic.value_codec.encode({"a": 1})
    content = value_of(raw, topic)
    assert (content.decoded, list(parts(content))) == (b'{"a":1}', [("dict, 7 bytes", '{\n  "a": 1\n}')])
    content = value_of(b"?", declared(object, codec=Unprintable()))
    assert (content.decoded, content.shown) == (None, "<its repr() raised ValueError>")


@pytest.mark.parametrize(
    ("key", "raw", "shown", "error"),
    [
        (str, b"k", "k", None),
        (int, b"-7", "-7", None),
        (int, b"seven", "seven", "DecodeError"),
        (UUID, b"12345678-1234-5678-1234-567812345678", "12345678-1234-5678-1234-567812345678", None),
        (bytes, b"k", "k", None),
    ],
)
def test_a_key_is_shown_as_its_type_reads_it(key: Any, raw: bytes, shown: str, error: str | None) -> None:
    content = key_of(raw, declared(str, key))
    assert ([text for _, text in parts(content)], (content.error or "").partition(":")[0] or None) == ([shown], error)


def test_a_long_text_is_cut_and_says_so() -> None:
    ((what, text),) = parts(value_of(b"x" * (MOST + 1_000), None))
    assert (what, text) == ("text, 11,000 bytes", "x" * MOST + "\n1,000 more characters left out; --json gives all")


def test_of_several_topics_one_must_be_named(tmp_path: Path) -> None:
    made = module(tmp_path, "localhost:1", CODE + SECOND)
    ended = streamkit(tmp_path, "dlq", "show", "program", "0:0", "--brokers", made.brokers)
    names = f"{made.source}.typed.dlq, {made.source}.dlq"
    assert (ended.code, ended.errors) == (
        2,
        f"error: app {made.name!r} has 2 dead letter topics; name one with --topic: {names}\n",
    )


def check_letters_of_a_worker(tmp_path: Path, brokers: str) -> None:
    """One that the handler refuses, and one that its type cannot read; then the source is cut off."""
    made = program(tmp_path, brokers, CODE)
    typed = f"{made.source}.typed"
    create_topic(brokers, typed)
    values = [b'{"id": 1, "more": true}', b'{"id": "one"}', b'{"id": 2}']
    asyncio.run(send(brokers, typed, values))
    assert made.run("--create-topics", "--stop-when-idle", "100ms").code == 0

    first, second = (show_json(made, "program", f"0:{offset}") for offset in range(2))
    assert first["value_read"] == {"type": "Order", "json": {"id": 1}, "error": None}
    assert first["key_read"] == {"type": "str", "json": "k", "error": None}
    assert (first["error_class"], first["error_message"], first["stage"]) == ("ValueError", "order 1 is bad", "handle")
    source = first["source"]
    assert (source["state"], source["before"]) == ("kept", [])
    assert [(each["offset"], each["start"]) for each in source["after"]] == [(1, '{"id": "one"}'), (2, '{"id": 2}')]

    assert (second["stage"], second["value_read"]["json"]) == ("decode-value", None)
    assert "Expected `int`, got `str`" in second["value_read"]["error"]
    page = streamkit(tmp_path, "dlq", "show", "program", "0:1", "--topic", typed, "--brokers", brokers)
    assert (page.code, page.errors) == (0, "")
    assert "\nvalue (JSON, 13 bytes)\n  cannot be read as Order: ValidationError: Expected `int`" in page.output

    untyped = show_json(made, "0:1", "--topic", typed)
    assert untyped["value_read"] == {"type": None, "json": None, "error": None}
    late = streamkit(tmp_path, "dlq", "show", "program", "0:3", "--brokers", brokers)
    assert (late.code, "has no offset 3 yet: the next to come is 0:3" in late.errors) == (1, True)
    beyond = streamkit(tmp_path, "dlq", "show", "program", "7:0", "--brokers", brokers)
    assert (beyond.code, "has no partition 7, but 0 only" in beyond.errors) == (1, True)


def show_json(made: Program, *arguments: str) -> dict[str, Any]:
    ended = streamkit(made.directory, "dlq", "show", *arguments, "--json", "--brokers", made.brokers)
    assert (ended.code, ended.errors) == (0, "")
    found: dict[str, Any] = json.loads(ended.output)
    return found


async def send(brokers: str, topic: str, values: Sequence[bytes]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=brokers) as producer:
        for value in values:
            await producer.send_and_wait(topic, value, key=b"k")


def test_letters_of_a_worker_are_shown_by_its_types(tmp_path: Path, embedded: EmbeddedBroker) -> None:
    check_letters_of_a_worker(tmp_path, embedded.brokers)


def test_letters_of_a_worker_on_kafka_are_shown_by_its_types(
    tmp_path: Path, genuine: GenuineKafka | ExistingKafka
) -> None:
    check_letters_of_a_worker(tmp_path, genuine.brokers)
