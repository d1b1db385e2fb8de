"""`streamkit dlq replay`, `archive`, `restore` and `discard`: what is sent, what is marked, and what is refused."""

import time
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from streamkit.cli.dlq import changing
from streamkit.cli.dlq.reading import State
from streamkit.cli.dlq.selecting import Case
from streamkit.cli.dlq.watching import Watch
from streamkit.cli.sender import Sender
from streamkit.core.cases import OPEN
from streamkit.core.letters import letter_of
from streamkit.transport.memory import MemoryBroker, named_broker
from tests.cli.dlq_support import (
    AGENT,
    DEAD,
    FAILED,
    SENT,
    STATE,
    STATE_CONFIG,
    TIER,
    audits,
    bury,
    cases,
    dlq,
    filled,
    letter_headers,
    say,
    state,
    statuses,
    told,
    with_worker,
)
from tests.core.letter_support import Raw

USERS = [("tenant", b"red"), ("tenant", b"\xff")]  # without the trace that has ended


@pytest.fixture
def broker(brokers: str) -> Iterator[MemoryBroker]:
    broker = named_broker(brokers)
    filled(broker)
    yield broker


# What is sent


def test_to_origin_it_is_the_record_that_it_was(brokers: str, broker: MemoryBroker) -> None:
    broker.topics["orders"].config["retention.ms"] = "-1"
    ended = dlq(brokers, "replay", "0:1", "--to", "origin", "--yes")
    assert (ended.exit_code, ended.stderr) == (0, "")
    (record,) = broker.records("orders")
    assert (record.partition, record.timestamp) == (2, SENT + 1)
    assert (record.key, record.value) == (b"k1", b'{"id": 1}')
    assert list(record.headers) == [*USERS, ("sk-dlq-id", b"0:1")]


def test_to_retry_it_is_a_record_of_the_first_tier_that_is_due(brokers: str, broker: MemoryBroker) -> None:
    before = time.time_ns() // 1_000_000
    assert dlq(brokers, "replay", "0:1", "--to", "retry", "--yes").exit_code == 0
    assert broker.records("orders") == []
    (record,) = broker.records(TIER)
    found = dict(record.headers)
    assert (record.partition, record.key, record.value) == (2, b"k1", b'{"id": 1}')
    assert before <= int(found.pop("sk-due") or 0) <= time.time_ns() // 1_000_000
    assert list(record.headers)[:2] == USERS
    del found["tenant"]
    assert found == {
        "sk-origin-topic": b"orders",
        "sk-origin-partition": b"2",
        "sk-origin-offset": b"1",
        "sk-origin-timestamp": b"%d" % (SENT + 1),
        "sk-group": AGENT.encode(),
        "sk-attempt": b"0",
        "sk-dlq-id": b"0:1",
    }


def test_to_another_topic_it_goes_by_its_key(brokers: str, broker: MemoryBroker) -> None:
    broker.create_topic("parked", 7)
    ended = dlq(brokers, "replay", "--all", "--to", "topic:parked", "--yes")
    assert ended.exit_code == 0
    found = {record.key: record for record in broker.records("parked")}
    assert {key: (record.value, record.timestamp) for key, record in found.items()} == {
        b"k%d" % number: (b'{"id": %d}' % number, SENT + number) for number in range(3)
    }
    assert list(found[b"k2"].headers) == [*USERS, ("sk-dlq-id", b"0:2")]
    assert len({record.partition for record in found.values()}) > 1


@pytest.mark.parametrize("to", ["origin", "retry", "topic:parked"])
@pytest.mark.parametrize(
    ("key", "value"), [(None, b"x"), (b"k", None), (None, None), (b"\xff\x00", b"\xfe\xff\x00"), (b"", b"")]
)
def test_bytes_and_nulls_stay_what_they_are(
    brokers: str, broker: MemoryBroker, to: str, key: bytes | None, value: bytes | None
) -> None:
    broker.create_topic("parked")
    headers = [("nothing", None), ("", b""), *letter_headers(7, sk_stage="decode-value")]
    broker.append(DEAD, value, key=key, partition=1, headers=headers)
    assert dlq(brokers, "replay", "1:0", "--to", to, "--yes").exit_code == 0
    name = {"origin": "orders", "retry": TIER}.get(to, "parked")
    (record,) = broker.records(name)
    assert (record.key, record.value) == (key, value)
    assert list(record.headers)[:4] == [("nothing", None), ("", b""), *USERS]


