"""Prometheus and promtool: those on PATH, else those of Debian's package, unpacked into the user's cache.

`python -m tests.deploy.prometheus --fetch` fetches them. Nothing is installed, and no root is needed.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamkit.cli.embedded import await_port, free_port, spawn, stop_process

PROGRAMS = ("prometheus", "promtool")
START_SECONDS = 30.0
STOP_SECONDS = 10.0
SCRAPED_WITHIN = 30.0


class PrometheusUnavailable(Exception):
    """It cannot be had here; the message says why."""


@dataclass(frozen=True)
class Tools:
    prometheus: str
    promtool: str

    def check(self, *arguments: str, stdin: str = "") -> str:
        """Run `promtool check`; what it printed. Raises AssertionError with that if it refuses."""
        return self._run("check", *arguments, stdin=stdin)

    def test_rules(self, *files: str) -> None:
        """Run `promtool test rules`. Raises AssertionError with what it printed if a case fails."""
        self._run("test", "rules", *files)

    def _run(self, *arguments: str, stdin: str = "") -> str:
        command = [self.promtool, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


class Server:
    """A running Prometheus, asked over its HTTP API."""

    def __init__(self, url: str) -> None:
        self._url = url

    def await_ready(self) -> None:
        """Until it has read its data: before that it answers 503."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            with suppress(urllib.error.HTTPError), urllib.request.urlopen(f"{self._url}/-/ready", timeout=10):
                return
            assert time.monotonic() < deadline, "Prometheus is not ready"
            time.sleep(0.05)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of an instant query: a list of `{"metric": labels, "value": [time, text]}`."""
        found: list[dict[str, Any]] = self._ask(f"query?{urllib.parse.urlencode({'query': expression})}")["result"]
        return found

    def scrapes(self) -> list[dict[str, Any]]:
        """The targets that are scraped, with `health` and `lastError`."""
        targets: list[dict[str, Any]] = self._ask("targets?state=active")["activeTargets"]
        return targets

    def failing_rules(self) -> list[str]:
        """What Prometheus could not evaluate, and why."""
        rules = [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]
        assert rules
        return [f"{rule['name']}: {rule['lastError']}" for rule in rules if rule["health"] == "err"]

    def await_result(self, expression: str) -> list[dict[str, Any]]:
        """Until the query has a result: it takes a scrape or two."""
        deadline = time.monotonic() + SCRAPED_WITHIN
        while not (found := self.query(expression)):
            assert time.monotonic() < deadline, f"no {expression}; targets: {self.scrapes()}"
            time.sleep(0.1)
        return found

    def _ask(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}", timeout=10) as answer:
            data: dict[str, Any] = json.load(answer)["data"]
        return data


@contextmanager
def serving(tools: Tools, config: Path, flags: Sequence[str] = ()) -> Iterator[Server]:
    """A Prometheus on a free port of 127.0.0.1; its data lies beside `config`."""
    port = free_port()
    log = config.with_suffix(".log")
    command = [tools.prometheus, f"--config.file={config}", f"--storage.tsdb.path={config.parent / 'data'}", *flags]
    with log.open("wb") as output:
        process = spawn([*command, f"--web.listen-address=127.0.0.1:{port}"], output.fileno())
    try:
        await_port(process, port, START_SECONDS, log)
        server = Server(f"http://127.0.0.1:{port}")
        server.await_ready()
        yield server
    finally:
        stop_process(process, STOP_SECONDS)


def fetch_tools() -> Tools:
    """Both programs, fetched once into the user's cache; safe in concurrent runs. Raises PrometheusUnavailable."""
    on_path = [shutil.which(name) for name in PROGRAMS]
    if all(on_path):
        return Tools(*map(str, on_path))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "streamkit-test"
    programs = cache / "prometheus"
    if not programs.is_dir():
        _unpack_debian_package(cache, programs)
    return Tools(*(str(programs / name) for name in PROGRAMS))


def _unpack_debian_package(cache: Path, programs: Path) -> None:
    missing = [name for name in ("apt-get", "dpkg-deb") if shutil.which(name) is None]
    if missing:
        raise PrometheusUnavailable(f"no promtool: neither on PATH, nor {' and '.join(missing)} to fetch it with")
    cache.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix="prometheus.", suffix=".part", dir=cache))
    try:
        _run(["dpkg-deb", "--extract", str(_download(part)), str(part / "root")], part)
        # Fails when another run was faster: its programs are as good.
        with suppress(OSError):
            (part / "root/usr/bin").rename(programs)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _download(directory: Path) -> Path:
    """The package, by the lists of packages of the system, or by lists of our own where it has none."""
    apt = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root"]
    try:
        _run([*apt, "download", "prometheus"], directory)
    except PrometheusUnavailable:
        (directory / "lists/partial").mkdir(parents=True)
        (directory / "cache/archives/partial").mkdir(parents=True)
        apt += ["-o", f"Dir::State::lists={directory / 'lists'}", "-o", f"Dir::Cache={directory / 'cache'}"]
        _run([*apt, "update"], directory)
        _run([*apt, "download", "prometheus"], directory)
    return next(directory.glob("prometheus_*.deb"))


def _run(command: list[str], directory: Path) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        message = (done.stderr or done.stdout).strip().partition("\n")[0]
        raise PrometheusUnavailable(f"no promtool: {command[0]} cannot fetch it: {message[:200]}")


def main() -> int:
    try:
        print(f"promtool: {fetch_tools().promtool}", flush=True)
    except PrometheusUnavailable as error:
        print(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
