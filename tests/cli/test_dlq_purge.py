"""`streamkit dlq purge`: what is removed, what is kept, what is refused, and what goes on after a crash."""

import asyncio
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from streamkit import TopicPartition
from streamkit.cli.dlq import purging
from streamkit.cli.embedded import EmbeddedBroker
from streamkit.cli.signals import Stop
from streamkit.core.cases import CaseBook, run_key
from streamkit.errors import TransportError
from streamkit.transport.base import LogRange, Refused
from streamkit.transport.memory import MemoryBroker, named_broker
from streamkit.transport.memory.admin import MemoryAdmin
from tests.cli.dlq_support import (
    AGENT,
    DEAD,
    STATE,
    TIER,
    audits,
    bury,
    dlq,
    filled,
    job_record,
    letters_on,
    say,
    state,
    statuses,
    told,
)
from tests.cli.support import await_records, records_of, streamkit
from tests.kafka.server import ExistingKafka, GenuineKafka

DAY = 86_400_000
START = 1_800_000_000_000  # ms: 2027-01-15 08:00 UTC
MIDDLE = "2027-01-17T08:00:00Z"  # after the letters 0 and 1, and at letter 2


@pytest.fixture
def broker(brokers: str) -> Iterator[MemoryBroker]:
    """Letters 0:0 to 0:3, a day after another; 1:0 is of the third day, and partition 2 is empty."""
    broker = named_broker(brokers)
    filled(broker, 0)
    day = 0
    broker.clock = lambda: START + day * DAY
    for day in range(4):
        bury(broker, day)
        if day == 2:
            bury(broker, 7, partition=1)
    yield broker


def purge(brokers: str, *arguments: str, given: str | None = None) -> Any:
    return dlq(brokers, "purge", "--before", MIDDLE, *arguments, given=given)


def starts(broker: MemoryBroker) -> list[int]:
    return [broker.log(TopicPartition(DEAD, number)).range.start for number in range(3)]


def test_all_that_was_appended_before_is_removed(brokers: str, broker: MemoryBroker) -> None:
    assert dlq(brokers, "archive", "0:0", "--yes").exit_code == 0
    assert dlq(brokers, "discard", "0:1", "0:2", "--yes").exit_code == 0
    ended = purge(brokers, "--yes", "--json", "--reason", "old")
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert told(ended)["counts"] == {"removed": 2, "archived": 1, "discarded": 1}
    assert starts(broker) == [2, 0, 0]
    assert statuses(brokers) == {"0:2": "discarded", "0:3": "open", "1:0": "open"}
    found = audits(brokers)[-1]
    assert (found["command"], found["reason"], found["result"]) == ("purge", "old", "done")
    assert found["counts"] == {"removed": 2, "archived": 1, "discarded": 1}
    assert found["arguments"]["before"] == "2027-01-17T08:00:00.000Z"
    assert list(state(broker)) == ["case:0:2"]  # no lock, no job, and nothing of what is gone
    assert "before=2027-01-17T08:00:00.000Z" in dlq(brokers, "audit").stdout


def test_a_time_after_all_of_them_removes_all(brokers: str, broker: MemoryBroker) -> None:
    dlq(brokers, "discard", "--all", "--yes")
    assert dlq(brokers, "purge", "--before", "2030-01-01", "--yes").exit_code == 0
    assert (starts(broker), statuses(brokers), state(broker)) == ([4, 1, 0], {}, {})


@pytest.mark.parametrize("before", ["2020-01-01", "1960-01-01", "2027-01-15T08:00:00Z"])
def test_a_time_before_all_of_them_removes_none(brokers: str, broker: MemoryBroker, before: str) -> None:
    ended = dlq(brokers, "purge", "--before", before, "--json")
    assert (ended.exit_code, told(ended)["counts"], "Go on?" in ended.stderr) == (0, {"removed": 0}, False)
    assert (starts(broker), STATE in broker.topics) == ([0, 0, 0], False)


