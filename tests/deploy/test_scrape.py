"""A genuine Prometheus scrapes a worker on a genuine Kafka, by our rules, and the dashboard has something to show."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from streamkit.cli.embedded import free_port
from streamkit.observe.catalogue import CATALOGUE
from tests.cli.support import running
from tests.deploy.dashboard import expressions
from tests.deploy.prometheus import Tools, serving
from tests.deploy.promql import RECORDED
from tests.deploy.test_prometheus import config_for, results
from tests.kafka.server import ExistingKafka, GenuineKafka


def test_the_dashboard_shows_two_workers_on_kafka(
    tools: Tools, genuine: GenuineKafka | ExistingKafka, tmp_path: Path
) -> None:
    first, second = free_port(), free_port()
    asked = {**dict(expressions()), **{name: name for name in RECORDED}}
    with (
        serving(tools, config_for(tmp_path, first, second)) as prometheus,
        busy_worker(tmp_path, genuine.brokers, first),
        busy_worker(tmp_path, genuine.brokers, second),  # that comes later, so that the groups rebalance
    ):
        assert not results(prometheus, asked, seconds=45)
        assert not prometheus.failing_rules()
        texts = [scraped(port) for port in (first, second)]
    assert [tools.check("metrics", stdin=text) for text in texts] == ["", ""]
    assert not {spec.name for spec in CATALOGUE} - exported(texts[0]) - exported(texts[1])


@contextmanager
def busy_worker(directory: Path, brokers: str, port: int) -> Iterator[None]:
    """A worker of tests/deploy/everything.py that has partitions. It does not wait for the handler that hangs."""
    variables = {"STREAMKIT_BROKERS": brokers, "STREAMKIT_HTTP": f"127.0.0.1:{port}", "STREAMKIT_DRAIN_TIMEOUT": "1s"}
    command = ("worker", "tests.deploy.everything:app", "--create-topics")
    with running(directory, *command, environment=variables) as worker:
        worker.await_text("agent charge: assigned")
        yield


def scraped(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def exported(text: str) -> set[str]:
    """The metrics that have samples, by the names of the catalogue."""
    families = [family for family in text_string_to_metric_families(text) if family.samples]
    return {family.name + "_total" * (family.type == "counter") for family in families}
