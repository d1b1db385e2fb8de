"""`streamkit dlq edit`: a dead letter is mended in an editor and sent again."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from streamkit.cli.dlq.editing import Editing
from streamkit.cli.dlq.selecting import Case
from streamkit.cli.outgoing import Outgoing
from streamkit.errors import TransportError
from tests.cli.dead_letters import EDITOR, Desk, users
from tests.cli.dlq_support import TIER
from tests.cli.support import ROOT, await_records, program, running_command, streamkit
from tests.kafka.server import ExistingKafka, GenuineKafka


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path, monkeypatch)


def test_the_edited_record_is_sent_in_its_place_and_the_dead_letter_stays(desk: Desk) -> None:
    id = desk.letter(b'{"id": 7, "amount": 1.50}')
    desk.types([('"amount": 1.50', '"amount": 2.50'), ('"blue"', '"red"')])
    ended = desk.dlq("edit", desk.target, id, "--to", "origin", "--yes", "--reason", "typo")
    assert (ended.exit_code, "replayed 1 dead letter of orders.dlq" in ended.stdout) == (0, True), ended.output
    (record,) = desk.sent()
    assert (record.partition, record.key, record.value, record.timestamp) == (
        1,
        b"k",
        b'{"id":7,"amount":2.50}',
        1_700_000_000_000,
    )
    assert list(record.headers) == [("tenant", b"red"), ("sk-dlq-id", id.encode())]
    assert (desk.statuses(), desk.sent("orders.dlq")[0].value) == ({id: "replayed"}, b'{"id": 7, "amount": 1.50}')
    assert desk.states(id)["reason"] == "edited: typo"


def test_the_document_shows_key_headers_and_json_as_they_are(desk: Desk) -> None:
    id = desk.letter(b'{"id":12345678901234567890123,"amount":1.50,"a":"\\u00e9"}', ("odd", b"\xff"), ("none", None))
    desk.types(None)
    ended = desk.dlq("edit", "--topic", "orders", id, "--to", "origin")
    assert (ended.exit_code, "nothing was changed in the document" in ended.stderr) == (0, True)
    (text,) = desk.seen
    assert json.loads(text)["headers"] == [
        {"name": "tenant", "value": "blue"},
        {"name": "odd", "value": "/w==", "encoding": "base64"},
        {"name": "none", "value": None},
    ]
    assert '"value_encoding": "json"' in text
    assert '  "value": {\n    "id": 12345678901234567890123,\n    "amount": 1.50,\n    "a": "\\u00e9"\n  }' in text
    assert (desk.sent(), desk.statuses()) == ([], {id: "open"})


def test_what_is_not_touched_keeps_every_byte(desk: Desk) -> None:
    value = b'{ "id" : 7,\t"amount": 1.500, "n": 12345678901234567890123 }'
    first, second = desk.letter(value), desk.letter(value)
    desk.types([('"blue"', '"red"')], [('"id": 7', '"id": 8')])
    assert desk.dlq("edit", "--topic", "orders", first, "--to", "origin", "--yes").exit_code == 0
    assert desk.dlq("edit", "--topic", "orders", second, "--to", "origin", "--yes").exit_code == 0
    assert [record.value for record in desk.sent()] == [
        value,
        b'{"id":8,"amount":1.500,"n":12345678901234567890123}',
    ]


def test_fields_that_the_type_does_not_know_are_kept(desk: Desk) -> None:
    id = desk.letter(b'{"id": 7, "amount": "much", "note": "later"}')
    desk.types([('"much"', "2")])
    assert desk.dlq("edit", desk.target, id, "--to", "origin", "--yes").exit_code == 0
    assert [record.value for record in desk.sent()] == [b'{"id":7,"amount":2,"note":"later"}']


CODEC = """
from streamkit import App
import base64, json
class Turned:
    def encode(self, value): return json.dumps(value).encode()[::-1]
    def decode(self, data): return json.loads(data[::-1])