def test_it_is_refused_while_open_ones_are_among_them(brokers: str, broker: MemoryBroker) -> None:
    dlq(brokers, "archive", "0:0", "--yes")
    for more in ((), ("--yes",), ("--dry-run",)):
        ended = purge(brokers, *more, given="y\n")
        assert (ended.exit_code, ended.stdout) == (1, "")
        assert ended.stderr.splitlines() == [
            "2 dead letters of orders.dlq, appended before 2027-01-17 08:00:00Z, would be removed for good: 1 open, "
            "1 archived",
            "Not while some of them are open. Look at them, and settle them with one of",
            "  streamkit dlq search --status open --topic orders.dlq --until 2027-01-17T08:00:00.000Z",
            "  streamkit dlq archive --topic orders.dlq --until 2027-01-17T08:00:00.000Z",
            "  streamkit dlq discard --topic orders.dlq --until 2027-01-17T08:00:00.000Z",
            "  streamkit dlq replay --to retry --topic orders.dlq --until 2027-01-17T08:00:00.000Z",
        ]
    refused = told(purge(brokers, "--json"))
    assert (refused["result"], refused["counts"]["open"]) == ("nothing was removed: 1 is open", 1)
    assert starts(broker) == [0, 0, 0]
    for command in ("archive", "discard"):  # as they stand there
        assert dlq(brokers, command, "0:1", "--until", MIDDLE, "--dry-run").exit_code == 0


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("", 1)])
def test_it_asks_with_the_count_of_each_status(brokers: str, broker: MemoryBroker, answer: str, code: int) -> None:
    dlq(brokers, "archive", "0:0", "0:1", "--yes")
    ended = purge(brokers, given=answer)
    assert ended.stderr.startswith("2 dead letters of orders.dlq, appended before 2027-01-17 08:00:00Z, would be ")
    assert ("2 archived\nGo on?" in ended.stderr, ended.exit_code) == (True, code)
    assert starts(broker) == ([0, 0, 0] if code else [2, 0, 0])


def test_a_dry_run_removes_none(brokers: str, broker: MemoryBroker) -> None:
    dlq(brokers, "archive", "0:0", "0:1", "--yes")
    before = len(broker.records(STATE))
    ended = purge(brokers, "--dry-run", "--json")
    assert (ended.exit_code, told(ended)["result"], told(ended)["counts"]["removed"]) == (0, "dry run", 2)
    assert (starts(broker), len(broker.records(STATE))) == ([0, 0, 0], before)


def test_a_case_whose_first_letter_is_gone_is_known_while_a_later_letter_is_of_it(
    brokers: str, broker: MemoryBroker
) -> None:
    dlq(brokers, "replay", "0:0", "0:1", "--to", "retry", "--yes")
    for id in ("0:0", "0:1"):
        say(broker, f"run:{id}:{AGENT}", {"group": AGENT, "outcome": "dead"})
    again = bury(broker, 0, sk_dlq_id="0:0")
    bury(broker, 1, sk_dlq_id="0:1", sk_group="shop.bill")  # whose case is its own
    assert purge(brokers, "--yes").exit_code == 0
    assert set(state(broker)) == {"case:0:0", f"run:0:0:{AGENT}"}
    dlq(brokers, "replay", again, "--to", "retry", "--yes")
    assert dict(broker.records(TIER)[-1].headers)["sk-dlq-id"] == b"0:0"
    assert state(broker)["case:0:0"]["replays"] == 2
    dlq(brokers, "discard", "--all", "--yes")
    assert dlq(brokers, "purge", "--before", "2030-01-01", "--yes").exit_code == 0
    assert state(broker) == {}


def test_what_retention_has_removed_is_forgotten_too(brokers: str, broker: MemoryBroker) -> None:
    dlq(brokers, "archive", "0:0", "0:1", "--yes")
    say(broker, "case:9:0", {"status": "archived"})  # of a partition that is not there
    broker.delete_records(DEAD, 1)
    assert purge(brokers, "--yes", "--json").exit_code == 0
    assert list(state(broker)) == ["case:9:0"]
    assert audits(brokers)[-1]["counts"] == {"removed": 1, "archived": 1}


