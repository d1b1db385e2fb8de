"""A genuine Kafka without Docker: the jars come from Maven, the broker is one JVM in KRaft mode on free loopback ports.

`python -m tests.kafka.server` fetches the jars and runs a broker until Ctrl-C; with `--fetch` it only fetches. Needs
Java 17 and, the first time, Maven (Debian: `default-jdk-headless`, `maven`). `STREAMKIT_TEST_BROKERS` names an existing
cluster that the tests use instead.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from streamkit.cli.embedded import await_port, free_port, spawn, stop_process

VERSION = "4.3.1"
JAVA = 17
START_SECONDS = 60.0
STOP_SECONDS = 30.0
CLUSTER_ID = "c3RyZWFta2l0LXRlc3QtMQ"  # any 16 bytes in base64
ARTIFACTS = {
    "org.apache.kafka": {"kafka_2.13": VERSION, "kafka-tools": VERSION},
    "org.apache.logging.log4j": {"log4j-core": "2.24.3", "log4j-slf4j-impl": "2.24.3"},
}


class KafkaUnavailable(Exception):
    """A genuine Kafka cannot be had here; the message names what is missing and how to get it."""


@dataclass(frozen=True)
class ExistingKafka:
    """A cluster that the tests may use, and not stop."""

    brokers: str


@dataclass(frozen=True)
class Listener:
    """One more way into a broker. `options` are properties of the listener, without the prefix that names it."""

    name: str  # in capitals
    protocol: str  # as security.protocol
    options: Mapping[str, str]
    advertised: str = "localhost"  # the host that the broker names to clients
    port: int = field(default_factory=free_port)

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"


class GenuineKafka:
    """One broker for the length of a `with` block; about 4 s until it is up.

    `settings` are added to server.properties, as in `{"message.max.bytes": "2000000"}`; `listeners` to the one for
    PLAINTEXT; `scram` are users from the start, as in `SCRAM-SHA-256=[name=ann,password=secret]`. Entering raises
    `KafkaUnavailable` when Java or Maven is missing, `RuntimeError` when the broker does not come up. All methods
    block: in a coroutine call them with `asyncio.to_thread`.
    """

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        listeners: Sequence[Listener] = (),
        scram: Sequence[str] = (),
    ) -> None:
        self.port, self._controller_port = free_port(), free_port()
        self._settings = dict(settings or {})
        self._listeners = listeners
        self._scram = scram
        self._process: subprocess.Popen[bytes] | None = None
        self._directory: Path | None = None
        self._classpath = ""

    @property
    def brokers(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        assert self._directory is not None, "not entered"
        return self._directory / "kafka.log"

    def __enter__(self) -> Self:
        self._classpath = f"{fetch_jars()}/*"
        self._directory = Path(tempfile.mkdtemp(prefix="streamkit-kafka-"))
        try:
            self._format(self._directory)
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._remove()

    def start(self) -> None:
        """Start, or start again on the same ports and data; returns when it answers. Does nothing while it runs."""
        if self._process is not None:
            return
        with self.log.open("ab") as log:
            self._process = spawn(self._java("-Xmx512m", "-XX:+UseSerialGC", "kafka.Kafka"), log.fileno())
        deadline = time.monotonic() + START_SECONDS
        await_port(self._process, self.port, START_SECONDS, self.log)
        self._await_answer(deadline)

    def stop(self) -> None:
        """SIGTERM: an ordered shutdown; the data stays. SIGKILL if that takes more than 30 s."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            stop_process(process, STOP_SECONDS)

    def kill(self) -> None:
        """SIGKILL; the data stays as the crash left it."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def restore(self) -> None:
        """Make it run and answer, whatever was done to it; data stays."""
        if self._process is None or self._process.poll() is not None:
            self.kill()
            self.start()
        else:
            self.resume()
            self._await_answer(time.monotonic() + START_SECONDS)

    def change_password(self, user: str, mechanism: str, password: str) -> None:
        """Of a SCRAM user; takes some seconds, and open connections stay open."""
        change = [
            "--alter",
            f"--add-config={mechanism}=[password={password}]",
            "--entity-type=users",
            f"--entity-name={user}",
        ]
        self._administer("kafka.admin.ConfigCommand", *change)

    def permit(self, user: str, operation: str, *resources: str) -> None:
        """Add an ACL, as in `permit("ann", "Read", "--topic", "orders")`; takes some seconds."""
        rule = ["--add", f"--allow-principal=User:{user}", f"--operation={operation}", *resources]
        self._administer("org.apache.kafka.tools.AclCommand", *rule)

    def forbid(self, user: str, operation: str, *resources: str) -> None:
        """Add an ACL that denies, with arguments as those of `permit`; takes some seconds."""
        self._change_denial("--add", user, operation, *resources)

    def forbid_no_more(self, user: str, operation: str, *resources: str) -> None:
        """Remove what `forbid` has added; takes some seconds."""
        self._change_denial("--remove", user, operation, *resources, "--force")

    def _change_denial(self, change: str, user: str, operation: str, *resources: str) -> None:
        rule = [change, f"--deny-principal=User:{user}", f"--operation={operation}", *resources]
        self._administer("org.apache.kafka.tools.AclCommand", *rule)

    def consumer_groups(self, *arguments: str) -> str:
        """What Kafka's own kafka-consumer-groups.sh prints."""
        return self._administer("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", *arguments)

    def _administer(self, tool: str, *arguments: str) -> str:
        command = ["java", "-cp", self._classpath, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", tool]
        command += ["--bootstrap-server", self.brokers, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{tool} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def _await_answer(self, deadline: float) -> None:
        # In a thread of its own, because the caller may have a running loop.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, _await_answer(self.brokers, deadline)).result()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "not running"
        self._process.send_signal(number)

    def _remove(self) -> None:
        self.kill()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def _java(self, *arguments: str) -> list[str]:
        return ["java", "-cp", self._classpath, *arguments, str(self._properties_file)]

    @property
    def _properties_file(self) -> Path:
        assert self._directory is not None, "not entered"
        return self._directory / "server.properties"

    def _format(self, directory: Path) -> None:
        properties = self._properties(directory) | self._settings
        self._properties_file.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        command = self._java("-XX:+UseSerialGC", "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c")
        command += [part for user in self._scram for part in ("--add-scram", user)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"formatting the log directory failed:\n{done.stdout}{done.stderr}")

    def _properties(self, directory: Path) -> dict[str, str]:
        more = self._listeners
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"} | {way.name: way.protocol for way in more}
        options = {
            f"listener.name.{way.name.lower()}.{name}": value for way in more for name, value in way.options.items()
        }
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "listeners": ",".join(
                [
                    f"PLAINTEXT://127.0.0.1:{self.port}",
                    f"CONTROLLER://127.0.0.1:{self._controller_port}",
                    *(f"{way.name}://127.0.0.1:{way.port}" for way in more),
                ]
            ),
            "advertised.listeners": ",".join(
                [f"PLAINTEXT://127.0.0.1:{self.port}"] + [f"{way.name}://{way.advertised}:{way.port}" for way in more]
            ),
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(directory / "data"),
            "auto.create.topics.enable": "false",
            # A broker that was killed may register again only when its old session has ended.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            "delete.topic.enable": "true",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "log.retention.check.interval.ms": "1000",
            "log.segment.delete.delay.ms": "1000",
            "log.initial.task.delay.ms": "1000",
            "offsets.topic.num.partitions": "5",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.num.partitions": "5",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
        } | options


def genuine_kafka() -> contextlib.AbstractContextManager[GenuineKafka | ExistingKafka]:
    """The cluster that `STREAMKIT_TEST_BROKERS` names, else a broker of our own."""
    existing = os.environ.get("STREAMKIT_TEST_BROKERS")
    return contextlib.nullcontext(ExistingKafka(existing)) if existing else GenuineKafka()


def fetch_jars() -> Path:
    """The directory with Kafka's jars (54 MB), fetched once into the user's cache; safe in concurrent runs."""
    _check_java()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "streamkit-test"
    jars = cache / f"kafka-{VERSION}"
    if jars.is_dir():
        return jars
    if shutil.which("mvn") is None:
        raise KafkaUnavailable("no genuine Kafka: Maven is missing (Debian: maven)")
    cache.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f"kafka-{VERSION}.", suffix=".part", dir=cache))
    try:
        _copy_jars(part)
        # Fails when another run was faster: its jars are as good.
        with contextlib.suppress(OSError):
            (part / "libs").rename(jars)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return jars


