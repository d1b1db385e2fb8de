"""A Kafka broker in a child process, for development and tests: the binary of the optional package noida-db.

A single node that holds its records in memory. Where it differs from a genuine Kafka: it never expires group members
that died, it creates missing topics, and it accepts commit metadata over 4,096 characters.
"""

import contextlib
import ctypes
import importlib.util
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

START_SECONDS = 15.0
STOP_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class EmbeddedBroker:
    """A broker on 127.0.0.1 for the length of a `with` block.

    Takes a free port unless one is given. Raises `RuntimeError` when the package noida-db is missing, when the given
    port is in use, or when the broker does not accept connections within 15 s (with what it printed).
    """

    def __init__(self, port: int | None = None) -> None:
        self.port = free_port() if port is None else port
        self._process: subprocess.Popen[bytes] | None = None
        self._directory: Path | None = None

    @property
    def brokers(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        binary = _binary()
        if accepts_connections(self.port):
            raise RuntimeError(f"cannot start the embedded broker: port {self.port} is in use; choose another")
        self._directory = Path(tempfile.mkdtemp(prefix="streamkit-embedded-"))
        try:
            self._process = self._spawn(binary, self._directory)
            await_port(self._process, self.port, START_SECONDS, self._log())
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the broker; its records are gone. Does nothing the second time."""
        if self._process is not None:
            stop_process(self._process, STOP_SECONDS)
            self._process = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def _spawn(self, binary: Path, directory: Path) -> subprocess.Popen[bytes]:
        command = [
            str(binary),
            "start",
            "--only",
            "kafka",
            "--kafka-port",
            str(self.port),
            "--data-dir",
            str(directory),
        ]
        # To a file, not to the terminal: on older systems the loader warns about GLIBC_2.39, which is harmless.
        with self._log().open("wb") as log:
            return spawn(command, log.fileno())

    def _log(self) -> Path:
        assert self._directory is not None
        return self._directory / "broker.log"


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on.

    Below the range from which the system takes the ports of outgoing connections: a client that keeps dialling a broker
    which is down could otherwise be connected to itself, and hold the port that the broker wants back.
    """
    for port in random.sample(range(15_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port on 127.0.0.1")


def accepts_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def spawn(command: list[str], output: int) -> subprocess.Popen[bytes]:
    """Start a server that ends with this process, its output going to the file descriptor `output`."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        # A session of its own: Ctrl-C is for the worker, which still needs the broker while it drains.
        start_new_session=True,
        preexec_fn=_dies_with_parent(),
    )


def await_port(process: subprocess.Popen[bytes], port: int, seconds: float, log: Path) -> None:
    """Return when `process` accepts connections; raise `RuntimeError` with the end of `log` when it does not."""
    deadline = time.monotonic() + seconds
    while True:
        ready = accepts_connections(port)
        if process.poll() is not None:
            raise RuntimeError(f"the broker ended with exit code {process.returncode}:\n{_tail(log)}")
        if ready:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"the broker was not up after {seconds:.0f} s:\n{_tail(log)}")
        time.sleep(0.02)


def stop_process(process: subprocess.Popen[bytes], seconds: float) -> None:
    """SIGTERM, and SIGKILL after `seconds`."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _binary() -> Path:
    """The server itself: the package's wrapper in Python forwards no SIGTERM."""
    spec = importlib.util.find_spec("noida_db")
    name = "noida-db.exe" if sys.platform == "win32" else "noida-db"
    path = Path(spec.origin).parent / name if spec and spec.origin else None
    if path is None or not path.is_file():
        raise RuntimeError(
            "the embedded broker needs the package noida-db: pip install 'streamkit-kafka[dev]'"
            " (or name your own Kafka with --brokers)"
        )
    path.chmod(path.stat().st_mode | 0o100)
    return path


def _dies_with_parent() -> Callable[[], None] | None:
    """What the child calls before it becomes the broker, so that not even SIGKILL of this process leaves it behind.

    Linux only, and only from the main thread: the signal is sent when the *thread* that started the child ends.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) and None


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
