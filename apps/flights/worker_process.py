"""`streamkit worker` in a process of its own, as one would start it by hand."""

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from apps.flights.metrics import Scrape, scrape
from streamkit.cli.embedded import accepts_connections, free_port, spawn, stop_process

ROOT = Path(__file__).parents[2]
# `streamkit`, which finds this package from here as well as from any other directory.
PROGRAM = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from streamkit.cli import main; main()"
PORT = 9464  # where workers serve metrics unless told otherwise
START_SECONDS = 30.0
STOP_SECONDS = 40.0  # more than the worker's own drain_timeout


class WorkerFailed(Exception):
    """The worker ended before it was asked to, or with an exit code that is not 0; says what it logged last."""


class WorkerProcess:
    """Runs all agents of the app for the length of a `with` block, and ends them in order."""

    def __init__(self, brokers: str) -> None:
        port = free_port() if accepts_connections(PORT) else PORT
        self.url = f"http://127.0.0.1:{port}"
        self.arguments = ["worker", "apps.flights:app", "--brokers", brokers]
        self.arguments += ["--http", f"127.0.0.1:{port}", "--create-topics"]
        self._log = tempfile.NamedTemporaryFile(prefix="streamkit-flights-", suffix=".log")  # noqa: SIM115
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = spawn([sys.executable, "-c", PROGRAM, *self.arguments], self._log.fileno())
        try:
            self._await_ready()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    @property
    def command(self) -> str:
        """As one would type it, on two lines."""
        return "streamkit " + " ".join(self.arguments).replace(" --http", " \\\n    --http")

    async def scrape(self) -> Scrape:
        """Raises WorkerFailed if the worker has ended."""
        self.check()
        return await asyncio.to_thread(scrape, f"{self.url}/metrics")

    def check(self) -> None:
        """Raises WorkerFailed if the worker has ended."""
        if self._process is None or self._process.poll() is not None:
            raise WorkerFailed(f"the worker has ended\n{self._tail()}")

    def stop(self) -> None:
        """SIGTERM, and wait until it has drained and committed. Raises WorkerFailed if its exit code is not 0."""
        self.check()
        assert self._process is not None
        stop_process(self._process, STOP_SECONDS)
        if self._process.returncode:
            raise WorkerFailed(f"the worker's exit code is {self._process.returncode}\n{self._tail()}")

    def _await_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            self.check()
            if time.monotonic() > deadline:
                raise WorkerFailed(f"the worker was not ready after {START_SECONDS:.0f} s\n{self._tail()}")
            time.sleep(0.05)

    def _ready(self) -> bool:
        try:
            scrape(f"{self.url}/readyz")
        except OSError:  # nothing answers yet, or 503
            return False
        return True

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            stop_process(self._process, STOP_SECONDS)
        self._log.close()

    def _tail(self) -> str:
        lines = Path(self._log.name).read_text(errors="replace").splitlines()
        return "\n".join(f"  | {line}" for line in lines[-25:])
