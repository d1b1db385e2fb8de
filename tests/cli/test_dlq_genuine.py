"""Dead letters replayed on a genuine Kafka: with their worker, and through a crash."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL

import pytest

from streamkit import TopicPartition
from streamkit.settings import Settings
from streamkit.transport.kafka import KafkaTransport
from tests.cli.dlq_support import audits, cases, letters_on, statuses
from tests.cli.support import TIMEOUT, create_topic, program, records_of, running, streamkit
from tests.kafka.server import ExistingKafka, GenuineKafka

COUNT = 1_000

CODE = """
import os
from streamkit import Reject, Retry
@app.agent(source, retry=Retry.delays("1s"))
async def charge(order: dict) -> None:
    if "MENDED" not in os.environ: raise Reject("broken")
    with open("handled", "a") as file: print(order["id"], file=file)
"""


def end_of(brokers: str, topic: str) -> int:
    """Of its partition 0: how many records there have been."""

    async def ask() -> int:
        admin = KafkaTransport(Settings.load({"brokers": brokers}, {}, {})).admin()
        await admin.start()
        try:
            partition = TopicPartition(topic, 0)
            return (await admin.log_ranges([partition]))[partition].end
        finally:
            await admin.stop()

    return asyncio.run(ask())


def await_true(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.timeout(240)
def test_a_thousand_are_handled_once_their_worker_is_mended(
    tmp_path: Path, genuine: GenuineKafka | ExistingKafka
) -> None:
    made = program(tmp_path, genuine.brokers, CODE, [b'{"id": %d}' % number for number in range(COUNT)])
    assert made.run("--create-topics", "--stop-when-idle", "1s").code == 0
    assert end_of(genuine.brokers, f"{made.source}.dlq") == COUNT
    handled = tmp_path / "handled"
    handled.touch()
    with made.start(MENDED="1") as worker:
        where = ("program", "--brokers", genuine.brokers)
        ended = streamkit(
            tmp_path, "dlq", "replay", *where, "--all", "--to", "retry", "--rate", "500", "--yes", "--json"
        )
        assert (ended.code, json.loads(ended.output)["counts"]) == (0, {"replayed": COUNT})
        await_true(lambda: len(set(handled.read_text().split())) == COUNT)
        worker.signal(SIGKILL)
    found_now = statuses(genuine.brokers, made.source)
    assert (len(found_now), set(found_now.values()) <= {"replayed", "handled"}) == (COUNT, True)
    assert end_of(genuine.brokers, f"{made.source}.dlq") == COUNT
    (found,) = audits(genuine.brokers, made.source)
    assert (found["result"], found["counts"]) == ("done", {"replayed": COUNT})


@pytest.mark.timeout(240)
def test_a_killed_replay_is_resumed_and_skips_none(tmp_path: Path, genuine: GenuineKafka | ExistingKafka) -> None:
    source, tier = letters_on(genuine.brokers, COUNT)
    where = ("--topic", source, "--brokers", genuine.brokers)
    with running(tmp_path, "dlq", "replay", "--all", "--to", "retry", "--rate", "500", "--yes", *where) as process:
        await_true(lambda: end_of(genuine.brokers, tier) >= 300)
        process.signal(SIGKILL)
    before = end_of(genuine.brokers, tier)
    assert 300 <= before < COUNT
    marked = Counter(statuses(genuine.brokers, source).values())["replayed"]
    assert marked <= before
    refused = streamkit(tmp_path, "dlq", "discard", "--all", "--yes", *where)
    assert (refused.code, "a replay of" in refused.errors, "was cut off" in refused.errors) == (1, True, True)
    resumed = streamkit(tmp_path, "dlq", "resume", *where, "--json")
    assert (resumed.code, json.loads(resumed.output)["counts"]) == (0, {"replayed": COUNT})
    sent = Counter(cases(records_of(genuine.brokers, tier)))
    twice = [case for case, times in sent.items() if times > 1]
    print(f"{before} were sent and {marked} marked when it was killed; {len(twice)} were sent twice")
    assert set(sent) == {f"0:{offset}" for offset in range(COUNT)}
    assert (len(twice) <= 100, max(sent.values()) <= 2) == (True, True)  # what is sent at once at that rate
    assert set(statuses(genuine.brokers, source).values()) == {"replayed"}
    (found,) = audits(genuine.brokers, source)
    assert (found["result"], found["counts"]) == ("done", {"replayed": COUNT})


def test_letters_that_no_broker_would_take_stand_in_nobodys_way(
    tmp_path: Path, genuine: GenuineKafka | ExistingKafka
) -> None:
    source, tier = letters_on(genuine.brokers, 3)
    create_topic(genuine.brokers, source)
    for changed in (
        {"sk_group": "../\x1b"},
        {"sk_group": "g" * 40_000},
        {"sk_group": "\ufffd" * 300_000},
        {"sk_origin_topic": "o" * 40_000},
        {"sk_origin_topic": ".."},
        {"sk_origin_topic": "no-such-topic"},
        {"sk_origin_timestamp": "253402300799999"},
    ):
        letters_on(genuine.brokers, 1, source, **changed)
    where = ("--topic", source, "--brokers", genuine.brokers)
    ended = streamkit(tmp_path, "dlq", "replay", "--all", "--to", "retry", "--yes", "--json", *where)
    assert (ended.code, json.loads(ended.output)["counts"]) == (1, {"replayed": 4}), ended.errors
    assert len(records_of(genuine.brokers, tier)) == 4
    ended = streamkit(
        tmp_path, "dlq", "replay", "0:9", "--status", "replayed", "--to", "origin", "--yes", "--json", *where
    )
    ((why, count),) = json.loads(ended.output)["unfit"].items()
    assert (ended.code, why.startswith("refused: "), count) == (1, True, 1)
    assert streamkit(tmp_path, "dlq", "archive", "--all", "--yes", *where).code == 0
    assert Counter(statuses(genuine.brokers, source).values()) == {"replayed": 4, "archived": 6}