def test_one_that_was_opened_meanwhile_is_not_removed(
    brokers: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    dlq(brokers, "archive", "0:0", "0:1", "--yes")

    def answer() -> bool:
        say(broker, "case:0:1", {"status": "open", "at": 1})
        return True

    monkeypatch.setattr(purging, "confirmed", answer)
    ended = purge(brokers)
    assert (ended.exit_code, "nothing was removed: 1 is open" in ended.stdout) == (1, True)
    assert (starts(broker), audits(brokers)[-1]["counts"]) == ([0, 0, 0], {})


def test_it_is_refused_while_another_command_is_at_work_or_cut_off(brokers: str, broker: MemoryBroker) -> None:
    dlq(brokers, "archive", "0:0", "0:1", "--yes")
    say(broker, "job:far", job_record())
    ended = purge(brokers, "--yes")
    assert (ended.exit_code, "a replay of orders.dlq was cut off" in ended.stderr) == (1, True)
    dlq(brokers, "resume", "--give-up")
    say(broker, "lock:far", {"who": "ann", "host": "far", "pid": 7})
    ended = purge(brokers, "--yes")
    assert (ended.exit_code, "ann is changing the dead letters" in ended.stderr) == (1, True)
    assert starts(broker) == [0, 0, 0]


def test_a_crash_after_the_removal_is_resumed(
    brokers: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    dlq(brokers, "archive", "0:0", "0:1", "--yes")
    delete = MemoryAdmin.delete_records

    async def deleted(admin: MemoryAdmin, before: Any) -> None:
        await delete(admin, before)
        raise TransportError("as good as dead")

    with monkeypatch.context() as patched:
        patched.setattr(MemoryAdmin, "delete_records", deleted)
        assert purge(brokers, "--yes").exit_code == 1
    assert (starts(broker), "case:0:0" in state(broker)) == ([2, 0, 0], True)
    assert dlq(brokers, "discard", "--all", "--yes").exit_code == 1
    ended = dlq(brokers, "resume", "--json")
    assert (ended.exit_code, told(ended)["counts"]) == (0, {"removed": 2, "archived": 2})
    assert (state(broker), audits(brokers)[-1]["counts"]) == ({}, {"removed": 2, "archived": 2})


@pytest.mark.parametrize("arguments", [{}, {"counts": 5}, {"counts": {"open": "x"}}])
def test_a_purge_that_makes_no_sense_can_only_be_given_up(
    brokers: str, broker: MemoryBroker, arguments: dict[str, Any]
) -> None:
    say(broker, "job:odd", job_record(command="purge", arguments=arguments))
    ended = dlq(brokers, "resume")
    assert (ended.exit_code, "makes no sense" in ended.stderr, starts(broker)) == (1, True, [0, 0, 0])
    assert dlq(brokers, "resume", "--give-up").exit_code == 0


def test_brokers_that_refuse_to_remove_end_the_job(
    brokers: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    dlq(brokers, "archive", "0:0", "0:1", "--yes")

    async def refused(admin: MemoryAdmin, before: Any) -> None:
        raise Refused("not authorised")

    monkeypatch.setattr(MemoryAdmin, "delete_records", refused)
    ended = purge(brokers, "--yes")
    assert (ended.exit_code, ended.stderr) == (78, "error: the brokers remove nothing: not authorised\n")
    assert audits(brokers)[-1]["result"] == "failed: the brokers remove nothing: not authorised"
    assert set(state(broker)) == {"case:0:0", "case:0:1"}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("cleanup.policy", "compact", "is only compacted"),
        ("message.timestamp.type", "CreateTime", "does not say when its records were appended"),
    ],
)
def test_a_topic_of_which_it_cannot_be_done_is_refused(
    brokers: str, broker: MemoryBroker, name: str, value: str, said: str
) -> None:
    broker.topics[DEAD].config[name] = value
    ended = purge(brokers, "--yes")
    assert (ended.exit_code, said in ended.stderr, starts(broker)) == (78, True, [0, 0, 0])


def test_a_tier_is_none_of_its_business(brokers: str, broker: MemoryBroker) -> None:
    broker.append(TIER, b"waits")
    ended = dlq(brokers, "purge", "--before", "2030-01-01", "--yes", topic=TIER)
    assert (ended.exit_code, "1 open" in ended.stderr, len(broker.records(TIER))) == (1, True, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--yes",), "Missing option '--before'"),
        (("--before", "soon"), "--before 'soon': no time"),
        (("--before", "1d", "--agent", "charge"), "No such option"),
        (("--before", "1d", "0:1"), "'0:1' is not a target"),
    ],
)
def test_what_cannot_be_meant_exits_2(
    brokers: str, broker: MemoryBroker, arguments: tuple[str, ...], said: str
) -> None:
    ended = dlq(brokers, "purge", *arguments)
    assert (ended.exit_code, said in ended.stderr, STATE in broker.topics) == (2, True, False), ended.stderr


