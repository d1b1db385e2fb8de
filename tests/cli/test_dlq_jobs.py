"""One job at a time on a dead letter topic: locks, crashes, `resume`, the audit, and signals."""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals
from typing import Any

import pytest

from streamkit.cli.dlq import changing, jobs
from streamkit.cli.dlq.jobs import Busy, Plan, begun
from streamkit.cli.dlq.reading import DeadLetters, State, connected
from streamkit.cli.dlq.replaying import Replaying
from streamkit.cli.dlq.selecting import Case
from streamkit.cli.dlq.where import where
from streamkit.cli.embedded import EmbeddedBroker
from streamkit.cli.outgoing import Outgoing
from streamkit.cli.sender import Sender
from streamkit.errors import TransportError
from streamkit.transport.memory import MemoryBroker, named_broker
from tests.cli.dlq_support import (
    DEAD,
    STATE,
    STATE_CONFIG,
    TIER,
    audits,
    bury,
    cases,
    dlq,
    filled,
    job_record,
    letters_on,
    say,
    state,
    statuses,
    told,
)
from tests.cli.support import await_records, records_of, running, streamkit

NOW = 1_800_000_000_000
HOST = jobs._host()


@pytest.fixture
def broker(brokers: str) -> Iterator[MemoryBroker]:
    broker = named_broker(brokers)
    filled(broker)
    yield broker


# The lock


def lock(broker: MemoryBroker, host: str, pid: int) -> None:
    say(broker, "lock:other", {"who": "ann\x1b[31m@far", "host": host, "pid": pid})


@pytest.fixture
def nobody() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_command_that_lives_keeps_others_out(brokers: str, broker: MemoryBroker) -> None:
    broker.clock = lambda: NOW
    lock(broker, "far", 7)
    broker.clock = lambda: NOW + 14_999
    ended = dlq(brokers, "archive", "--all", "--yes")
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr == (
        "error: ann\ufffd[31m@far is changing the dead letters of orders.dlq (process 7 of far, last heard of 15 s "
        "ago): one command at a time\n"
    )
    assert set(statuses(brokers).values()) == {"open"}
    assert set(state(broker)) == {"lock:other"}  # the own one is gone


def test_a_silent_command_is_dead_after_15_seconds_of_the_brokers_clock(brokers: str, broker: MemoryBroker) -> None:
    broker.clock = lambda: NOW
    lock(broker, "far", 7)
    broker.clock = lambda: NOW + 15_000
    assert dlq(brokers, "archive", "--all", "--yes").exit_code == 0
    assert not [key for key in state(broker) if key.startswith("lock:")]


def test_a_command_of_this_host_is_dead_with_its_process(brokers: str, broker: MemoryBroker, nobody: int) -> None:
    lock(broker, HOST, nobody)
    assert dlq(brokers, "archive", "--all", "--yes").exit_code == 0


def test_a_command_of_this_host_lives_with_its_process(brokers: str, broker: MemoryBroker) -> None:
    lock(broker, HOST, os.getppid())
    assert dlq(brokers, "archive", "--all", "--yes").exit_code == 1


def test_the_same_number_on_another_host_or_in_another_container_says_nothing(
    brokers: str, broker: MemoryBroker, nobody: int
) -> None:
    lock(broker, f"{HOST}/pid:[1]", nobody)
    assert dlq(brokers, "archive", "--all", "--yes").exit_code == 1


async def opened(stack: AsyncExitStack, brokers: str) -> tuple[DeadLetters, Sender]:
    place = where(None, "orders", None, brokers)
    clients = await stack.enter_async_context(connected(place))
    info = (await clients.admin.topics([DEAD]))[DEAD]
    sender = await stack.enter_async_context(Sender(place.settings, clients.transport).running())
    return DeadLetters(DEAD, info, State(STATE, exists=False), clients), sender


def test_of_several_at_once_one_at_most_is_at_work(brokers: str, broker: MemoryBroker) -> None:
    at_work = [0]

    async def one(stack: AsyncExitStack) -> str:
        letters, sender = await opened(stack, brokers)
        try:
            async with begun(letters, Plan("archive", {}), sender, {}):
                at_work[0] += 1
                assert at_work[0] == 1
                await asyncio.sleep(0.05)
                at_work[0] -= 1
        except Busy:
            return "busy"
        return "done"

    async def all_at_once() -> list[str]:
        async with AsyncExitStack() as stack:
            return await asyncio.gather(*(one(stack) for _ in range(6)))

    assert Counter(asyncio.run(all_at_once())) == {"done": 1, "busy": 5}
    assert len(audits(brokers)) == 1