@pytest.mark.parametrize(("to", "name"), [("origin", "orders"), ("retry", TIER)])
def test_with_fewer_partitions_than_there_were_the_rest_counts(
    brokers: str, broker: MemoryBroker, to: str, name: str
) -> None:
    bury(broker, 7, partition=1, sk_origin_partition="7")
    assert dlq(brokers, "replay", "1:0", "--to", to, "--yes").exit_code == 0
    assert [record.partition for record in broker.records(name)] == [1]


@pytest.mark.parametrize("to", ["origin", "retry"])
def test_without_a_partition_it_goes_by_its_key(brokers: str, broker: MemoryBroker, to: str) -> None:
    bury(broker, 7, partition=1, sk_origin_partition=None, sk_origin_timestamp="-5", sk_origin_offset="many")
    before = time.time_ns() // 1_000_000
    assert dlq(brokers, "replay", "1:0", "--to", to, "--yes").exit_code == 0
    (record,) = broker.records("orders" if to == "origin" else TIER)
    assert record.timestamp >= before


# What is refused


@pytest.mark.parametrize(
    ("to", "changed", "why"),
    [
        ("origin", {"sk_omitted": "value,headers"}, "its value and headers had to be left out, being too large"),
        ("topic:orders", {"sk_omitted": "key"}, "its key had to be left out, being too large"),
        ("origin", {"sk_origin_topic": None}, "it does not say which topic it came from; --to topic:NAME takes it"),
        ("retry", {"sk_origin_topic": None}, "it does not say which topic it came from; --to topic:NAME takes it"),
        ("origin", {"sk_origin_topic": "a b\x1b[31m"}, "which is no name of a topic"),
        ("origin", {"sk_origin_topic": STATE}, "where it stands what became of dead letters"),
        ("origin", {"sk_origin_topic": "bills.dlq.state"}, "where it stands what became of dead letters"),
        ("origin", {"sk_origin_topic": "gone"}, "topic gone does not exist"),
        ("topic:gone", {}, "topic gone does not exist"),
        ("retry", {"sk_group": None}, "it does not say which agent gave it up; --to origin takes it"),
        ("retry", {"sk_group": "shop.other"}, "shop.other has no tiers; --to origin takes it"),
        ("retry", {"sk_group": "../\x1b[31m"}, "has no tiers; --to origin takes it"),
        ("retry", {"sk_group": "g" * 40_000}, "g… has no tiers; --to origin takes it"),
        ("origin", {"sk_origin_topic": "o" * 40_000}, "o…', which is no name of a topic"),
    ],
)
def test_what_cannot_be_sent_again_stays_open(
    brokers: str, broker: MemoryBroker, to: str, changed: dict[str, str | None], why: str
) -> None:
    odd = bury(broker, 7, 0, **changed)
    preview = dlq(brokers, "replay", odd, "--to", to, "--dry-run")
    assert (preview.exit_code, "1 left as it is: " in preview.stderr) == (1, True)
    assert "\x1b" not in preview.stderr
    ended = dlq(brokers, "replay", odd, "--to", to, "--yes", "--json")
    assert ended.exit_code == 1
    ((reason, count),) = told(ended)["unfit"].items()
    assert len(reason) < 200
    assert (why in reason, count, told(ended)["counts"]) == (True, 1, {"replayed": 0})
    assert statuses(brokers)[odd] == "open"
    assert broker.records("orders") == broker.records(TIER) == []


def test_the_others_are_sent_nevertheless(brokers: str, broker: MemoryBroker) -> None:
    bury(broker, 7, sk_omitted="value")
    ended = dlq(brokers, "replay", "--all", "--to", "retry", "--yes")
    assert ended.exit_code == 1
    assert ended.stdout.splitlines()[1:] == ["1 left as it is: its value had to be left out, being too large"]
    assert cases(broker.records(TIER)) == ["0:0", "0:1", "0:2"]
    assert statuses(brokers) == {"0:0": "replayed", "0:1": "replayed", "0:2": "replayed", "0:3": "open"}


