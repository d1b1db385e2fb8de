"""`streamkit dlq transform`: dead letters are mended by a script and sent again."""

from __future__ import annotations

import hashlib
import json
import re
import textwrap
from pathlib import Path

import pytest

from streamkit.cli.dlq.replaying import Replaying
from streamkit.cli.dlq.selecting import Case
from streamkit.cli.outgoing import Outgoing
from streamkit.errors import TransportError
from tests.cli.dead_letters import Desk, users
from tests.cli.dlq_support import TIER
from tests.cli.support import ROOT, program, streamkit
from tests.kafka.server import ExistingKafka, GenuineKafka

PAGE = (ROOT / "docs" / "cli.md").read_text()

DOUBLE = """
def transform(record):
    record.value["amount"] *= 2
    return record.value
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path, monkeypatch)


def script(desk: Desk, text: str) -> str:
    path = desk.directory / "fix.py"
    path.write_text(text)
    return str(path)


def order(number: int, amount: object = 1) -> bytes:
    return json.dumps({"id": number, "amount": amount}).encode()


def test_what_the_script_returns_is_sent_and_the_letters_are_replayed(desk: Desk) -> None:
    first, second = desk.letter(order(1)), desk.letter(order(2, 2.5), partition=0)
    path = script(desk, DOUBLE)
    ended = desk.dlq("transform", desk.target, "--all", "--script", path, "--to", "origin", "--yes", "--reason", "low")
    assert ended.exit_code == 0, ended.output
    assert [(each.partition, each.value) for each in desk.sent()] == [
        (0, b'{"id":2,"amount":5.0}'),
        (1, b'{"id":1,"amount":2}'),
    ]
    assert list(desk.sent()[1].headers) == [("tenant", b"blue"), ("sk-dlq-id", first.encode())]
    assert desk.statuses() == {first: "replayed", second: "replayed"}
    assert desk.states(first)["reason"] == f"transformed by {path}: low"


def test_the_script_sees_value_key_headers_error_and_time(desk: Desk) -> None:
    path = script(
        desk,
        """
def transform(record):
    print("not into the JSON")
    return [
        record.value, record.raw.decode(), record.key, [[name, value.decode()] for name, value in record.headers],
        record.error_class, record.error_message, record.timestamp.isoformat(), record.id,
    ]