app = App("shop")
@app.agent(app.topic("orders", value=dict, codec=Turned()), dead_letter=True)
async def charge(order: dict) -> None: ...
"""


def test_a_codec_of_ones_own_reads_and_writes_the_value(desk: Desk) -> None:
    (desk.directory / f"own_{desk.target}.py").write_text(CODEC)
    first, second = desk.letter(b'}7 :"di"{'), desk.letter(b"what?")
    edit = ("--to", "origin", "--yes")
    desk.types([('"id": 7', '"id": 8')], [('"utf-8",\n  "value": "what?"', '"json", "value": {"id": 9}')])
    assert desk.dlq("edit", f"own_{desk.target}", first, *edit).exit_code == 0
    assert desk.dlq("edit", f"own_{desk.target}", second, *edit).exit_code == 0
    assert [record.value for record in desk.sent()] == [b'}8 :"di"{', b'}9 :"di"{']


@pytest.mark.parametrize(
    ("value", "encoding", "old", "new", "sent"),
    [
        (b"caf\xc3\xa9", "utf-8", "café", "tea", b"tea"),
        (b"\xff\x00", "base64", "/wA=", "/wE=", b"\xff\x01"),
        (None, "tombstone", '"tombstone",\n  "value": null', '"json",\n  "value": {}', b"{}"),
        (b"{}", "json", '"json",\n  "value": {}', '"tombstone",\n  "value": null', None),
        (b"{]", "utf-8", '"utf-8",\n  "value": "{]"', '"json",\n  "value": []', b"[]"),
        (b"5", "json", '"value": 5', '"value": 6', b"6"),
    ],
)
def test_a_value_of_any_kind_can_be_edited(
    desk: Desk, value: bytes | None, encoding: str, old: str, new: str, sent: bytes | None
) -> None:
    id = desk.letter(value)
    desk.types([(old, new)])
    ended = desk.dlq("edit", "--topic", "orders", id, "--to", "origin", "--yes")
    assert ended.exit_code == 0, ended.output
    assert f'"value_encoding": "{encoding}"' in desk.seen[0]
    assert [record.value for record in desk.sent()] == [sent]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            '"amount": 1',
            '"amount": 1,',
            "the document cannot be read: JSON is malformed: trailing comma in object (line",
        ),
        ('"amount": 1', '"amount": "one"', "a value of topic 'orders' is Order: Expected `float`, got `str`"),
        ('"value_encoding"', '"valu_encoding"', "unknown field `valu_encoding`"),
        ('"value_encoding": "json"', '"value_encoding": "utf-8"', "value: with value_encoding 'utf-8' it is a string"),
        ('"json",\n  "value": {', '"tombstone",\n  "value": null, "key_encoding": {', "Expected `str`"),
        ('"tenant"', '"sk-group"', "header 'sk-group': a replay carries none of this name"),
        ('"tenant"', '"traceparent"', "header 'traceparent': a replay carries none of this name"),
        ('"tenant"', '""', "a header needs a name"),
        ('"blue"', '"b", "encoding": "base64"', "the value of header 'tenant': "),
        ('"json",\n  "value": {\n    "id": 7,\n    "amount": 1\n  }', '"tombstone", "value": null', "a tombstone"),
        ('"json",\n  "value": {\n    "id": 7,\n    "amount": 1\n  }', '"base64", "value": "e30="', "is Order"),
        ('"json",\n  "value": {\n    "id": 7,\n    "amount": 1\n  }', '"utf-8", "value": null', "and only null"),
    ],
)
def test_what_cannot_be_sent_is_shown_and_can_be_mended_with_the_text_kept(
    desk: Desk, old: str, new: str, said: str
) -> None:
    id = desk.letter(b'{"id": 7, "amount": 1}')
    desk.types([(old, new)], [(new, old), ('"id": 7', '"id": 8')])
    ended = desk.dlq("edit", desk.target, id, "--to", "origin", given="y\ny\n")
    assert ended.exit_code == 0, ended.output
    assert said in ended.stderr
    assert (new in desk.seen[1], desk.unused_steps) == (True, 0)
    assert [record.value for record in desk.sent()] == [b'{"id":8,"amount":1}']


def test_who_gives_up_gets_the_text_back_and_nothing_is_sent(desk: Desk) -> None:
    id = desk.letter(b'{"id": 7}')
    desk.types([('"id": 7', '"id": 8,')], None)
    ended = desk.dlq("edit", "--topic", "orders", id, "--to", "origin", given="y\nn\n")
    assert ended.exit_code == 2
    found = re.search(r"nothing was sent; your text is in (\S+)", ended.stderr)
    assert found is not None
    kept = Path(found[1])
    assert ('"id": 8,' in kept.read_text(), kept.stat().st_mode & 0o777) == (True, 0o600)
    kept.unlink()
    assert (desk.sent(), desk.statuses(), len(desk.seen)) == ([], {id: "open"}, 2)


def test_an_editor_that_fails_sends_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    id = desk.letter(b'{"id": 7}')
    monkeypatch.setenv("VISUAL", "false")
    ended = desk.dlq("edit", "--topic", "orders", id, "--to", "origin")
    assert (ended.exit_code, "Editing failed; nothing was sent" in ended.stderr) == (2, True)
    assert (desk.sent(), desk.statuses()) == ([], {id: "open"})


def test_what_an_editor_saves_in_another_encoding_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    id = desk.letter(b'{"id": 7}')
    monkeypatch.setenv("VISUAL", "sed -i s/7/'\"\\xff\"'/")
    ended = desk.dlq("edit", "--topic", "orders", id, "--to", "origin", "--yes")
    assert (ended.exit_code, "the document cannot be read: 'utf-8' codec" in ended.stderr) == (2, True), ended.stderr
    found = re.search(r"your text is in (\S+)", ended.stderr)
    assert found is not None
    Path(found[1]).unlink()


def test_a_document_that_says_the_same_is_not_sent(desk: Desk) -> None:
    id = desk.letter(b'{"id": 7}')
    desk.types([('"id": 7', '"id":     7')])
    ended = desk.dlq("edit", "--topic", "orders", id, "--to", "origin", "--yes")
    assert (ended.exit_code, "nothing was changed" in ended.stderr, desk.sent()) == (0, True, [])


def test_a_dry_run_shows_the_difference_and_changes_nothing(desk: Desk) -> None:
    id = desk.letter(b'{"id": 7}')
    desk.types([('"id": 7', '"id": 8')])
    ended = desk.dlq("edit", "--topic", "orders", id, "--to", "origin", "--dry-run")
    assert ended.exit_code == 0
    assert '-    "id": 7\n+    "id": 8\n' in ended.stderr
    assert (desk.sent(), "orders.dlq.state" in desk.broker.topics) == ([], False)


def test_it_asks_with_the_difference_and_keeps_the_text_of_who_says_no(desk: Desk) -> None:
    id = desk.letter(b'{"id": 7}')
    desk.types([('"id": 7', '"id": 8')])
    ended = desk.dlq("edit", "--topic", "orders", id, "--to", "origin", given="n\n")
    assert (ended.exit_code, '+    "id": 8' in ended.stderr, desk.sent()) == (1, True, [])
    found = re.search(r"your text is in (\S+)", ended.stderr)
    assert found is not None
    Path(found[1]).unlink()


def test_to_retry_goes_into_the_first_tier_due_at_once(desk: Desk) -> None:
    id = desk.letter(b'{"id": 7, "amount": 1}')
    desk.types([('"id": 7', '"id": 8')])
    assert desk.dlq("edit", desk.target, id, "--to", "retry", "--yes").exit_code == 0
    (record,) = desk.sent(TIER)
    told = users(record)
    assert (record.partition, record.value, told["sk-attempt"], told["sk-dlq-id"], told["sk-origin-offset"]) == (
        1,
        b'{"id":8,"amount":1}',
        b"0",
        id.encode(),
        b"7",
    )


def test_another_key_goes_where_its_other_records_are(desk: Desk) -> None:
    keys = [b"key-%d" % number for number in range(6)]
    for number, key in enumerate(keys):
        id = desk.letter(b"{}", key=b"k%d" % number)
        desk.types([(f'"k{number}"', f'"{key.decode()}"')])
        assert desk.dlq("edit", "--topic", "orders", id, "--to", "origin", "--yes").exit_code == 0
    desk.broker.create_topic("elsewhere", 2)
    for key in keys:
        id = desk.letter(b"{}", key=key)
        assert desk.dlq("replay", "--topic", "orders", id, "--to", "topic:elsewhere", "--yes").exit_code == 0
    assert {(each.key, each.partition) for each in desk.sent()} == {
        (each.key, each.partition) for each in desk.sent("elsewhere")
    }
    assert {each.partition for each in desk.sent()} == {0, 1}


def test_a_case_that_failed_again_can_be_edited_again(desk: Desk) -> None:
    first = desk.letter(b'{"id": 7}')
    desk.types([('"id": 7', '"id": 8')], [('"id": 8', '"id": 9')])
    assert desk.dlq("edit", "--topic", "orders", first, "--to", "origin", "--yes").exit_code == 0
    second = desk.letter(b'{"id":8}', ("sk-dlq-id", first.encode()))
    assert desk.dlq("edit", "--topic", "orders", first, "--to", "origin", "--yes").exit_code == 1
    assert desk.dlq("edit", "--topic", "orders", second, "--to", "origin", "--yes").exit_code == 0
    assert [(each.value, users(each)["sk-dlq-id"]) for each in desk.sent()] == [
        (b'{"id":8}', first.encode()),
        (b'{"id":9}', first.encode()),
    ]
    assert desk.statuses() == {first: "replayed", second: "replayed"}
    assert desk.states(first)["replays"] == 2


def test_after_a_crash_resume_sends_the_edited_record_and_nothing_else_may_begin(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    id, other = desk.letter(b'{"id": 7}'), desk.letter(b'{"id": 1}')
    desk.types([('"id": 7', '"id": 8')])
    copy, calls = Editing.copy, 0

    async def crash_the_second_time(self: Editing, case: Case) -> tuple[str, Outgoing]:
        nonlocal calls
        calls += 1
        if calls == 2:  # after the preview, when the job has been written down
            raise TransportError("crashed")
        return await copy(self, case)

    with monkeypatch.context() as patch:
        patch.setattr(Editing, "copy", crash_the_second_time)
        ended = desk.dlq("edit", "--topic", "orders", id, "--to", "origin", given="y\n")
    assert (ended.exit_code, desk.sent()) == (1, [])
    found = re.search(r"your text is in (\S+)", ended.stderr)
    assert found is not None
    Path(found[1]).unlink()

    refused = desk.dlq("replay", "--topic", "orders", "--all", "--to", "origin", "--yes")
    assert (refused.exit_code, "an edit of orders.dlq was cut off" in refused.stderr, desk.sent()) == (1, True, [])
    opened = desk.dlq("edit", "--topic", "orders", other, "--to", "origin", "--yes")
    assert (opened.exit_code, "was cut off" in opened.stderr, len(desk.seen)) == (1, True, 1)

    resumed = desk.dlq("resume", "--topic", "orders")
    assert resumed.exit_code == 0, resumed.output
    assert [(each.value, users(each)["sk-dlq-id"]) for each in desk.sent()] == [(b'{"id":8}', id.encode())]
    assert desk.statuses() == {id: "replayed", other: "open"}


def test_one_that_is_given_up_sends_nothing_and_its_audit_holds_no_record(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = desk.letter(b'{"id": 7}')
    desk.types([('"id": 7', '"id": 8')])

    async def crash(self: Editing, case: Case) -> tuple[str, Outgoing]:
        raise TransportError("crashed")

    with monkeypatch.context() as patch:
        patch.setattr(Editing, "copy", crash)
        ended = desk.dlq("edit", "--topic", "orders", id, "--to", "origin", "--yes")
    assert ended.exit_code == 1
    found = re.search(r"your text is in (\S+)", ended.stderr)
    assert found is not None
    Path(found[1]).unlink()
    assert desk.dlq("resume", "--topic", "orders", "--give-up").exit_code == 0
    (told,) = desk.audits()
    assert (told["result"].startswith("given up by "), sorted(told["arguments"])) == (
        True,
        ["diff", "filters", "group", "ids", "to"],
    )
    assert (desk.sent(), desk.statuses()) == ([], {id: "open"})


def test_the_audit_holds_the_difference_and_not_the_record(desk: Desk) -> None:
    id = desk.letter(b'{"id": 7}')
    desk.types([('"id": 7', '"id": 8')])
    assert desk.dlq("edit", "--topic", "orders", id, "--to", "origin", "--yes").exit_code == 0
    (told,) = desk.audits()
    assert (told["command"], told["counts"], '+    "id": 8' in told["arguments"]["diff"]) == (
        "edit",
        {"replayed": 1},
        True,
    )
    assert "payload" not in told["arguments"]
    assert '    +    "id": 8' in desk.dlq("audit", "--topic", "orders").stdout.splitlines()


def test_what_is_too_large_to_be_written_down_is_not_sent(desk: Desk) -> None:
    id = desk.letter(b'{"id": 7, "text": "%s"}' % (b"x" * 1_048_300))
    desk.types([('"id": 7', '"id": 8')])
    ended = desk.dlq("edit", "--topic", "orders", id, "--to", "origin", "--yes")
    assert (ended.exit_code, "'orders.dlq.state' takes 1,048,576 at the most" in ended.stderr) == (1, True)
    found = re.search(r"your text is in (\S+)", ended.stderr)
    assert found is not None
    Path(found[1]).unlink()
    assert (desk.sent(), desk.statuses(), desk.dlq("resume", "--topic", "orders").exit_code) == ([], {id: "open"}, 0)


def test_a_declared_topic_that_it_goes_to_has_the_types_that_count(desk: Desk) -> None:
    with (desk.directory / f"{desk.target}.py").open("a") as file:
        file.write('\nnotes = app.topic("notes", value=str)\n')
    desk.broker.create_topic("notes")
    id = desk.letter(b'{"id": 7}')
    desk.types([('"json",\n  "value": {\n    "id": 7\n  }', '"utf-8", "value": "seven"')])
    assert desk.dlq("edit", desk.target, id, "--to", "topic:notes", "--yes").exit_code == 0
    assert [(each.value, each.timestamp) for each in desk.sent("notes")] == [(b"seven", 1_700_000_000_000)]


@pytest.mark.parametrize(
    ("status", "to", "said"),
    [
        ("archived", "origin", "is archived; only an open dead letter is edited"),
        ("open", "retry", "cannot be sent: shop.other has no tiers"),
        ("open", "topic:nowhere", "cannot be sent: topic nowhere does not exist"),
    ],
)
def test_what_could_not_be_sent_is_not_opened(desk: Desk, status: str, to: str, said: str) -> None:
    id = desk.letter(b"{}", ("sk-group", b"shop.other"))
    if status == "archived":
        assert desk.dlq("archive", "--topic", "orders", id, "--yes").exit_code == 0
    desk.types([("{}", "[]")])
    ended = desk.dlq("edit", "--topic", "orders", id, "--to", to, "--yes")
    assert (ended.exit_code, said in ended.stderr, desk.seen) == (1, True, [])


def test_a_dead_letter_that_is_not_there_is_said_so(desk: Desk) -> None:
    ended = desk.dlq("edit", "--topic", "orders", "0:5", "--to", "origin")
    assert (ended.exit_code, "0:5 is not there" in ended.stderr) == (1, True)


SHOP = """
@app.agent(source, dead_letter=True)
async def charge(order: dict) -> None:
    if order["amount"] < 0: raise ValueError("negative")
    print("charged", order["id"], order["amount"], flush=True)