def test_what_the_destination_refuses_stays_open_and_is_reported(brokers: str, broker: MemoryBroker) -> None:
    broker.create_topic("narrow", max_message_bytes="1000")
    broker.append(DEAD, b"x" * 2000, key=b"big", headers=letter_headers(7))
    ended = dlq(brokers, "replay", "--all", "--to", "topic:narrow", "--yes", "--json")
    assert (ended.exit_code, told(ended)["counts"]) == (1, {"replayed": 3})
    ((reason, count),) = told(ended)["unfit"].items()
    assert (reason.startswith("refused: "), count) == (True, 1)
    assert (len(broker.records("narrow")), statuses(brokers)["0:3"]) == (3, "open")
    assert audits(brokers)[-1]["unfit"] == {reason: 1}


def test_what_the_brokers_refuse_late_stays_open_and_is_reported(brokers: str, broker: MemoryBroker) -> None:
    broker.faults.refuse("orders")
    ended = dlq(brokers, "replay", "--all", "--to", "origin", "--yes", "--json")
    assert (ended.exit_code, told(ended)["counts"]) == (1, {"replayed": 0})
    assert list(told(ended)["unfit"].values()) == [3]
    assert set(statuses(brokers).values()) == {"open"}
    broker.faults.accept("orders")
    assert dlq(brokers, "replay", "--all", "--to", "origin", "--yes").exit_code == 0
    assert len(broker.records("orders")) == 3


APP = """
from streamkit import App, Retry
app = App("shop")
orders = app.topic("orders", value=bytes)
@app.agent(orders, retry=Retry.delays("1s"))
async def charge(order: bytes) -> None: ...
@app.agent(orders, dead_letter=True)
async def bill(order: bytes) -> None: ...
"""


def test_a_target_knows_which_agents_have_tiers_and_which_topics_are_theirs(
    brokers: str, broker: MemoryBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"shop_{uuid4().hex[:8]}"
    (tmp_path / f"{name}.py").write_text(APP)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    broker.create_topic("orders.shop.bill.retry-1")  # of an earlier declaration: nobody reads it
    broker.create_topic("foreign")
    bury(broker, 3, sk_group="shop.bill")
    bury(broker, 4, sk_origin_topic="foreign")
    ended = dlq(brokers, "replay", name, "--all", "--to", "retry", "--yes", "--json", topic=None)
    assert (ended.exit_code, told(ended)["counts"]) == (1, {"replayed": 3})
    assert told(ended)["unfit"] == {
        "shop.bill has no tiers; --to origin takes it": 1,
        "it says that it came from 'foreign', of which shop has no dead letters": 1,
    }
    ended = dlq(brokers, "replay", name, "--all", "--to", "origin", "--agent", "bill", "--yes", topic=None)
    assert (ended.exit_code, cases(broker.records("orders"))) == (0, ["0:3"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("replay", "--to", "retry"), "replay which? Give IDs, a filter"),
        (("archive",), "archive which? Give IDs, a filter"),
        (("restore", "--status", "archived"), "restore which?"),
        (("replay", "--to", "retry", "--all", "0:1"), "--all means all"),
        (("replay", "--to", "retry", "--all", "--error", "x"), "--all means all"),
        (("replay", "--all"), "Missing option '--to'"),
        (("replay", "--all", "--to", "2026-01-31"), "For times write --from and --until"),
        (("replay", "--all", "--to", f"topic:{STATE}"), "what became of dead letters stands there"),
        (("replay", "--all", "--to", "topic:a b"), "--to topic:a b:"),
        (("replay", "--all", "--to", "retry", "--batch", "1,0"), "--batch '1,0'"),
        (("replay", "--all", "--to", "retry", "--batch", ""), "--batch ''"),
        (("replay", "--all", "--to", "retry", "--rate", "0"), "--rate"),
        (("replay", "--all", "--to", "retry", "--wait", "5"), "--wait '5'"),
        (("replay", "--all", "--to", "retry", "--wait", "0s"), "--wait '0s'"),
        (("archive", "x", "y"), "'y': not the ID"),
        (("discard", "--error", "(", "--yes"), "--error '(': not a regular expression"),
        (("discard", "--until", "99999999d", "--yes"), "--until '99999999d': no calendar"),
        (("discard", "--key", "\udcff", "--yes"), "--key '\\udcff': not UTF-8"),
        (("discard", "--all", "--reason", "\udcff", "--yes"), "--reason '\\udcff': not UTF-8"),
    ],
)
def test_what_cannot_be_meant_exits_2_and_changes_nothing(
    brokers: str, broker: MemoryBroker, arguments: tuple[str, ...], said: str
) -> None:
    ended = dlq(brokers, *arguments)
    assert (ended.exit_code, said in ended.stderr) == (2, True), ended.stderr
    assert STATE not in broker.topics


