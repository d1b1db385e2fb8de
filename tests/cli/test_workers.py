"""`streamkit worker --workers N`."""

import asyncio
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from streamkit.cli.embedded import EmbeddedBroker, free_port
from streamkit.cli.worker import http_of
from streamkit.errors import ConfigurationError
from streamkit.settings import Settings
from tests.cli.support import Program, Running, await_gone, create_topic, module

CODE = """
import os
spread = app.topic({topic!r}, value=dict, partitions=4)

@app.agent(spread)
async def audit(order: dict) -> None:
    print("handled", order["n"], "in", os.getpid())
    {then}
"""


def spread(directory: Path, brokers: str, then: str = "") -> Program:
    """An app with one agent on a topic of four partitions."""
    made = module(directory, brokers, "")
    code = (directory / "program.py").read_text() + CODE.format(topic=f"{made.name}.spread", then=then)
    (directory / "program.py").write_text(
        code.replace(f"source = app.topic({made.source!r}, value=dict, partitions=1)", "")
    )
    create_topic(brokers, f"{made.name}.spread", 4)
    return made


def fill(made: Program, count: int) -> None:
    async def send() -> None:
        async with AIOKafkaProducer(bootstrap_servers=made.brokers) as producer:
            for n in range(count):
                await producer.send_and_wait(f"{made.name}.spread", b'{"n": %d}' % n, partition=n % 4)

    asyncio.run(send())


def await_both(worker: Running, made: Program) -> None:
    """Until each of two workers has two of the partitions."""
    topic = re.escape(f"{made.name}.spread")
    worker.await_text(rf"assigned {topic}\[0\], {topic}\[1\] ")
    worker.await_text(rf"assigned {topic}\[2\], {topic}\[3\] ")


@pytest.fixture
def two(tmp_path: Path, embedded: EmbeddedBroker) -> Iterator[tuple[Running, Program]]:
    """Two workers that fail at n=13 and wait at n=7."""
    then = "assert order['n'] != 13; await asyncio.sleep(60 * (order['n'] == 7))"
    made = spread(tmp_path, embedded.brokers, then)
    with made.start("--workers", "2") as worker:
        await_both(worker, made)
        yield worker, made


def test_the_partitions_are_shared_out_and_a_signal_stops_all_in_order(two: tuple[Running, Program]) -> None:
    worker, made = two
    fill(made, 4)
    for n in range(4):
        worker.await_text(f"handled {n} in")
    worker.signal(signal.SIGTERM)
    ended = worker.finish()
    assert ended.code == 0
    assert len(set(re.findall(r"in (\d+)", ended.output))) == 2
    assert len(re.findall(r"stopped after .* handled: .* 2 ", ended.errors)) == 2


def test_one_that_fails_stops_the_others_and_gives_its_exit_code(two: tuple[Running, Program]) -> None:
    worker, made = two
    asyncio.run(_send_one(made, b'{"n": 13}'))
    ended = worker.finish()
    assert ended.code == 1
    assert re.search(r"worker [12] of 2 \(process \d+\) failed with exit code 1; the others are stopped", ended.errors)
    assert len(re.findall("stopped after", ended.errors)) == 2
    assert ended.errors.count("Traceback") == 1


def test_one_that_is_killed_counts_as_failed(two: tuple[Running, Program]) -> None:
    worker, _ = two
    victim = worker.children()[1]
    os.kill(victim, signal.SIGKILL)
    ended = worker.finish()
    assert ended.code == 1
    assert f"worker 2 of 2 (process {victim}) was killed by SIGKILL" in ended.errors
    assert len(re.findall("stopped after", ended.errors)) == 1


def test_ctrl_c_of_a_terminal_reaches_only_the_supervisor(two: tuple[Running, Program]) -> None:
    worker, _ = two
    assert [os.getsid(child) for child in worker.children()] == worker.children()


def test_none_outlives_a_supervisor_that_is_killed(two: tuple[Running, Program]) -> None:
    worker, _ = two
    children = worker.children()
    assert len(children) == 2
    worker.signal(signal.SIGKILL)
    await_gone(children)


def test_the_second_signal_ends_all_at_once(two: tuple[Running, Program]) -> None:
    worker, made = two
    children = worker.children()
    asyncio.run(_send_one(made, b'{"n": 7}'))
    worker.await_text("handled 7")
    worker.insist(signal.SIGINT)
    assert worker.finish().code == 130
    await_gone(children)


def test_when_all_are_idle_the_exit_code_is_0(tmp_path: Path, embedded: EmbeddedBroker) -> None:
    made = spread(tmp_path, embedded.brokers)
    fill(made, 8)
    (tmp_path / "signal.py").write_text("raise AssertionError('not that of the standard library')")
    ended = made.run("--workers", "2", "--stop-when-idle", "300ms")
    assert ended.code == 0
    assert sorted(map(int, re.findall(r"handled (\d+)", ended.output))) == list(range(8))


def test_a_target_that_does_not_load_is_shown_once(tmp_path: Path) -> None:
    made = module(tmp_path, "127.0.0.1:1", "raise ValueError('no good')")
    ended = made.run("--workers", "3")
    assert (ended.code, ended.errors.count("no good")) == (2, 2)  # the line, and what it raised
    assert ended.errors.count("Traceback") == 1


def test_each_serves_at_a_port_of_its_own(tmp_path: Path, embedded: EmbeddedBroker) -> None:
    made, port = spread(tmp_path, embedded.brokers), free_port()
    with made.start("--workers", "2", "--http", f"127.0.0.1:{port}") as worker:
        worker.await_text(f"metrics and health are on http://127.0.0.1:{port} ")
        worker.await_text(f"metrics and health are on http://127.0.0.1:{port + 1} ")
        worker.signal(signal.SIGTERM)
        assert worker.finish().code == 0


@pytest.mark.parametrize(
    ("http", "second"),
    [(None, "127.0.0.1:9464"), ("off", "off"), ("0.0.0.0:0", "0.0.0.0:0"), ("[::1]:9000", "[::1]:9001")],
)
def test_only_a_chosen_port_is_counted_on_from(http: str | None, second: str) -> None:
    settings = Settings.load({"http": http}, {}, {})
    assert http_of(0, settings) == settings.http
    assert http_of(1, settings) == second


def test_there_is_no_port_after_the_last() -> None:
    with pytest.raises(ConfigurationError, match="worker 2 would serve at port 65536"):
        http_of(1, Settings.load({"http": "127.0.0.1:65535"}, {}, {}))


def test_reload_is_for_one_process(tmp_path: Path) -> None:
    ended = module(tmp_path, "127.0.0.1:1", "").run("--workers", "2", "--reload")
    assert (ended.code, "leave out --workers" in ended.errors) == (2, True)


async def _send_one(made: Program, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=made.brokers) as producer:
        await producer.send_and_wait(f"{made.name}.spread", value, partition=0)