""",
    )
    id = desk.letter(b'{"id": 123456789012345678901234567890}')
    ended = desk.dlq("transform", "--topic", "orders", id, "--script", path, "--to", "origin", "--yes", "--json")
    assert json.loads(ended.stdout)["counts"] == {"replayed": 1}
    assert "not into the JSON" in ended.stderr
    assert [json.loads(each.value or b"") for each in desk.sent()] == [
        [
            {"id": 123456789012345678901234567890},
            '{"id": 123456789012345678901234567890}',
            "k",
            [["tenant", "blue"]],
            "ValueError",
            "bad amount",
            "2023-11-14T22:13:20+00:00",
            id,
        ]
    ]


@pytest.mark.parametrize(
    ("value", "result", "sent"),
    [
        (b'{ "id": 1.50 }', "record.value", b'{ "id": 1.50 }'),
        (b'{ "id": 1.50 }', "{**record.value, 'more': True}", b'{"id":1.5,"more":true}'),
        (b"{}", "'caf\u00e9'", '"caf\u00e9"'.encode()),
        (b"no JSON", "record.value + b'!'", b"no JSON!"),
        (b"no JSON", "'text'", b"text"),
        (b"no JSON", "record.value", b"no JSON"),
        (b"no JSON", "{'id': 1}", b'{"id":1}'),
        (b"{}", "b'\\xff'", b"\xff"),
        (b"{}", "record.TOMBSTONE", None),
        (None, "record.value", None),
        (None, "record.TOMBSTONE", None),
        (None, "{}", b"{}"),
        (b"1", "True", b"true"),
        (b"null", "record.value", b"null"),
        (b"null", "record.TOMBSTONE", None),
    ],
)
def test_what_is_returned_becomes_the_value(desk: Desk, value: bytes | None, result: str, sent: bytes | None) -> None:
    id = desk.letter(value)
    path = script(desk, f"def transform(record): return {result}")
    ended = desk.dlq("transform", "--topic", "orders", id, "--script", path, "--to", "origin", "--yes")
    assert ended.exit_code == 0, ended.output
    assert [record.value for record in desk.sent()] == [sent]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return None", "transform returned None: it has to return the value, or record.TOMBSTONE"),
        ("raise Skip('too old')", "the script leaves it out: too old"),
        ("raise Skip()", "the script leaves it out"),
        ("return record.value['nothing']", "the script fails in line 3: KeyError: 'nothing'"),
        ("raise SystemExit(0)", "the script fails in line 3: SystemExit: 0"),
        ("return object()", "transform returned what is no JSON: Encoding objects of type object is unsupported"),
        ("return float('nan')", "transform returned what is no JSON: Out of range float values"),
        (
            "return {'id': 'x', 'amount': 1}",
            "a value of topic 'orders' is Order: Expected `int`, got `str` - at `$.id`",
        ),
        ("return record.TOMBSTONE", "a value of topic 'orders' is Order: the value is null (a tombstone)"),
        ("return b'no order'", "a value of topic 'orders' is Order: JSON is malformed"),
    ],
)
def test_a_letter_that_cannot_be_transformed_stays_open_and_the_others_go(desk: Desk, body: str, reason: str) -> None:
    good, bad = desk.letter(order(1)), desk.letter(order(13))
    path = script(
        desk,
        "from streamkit import Skip\n"
        f"def transform(record):\n    if record.value['id'] == 13: {body}\n    return record.value",
    )
    ended = desk.dlq("transform", desk.target, "--all", "--script", path, "--to", "origin", "--yes", "--json")
    told = json.loads(ended.stdout)
    assert (ended.exit_code, told["counts"], list(told["unfit"].values())) == (1, {"replayed": 1}, [1])
    assert next(iter(told["unfit"])).startswith(reason)
    assert desk.statuses() == {good: "replayed", bad: "open"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_like_it", 'fix.py", line 1, in <module>'),
        ("def transform(record):\n  return (", "SyntaxError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("x = 1", "has to define a plain function: def transform(record)"),
        ("async def transform(record): ...", "has to define a plain function"),
        ("#" * (256 * 1024 + 1), "it has more than 256 KiB"),
    ],
)
def test_a_script_that_cannot_be_loaded_is_a_usage_error(desk: Desk, text: str, said: str) -> None:
    desk.letter(order(1))
    path = script(desk, text)
    ended = desk.dlq("transform", "--topic", "orders", "--all", "--script", path, "--to", "origin", "--yes")
    assert (ended.exit_code, said in ended.stderr, "/streamkit/" in ended.stderr) == (2, True, False), ended.stderr
    assert (desk.sent(), "orders.dlq.state" in desk.broker.topics) == ([], False)


def test_a_script_that_is_not_there_or_no_text_is_a_usage_error(desk: Desk) -> None:
    (desk.directory / "bytes.py").write_bytes(b"\xff")
    for path, said in (("gone.py", "No such file"), ("bytes.py", "not UTF-8")):
        ended = desk.dlq("transform", "--topic", "orders", "--all", "--script", path, "--to", "origin")
        assert (ended.exit_code, f"--script {path}: " in ended.stderr, said in ended.stderr) == (2, True, True)


@pytest.mark.parametrize(("option", "given", "code"), [(["--dry-run"], None, 0), ([], "n\n", 1)])
def test_the_preview_shows_three_differences_and_changes_nothing(
    desk: Desk, option: list[str], given: str | None, code: int
) -> None:
    for number in range(5):
        desk.letter(order(number, 10))
    desk.letter(order(5, 0))
    path = script(desk, DOUBLE)
    ended = desk.dlq("transform", desk.target, "--all", "--script", path, "--to", "retry", *option, given=given)
    assert ended.exit_code == code
    assert ended.stderr.count('-    "amount": 10\n+    "amount": 20\n') == 3
    assert "6 dead letters of orders.dlq would be replayed" in ended.stderr
    assert "1 are sent as they are: the script does not change them" in ended.stderr
    assert f"6 go to {TIER}" in ended.stderr
    assert (desk.sent(TIER), "orders.dlq.state" in desk.broker.topics) == ([], False)


def test_a_long_difference_is_cut(desk: Desk) -> None:
    desk.letter(json.dumps({f"field {number}": "x" * 500 for number in range(50)}).encode())
    path = script(desk, "def transform(record): return {name: 'y' * 500 for name in record.value}")
    ended = desk.dlq("transform", "--topic", "orders", "--all", "--script", path, "--to", "origin", "--dry-run")
    assert (ended.exit_code, "\n  ...\n" in ended.stderr) == (0, True)
    assert len(ended.stderr.splitlines()) < 40
    assert max(map(len, ended.stderr.splitlines())) <= 80


def test_resume_runs_the_script_as_it_was_and_says_that_its_file_has_changed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [desk.letter(order(number)) for number in range(3)]
    path = script(desk, DOUBLE)

    async def crash(self: Replaying, case: Case) -> tuple[str, Outgoing]:
        raise TransportError("crashed")

    with monkeypatch.context() as patch:
        patch.setattr(Replaying, "copy", crash)
        ended = desk.dlq("transform", "--topic", "orders", "--all", "--script", path, "--to", "origin", "--yes")
    assert (ended.exit_code, desk.sent()) == (1, [])
    script(desk, "raise RuntimeError")
    resumed = desk.dlq("resume", "--topic", "orders")
    assert resumed.exit_code == 0, resumed.output
    assert "fix.py is not what it was when this was begun" in resumed.stderr
    assert [each.value for each in desk.sent()] == [b'{"id":%d,"amount":2}' % number for number in range(3)]
    assert [users(each)["sk-dlq-id"] for each in desk.sent()] == [id.encode() for id in ids]


def test_a_script_that_cannot_be_loaded_any_more_leaves_the_job_to_be_resumed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = desk.letter(order(1))
    path = script(desk, f"import os\nos.environ['FIXING']\n{DOUBLE}")

    async def crash(self: Replaying, case: Case) -> tuple[str, Outgoing]:
        raise TransportError("crashed")

    monkeypatch.setenv("FIXING", "1")
    with monkeypatch.context() as patch:
        patch.setattr(Replaying, "copy", crash)
        assert desk.dlq("transform", "--topic", "orders", id, "--script", path, "--to", "origin", "-y").exit_code == 1
    monkeypatch.delenv("FIXING")
    ended = desk.dlq("resume", "--topic", "orders")
    assert (ended.exit_code, "KeyError: 'FIXING'" in ended.stderr, desk.audits()) == (2, True, [])
    monkeypatch.setenv("FIXING", "1")
    assert desk.dlq("resume", "--topic", "orders").exit_code == 0
    assert (len(desk.sent()), desk.statuses()) == (1, {id: "replayed"})


def test_a_script_may_declare_types_of_its_own(desk: Desk) -> None:
    id = desk.letter(b"{}")
    path = script(
        desk,
        """