# Which


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        (("--error", "call [12]"), ["0:1", "0:2"]),
        (("--class", "Slow"), ["0:0", "0:1", "0:2"]),
        (("--key", "k1"), ["0:1"]),
        (("--until", "2023-11-14T22:13:20.001Z"), ["0:0"]),
        (("--from", "2023-11-14T22:13:20.001Z"), ["0:1", "0:2", "1:0"]),
        (("--header", "tenant=red", "--attempts", "<6"), ["1:0"]),
        (("--agent", "shop.other", "--all"), ["1:0"]),
        (("--agent", AGENT, "--all"), ["0:0", "0:1", "0:2"]),
        (("0:2", "0:0", "0:2"), ["0:0", "0:2"]),
        (("0:2", "0:0", "--error", "call 2"), ["0:2"]),
    ],
)
def test_only_those_that_fit_are_sent(
    brokers: str, broker: MemoryBroker, filters: tuple[str, ...], ids: list[str]
) -> None:
    bury(broker, 9, partition=1, sk_group="shop.other", sk_attempt="1", sk_error_class="Other")
    dlq(brokers, "replay", *filters, "--to", "origin", "--yes")
    assert sorted(cases(broker.records("orders"))) == ids
    assert sorted(id for id, status in statuses(brokers).items() if status == "replayed") == ids


def test_what_was_replayed_is_replayed_again_only_if_told_so(brokers: str, broker: MemoryBroker) -> None:
    assert dlq(brokers, "replay", "0:1", "--to", "origin", "--yes").exit_code == 0
    again = ("replay", "0:1", "--to", "origin", "--yes", "--json")
    assert told(dlq(brokers, *again))["unfit"] == {"0:1 is replayed (--status replayed takes it)": 1}
    assert told(dlq(brokers, *again, "--status", "replayed"))["counts"] == {"replayed": 1}
    assert cases(broker.records("orders")) == ["0:1", "0:1"]


def test_an_id_that_is_not_there_or_has_another_status_is_told(brokers: str, broker: MemoryBroker) -> None:
    assert dlq(brokers, "archive", "0:1", "--yes").exit_code == 0
    ended = dlq(brokers, "replay", "0:0", "0:1", "0:77", "9:0", "--to", "origin", "--yes", "--json")
    assert (ended.exit_code, told(ended)["counts"]) == (1, {"replayed": 1})
    assert told(ended)["unfit"] == {
        "0:1 is archived": 1,
        "0:77 is not there, or does not fit": 1,
        "9:0 is not there, or does not fit": 1,
    }
    assert cases(broker.records("orders")) == ["0:0"]


