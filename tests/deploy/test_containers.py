"""The services of docker-compose.yml, started as processes one after another, on a genuine Kafka."""

import asyncio
import http.server
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from apps.flights.agents import app
from streamkit.cli.embedded import EmbeddedBroker, free_port
from streamkit.settings import Settings
from streamkit.transport.base import TopicInfo
from streamkit.transport.kafka import KafkaTransport
from tests.deploy.containers import ComposedKafka, check_health, kafka_tools, log_lines, run_tool, worker
from tests.deploy.files import ROOT, SERVICES
from tests.kafka.server import KafkaUnavailable, fetch_jars

FLIGHTS = 200


@pytest.fixture
def kafka() -> Iterator[ComposedKafka]:
    try:
        fetch_jars()
    except KafkaUnavailable as unavailable:
        if os.environ.get("CI") == "true":
            raise pytest.fail.Exception(f"{unavailable}; CI=true requires it", pytrace=False) from None
        raise pytest.skip.Exception(str(unavailable)) from None
    with ComposedKafka() as kafka:
        yield kafka


def test_kafka_topics_worker_and_feed_work_together(kafka: ComposedKafka, tmp_path: Path) -> None:
    tools = kafka_tools(tmp_path)
    _, *health = SERVICES["kafka"]["healthcheck"]["test"]
    healthy = run_tool(health, tools, kafka.brokers)
    assert healthy.returncode == 0, healthy.stderr
    for _ in range(2):  # a second `docker compose up` runs it again
        made = run_tool(SERVICES["topics"]["entrypoint"], tools, kafka.brokers)
        assert made.returncode == 0, made.stdout + made.stderr
    found = asyncio.run(topics(kafka.brokers, app.topics))
    assert {name: info.partitions for name, info in found.items()} == {
        name: topic.partitions for name, topic in app.topics.items()
    }

    with worker(tmp_path, kafka.brokers) as running:
        running.process.await_text("assigned")
        assert (running.check_health().returncode, running.check_health().stdout) == (0, "ok\n")
        feed(f"127.0.0.1:{kafka.host_port}")  # by the listener for the host
        for agent in app.agents:
            running.await_processed(agent, FLIGHTS)
        running.process.signal(signal.SIGTERM)
        ended = running.process.finish()
    assert ended.code == 0, ended.errors
    assert all("event" in line for line in log_lines(ended.errors))


def test_the_health_check_knows_a_worker_that_lives_from_one_that_has_ended(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    feed(broker.brokers)
    with worker(tmp_path, broker.brokers) as running:
        running.await_processed("gate", 1)
        alive = running.check_health()
        running.process.signal(signal.SIGTERM)
        running.process.finish()
        ended = running.check_health()
    assert (alive.returncode, alive.stdout) == (0, "ok\n")
    assert ended.returncode == 1
    assert f"/livez on port {running.port} does not answer: ConnectionRefusedError" in ended.stdout


def test_the_health_check_says_why_livez_says_no() -> None:
    with refusing("the event loop has not run for 31 s") as port:
        checked = check_health({"STREAMKIT_HTTP": f"0.0.0.0:{port}"})
    assert (checked.returncode, checked.stdout) == (1, "the event loop has not run for 31 s\n")


def test_the_health_check_asks_no_proxy() -> None:
    with refusing("no") as port:
        proxy = f"http://127.0.0.1:{free_port()}"
        checked = check_health({"STREAMKIT_HTTP": f"0.0.0.0:{port}", "http_proxy": proxy})
    assert checked.stdout == "no\n"


class refusing:
    """A server that answers everything with 503 and the reason."""

    def __init__(self, reason: str) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(503 if self.path == "/livez" else 404)
                self.end_headers()
                self.wfile.write(f"{reason}\n".encode())

            def log_message(self, format: str, *arguments: object) -> None: ...

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> int:
        self._thread.start()
        return self._server.server_port

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def feed(brokers: str) -> None:
    """What the service `feed` runs, with fewer flights."""
    _, *program = SERVICES["feed"]["entrypoint"]
    arguments = [brokers if part == "kafka:9092" else part for part in SERVICES["feed"]["command"]]
    command = [sys.executable, *program, *arguments, "--first", str(FLIGHTS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


async def topics(brokers: str, names: Collection[str]) -> dict[str, TopicInfo]:
    admin = KafkaTransport(Settings.load({"brokers": brokers}, {}, {})).admin()
    await admin.start()
    try:
        return dict(await admin.topics(names))
    finally:
        await admin.stop()