def purges_on(directory: Path, brokers: str) -> None:
    """Ten letters that are archived, then ten of a later moment: those stay."""
    source, _ = letters_on(brokers, 10)
    where = ("--topic", source, "--brokers", brokers)
    assert streamkit(directory, "dlq", "archive", "--all", "--yes", *where).code == 0
    appended = [record.timestamp for record in records_of(brokers, f"{source}.dlq")]
    while time.time_ns() // 1_000_000 <= max(appended):  # of the same millisecond they would not be later
        pass
    letters_on(brokers, 10, source)
    later = [record.timestamp for record in await_records(brokers, f"{source}.dlq", 20)][10:]
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(min(later) // 1000)) + f".{min(later) % 1000:03d}"
    ended = streamkit(directory, "dlq", "purge", "--before", moment, "--yes", "--json", *where)
    assert (ended.code, ended.errors) == (0, "")
    left = records_of(brokers, f"{source}.dlq")
    assert [record.offset for record in left] == list(range(10, 20))
    assert statuses(brokers, source) == {f"0:{offset}": "open" for offset in range(10, 20)}
    assert audits(brokers, source)[-1]["counts"] == {"removed": 10, "archived": 10}
    again = streamkit(directory, "dlq", "purge", "--before", "2040-01-01", "--yes", *where)
    assert (again.code, "10 open" in again.errors) == (1, True)


def test_it_removes_on_a_genuine_kafka(tmp_path: Path, genuine: GenuineKafka | ExistingKafka) -> None:
    purges_on(tmp_path, genuine.brokers)


def test_it_removes_on_the_embedded_broker(tmp_path: Path, embedded: EmbeddedBroker) -> None:
    purges_on(tmp_path, embedded.brokers)


def test_what_is_said_of_a_million_letters_is_forgotten_in_little_memory() -> None:
    count, place = 10_000, TopicPartition(DEAD, 0)
    book = CaseBook()
    for number in range(count):
        book.apply(b"case:0:%d" % number, {"status": "replayed", "replays": 1, "group": AGENT})
        book.apply(run_key(f"0:{number}", AGENT), {"outcome": "handled"})
    told: list[int] = []

    async def tell(records: Any) -> None:
        told.append(len(list(records)))

    async def ranges() -> dict[TopicPartition, LogRange]:
        return {place: LogRange(count, count)}

    async def letters(within: Any) -> Any:
        none: list[Any] = []
        for batch in none:
            yield batch

    job: Any = SimpleNamespace(
        letters=SimpleNamespace(ranges=ranges, letters=letters, topic=DEAD),
        state=SimpleNamespace(cases=book),
        check=lambda: None,
        tell=tell,
    )
    tracemalloc.start()
    try:
        asyncio.run(purging._forget(job, Stop()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(told) == 2 * count
    assert peak < 200 * count  # bytes


def test_marks_of_a_topic_that_was_deleted_hide_no_letter_of_the_one_made_anew(
    brokers: str, broker: MemoryBroker
) -> None:
    dlq(brokers, "replay", "0:0", "--to", "origin", "--yes")
    dlq(brokers, "archive", "0:1", "--yes")
    dlq(brokers, "discard", "0:2", "--yes")
    broker.delete_topic(DEAD)
    broker.create_topic(DEAD, 3, message_timestamp_type="LogAppendTime")
    broker.clock = lambda: START + 9 * DAY
    new = [bury(broker, number) for number in range(10, 13)]
    assert statuses(brokers) == dict.fromkeys(new, "open")
    ended = dlq(brokers, "purge", "--before", "2030-01-01", "--yes")
    assert ended.exit_code == 1
    assert "3 are open" in told(dlq(brokers, "purge", "--before", "2030-01-01", "--yes", "--json"))["result"]
    assert dlq(brokers, "archive", "--all", "--yes").exit_code == 0
    assert set(statuses(brokers).values()) == {"archived"}