def test_an_id_in_one_of_several_topics_needs_the_topic(
    brokers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"shop_{uuid4().hex[:8]}"
    more = '@app.agent(app.topic("bills", value=bytes), dead_letter=True)\nasync def pay(bill: bytes) -> None: ...\n'
    (tmp_path / f"{name}.py").write_text(APP + more)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    ended = dlq(brokers, "archive", name, "0:1", "--yes", topic=None)
    assert (ended.exit_code, "has 2 dead letter topics; name one with --topic" in ended.stderr) == (2, True)


def test_ids_of_a_topic_that_does_not_exist_are_not_done(brokers: str) -> None:
    assert dlq(brokers, "archive", "0:1", "--yes").exit_code == 1
    assert dlq(brokers, "archive", "--all", "--yes").exit_code == 0


# What is asked


def test_a_dry_run_changes_nothing(brokers: str, broker: MemoryBroker) -> None:
    topics = set(broker.topics)
    ended = dlq(brokers, "replay", "--all", "--to", "retry", "--dry-run", given="y\n")
    assert (ended.exit_code, ended.stdout) == (0, "")
    assert ended.stderr.startswith("3 dead letters of orders.dlq would be replayed\n")
    assert f"3 go to {TIER}" in ended.stderr
    assert (set(broker.topics), broker.records(TIER)) == (topics, [])


def test_a_dry_run_tells_in_json_too(brokers: str, broker: MemoryBroker) -> None:
    bury(broker, 7, sk_omitted="value")
    ended = dlq(brokers, "replay", "--all", "--to", "retry", "--dry-run", "--json")
    assert ended.exit_code == 1
    assert told(ended) == {
        "topic": DEAD,
        "job": None,
        "command": "replay",
        "result": "dry run",
        "counts": {"replayed": 3},
        "unfit": {"its value had to be left out, being too large": 1},
    }


@pytest.mark.parametrize(
    ("answer", "code", "count"), [("y\n", 0, 3), ("n\n", 1, 0), ("\n", 1, 0), ("", 1, 0), ("maybe\ny\n", 0, 3)]
)
def test_without_yes_it_asks(brokers: str, broker: MemoryBroker, answer: str, code: int, count: int) -> None:
    ended = dlq(brokers, "replay", "--all", "--to", "retry", given=answer)
    assert (ended.exit_code, len(broker.records(TIER))) == (code, count)
    assert ("Go on?" in ended.stderr, "nothing was changed" in ended.stderr) == (True, bool(code))
    assert ("--yes goes on without asking" in ended.stderr) == (answer == "")
    assert (STATE in broker.topics) == (not code)


def test_it_does_not_ask_for_nothing(brokers: str, broker: MemoryBroker) -> None:
    ended = dlq(brokers, "replay", "--error", "no such", "--to", "retry", "--json")
    assert (ended.exit_code, "Go on?" in ended.stderr) == (0, False)
    assert told(ended)["counts"] == {"replayed": 0}
    assert STATE not in broker.topics


@pytest.mark.usefixtures("broker")
def test_only_what_was_shown_is_changed(brokers: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer() -> bool:
        bury(broker, 7)  # while the question stands
        return True

    monkeypatch.setattr(changing, "confirmed", answer)
    assert dlq(brokers, "discard", "--all").exit_code == 0
    assert statuses(brokers) == {"0:0": "discarded", "0:1": "discarded", "0:2": "discarded", "0:3": "open"}


def test_an_audit_says_who_when_what_why_and_the_result(brokers: str, broker: MemoryBroker) -> None:
    odd = bury(broker, 7, sk_omitted="value")
    dlq(brokers, "replay", "--from", "2023-11-14", "--to", "retry", "--yes", "--reason", "fixed \x1b[31mit")
    (found,) = audits(brokers)
    assert found["began"] <= found["ended"]
    assert "@" in found["who"]
    assert (found["command"], found["result"], found["counts"]) == ("replay", "done", {"replayed": 3})
    assert found["arguments"]["filters"]["since"] == "2023-11-14T00:00:00.000Z"
    assert found["unfit"] == {"its value had to be left out, being too large": 1}
    assert statuses(brokers)[odd] == "open"
    text = dlq(brokers, "audit").stdout
    assert ("fixed" in text, "\x1b" in text, "1 left as it is: its value had" in text) == (True, False, True)
    known = state(broker)["case:0:1"]
    assert (known["who"], known["reason"], known["job"]) == (found["who"], "fixed \x1b[31mit", found["job"])


# What became of them


def test_archive_restore_and_discard_change_the_status_and_nothing_else(brokers: str, broker: MemoryBroker) -> None:
    def now() -> list[str]:
        return list(statuses(brokers).values())

    assert dlq(brokers, "archive", "0:0", "0:1", "--yes").exit_code == 0
    assert now() == ["archived", "archived", "open"]
    assert dlq(brokers, "discard", "--key", "k1", "--yes").exit_code == 0
    assert now() == ["archived", "discarded", "open"]
    assert dlq(brokers, "restore", "0:2", "--yes").exit_code == 1  # it is open
    assert dlq(brokers, "restore", "--all", "--yes").exit_code == 0
    assert now() == ["open", "open", "open"]
    assert dlq(brokers, "replay", "0:0", "--to", "retry", "--yes").exit_code == 0
    for command in ("archive", "discard", "restore"):
        assert dlq(brokers, command, "0:0", "--yes").exit_code == 1
    assert now() == ["replayed", "open", "open"]
    assert dlq(brokers, "archive", "0:0", "--status", "replayed", "--yes").exit_code == 0
    assert now() == ["archived", "open", "open"]
    assert len(broker.records(TIER)) == 1


def test_a_letter_that_was_replayed_is_not_replayed_again_unless_asked_for(brokers: str, broker: MemoryBroker) -> None:
    for _ in range(2):
        assert dlq(brokers, "replay", "--all", "--to", "retry", "--yes").exit_code == 0
    assert len(broker.records(TIER)) == 3
    assert dlq(brokers, "replay", "0:1", "--to", "retry", "--yes").exit_code == 1
    assert dlq(brokers, "replay", "0:1", "--status", "replayed", "--to", "retry", "--yes").exit_code == 0
    assert cases(broker.records(TIER)) == ["0:0", "0:1", "0:2", "0:1"]
    assert (state(broker)["case:0:0"]["replays"], state(broker)["case:0:1"]["replays"]) == (1, 2)


def test_a_letter_that_failed_again_is_of_its_case_and_a_second_replay_forgets_the_old_run(
    brokers: str, broker: MemoryBroker
) -> None:
    dlq(brokers, "replay", "0:1", "--to", "retry", "--yes")
    say(broker, f"run:0:1:{AGENT}", {"group": AGENT, "outcome": "dead", "attempt": 1})
    again = bury(broker, 1, sk_dlq_id="0:1")
    assert statuses(brokers)[again] == "open"
    assert dlq(brokers, "replay", again, "--to", "retry", "--yes").exit_code == 0
    assert cases(broker.records(TIER)) == ["0:1", "0:1"]
    known = state(broker)
    assert f"run:0:1:{AGENT}" not in known
    assert (known["case:0:1"]["replays"], known[f"case:{again}"]["replays"]) == (2, 0)
    assert (statuses(brokers)["0:1"], statuses(brokers)[again]) == ("replayed", "replayed")
    say(broker, f"run:0:1:{AGENT}", {"group": AGENT, "outcome": "handled", "attempt": 1})
    assert (statuses(brokers)["0:1"], statuses(brokers)[again]) == ("handled", "handled")


def test_a_run_that_was_told_after_the_state_was_read_is_forgotten_too(
    brokers: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    dlq(brokers, "replay", "0:1", "--to", "retry", "--yes")
    again = bury(broker, 1, sk_dlq_id="0:1")
    inner = changing.Work.run

    async def run(work: changing.Work) -> None:
        say(
            broker, f"run:0:1:{AGENT}", {"group": AGENT, "outcome": "handled", "attempt": 1}
        )  # of the copy that came twice
        await inner(work)

    monkeypatch.setattr(changing.Work, "run", run)
    assert dlq(brokers, "replay", again, "--to", "retry", "--yes").exit_code == 0
    assert statuses(brokers)[again] == "replayed"


def test_letters_of_one_case_that_are_replayed_together_are_counted_each(brokers: str, broker: MemoryBroker) -> None:
    dlq(brokers, "replay", "0:1", "--to", "retry", "--yes")
    first, second = bury(broker, 1, sk_dlq_id="0:1"), bury(broker, 1, sk_dlq_id="0:1")
    statuses_of_both = ("--status", "open", "--status", "replayed")
    ended = dlq(brokers, "replay", "--key", "k1", *statuses_of_both, "--to", "retry", "--yes", "--json")
    job = told(ended)["job"]
    assert cases(broker.records(TIER)) == ["0:1"] * 4
    known = state(broker)
    assert known["case:0:1"]["replays"] == 4
    assert [known[f"case:{id}"]["job"] for id in ("0:1", first, second)] == [job] * 3


def test_a_header_that_names_a_case_of_another_group_makes_no_case(brokers: str, broker: MemoryBroker) -> None:
    dlq(brokers, "replay", "0:1", "--to", "origin", "--yes")
    other = bury(broker, 1, sk_dlq_id="0:1", sk_group="shop.bill")
    forged = bury(broker, 2, sk_dlq_id="0:2")  # which was never replayed
    dlq(brokers, "replay", other, forged, "--to", "origin", "--yes")
    assert cases(broker.records("orders")) == ["0:1", other, forged]
    assert state(broker)["case:0:1"]["replays"] == 1


# What their worker tells


def test_batches_wait_for_their_outcomes(brokers: str, broker: MemoryBroker) -> None:
    for number in range(3, 30):
        bury(broker, number)
    say(broker, f"run:0:5:{AGENT}", {"group": AGENT, "outcome": "dead"})  # of before: it is not of this replay
    seen = with_worker(broker, lambda case: "dead" if case == "0:7" else "handled")
    batch = ("--batch", "1,5,20", "--wait", "10s")
    ended = dlq(brokers, "replay", "--all", "--to", "retry", *batch, "--yes", "--json")
    assert (ended.exit_code, len(seen)) == (0, 30)
    assert told(ended)["counts"] == {"replayed": 30, "handled": 29, "failed_again": 1}
    assert list(statuses(brokers).values()).count("handled") == 29


def test_it_stops_when_too_many_have_failed_again(brokers: str, broker: MemoryBroker) -> None:
    for number in range(3, 30):
        bury(broker, number)
    seen = with_worker(broker, lambda case: "retried")
    stop = ("--batch", "1,5,20", "--stop-on-failures", "3")
    ended = dlq(brokers, "replay", "--all", "--to", "retry", *stop, "--yes", "--json")
    assert (ended.exit_code, told(ended)["result"]) == (1, "stopped: 6 failed again")
    assert (len(seen), told(ended)["counts"]) == (6, {"replayed": 6, "handled": 0, "failed_again": 6})
    (found,) = audits(brokers)
    assert (found["result"], found["counts"]["replayed"]) == ("stopped: 6 failed again", 6)
    assert "job:" not in "".join(state(broker))  # it has ended, and need not be resumed


def test_without_batches_it_stops_at_the_failures_that_it_hears_of(brokers: str, broker: MemoryBroker) -> None:
    for number in range(3, 30):
        bury(broker, number)
    with_worker(broker, lambda case: "dead")
    stop = ("--rate", "50", "--stop-on-failures", "1")
    ended = dlq(brokers, "replay", "--all", "--to", "retry", *stop, "--yes", "--json")
    assert (ended.exit_code, told(ended)["counts"]["replayed"]) == (1, 10)


def test_nothing_heard_within_the_wait_stops_it(brokers: str, broker: MemoryBroker) -> None:
    with_worker(broker, lambda case: None if case == "0:1" else "handled")
    ended = dlq(brokers, "replay", "--all", "--to", "retry", "--batch", "2", "--wait", "300ms", "--yes", "--json")
    assert ended.exit_code == 1
    assert told(ended)["result"] == "stopped: of 1 nothing was heard for 0.3 s; is their worker running?"
    assert told(ended)["counts"] == {"replayed": 2, "handled": 1, "failed_again": 0}
    assert statuses(brokers) == {"0:0": "handled", "0:1": "replayed", "0:2": "open"}


def test_outcomes_of_other_groups_are_not_believed(brokers: str, broker: MemoryBroker) -> None:
    bury(broker, 7, partition=1, sk_group="shop.bill")
    with_worker(broker, lambda case: "handled")  # in the name of shop.charge
    wait = ("--batch", "1", "--wait", "300ms")
    ended = dlq(brokers, "replay", "1:0", "--to", "origin", *wait, "--yes", "--json")
    assert (ended.exit_code, told(ended)["counts"]["handled"]) == (1, 0)
    assert statuses(brokers)["1:0"] == "replayed"


# How fast


def test_a_rate_holds_within_large_batches_and_after_a_wait(
    brokers: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3, 60):
        bury(broker, number)
    sent: list[tuple[float, int]] = []
    store = Sender.store

    async def stored(sender: Sender, records: Any) -> Any:
        if records and records[0][0] == TIER:
            sent.append((time.monotonic(), len(records)))
        return await store(sender, records)

    monkeypatch.setattr(Sender, "store", stored)
    with_worker(broker, lambda case: "handled")
    ended = dlq(brokers, "replay", "--all", "--to", "retry", "--rate", "100", "--batch", "30", "--yes")
    assert (ended.exit_code, sum(count for _, count in sent)) == (0, 60)
    assert max(count for _, count in sent) == 20
    for (before, count), (after, _) in pairwise(sent):
        assert after - before >= count / 100 - changing.LATE


def test_the_state_topic_is_like_the_dead_letter_topic(brokers: str, broker: MemoryBroker) -> None:
    broker.topics[DEAD].config["min.insync.replicas"] = "2"
    broker.topics[DEAD].replication = 3
    dlq(brokers, "archive", "0:0", "--yes")
    topic = broker.topics[STATE]
    assert (len(topic.partitions), topic.replication) == (1, 3)
    assert topic.config == {
        "cleanup.policy": "compact",
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": "2",
    }


@pytest.mark.parametrize(
    ("partitions", "changed", "said"),
    [
        (2, {}, "has 2 partitions"),
        (1, {"cleanup_policy": "delete"}, "cleanup.policy=delete"),
        (1, {"cleanup_policy": "compact,delete"}, "cleanup.policy=compact,delete"),
        (1, {"message_timestamp_type": "CreateTime"}, "message.timestamp.type=CreateTime"),
    ],
)
def test_a_state_topic_that_cannot_hold_it_is_refused(
    brokers: str, broker: MemoryBroker, partitions: int, changed: dict[str, str], said: str
) -> None:
    broker.create_topic(STATE, partitions, **{**STATE_CONFIG, **changed})
    ended = dlq(brokers, "archive", "--all", "--yes")
    assert (ended.exit_code, said in ended.stderr) == (78, True), ended.stderr
    assert broker.records(STATE) == []


def test_a_record_older_than_its_topic_keeps_is_warned_of(brokers: str, broker: MemoryBroker) -> None:
    broker.topics["orders"].config["retention.ms"] = "604800000"
    ended = dlq(brokers, "replay", "--all", "--to", "origin", "--dry-run")
    assert "The oldest was first sent at 2023-11-14 21:13:20Z, before what orders keeps" in ended.stderr
    ended = dlq(brokers, "replay", "--all", "--to", "retry", "--dry-run")
    assert "before what" not in ended.stderr
    ended = dlq(brokers, "replay", "--all", "--to", "origin", "--yes")  # nobody was asked, so nobody has read it
    assert "The oldest was first sent at 2023-11-14 21:13:20Z, before what orders keeps" in ended.stderr
    assert ended.exit_code == 0
    assert FAILED - SENT == 3_600_000


def test_only_agents_that_get_them_are_named(brokers: str, broker: MemoryBroker) -> None:
    bury(broker, 7, sk_group="shop.other")
    ended = dlq(brokers, "replay", "--all", "--to", "retry", "--dry-run")
    assert f"Only {AGENT} gets them again." in ended.stderr


def test_a_group_that_is_too_long_to_be_written_down_is_nobodys(brokers: str, broker: MemoryBroker) -> None:
    odd = bury(broker, 7, sk_group="\ud7ff" * 400_000)
    assert dlq(brokers, "archive", "--all", "--yes").exit_code == 0
    assert statuses(brokers)[odd] == "archived"


def test_large_letters_are_taken_few_at_a_time(
    brokers: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    carry_out = changing.Work._carry_out

    async def noted(work: changing.Work, chunk: Any) -> None:
        sizes.append(len(chunk))
        await carry_out(work, chunk)

    monkeypatch.setattr(changing.Work, "_carry_out", noted)
    monkeypatch.setattr(changing, "BYTES_AT_ONCE", 20)
    assert dlq(brokers, "replay", "--all", "--to", "retry", "--yes").exit_code == 0
    assert (sizes, len(broker.records(TIER))) == ([2, 1], 3)


def test_a_million_replays_are_watched_in_little_memory() -> None:
    count = 10_000
    watch = Watch(State(STATE, exists=True), None)  # type: ignore[arg-type]
    tracemalloc.start()
    try:
        for number in range(count):
            raw = Raw(0, number, headers=[("sk-group", AGENT.encode())])
            watch.expect([Case(letter_of(raw), f"0:{number}", OPEN)])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert watch.pending == count
    assert held < 100 * count  # bytes
