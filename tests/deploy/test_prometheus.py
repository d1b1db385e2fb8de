"""A genuine Prometheus accepts the config, and scrapes a worker by it."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry, generate_latest

from apps.flights.agents import app
from streamkit.cli.embedded import EmbeddedBroker, free_port
from streamkit.observe.collector import StreamkitCollector
from tests.deploy.containers import worker
from tests.deploy.files import PROMETHEUS_CONFIG, SERVICES
from tests.deploy.prometheus import Server, Tools, serving
from tests.deploy.promql import RULE_FILES
from tests.deploy.test_containers import feed
from tests.observe.support import worker_with_every_metric

CONFIG: dict[str, Any] = yaml.safe_load(PROMETHEUS_CONFIG.read_text())


def test_promtool_accepts_the_config(tools: Tools) -> None:
    assert "SUCCESS" in tools.check("config", str(PROMETHEUS_CONFIG))


def test_promtool_finds_nothing_to_mend_in_any_metric(tools: Tools) -> None:
    registry = CollectorRegistry()
    registry.register(StreamkitCollector(*worker_with_every_metric()))
    assert tools.check("metrics", stdin=generate_latest(registry).decode()) == ""


def test_every_replica_of_the_worker_is_found() -> None:
    (job,) = CONFIG["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    assert all(name in SERVICES for name in found["names"])
    assert (found["type"], [str(found["port"])]) == ("A", SERVICES["worker"]["expose"])


def test_prometheus_scrapes_a_worker(tools: Tools, broker: EmbeddedBroker, tmp_path: Path) -> None:
    feed(broker.brokers)
    flags = [flag for flag in SERVICES["prometheus"]["command"] if "retention" in flag]
    with worker(tmp_path, broker.brokers) as running:
        running.await_processed("gate", 1)
        assert "error" not in tools.check("metrics", stdin=running.metrics)
        config = config_for(tmp_path, running.port)
        tools.check("config", str(config))
        with serving(tools, config, flags) as prometheus:
            up = prometheus.await_result('up{job="streamkit"} == 1')
            processed = prometheus.await_result("streamkit_records_processed_total > 0")
    assert len(up) == 1
    assert {result["metric"]["agent"] for result in processed} == app.agents.keys()
    assert sum(int(result["value"][1]) for result in processed) >= len(app.agents)


def test_a_worker_that_is_down_is_seen(tools: Tools, tmp_path: Path) -> None:
    with serving(tools, config_for(tmp_path, free_port())) as prometheus:
        assert prometheus.await_result('up{job="streamkit"} == 0')


def results(prometheus: Server, asked: Mapping[str, str], seconds: float = 30.0) -> list[str]:
    """Ask each until it has returned series, at this moment or another; the names of those that have not."""
    deadline = time.monotonic() + seconds
    waiting = dict(asked)
    while waiting and time.monotonic() < deadline:
        waiting = {name: expression for name, expression in waiting.items() if not answered(prometheus, expression)}
        time.sleep(0.2)
    return list(waiting)


def answered(prometheus: Server, expression: str) -> bool:
    return any(result["value"][1] != "NaN" for result in prometheus.query(expression))


def config_for(directory: Path, *ports: int) -> Path:
    """Ours, with our rules, but for the targets, and for scraping and evaluating soon."""
    (job,) = CONFIG["scrape_configs"]
    rest = {name: value for name, value in job.items() if name != "dns_sd_configs"}
    config = directory / "prometheus.yml"
    soon = {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "500ms"}
    (directory / "rules").mkdir()
    for file in RULE_FILES:
        text = file.read_text().replace("    interval: 30s\n", "")
        (directory / "rules" / file.name).write_text(text)
    own = {**rest, "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]}
    config.write_text(yaml.safe_dump({**CONFIG, "global": {**CONFIG["global"], **soon}, "scrape_configs": [own]}))
    return config