def _check_java() -> None:
    java = shutil.which("java")
    text = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr if java else ""
    version = re.search(r'version "(\d+)', text)
    if version is None or int(version[1]) < JAVA:
        found = f"java {version[1]} found" if version else "java is missing"
        raise KafkaUnavailable(f"no genuine Kafka: Java {JAVA} needed, {found} (Debian: default-jdk-headless)")


def _copy_jars(directory: Path) -> None:
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>"
        for group, artifacts in ARTIFACTS.items()
        for name, version in artifacts.items()
    )
    (directory / "pom.xml").write_text(
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>streamkit</groupId><artifactId>test</artifactId><version>1</version>"
        f"<dependencies>{dependencies}</dependencies></project>\n"
    )
    command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=libs"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        first = next((line for line in done.stdout.splitlines() if "ERROR" in line), "no message")
        raise KafkaUnavailable(f"no genuine Kafka: Maven could not fetch the jars: {first[:300]}")


async def _await_answer(brokers: str, deadline: float) -> None:
    """Return when the broker has registered itself and describes its cluster; an open port alone is too early."""
    while True:
        try:
            if await _describes_itself(brokers):
                return
        except KafkaError:
            pass
        if time.monotonic() > deadline:
            raise RuntimeError(f"the broker at {brokers} accepts connections but does not answer")
        await asyncio.sleep(0.05)


async def _describes_itself(brokers: str) -> bool:
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers, request_timeout_ms=5_000)
    try:
        await admin.start()
        return bool((await admin.describe_cluster())["brokers"])
    finally:
        await admin.close()


def main(arguments: list[str]) -> int:
    try:
        jars = fetch_jars()
        print(f"jars in {jars}", flush=True)
        if arguments == ["--fetch"]:
            return 0
        with GenuineKafka() as kafka, contextlib.suppress(KeyboardInterrupt):
            print(f"Kafka {VERSION} at {kafka.brokers}; Ctrl-C ends it", flush=True)
            signal.pause()
    except KafkaUnavailable as error:
        print(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
