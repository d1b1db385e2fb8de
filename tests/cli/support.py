"""Runs `streamkit` in a process of its own, as a user does."""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord

from streamkit import TopicPartition
from streamkit.settings import Settings
from streamkit.transport.base import NewTopic
from streamkit.transport.kafka import KafkaTransport

ROOT = Path(__file__).parents[2]
# -P: the current directory gets on sys.path by streamkit, as under the console script, and not by Python.
COMMAND = [sys.executable, "-P", "-c", "from streamkit.cli import main; main()"]
TIMEOUT = 30.0

HEADER = """
import asyncio, time
from streamkit import App
app = App({name!r})
source = app.topic({source!r}, value=dict, partitions=1)
"""


@dataclass(frozen=True)
class Finished:
    code: int
    output: str
    errors: str


class Running:
    """A `streamkit` process; its standard output and errors go to files in its directory."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path, errors: Path) -> None:
        self._process = process
        self._output = output
        self._errors = errors

    def await_text(self, pattern: str) -> re.Match[str]:
        """Until the pattern appears in output or errors."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            ended = self._process.poll() is not None
            text = self._output.read_text() + self._errors.read_text()
            if match := re.search(pattern, text):
                return match
            assert not ended and time.monotonic() < deadline, f"no {pattern!r} in:\n{text}"
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    @property
    def output(self) -> str:
        return self._output.read_text()

    def children(self) -> list[int]:
        """The processes that it has started and that still run."""
        return children_of(self.pid)

    def signal(self, number: Signals) -> None:
        self._process.send_signal(number)

    def insist(self, number: Signals) -> None:
        """Send it until the process has ended: of two of a kind that arrive together the second can be lost."""
        while self._process.poll() is None:
            self.signal(number)
            time.sleep(0.2)

    def finish(self) -> Finished:
        code = self._process.wait(TIMEOUT)
        return Finished(code, self._output.read_text(), self._errors.read_text())


@contextmanager
def running(
    directory: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
) -> Iterator[Running]:
    """Start `streamkit` in the directory; it does not outlive the block."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STREAMKIT_")}
    variables = {**inherited, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(environment or {})}
    with running_command([*COMMAND, *arguments], directory, variables, stdin) as process:
        yield process


@contextmanager
def running_command(
    command: Sequence[str], directory: Path, environment: Mapping[str, str], stdin: int = subprocess.DEVNULL
) -> Iterator[Running]:
    """Start a program in the directory; it does not outlive the block."""
    paths = directory / f"out-{uuid4().hex}", directory / f"err-{uuid4().hex}"
    with paths[0].open("wb") as output, paths[1].open("wb") as errors:
        process = subprocess.Popen(command, cwd=directory, env=environment, stdin=stdin, stdout=output, stderr=errors)
    try:
        yield Running(process, *paths)
    finally:
        process.kill()
        process.wait()


def streamkit(
    directory: Path, *arguments: str, environment: Mapping[str, str] | None = None, given: bytes | None = None
) -> Finished:
    """Run `streamkit` in the directory to its end, with `given` on its standard input."""
    reads, writes = os.pipe()
    try:
        with running(directory, *arguments, environment=environment, stdin=reads) as process:
            if given is not None:
                os.write(writes, given)
            os.close(writes)
            return process.finish()
    finally:
        os.close(reads)


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def await_gone(pids: Sequence[int]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while left := [pid for pid in pids if runs(pid)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Whether there is such a process, and not only its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class Program:
    """A module `program` with an app of its own name, whose topic `source` has one partition."""

    directory: Path
    name: str
    brokers: str

    @property
    def source(self) -> str:
        return f"{self.name}.in"

    @property
    def arguments(self) -> list[str]:
        return ["worker", "program", "--brokers", self.brokers, "--http", "off"]

    def run(self, *options: str, **environment: str) -> Finished:
        return streamkit(self.directory, *self.arguments, *options, environment=environment)

    @contextmanager
    def start(self, *options: str, **environment: str) -> Iterator[Running]:
        with running(self.directory, *self.arguments, *options, environment=environment) as process:
            yield process

    def committed(self, agent: str) -> int | None:
        """The offset that the agent's group has committed in `source`."""
        partition = TopicPartition(self.source, 0)

        async def ask() -> int | None:
            admin = KafkaTransport(Settings.load({"brokers": self.brokers}, {}, {})).admin()
            await admin.start()
            try:
                found = await admin.committed(f"{self.name}.{agent}", [partition])
            finally:
                await admin.stop()
            return found[partition].offset if partition in found else None

        return asyncio.run(ask())


def module(directory: Path, brokers: str, code: str) -> Program:
    """Write the module only: no broker is asked."""
    made = Program(directory, f"cli-{uuid4().hex[:10]}", brokers)
    (directory / "program.py").write_text(HEADER.format(name=made.name, source=made.source) + code)
    return made


def program(directory: Path, brokers: str, code: str, values: Sequence[bytes] = ()) -> Program:
    """Write the module, and the values to its source."""
    made = module(directory, brokers, code)
    asyncio.run(_fill(made, values))
    return made


def create_topic(brokers: str, name: str, partitions: int = 1) -> None:
    async def create() -> None:
        admin = KafkaTransport(Settings.load({"brokers": brokers}, {}, {})).admin()
        await admin.start()
        try:
            await admin.create_topics([NewTopic(name, partitions, None, {})])
        finally:
            await admin.stop()

    asyncio.run(create())


def records_of(brokers: str, topic: str) -> list[ConsumerRecord[bytes, bytes]]:
    """Everything that lies in the topic, by partition."""

    async def read() -> list[ConsumerRecord[bytes, bytes]]:
        async with AIOKafkaConsumer(topic, bootstrap_servers=brokers, auto_offset_reset="earliest") as consumer:
            ends = await consumer.end_offsets(sorted(consumer.assignment()))
            found: list[ConsumerRecord[bytes, bytes]] = []
            while any([await consumer.position(partition) < end for partition, end in ends.items()]):
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    found += records
        return sorted(found, key=lambda record: (record.partition, record.offset))

    return asyncio.run(read())


def await_records(brokers: str, topic: str, count: int) -> list[ConsumerRecord[bytes, bytes]]:
    deadline = time.monotonic() + TIMEOUT
    while len(found := records_of(brokers, topic)) < count:
        assert time.monotonic() < deadline, found
    return found


async def _fill(made: Program, values: Sequence[bytes]) -> None:
    admin = KafkaTransport(Settings.load({"brokers": made.brokers}, {}, {})).admin()
    await admin.start()
    try:
        await admin.create_topics([NewTopic(made.source, 1, None, {})])
    finally:
        await admin.stop()
    async with AIOKafkaProducer(bootstrap_servers=made.brokers) as producer:
        for value in values:
            await producer.send_and_wait(made.source, value, key=b"k")
