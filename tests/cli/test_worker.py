"""`streamkit worker` on the embedded broker: what it does, and how it fails."""

import json
import re
import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from streamkit.cli.embedded import EmbeddedBroker
from tests.cli.support import module, program

IDLE = ("--stop-when-idle", "300ms")
PRINTS = """
@app.agent(source)
async def audit(order: dict) -> None:
    print("handled", order["n"])
"""
SINK = "sink = app.topic(app.name + '.out', value=dict, partitions=1)\n"


def test_everything_is_handled_and_committed_and_summed_up(tmp_path: Path, embedded: EmbeddedBroker) -> None:
    made = program(tmp_path, embedded.brokers, PRINTS, [b'{"n": 1}', b'{"n": 2}'])
    ended = made.run(*IDLE)
    assert (ended.code, ended.output) == (0, "handled 1\nhandled 2\n")
    assert f"runs app {made.name} on {embedded.brokers}" in ended.errors
    assert f"agent audit: {made.source}, group {made.name}.audit, concurrency 1" in ended.errors
    assert re.search(r"stopped after \d+\.\d s; records handled: audit 2 ", ended.errors)
    assert made.committed("audit") == 2


def test_only_the_agents_that_are_named_run(tmp_path: Path, embedded: EmbeddedBroker) -> None:
    other = "\n@app.agent(source)\nasync def other(order: dict) -> None: print('other')\n"
    made = program(tmp_path, embedded.brokers, PRINTS + other, [b'{"n": 1}'])
    ended = made.run(*IDLE, "--agent", "audit")
    assert (ended.code, ended.output) == (0, "handled 1\n")
    assert made.committed("other") is None


def test_missing_topics_are_created_if_wanted(tmp_path: Path, embedded: EmbeddedBroker) -> None:
    made = program(tmp_path, embedded.brokers, SINK + PRINTS)
    refused = made.run()
    assert refused.code == 78
    assert (
        f"kafka-topics.sh --bootstrap-server {embedded.brokers} --create --topic {made.name}.out --partitions 1"
        in refused.errors
    )
    assert "or start with --create-topics" in refused.errors
    assert "Traceback" not in refused.errors
    assert made.run(*IDLE, "--create-topics").code == 0


def test_an_undecodable_record_stops_the_worker_and_is_not_passed(tmp_path: Path, embedded: EmbeddedBroker) -> None:
    made = program(tmp_path, embedded.brokers, PRINTS, [b'{"n": 1}', b"\xff\xfe nonsense"])
    ended = made.run()
    assert (ended.code, ended.output) == (1, "handled 1\n")
    assert f"agent 'audit' failed at stage decode-value on {made.source}[0] offset 1, key b'k'" in ended.errors
    assert "ff fe 20 6e 6f" in ended.errors
    assert "Traceback" not in ended.errors
    assert made.committed("audit") == 1


def test_a_handler_that_raises_shows_its_own_traceback_once(tmp_path: Path, embedded: EmbeddedBroker) -> None:
    code = "\n@app.agent(source)\nasync def audit(order: dict) -> None:\n    await asyncio.sleep(0)\n    order['no']\n"
    made = program(tmp_path, embedded.brokers, code, [b'{"n": 1}'])
    ended = made.run()
    assert ended.code == 1
    assert f"failed at stage handle on {made.source}[0] offset 0, key b'k': KeyError: 'no'" in ended.errors
    assert ended.errors.count("Traceback") == ended.errors.count("failed at stage") == 1
    assert f'File "{tmp_path}/program.py", line ' in ended.errors
    assert "/streamkit/" not in ended.errors
    assert made.committed("audit") == 0


def test_a_handler_that_exits_has_not_succeeded(tmp_path: Path, embedded: EmbeddedBroker) -> None:
    made = program(tmp_path, embedded.brokers, PRINTS + "    raise SystemExit(0)\n", [b'{"n": 1}'])
    ended = made.run()
    assert (ended.code, ended.output) == (1, "handled 1\n")
    assert "SystemExit" in ended.errors or "sys.exit(0)" in ended.errors
    assert made.committed("audit") == 0


@pytest.mark.parametrize(
    ("returned", "message"),
    [("{'n': 'x' * 2_000_000}", ""), ("12", "EncodeError: expected dict, got int: 12")],
)
def test_an_output_that_cannot_be_sent_stops_the_worker_at_stage_sink(
    tmp_path: Path, embedded: EmbeddedBroker, returned: str, message: str
) -> None:
    code = f"{SINK}\n@app.agent(source, sink=sink)\nasync def copy(order: dict):\n    return {returned}\n"
    made = program(tmp_path, embedded.brokers, code, [b'{"n": 1}'])
    ended = made.run("--create-topics")
    assert ended.code == 1
    assert f"agent 'copy' failed at stage sink on {made.source}[0] offset 0" in ended.errors
    assert message in ended.errors
    assert made.committed("copy") == 0


