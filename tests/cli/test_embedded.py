import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamkit.cli.embedded import EmbeddedBroker, accepts_connections, free_port

PARENT = """
import signal
from streamkit.cli.embedded import EmbeddedBroker
with EmbeddedBroker() as broker:
    print(broker.port, flush=True)
    signal.pause()
"""


def test_the_broker_accepts_connections_inside_the_block_and_not_after_it() -> None:
    with EmbeddedBroker() as broker:
        assert accepts_connections(broker.port)
    assert not accepts_connections(broker.port)


def test_the_broker_ends_when_the_block_raises() -> None:
    with pytest.raises(ZeroDivisionError), EmbeddedBroker() as broker:
        raise ZeroDivisionError
    assert not accepts_connections(broker.port)


def test_a_given_port_is_the_one_that_is_taken() -> None:
    port = free_port()
    with EmbeddedBroker(port) as broker:
        assert broker.brokers == f"127.0.0.1:{port}"


def test_a_busy_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(RuntimeError, match=f"port {port} is in use; choose another"):
            EmbeddedBroker(port).__enter__()


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"pip install 'streamkit-kafka\[dev\]'"):
        EmbeddedBroker().__enter__()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
def test_the_broker_does_not_outlive_its_parent(number: signal.Signals, tmp_path: Path) -> None:
    # A parent that is killed cannot remove the broker's directory.
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        assert accepts_connections(port)
        parent.send_signal(number)
    assert_closes(port, within=5.0)


def assert_closes(port: int, within: float) -> None:
    deadline = time.monotonic() + within
    while accepts_connections(port):
        assert time.monotonic() < deadline, f"port {port} is still open"
        time.sleep(0.01)