def test_it_shows_that_it_lives(brokers: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "BEAT", 0.01)

    async def hold() -> None:
        beaten, produce = asyncio.Event(), broker.produce

        async def produced(*given: Any) -> Any:
            stored = await produce(*given)
            if len(broker.records(STATE)) >= 5:
                beaten.set()
            return stored

        monkeypatch.setattr(broker, "produce", produced)
        async with AsyncExitStack() as stack:
            letters, sender = await opened(stack, brokers)
            async with begun(letters, Plan("archive", {}), sender, {}):
                await asyncio.wait_for(beaten.wait(), 10)

    asyncio.run(hold())
    first, *_ = broker.records(STATE)
    beats = [each for each in broker.records(STATE) if each.key == first.key and each.value is not None]
    assert len(beats) >= 3
    assert all(b'"place":0' in (each.value or b"") for each in beats[1:])


def test_without_a_sign_of_life_that_arrives_it_ends_and_can_be_resumed(
    brokers: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(jobs, "LOST", -1.0)
        ended = dlq(brokers, "replay", "--all", "--to", "origin", "--yes")
    assert (ended.exit_code, "another may have begun, so it ends here" in ended.stderr) == (1, True)
    assert (broker.records("orders"), audits(brokers)) == ([], [])
    assert dlq(brokers, "resume").exit_code == 0
    assert len(broker.records("orders")) == 3


def test_who_was_silent_too_long_does_not_come_back(
    brokers: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the machine has slept: another may have begun, whether or not the brokers answer again."""
    monkeypatch.setattr(jobs, "BEAT", 0.001)

    async def sleep_and_wake() -> None:
        async with AsyncExitStack() as stack:
            letters, sender = await opened(stack, brokers)
            async with begun(letters, Plan("archive", {}), sender, {}) as job:
                job.heard -= jobs.LOST + 1
                await asyncio.wait_for(jobs._beat(job, jobs._Lock()), 10)
                with pytest.raises(TransportError, match="another may have begun"):
                    job.check()

    with pytest.raises(TransportError, match="another may have begun"):
        asyncio.run(sleep_and_wake())
    assert [key.partition(":")[0] for key in state(broker)] == ["job"]


# Crashes


class Chunks:
    """From now on only so many chunks go to a topic; with the last, what is to happen happens."""

    def __init__(self, patch: pytest.MonkeyPatch, chunks: int, then: Callable[[], None], size: int = 10) -> None:
        self._store, self._left, self._then = Sender.store, chunks, then
        patch.setattr(changing, "AT_ONCE", size)
        patch.setattr(Sender, "store", lambda sender, records: self.store(sender, records))

    async def store(self, sender: Sender, records: Any) -> Any:
        stored = await self._store(sender, records)
        if records and not records[0][0].endswith(".state"):
            self._left -= 1
            if not self._left:
                self._then()
        return stored


def crash() -> None:
    raise TransportError("as good as dead")


def cut_off(brokers: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay of 60 of which 30 are sent and 20 marked."""
    for number in range(3, 60):
        bury(broker, number)
    with monkeypatch.context() as patched:
        Chunks(patched, 3, crash)
        ended = dlq(brokers, "replay", "--all", "--to", "retry", "--yes", "--reason", "mended")
    assert (ended.exit_code, ended.stderr.splitlines()[0]) == (1, "error: as good as dead")
    assert "streamkit dlq resume --topic orders.dlq" in ended.stderr
    assert (len(broker.records(TIER)), list(statuses(brokers).values()).count("replayed")) == (30, 20)


def test_after_a_crash_nothing_else_begins(brokers: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off(brokers, broker, monkeypatch)
    (job,) = (key.removeprefix("job:") for key in state(broker) if key.startswith("job:"))
    ended = dlq(brokers, "archive", "--all", "--yes")
    assert ended.exit_code == 1
    first, *rest = ended.stderr.splitlines()
    assert first.startswith("error: a replay of orders.dlq was cut off, begun 20")
    assert first.endswith(f"(job {job}).")
    assert rest == [
        "Go on with it:  streamkit dlq resume --topic orders.dlq",
        "Or give it up:  streamkit dlq resume --topic orders.dlq --give-up",
    ]
    assert f"(job {job})" in dlq(brokers, "audit").stderr
    assert "archived" not in statuses(brokers).values()


def test_resume_skips_none_and_repeats_few(brokers: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off(brokers, broker, monkeypatch)
    bury(broker, 60)  # after the command had begun
    begun_at = next(value["began"] for key, value in state(broker).items() if key.startswith("job:"))
    ended = dlq(brokers, "resume", "--json")
    assert (ended.exit_code, told(ended)["counts"], told(ended)["result"]) == (0, {"replayed": 60}, "done")
    sent = Counter(cases(broker.records(TIER)))
    assert set(sent) == {f"0:{offset}" for offset in range(60)}
    assert sorted(case for case, times in sent.items() if times > 1) == [f"0:{offset}" for offset in range(20, 30)]
    assert Counter(statuses(brokers).values()) == {"replayed": 60, "open": 1}
    (found,) = audits(brokers)
    assert (found["result"], found["counts"], found["reason"]) == ("done", {"replayed": 60}, "mended")
    assert (found["began"], found["who"], found["resumed_by"]) == (begun_at, jobs.me(), jobs.me())
    assert [key for key in state(broker) if not key.startswith("case:")] == []
    assert {value["replays"] for value in state(broker).values()} == {1}
    assert dlq(brokers, "resume").stderr == "orders.dlq: nothing was cut off\n"


def test_resume_can_be_cut_off_too(brokers: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off(brokers, broker, monkeypatch)
    with monkeypatch.context() as patched:
        Chunks(patched, 2, crash)
        assert dlq(brokers, "resume").exit_code == 1
    assert dlq(brokers, "resume").exit_code == 0
    assert set(cases(broker.records(TIER))) == {f"0:{offset}" for offset in range(60)}
    (found,) = audits(brokers)
    assert found["counts"] == {"replayed": 60}


def test_a_rate_is_no_debt_of_what_was_sent_before(
    brokers: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3, 60):
        bury(broker, number)
    with monkeypatch.context() as patched:
        Chunks(patched, 2, crash)
        rate = ("--rate", "200")  # 40 at once
        assert dlq(brokers, "replay", "--all", "--to", "retry", *rate, "--yes").exit_code == 1
    slept: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        slept.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", noted)
    assert dlq(brokers, "resume").exit_code == 0
    assert len(set(cases(broker.records(TIER)))) == 60
    assert max(each for each in slept if each != jobs.BEAT) <= 40 / 200


def test_what_was_cut_off_can_be_given_up(brokers: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off(brokers, broker, monkeypatch)
    ended = dlq(brokers, "resume", "--give-up")
    assert (ended.exit_code, ended.stdout.startswith("given up: the replay begun 20")) == (0, True)
    (found,) = audits(brokers)
    assert (found["command"], found["reason"], found["counts"]) == ("replay", "mended", {"marked": 20})
    assert found["result"] == f"given up by {jobs.me()}"
    assert len(broker.records(TIER)) == 30
    assert dlq(brokers, "archive", "--all", "--yes").exit_code == 0
    assert Counter(statuses(brokers).values()) == {"replayed": 20, "archived": 40}


def test_what_was_given_up_is_json_too(brokers: str, broker: MemoryBroker) -> None:
    say(broker, "job:far", job_record(counts={"replayed": 2}))
    found = told(dlq(brokers, "resume", "--give-up", "--json"))
    assert (found["topic"], found["job"], found["command"]) == ("orders.dlq", "far", "replay")
    assert (found["result"], found["counts"], found["unfit"]) == (f"given up by {jobs.me()}", {"replayed": 2}, {})


def test_a_fault_in_the_program_ends_the_job_with_an_audit(
    brokers: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault() -> None:
        raise LookupError("x" * 5_000)

    with monkeypatch.context() as patched:
        Chunks(patched, 2, fault, size=1)
        with pytest.raises(LookupError):
            dlq(brokers, "replay", "--all", "--to", "retry", "--yes")
    (found,) = audits(brokers)
    assert found["result"].startswith("failed: xxx")
    assert (len(found["result"]), found["counts"]) == (1_000, {"replayed": 1})
    assert not [key for key in state(broker) if not key.startswith("case:")]


def test_an_end_that_cannot_be_told_is_a_job_that_was_cut_off(
    brokers: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        Chunks(patched, 1, lambda: broker.faults.refuse(STATE))
        ended = dlq(brokers, "replay", "--all", "--to", "retry", "--yes")
    assert (ended.exit_code, "orders.dlq.state does not take what was done" in ended.stderr) == (1, True)
    broker.faults.accept(STATE)
    assert dlq(brokers, "archive", "--all", "--yes").exit_code == 1
    broker.clock = lambda: 4_000_000_000_000  # the lock could not be given back, and this process lives
    assert dlq(brokers, "resume").exit_code == 0
    assert Counter(cases(broker.records(TIER))) == {"0:0": 2, "0:1": 2, "0:2": 2}
    assert [each["counts"] for each in audits(brokers)] == [{"replayed": 3}]


@pytest.mark.parametrize("changed", [
    {"command": None},
    {"command": "made up"},
    {"arguments": None},
    {"arguments": "all"},
    {"arguments": {}},
    {"arguments": {"group": None, "ids": [], "filters": {}}},
    {"arguments": {"group": None, "ids": [], "filters": {}, "to": "nowhere"}},
    {"arguments": {"group": None, "ids": [], "filters": {"colour": "red"}, "to": "origin"}},
    {"arguments": {"group": None, "ids": [], "filters": {"error": "("}, "to": "origin"}},
    {"arguments": {"group": None, "ids": ["x"], "filters": {}, "to": "origin"}},
    {"arguments": {"group": None, "ids": [5], "filters": {}, "to": "origin"}},
    {"arguments": {"group": None, "ids": [], "filters": {}, "to": "origin", "rate": "fast"}},
    {"arguments": {"group": None, "ids": [], "filters": {}, "to": "origin", "batch": [[]]}},
    {"arguments": {"group": None, "ids": [], "filters": {}, "to": "origin", "wait": [5]}},
    {"within": None},
    {"within": []},
    {"within": {"0": 5}},
    {"within": {"zero": [0, 5]}},
    {"within": {"0": ["a", "b"]}},
    {"reason": None},
    {"began": "yesterday"},
    {"began": 5},
    {"who": None},
])  # fmt: skip
def test_a_job_that_makes_no_sense_can_only_be_given_up(
    brokers: str, broker: MemoryBroker, changed: dict[str, Any]
) -> None:
    say(broker, "job:odd", job_record(**changed))
    assert dlq(brokers, "archive", "--all", "--yes").exit_code == 1
    ended = dlq(brokers, "resume")
    assert (ended.exit_code, "makes no sense to this version of streamkit" in ended.stderr) == (1, True), ended.stderr
    assert ended.stderr.endswith("streamkit dlq resume --topic orders.dlq --give-up\n")
    assert (list(state(broker)), broker.records("orders"), audits(brokers)) == (["job:odd"], [], [])
    assert dlq(brokers, "resume", "--give-up").exit_code == 0
    assert (state(broker), len(audits(brokers))) == ({}, 1)
    assert dlq(brokers, "audit").exit_code == 0
    assert dlq(brokers, "archive", "--all", "--yes").exit_code == 0


def test_a_job_of_another_tool_run_is_resumed_within_its_bounds(brokers: str, broker: MemoryBroker) -> None:
    bury(broker, 3)
    say(broker, "job:far", job_record())
    say(broker, "case:0:1", {"status": "replayed", "job": "far", "replays": 1, "group": "shop.charge"})
    assert dlq(brokers, "resume", "--json").exit_code == 0
    assert cases(broker.records("orders")) == ["0:0", "0:2"]
    (found,) = audits(brokers)
    assert (found["who"], found["resumed_by"], found["counts"]) == ("ann@far", jobs.me(), {"replayed": 3})
    assert state(broker)["case:0:0"]["who"] == jobs.me()
    assert f"resumed by {jobs.me()}" in dlq(brokers, "audit").stdout


def test_a_state_topic_full_of_nonsense_is_survived(brokers: str, broker: MemoryBroker) -> None:
    broker.create_topic(STATE, 1, **STATE_CONFIG)
    for key in (b"case:0:0", b"case:x", b"lock:", b"lock:1", b"run:0:1", b"audit:1", b"\xff", b"", None):
        for value in (b"no JSON", b"[]", b"7", b'{"status": 7, "place": "x", "pid": "y"}', None, b"\xff"):
            broker.append(STATE, value, key=key)
    broker.clock = lambda: 4_000_000_000_000  # the locks are of nobody
    assert dlq(brokers, "archive", "--all", "--yes").exit_code == 0
    assert Counter(statuses(brokers).values()) == {"archived": 3}
    assert dlq(brokers, "audit").exit_code == 0


def test_an_audit_can_be_written_however_many_reasons_there_were() -> None:
    kept = jobs._most_common(Counter({f"{number} {'x' * 5_000}": 2 for number in range(50)}))
    assert (len(kept), kept["other reasons"], max(map(len, kept))) == (21, 60, 1_000)


def test_a_reason_of_its_own_for_each_of_a_million_letters_takes_little_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "MOST_HELD", 30)
    unfit = Counter[str]()
    for number in range(50):
        jobs.count_reason(unfit, f"{number} {'x' * 5_000}")
        jobs.count_reason(unfit, "0")
    assert (len(unfit), unfit.total(), unfit["0"], unfit["other reasons"]) == (31, 100, 50, 21)
    assert max(map(len, unfit)) == 1_000
    kept = jobs._most_common(unfit)
    assert (len(kept), sum(kept.values()), kept["0"], kept["other reasons"]) == (21, 100, 50, 31)


def test_what_an_app_declares_holds_when_it_is_resumed_without_the_app(brokers: str, broker: MemoryBroker) -> None:
    broker.create_topic("foreign")
    bury(broker, 3, sk_origin_topic="foreign")
    bury(broker, 4, sk_group="shop.bill")
    broker.create_topic("orders.shop.bill.retry-1")
    declared = {"app": "shop", "origins": ["orders"], "with_tiers": ["shop.charge"]}
    arguments = {**job_record()["arguments"], "to": "retry", "declared": declared}
    say(broker, "job:far", job_record(arguments=arguments, within={"0": [0, 5]}))
    ended = dlq(brokers, "resume", "--json")
    assert (ended.exit_code, told(ended)["counts"], sum(told(ended)["unfit"].values())) == (1, {"replayed": 3}, 2)
    assert broker.records("foreign") == broker.records("orders.shop.bill.retry-1") == []


# Signals


@pytest.mark.parametrize(("number", "code"), [(SIGINT, 130), (SIGTERM, 143)])
def test_the_first_signal_ends_it_in_order(
    tmp_path: Path, embedded: EmbeddedBroker, number: Signals, code: int
) -> None:
    source, tier = letters_on(embedded.brokers, 200)
    where = ("--topic", source, "--brokers", embedded.brokers)
    with running(tmp_path, "dlq", "replay", "--all", "--to", "retry", "--rate", "50", "--yes", *where) as process:
        await_records(embedded.brokers, tier, 20)
        process.signal(number)
        ended = process.finish()
    assert (ended.code, "Traceback" in ended.errors) == (code, False)
    sent = len(records_of(embedded.brokers, tier))
    assert 20 <= sent < 200
    (found,) = audits(embedded.brokers, source)
    assert (found["result"], found["counts"]) == ("stopped by a signal", {"replayed": sent})
    assert Counter(statuses(embedded.brokers, source).values()) == {"replayed": sent, "open": 200 - sent}
    assert streamkit(tmp_path, "dlq", "replay", "--all", "--to", "retry", "--yes", *where).code == 0
    assert sorted(Counter(cases(records_of(embedded.brokers, tier))).values()) == [1] * 200


def test_a_process_keeps_another_out_until_it_is_killed(tmp_path: Path, embedded: EmbeddedBroker) -> None:
    source, tier = letters_on(embedded.brokers, 3)
    where = ("--topic", source, "--brokers", embedded.brokers)
    with running(tmp_path, "dlq", "replay", "--all", "--to", "retry", "--rate", "0.001", "--yes", *where) as process:
        await_records(embedded.brokers, tier, 1)
        for command in ("archive", "resume"):
            options = ("--all", "--yes") if command == "archive" else ()
            refused = streamkit(tmp_path, "dlq", command, *options, *where)
            assert (refused.code, f"(process {process.pid} of " in refused.errors) == (1, True), refused.errors
    refused = streamkit(tmp_path, "dlq", "archive", "--all", "--yes", *where)
    assert (refused.code, "was cut off" in refused.errors) == (1, True)
    assert streamkit(tmp_path, "dlq", "resume", "--give-up", *where).code == 0
    assert streamkit(tmp_path, "dlq", "archive", "--all", "--yes", *where).code == 0
    assert Counter(statuses(embedded.brokers, source).values()) == {"replayed": 1, "archived": 2}


def test_a_signal_is_heard_while_it_waits_for_its_turn(tmp_path: Path, embedded: EmbeddedBroker) -> None:
    source, tier = letters_on(embedded.brokers, 3)
    where = ("--topic", source, "--brokers", embedded.brokers)
    with running(tmp_path, "dlq", "replay", "--all", "--to", "retry", "--rate", "0.001", "--yes", *where) as process:
        await_records(embedded.brokers, tier, 1)
        process.signal(SIGTERM)
        assert process.finish().code == 143
    (found,) = audits(embedded.brokers, source)
    assert (found["result"], found["counts"]) == ("stopped by a signal", {"replayed": 1})


def test_a_signal_ends_a_resumed_job_with_its_code(tmp_path: Path, embedded: EmbeddedBroker) -> None:
    source, tier = letters_on(embedded.brokers, 3)
    where = ("--topic", source, "--brokers", embedded.brokers)
    with running(tmp_path, "dlq", "replay", "--all", "--to", "retry", "--rate", "0.001", "--yes", *where) as process:
        await_records(embedded.brokers, tier, 1)
    with running(tmp_path, "dlq", "resume", *where) as process:
        await_records(embedded.brokers, tier, 2)
        process.signal(SIGINT)
        assert process.finish().code == 130


@pytest.mark.usefixtures("broker")
def test_a_signal_is_heard_while_it_reads(brokers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def selected(*_: Any) -> Any:
        os.kill(os.getpid(), SIGTERM)
        await asyncio.Event().wait()
        yield

    monkeypatch.setattr(changing, "selected", selected)
    assert dlq(brokers, "archive", "--all", "--yes").exit_code == 143
    (found,) = audits(brokers)
    assert (found["result"], found["counts"]) == ("stopped by a signal", {"archived": 0})


def test_a_signal_is_heard_between_two_letters_of_a_slow_script(
    brokers: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has come to until then is sent and marked."""
    copy, signals = Replaying.copy, [SIGTERM]

    async def copied(self: Replaying, case: Case) -> tuple[str, Outgoing]:
        if signals:
            os.kill(os.getpid(), signals.pop())
        await asyncio.sleep(0.01)  # in which the loop gets it
        return await copy(self, case)

    monkeypatch.setattr(Replaying, "copy", copied)
    ended = dlq(brokers, "replay", "--all", "--to", "origin", "--yes", "--json")
    assert ended.exit_code == 128 + SIGTERM
    assert told(ended)["result"] == "stopped by a signal"
    assert told(ended)["counts"] == {"replayed": 1}
    assert Counter(statuses(brokers).values()) == {"replayed": 1, "open": 2}
    assert len(broker.records("orders")) == 1


def test_ctrl_c_at_the_question_is_no(tmp_path: Path, embedded: EmbeddedBroker) -> None:
    source, _ = letters_on(embedded.brokers, 3)
    where = ("--topic", source, "--brokers", embedded.brokers)
    reads, writes = os.pipe()
    try:
        with running(tmp_path, "dlq", "discard", "--all", *where, stdin=reads) as process:
            process.await_text(r"Go on\?")
            process.signal(SIGINT)
            ended = process.finish()
    finally:
        os.close(reads)
        os.close(writes)
    assert (ended.code, "nothing was changed" in ended.errors, "Traceback" in ended.errors) == (1, True, False)
    assert set(statuses(embedded.brokers, source).values()) == {"open"}