def test_logs_are_json_lines_if_wanted(tmp_path: Path, embedded: EmbeddedBroker) -> None:
    code = """
import logging, structlog, warnings
logging.basicConfig()
@app.agent(source)
async def audit(order: dict) -> None:
    logging.getLogger("mine").warning("n is %d", order["n"], extra={"n": order["n"]})
    structlog.get_logger("also mine").info("bound", n=2)
    warnings.warn("look out")
    raise ValueError("ünique")
"""
    made = program(tmp_path, embedded.brokers, code, [b'{"n": 1}'])
    ended = made.run("--log-format", "json")
    lines = [json.loads(line) for line in ended.errors.splitlines()]
    assert ended.code == 1
    assert all({"timestamp", "level", "logger", "event"} <= line.keys() for line in lines)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["timestamp"]) for line in lines)
    (mine,) = [line for line in lines if line["logger"] == "mine"]
    assert (mine["level"], mine["event"], mine["n"]) == ("warning", "n is 1", 1)
    (also,) = [line for line in lines if line["event"] == "bound"]
    assert (also["level"], also["logger"], also["n"]) == ("info", "also mine", 2)
    assert any("look out" in line["event"] for line in lines if line["logger"] == "py.warnings")
    (failure,) = [line for line in lines if line["level"] == "error"]
    assert "failed at stage handle" in failure["event"]
    assert failure["exception"].endswith("ValueError: ünique")


def test_metrics_are_served_where_the_log_says_until_the_worker_is_stopped(
    tmp_path: Path, embedded: EmbeddedBroker
) -> None:
    made = program(tmp_path, embedded.brokers, PRINTS, [b'{"n": 1}'])
    with made.start("--http", "127.0.0.1:0") as worker:
        url = worker.await_text(r"metrics and health are on (\S+)")[1]
        worker.await_text("handled 1")
        deadline = time.monotonic() + 10
        while get(f"{url}/readyz")[0] != 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert get(f"{url}/readyz")[0] == get(f"{url}/livez")[0] == 200
        assert (
            f'streamkit_records_consumed_total{{group="{made.name}.audit",topic="{made.source}"}} 1.0'
            in (get(f"{url}/metrics")[1])
        )
        worker.signal(signal.SIGTERM)
        assert worker.finish().code == 0
    assert made.committed("audit") == 1


def test_a_busy_address_that_was_chosen_exits_78(tmp_path: Path) -> None:
    made = module(tmp_path, "127.0.0.1:1", PRINTS)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = made.run("--http", f"127.0.0.1:{taken.getsockname()[1]}")
    assert (ended.code, "cannot serve metrics and health on" in ended.errors) == (78, True)


@pytest.mark.parametrize("silent", [False, True], ids=["nothing listens", "nothing answers"])
def test_unreachable_brokers_are_reported_and_tried_again(tmp_path: Path, silent: bool) -> None:
    made = module(tmp_path, "127.0.0.1:1", PRINTS)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if silent:
            listening.listen()
        brokers = f"127.0.0.1:{listening.getsockname()[1]}"
        options = ("--brokers", brokers, "--http", "127.0.0.1:0")
        with made.start(*options, STREAMKIT_CONNECT_TIMEOUT="500ms") as worker:
            url = worker.await_text(r"metrics and health are on (\S+)")[1]
            worker.await_text(rf"(?s)(cannot reach the brokers at {brokers}.*){{2}}")
            assert get(f"{url}/livez")[0] == 200
            code, why = get(f"{url}/readyz")
            assert (code, f"cannot reach the brokers at {brokers}" in why) == (503, True)
            worker.signal(signal.SIGTERM)
            assert worker.finish().code == 0


def test_an_address_that_is_none_exits_78(tmp_path: Path) -> None:
    ended = module(tmp_path, "127.0.0.1:1", PRINTS).run("--brokers", "kafka://somewhere")
    assert (ended.code, "kafka://somewhere: write HOST:PORT" in ended.errors) == (78, True)


def test_the_broker_in_the_process_needs_no_other(tmp_path: Path) -> None:
    ended = module(tmp_path, "127.0.0.1:1", PRINTS).run("--brokers", "memory://", "--create-topics", *IDLE)
    assert ended.code == 0


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()
