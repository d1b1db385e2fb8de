"""`streamkit dev`: no broker but its own."""

import os
import signal
import time
from pathlib import Path

import pytest

from streamkit.cli.embedded import accepts_connections, free_port
from tests.cli.support import ROOT, TIMEOUT, await_records, running, runs, streamkit

CODE = """
{before}
from streamkit import App
app = App("shop")
orders = app.topic("orders", value=dict, replication=3)
invoices = app.topic("invoices", value=dict, partitions=2)

@app.agent(orders, sink=invoices)
async def charge(order: dict) -> dict: return order
"""


def write(directory: Path, before: str = "") -> None:
    (directory / "shop.py").write_text(CODE.format(before=before))


def await_file(path: Path) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_app_runs_on_a_broker_of_its_own_that_ends_with_it(tmp_path: Path) -> None:
    write(tmp_path)
    port = free_port()
    with running(tmp_path, "dev", "shop", "--port", str(port), "--http", "off") as dev:
        dev.await_text(f"embedded broker at 127.0.0.1:{port}")
        dev.await_text(r"assigned orders\[0\], orders\[1\], orders\[2\], orders\[3\]")
        assert accepts_connections(port)
        dev.signal(signal.SIGINT)
        assert dev.finish().code == 0
    assert not accepts_connections(port)


def test_others_are_told_how_to_join_and_can(tmp_path: Path) -> None:
    write(tmp_path)
    with running(tmp_path, "dev", "shop", "--http", "off") as dev:
        brokers = dev.await_text(r"embedded broker at (127\.0\.0\.1:\d+); other tools join it with --brokers \1;")[1]
        dev.await_text(r"topics: orders \(4 partitions\), invoices \(2 partitions\)")
        told = dev.await_text(r"from another terminal: streamkit (send shop:orders VALUE --brokers \S+)")[1]
        dev.await_text("created orders, invoices")
        ended = streamkit(tmp_path, *told.replace("VALUE", '{"n":1}').split())
        assert (ended.code, ended.errors.startswith("sent 1 record to orders in ")) == (0, True)
        assert [record.value for record in await_records(brokers, "invoices", 1)] == [b'{"n":1}']


def test_the_broker_keeps_records_and_offsets_while_the_code_is_reloaded(tmp_path: Path) -> None:
    write(tmp_path)
    with running(tmp_path, "dev", "shop", "--http", "off") as dev:
        brokers = dev.await_text(r"embedded broker at (\S+);")[1]
        dev.await_text("assigned")
        send = ("send", "shop:orders", "--brokers", brokers, "--partition", "0")
        assert streamkit(tmp_path, *send, '{"n":1}').code == 0
        await_records(brokers, "invoices", 1)
        (tmp_path / "shop.py").write_text(CODE.format(before="").replace("return order", "return {**order, 'new': 1}"))
        dev.await_text("reloading: shop.py changed")
        assert streamkit(tmp_path, *send, '{"n":2}').code == 0
        values = [record.value for record in await_records(brokers, "invoices", 2)]
        assert sorted(values, key=lambda value: value or b"") == [b'{"n":1}', b'{"n":2,"new":1}']
        dev.signal(signal.SIGINT)
        assert dev.finish().code == 0


def test_the_broker_of_its_own_wants_no_login_whatever_the_app_says(tmp_path: Path) -> None:
    write(tmp_path)
    program = tmp_path / "shop.py"
    secured = 'App("shop", security_protocol="SASL_SSL", sasl_password_file="/nowhere")'
    program.write_text(program.read_text().replace('App("shop")', secured))
    environment = {"STREAMKIT_SASL_MECHANISM": "PLAIN", "STREAMKIT_SSL_CAFILE": "/nowhere"}
    with running(tmp_path, "dev", "shop", "--http", "off", environment=environment) as dev:
        dev.await_text(r"assigned orders\[0\]")
        dev.signal(signal.SIGINT)
        assert dev.finish().code == 0


def test_without_reload_a_change_is_nothing_and_a_failure_ends_it(tmp_path: Path) -> None:
    write(tmp_path)
    with running(tmp_path, "dev", "shop", "--no-reload", "--http", "off") as dev:
        brokers = dev.await_text(r"embedded broker at (\S+);")[1]
        dev.await_text("assigned")
        (tmp_path / "shop.py").touch()
        assert streamkit(tmp_path, "send", "orders", "no JSON", "--brokers", brokers).code == 0
        ended = dev.finish()
    assert (ended.code, "reloading" in ended.errors) == (1, False)
    assert "failed at stage decode-value" in ended.errors
    assert not accepts_connections(int(brokers.rpartition(":")[2]))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_the_broker_starts_leaves_nothing(tmp_path: Path, number: signal.Signals, code: int) -> None:
    write(tmp_path)
    package = tmp_path / "noida_db"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "noida-db").write_text("#!/bin/sh\necho $$ > pid.new; mv pid.new pid; exec sleep 60\n")
    paths = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "TMPDIR": str(tmp_path)}
    with running(tmp_path, "dev", "shop", environment=paths) as dev:
        await_file(tmp_path / "pid")
        dev.signal(number)
        ended = dev.finish()
    assert (ended.code, ended.output + ended.errors) == (code, "")
    assert not runs(int((tmp_path / "pid").read_text()))
    assert not list(tmp_path.glob("streamkit-embedded-*"))


def test_the_second_signal_ends_the_broker_too(tmp_path: Path) -> None:
    write(tmp_path)
    port = free_port()
    with running(tmp_path, "dev", "shop", "--port", str(port), "--http", "off") as dev:
        dev.await_text("assigned")
        dev.signal(signal.SIGINT)
        dev.await_text("SIGINT: stopping")
        dev.signal(signal.SIGINT)
        assert dev.finish().code in (0, 130)  # it may have stopped in between
    assert not accepts_connections(port)


def test_a_missing_package_exits_78_and_says_how_to_get_it(tmp_path: Path) -> None:
    write(tmp_path)
    missing = "import sys; sys.modules['noida_db'] = None"
    (tmp_path / "sitecustomize.py").write_text(missing)
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    ended = streamkit(tmp_path, "dev", "shop", environment={"PYTHONPATH": paths})
    assert (ended.code, "pip install 'streamkit-kafka[dev]'" in ended.errors) == (78, True)
    assert "Traceback" not in ended.errors
