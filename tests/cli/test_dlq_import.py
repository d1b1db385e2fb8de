"""`streamkit dlq import`: what `export` wrote gets into a dead letter topic again."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

import pytest

from streamkit.cli.destination import BadRecord
from streamkit.cli.dlq import importing
from streamkit.cli.dlq.jobs import Job
from streamkit.cli.outgoing import Outgoing
from streamkit.cli.sender import Sender
from streamkit.errors import TransportError
from streamkit.settings import Settings
from streamkit.transport.base import TopicInfo
from streamkit.transport.memory import MemoryRecord, MemoryTransport
from tests.cli.dead_letters import Desk

Content = tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path, monkeypatch)


def content(records: list[MemoryRecord]) -> list[Content]:
    return [(each.partition, each.key, each.value, list(each.headers)) for each in records]


def exported(desk: Desk) -> Path:
    path = desk.directory / "letters.jsonl"
    assert desk.dlq("export", "--topic", "orders", "--output", str(path)).exit_code == 0
    return path


def many(desk: Desk, count: int) -> Path:
    for number in range(count):
        desk.letter(b"%d" % number, key=None)
    return exported(desk)


def test_what_was_exported_comes_back_byte_for_byte_and_open(desk: Desk) -> None:
    desk.letter(b'{"id": 1}', ("odd", b"\xff"), ("none", None), ("sk-dlq-id", b"1:7"), partition=1)
    desk.letter(b"\xff\x00", key=b"\xfe", partition=0)
    desk.letter(None, key=None, partition=0)
    desk.letter(b"", key=b"", partition=1)
    assert desk.dlq("archive", "--topic", "orders", "--all", "--yes").exit_code == 0
    path, before = exported(desk), content(desk.sent("orders.dlq"))
    ended = desk.dlq("import", desk.target, "--file", str(path), "--yes")
    assert (ended.exit_code, "imported 4 dead letters into orders.dlq" in ended.stdout) == (0, True), ended.output
    after = content(desk.sent("orders.dlq"))
    for partition in (0, 1):
        mine = [each for each in before if each[0] == partition]
        assert [each for each in after if each[0] == partition] == [*mine, *mine]
    assert desk.statuses() == {
        **{f"{partition}:{offset}": "archived" for partition in (0, 1) for offset in (0, 1)},
        **{f"{partition}:{offset}": "open" for partition in (0, 1) for offset in (2, 3)},
    }


def test_into_fewer_partitions_they_go_modulo_the_count(desk: Desk) -> None:
    desk.letter(b"a", partition=0)
    desk.letter(b"b", partition=1)
    path = exported(desk)
    desk.broker.create_topic("small.dlq", 1, message_timestamp_type="LogAppendTime")
    ended = desk.dlq("import", "--topic", "small", "--file", str(path), given="y\n")
    assert (ended.exit_code, "2 of them come from orders.dlq" in ended.stderr) == (0, True), ended.output
    assert [each.value for each in desk.sent("small.dlq")] == [b"a", b"b"]


def line(**more: object) -> str:
    fields: dict[str, object] = {"id": "0:1", "topic": "orders.dlq", "headers": []}
    fields |= {"key": None, "key_encoding": None, "value": "v", "value_encoding": "utf-8"}
    return json.dumps({**fields, **more})


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ('{"id": ', "Input data was truncated"),
        ("[]", "Expected `object`, got `array`"),
        ('{"id": "0:1"}', "missing required field `topic`"),
        (line(id="7"), "not the ID of a dead letter"),
        (line(value_encoding="latin-1"), "the encoding 'latin-1' is neither utf-8 nor base64"),
        (line(value="?", value_encoding="base64"), "base64"),
        (line(headers=[{"name": "a", "value": "b"}]), "missing required field `encoding`"),
        (line(value="x" * 2_000_000), "a record of 2,000,070 bytes; 'orders.dlq' takes"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_sent(desk: Desk, bad: str, said: str) -> None:
    path = desk.directory / "letters.jsonl"
    path.write_text(f"{line()}\n\n{bad}\n{line()}\n")
    ended = desk.dlq("import", "--topic", "orders", "--file", str(path), "--yes")
    assert (ended.exit_code, said in ended.stderr) == (1, True), ended.output
    assert f"{path}:3: " in ended.stderr
    assert "Nothing was sent" in ended.stderr
    assert (desk.sent("orders.dlq"), "orders.dlq.state" in desk.broker.topics) == ([], False)


def test_standard_input_is_read_once_and_cannot_answer(desk: Desk) -> None:
    given = f"{line()}\n{line(value='w')}"
    asked = desk.dlq("import", "--topic", "orders", "--file", "-", given=given)
    assert (asked.exit_code, "give --yes or --dry-run" in asked.stderr) == (2, True)
    ended = desk.dlq("import", "--topic", "orders", "--file", "-", "--yes", "--json", given=given)
    assert (ended.exit_code, json.loads(ended.stdout)["counts"]) == (0, {"imported": 2})
    assert [each.value for each in desk.sent("orders.dlq")] == [b"v", b"w"]


@pytest.mark.parametrize(("option", "given", "code"), [(["--dry-run"], None, 0), ([], "n\n", 1)])
def test_a_dry_run_or_a_no_changes_nothing(desk: Desk, option: list[str], given: str | None, code: int) -> None:
    path = many(desk, 2)
    ended = desk.dlq("import", "--topic", "orders", "--file", str(path), *option, given=given)
    assert (ended.exit_code, "2 dead letters would be put into orders.dlq" in ended.stderr) == (code, True)
    assert (len(desk.sent("orders.dlq")), "orders.dlq.state" in desk.broker.topics) == (2, False)


@pytest.mark.parametrize(
    ("option", "given", "result"), [(["--dry-run"], None, "dry run"), ([], "n\n", "not confirmed")]
)
def test_what_would_be_imported_is_json_too(desk: Desk, option: list[str], given: str | None, result: str) -> None:
    path = many(desk, 2)
    ended = desk.dlq("import", "--topic", "orders", "--file", str(path), "--json", *option, given=given)
    assert json.loads(ended.stdout[ended.stdout.index("{") :]) == {  # behind the answer
        "topic": "orders.dlq",
        "job": None,
        "command": "import",
        "result": result,
        "counts": {"imported": 2},
        "unfit": {},
    }


def test_the_audit_names_the_file_and_what_was_done(desk: Desk) -> None:
    path = many(desk, 3)
    arguments = ("--file", str(path), "--skip", "1", "--yes", "--reason", "moved")
    assert desk.dlq("import", "--topic", "orders", *arguments).exit_code == 0
    (told,) = desk.audits()
    assert told["arguments"] == {
        "file": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "lines": 3,
        "skip": 1,
        "done": 3,
    }
    assert (told["command"], told["reason"], told["counts"], told["result"]) == (
        "import",
        "moved",
        {"imported": 2},
        "done",
    )


def test_one_that_was_cut_off_is_given_up_and_goes_on_with_skip(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "AT_ONCE", 2)
    path = many(desk, 5)
    checks = iter((True, True, False))

    def crash_before_the_third_time(self: Job) -> None:
        if not next(checks):
            raise TransportError("crashed")

    with monkeypatch.context() as patch:
        patch.setattr(Job, "check", crash_before_the_third_time)
        assert desk.dlq("import", "--topic", "orders", "--file", str(path), "--yes").exit_code == 1
    assert len(desk.sent("orders.dlq")) == 5 + 4

    resumed = desk.dlq("resume", "--topic", "orders")
    assert (resumed.exit_code, "Only whoever has its file can go on" in resumed.stderr) == (1, True)
    assert "the same command with --skip 4" in resumed.stderr
    assert desk.dlq("archive", "--topic", "orders", "--all", "--yes").exit_code == 1
    assert desk.dlq("resume", "--topic", "orders", "--give-up").exit_code == 0
    (told,) = desk.audits()
    assert (told["counts"], told["arguments"]["done"]) == ({"imported": 4}, 4)

    assert desk.dlq("import", "--topic", "orders", "--file", str(path), "--skip", "4", "--yes").exit_code == 0
    assert [each.value for each in desk.sent("orders.dlq")] == [b"%d" % number for number in range(5)] * 2


def test_lines_that_are_refused_are_named(desk: Desk) -> None:
    path = many(desk, 2)
    desk.broker.faults.refuse("orders.dlq")
    ended = desk.dlq("import", "--topic", "orders", "--file", str(path), "--yes")
    assert (ended.exit_code, len(desk.sent("orders.dlq"))) == (1, 2)
    assert "stopped after line 2; refused were the lines 1, 2: " in ended.stdout
    assert desk.audits()[0]["counts"] == {"imported": 0}


def test_files_and_topics_that_are_not_there_are_said_so(desk: Desk) -> None:
    gone = desk.dlq("import", "--topic", "orders", "--file", "gone.jsonl")
    assert (gone.exit_code, "--file gone.jsonl: No such file" in gone.stderr) == (2, True)
    path = many(desk, 1)
    ended = desk.dlq("import", "--topic", "elsewhere", "--file", str(path), "--yes")
    assert (ended.exit_code, "topic 'elsewhere.dlq' does not exist" in ended.stderr) == (78, True)


def test_a_record_is_checked_as_it_is_sent(desk: Desk) -> None:
    settings = Settings.load({"brokers": desk.brokers}, {}, {})
    largest = 1_048_576 - 70 - len(b"k") - len("name") - len(b"value") - 10

    async def outcomes(size: int) -> tuple[bool, bool]:
        sender = Sender(settings, MemoryTransport(desk.broker, settings))
        sender.add("orders.dlq", TopicInfo(2, 2_000_000))
        record = Outgoing(b"k", b"x" * size, [("name", b"value")], 0, None)
        try:
            sender.check("orders.dlq", record)
        except BadRecord:
            checked = False
        else:
            checked = True
        async with sender.running():
            (outcome,) = await sender.store([("orders.dlq", record)])
        return checked, not isinstance(outcome, BadRecord)

    assert asyncio.run(outcomes(largest)) == (True, True)
    assert asyncio.run(outcomes(largest + 1)) == (False, False)