"""
DIES = """
import os
from streamkit.cli import main
from streamkit.cli.dlq.editing import Editing
Editing.copy = lambda *_: os._exit(9)
main()
"""


def test_on_kafka_a_process_that_dies_before_it_sends_is_followed_by_resume(
    tmp_path: Path, genuine: GenuineKafka | ExistingKafka
) -> None:
    made = program(tmp_path, genuine.brokers, SHOP, [b'{"id": 1, "amount": -5}', b'{"id": 2, "amount": -6}'])
    assert made.run("--create-topics", "--stop-when-idle", "1s").code == 0
    (tmp_path / "editor.py").write_text(EDITOR)
    (tmp_path / "steps.json").write_text(json.dumps([[["-5", "50"]]]))
    editor = f"{sys.executable} -I {tmp_path / 'editor.py'} {tmp_path / 'steps.json'}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VISUAL": editor}
    to = ("program", "--brokers", genuine.brokers)
    edit = ("dlq", "edit", "program", "0:0", "--to", "origin", "--yes", "--brokers", genuine.brokers)
    with running_command([sys.executable, "-P", "-c", DIES, *edit], tmp_path, environment) as process:
        assert process.finish().code == 9
    refused = streamkit(tmp_path, "dlq", "replay", *to, "--all", "--to", "origin", "--yes")
    assert (refused.code, "an edit of " in refused.errors) == (1, True), refused
    assert len(await_records(made.brokers, made.source, 2)) == 2
    resumed = streamkit(tmp_path, "dlq", "resume", *to)
    assert (resumed.code, "replayed 1 dead letter" in resumed.output) == (0, True), resumed
    sent = await_records(made.brokers, made.source, 3)[-1]
    assert (sent.value, dict(sent.headers)["sk-dlq-id"]) == (b'{"id":1,"amount":50}', b"0:0")
    assert made.run("--stop-when-idle", "1s").output == "charged 1 50\n"
