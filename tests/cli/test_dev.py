"""`streamkit dev`: no broker but its own."""

import signal
from pathlib import Path

from streamkit.cli.embedded import accepts_connections, free_port
from tests.cli.support import running, streamkit

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
    write(tmp_path, before="import sys; sys.modules['noida_db'] = None")
    ended = streamkit(tmp_path, "dev", "shop")
    assert (ended.code, "pip install 'streamkit-kafka[dev]'" in ended.errors) == (78, True)
    assert "Traceback" not in ended.errors
