"""What the containers run, run as processes: with the commands, variables and settings that the files state."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from streamkit.cli.embedded import free_port
from tests.cli.support import Running, running
from tests.deploy.files import CREATE_TOPICS, HEALTHCHECK, SERVICES, exec_form, image_environment
from tests.kafka.server import GenuineKafka, fetch_jars

TOOLS = {
    "kafka-topics.sh": "org.apache.kafka.tools.TopicCommand",
    "kafka-broker-api-versions.sh": "org.apache.kafka.tools.BrokerApiVersionsCommand",
}
"""The scripts of Kafka that are called, and the classes that they start."""


def server_properties(environment: Mapping[str, str]) -> dict[str, str]:
    """What the image of Kafka makes of its variables: KAFKA_LOG_DIRS becomes log.dirs."""
    prefix = "KAFKA_"
    names = [name for name in environment if name.startswith(prefix)]
    return {name.removeprefix(prefix).lower().replace("_", "."): environment[name] for name in names}


class ComposedKafka(GenuineKafka):
    """A genuine Kafka with the settings of docker-compose.yml and no others; only hosts, ports and paths differ."""

    def __init__(self) -> None:
        super().__init__()
        self.host_port = free_port()

    @override
    def _properties(self, directory: Path) -> dict[str, str]:
        addresses = {
            "//kafka:9092": f"//127.0.0.1:{self.port}",
            "@kafka:9093": f"@127.0.0.1:{self._controller_port}",
            "//localhost:29092": f"//127.0.0.1:{self.host_port}",
            "//:9092": f"//127.0.0.1:{self.port}",
            "//:9093": f"//127.0.0.1:{self._controller_port}",
            "//:29092": f"//127.0.0.1:{self.host_port}",
            "/var/lib/kafka/data": str(directory / "data"),
        }
        properties = server_properties(SERVICES["kafka"]["environment"])
        for here, there in addresses.items():
            properties = {name: value.replace(here, there) for name, value in properties.items()}
        return properties


def kafka_tools(directory: Path) -> Path:
    """A folder with the scripts of Kafka that are called."""
    folder = directory / "bin"
    folder.mkdir()
    for name, main_class in TOOLS.items():
        script = folder / name
        script.write_text(f"#!/bin/sh\nexec java -XX:TieredStopAtLevel=1 -cp '{fetch_jars()}/*' {main_class} \"$@\"\n")
        script.chmod(0o755)
    return folder


def run_tool(command: list[str], folder: Path, brokers: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of a service of the image of Kafka."""
    here = [part.replace("/opt/kafka/bin", str(folder)).replace("kafka:9092", brokers) for part in command]
    here = [str(CREATE_TOPICS) if part == "/create-topics.sh" else part for part in here]
    environment = {**os.environ, "BIN": str(folder)}
    return subprocess.run(here, env=environment, capture_output=True, text=True, timeout=60, check=False)


@dataclass(frozen=True)
class Worker:
    """The service `worker` as a process."""

    process: Running
    port: int
    environment: Mapping[str, str]

    @property
    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    def check_health(self) -> "subprocess.CompletedProcess[str]":
        """Run what the health check runs."""
        return check_health(self.environment)

    def await_processed(self, agent: str, records: int, seconds: float = 30.0) -> None:
        self.process.await_text("assigned")
        deadline = time.monotonic() + seconds
        while f'agent="{agent}"' not in self.metrics or self.processed(agent) < records:
            assert time.monotonic() < deadline, self.metrics
            time.sleep(0.05)

    def processed(self, agent: str) -> float:
        lines = [line for line in self.metrics.splitlines() if line.startswith("streamkit_records_processed_total{")]
        ended = [line for line in lines if "success" in line or "dead_lettered" in line]
        return sum(float(line.split()[-1]) for line in ended if f'agent="{agent}"' in line)


@contextmanager
def worker(directory: Path, brokers: str) -> Iterator[Worker]:
    """Only the addresses are others than in the container."""
    port = free_port()
    addresses = {"STREAMKIT_BROKERS": brokers, "STREAMKIT_HTTP": f"127.0.0.1:{port}"}
    variables = {name: value for name, value in image_environment().items() if name != "PATH"}
    variables |= {**SERVICES["worker"]["environment"], **addresses}
    assert exec_form("ENTRYPOINT") == ["streamkit"]
    with running(directory, *SERVICES["worker"]["command"], environment=variables) as process:
        yield Worker(process, port, variables)


def check_health(environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run the health check of the image; its file lies elsewhere there."""
    assert exec_form("HEALTHCHECK") == ["python", "/opt/healthcheck.py"]
    command = [sys.executable, str(HEALTHCHECK)]
    variables = {**os.environ, **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=30, check=False)


def log_lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]