from __future__ import annotations
from dataclasses import dataclass
@dataclass
class Mended:
    note: str
def transform(record): return Mended("ok")
""",
    )
    assert desk.dlq("transform", "--topic", "orders", id, "--script", path, "--to", "origin", "--yes").exit_code == 0
    assert [each.value for each in desk.sent()] == [b'{"note":"ok"}']


def test_the_script_of_the_page_does_what_it_says(desk: Desk) -> None:
    good, refund = desk.letter(order(1)), desk.letter(order(2, -5))
    (text,) = re.findall(r"^    from streamkit import Skip\n(?:    .*\n|\n)*", PAGE, re.MULTILINE)
    path = script(desk, textwrap.dedent(text))
    ended = desk.dlq("transform", "--topic", "orders", "--all", "--script", path, "--to", "origin", "--yes")
    assert (ended.exit_code, "refunds are booked by hand" in ended.stdout) == (1, True)
    assert [each.value for each in desk.sent()] == [b'{"id":1,"amount":1,"currency":"EUR"}']
    assert desk.statuses() == {good: "replayed", refund: "open"}


def test_the_audit_names_the_script_and_its_digest(desk: Desk) -> None:
    desk.letter(order(1))
    path = script(desk, DOUBLE)
    assert desk.dlq("transform", "--topic", "orders", "--all", "--script", path, "--to", "origin", "-y").exit_code == 0
    (told,) = desk.audits()
    assert (told["command"], told["arguments"]["script"], told["arguments"]["sha256"]) == (
        "transform",
        path,
        hashlib.sha256(DOUBLE.encode()).hexdigest(),
    )
    assert "payload" not in told["arguments"]


def test_filters_choose_and_a_script_may_import_what_lies_beside_the_app(desk: Desk) -> None:
    first, second = desk.letter(order(1), key=b"a"), desk.letter(order(2), key=b"b")
    path = script(
        desk, f"from {desk.target} import Order\ndef transform(record): return Order(record.value['id'], 3.5)"
    )
    arguments = ("--key", "a", "--script", path, "--to", "origin", "--yes")
    assert desk.dlq("transform", desk.target, *arguments).exit_code == 0
    assert [each.value for each in desk.sent()] == [b'{"id":1,"amount":3.5}']
    assert desk.statuses() == {first: "replayed", second: "open"}


SHOP = """
@app.agent(source, dead_letter=True)
async def charge(order: dict) -> None:
    if order["amount"] < 0: raise ValueError("negative")
    print("charged", order["id"], order["amount"], flush=True)
"""


def test_on_kafka_the_handler_gets_what_the_script_made(tmp_path: Path, genuine: GenuineKafka | ExistingKafka) -> None:
    made = program(tmp_path, genuine.brokers, SHOP, [order(number, -number) for number in range(1, 4)])
    assert made.run("--create-topics", "--stop-when-idle", "1s").code == 0
    (tmp_path / "fix.py").write_text(
        "def transform(record): return {**record.value, 'amount': abs(record.value['amount'])}"
    )
    arguments = ("--script", "fix.py", "--to", "origin", "--brokers", genuine.brokers)
    shown = streamkit(tmp_path, "dlq", "transform", "program", "--all", *arguments, "--dry-run")
    assert (shown.code, '+    "amount": 2\n' in shown.errors) == (0, True), shown
    ended = streamkit(tmp_path, "dlq", "transform", "program", "--all", *arguments, "--yes")
    assert (ended.code, "replayed 3 dead letters" in ended.output) == (0, True), ended
    assert made.run("--stop-when-idle", "1s").output.split("\n")[:-1] == ["charged 1 1", "charged 2 2", "charged 3 3"]
