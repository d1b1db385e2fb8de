"""The dashboard of Grafana is what its script writes, and asks for what is exported."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from deploy.grafana.dashboard import FILE, rendered
from streamkit.observe.catalogue import CATALOGUE, MetricSpec
from tests.deploy.dashboard import DASHBOARD, PANELS, VARIABLES, expressions
from tests.deploy.files import ROOT, SERVICES
from tests.deploy.prometheus import Tools, serving
from tests.deploy.promql import ALERTS, RECORDED, metrics_in, selectors, unknown
from tests.deploy.test_prometheus import CONFIG, config_for, results

GRAFANA = ROOT / "deploy/grafana"
VALUES = {
    "group": ("billing.charge", "billing.mail"),
    "agent": ("charge",),
    "topic": ("orders", "orders.billing.charge.retry-1"),
    "partition": ("0", "1"),
    "result": ("success", "error", "retried", "dead_lettered", "cancelled", "lost"),
    "reason": ("", "exhausted", "handler", "backpressure", "out_of_range"),
    "status": ("ok", "stalled"),
    "tier": ("1", "in_place"),
    "phase": ("drain", "join"),
    "activity": ("poll", "dispatch"),
    "stage": ("handle",),
    "error": ("TimeoutError",),
    "state": ("running",),
    "version": ("1.2.3",),
}


def test_the_file_is_what_the_script_writes() -> None:
    assert FILE.read_text() == rendered(), "run python -m deploy.grafana.dashboard"


def test_every_panel_says_what_it_shows() -> None:
    assert not [panel["title"] for panel in PANELS if not panel["description"].endswith(".")]
    assert not [panel["title"] for panel in PANELS if "unit" not in panel["fieldConfig"]["defaults"]]


def test_no_panel_lies_on_another_or_beyond_the_page() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        columns = range(place["x"], place["x"] + place["w"])
        own = set(itertools.product(columns, range(place["y"], place["y"] + place["h"])))
        assert not own & cells, panel["title"]
        cells |= own
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_panels_ask_only_for_what_is_exported_or_recorded() -> None:
    assert not [(title, unknown(expression)) for title, expression in expressions() if unknown(expression)]


def test_what_is_chosen_above_is_asked_for() -> None:
    assert list(VARIABLES) == ["datasource", "group", "agent", "topic", "instance"]
    asked = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    assert not [name for name in VARIABLES if name != "datasource" and f'{name}=~"${name}"' not in asked]


def test_recorded_series_are_asked_for_without_the_worker_which_they_do_not_have() -> None:
    recorded = [each for _, expression in expressions() for each in selectors(expression) if each.name in RECORDED]
    assert recorded
    assert not [each for each in recorded if "instance" in each.labels]


def test_every_metric_is_shown_or_alerted_on() -> None:
    asked = [expression for _, expression in expressions()] + [rule["expr"] for rule in ALERTS.values()]
    assert {spec.name for spec in CATALOGUE} == set().union(*map(metrics_in, asked))


def test_grafana_asks_the_prometheus_of_the_same_installation() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    (port,) = SERVICES["prometheus"]["ports"]
    assert source["url"] == f"http://prometheus:{port.split(':')[2]}"
    assert source["jsonData"]["timeInterval"] == CONFIG["global"]["scrape_interval"]


def test_grafana_finds_the_dashboard() -> None:
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/streamkit.yml").read_text())["providers"]
    volumes = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    mounted = {inside: outside for outside, inside in volumes.items()}
    folder = provider["options"]["path"]
    assert ROOT / mounted[folder] == FILE.parent
    assert SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{folder}/{FILE.name}"
    for kind in ("datasources", "dashboards"):
        assert ROOT / mounted[f"/etc/grafana/provisioning/{kind}"] == GRAFANA / "provisioning" / kind


def test_every_expression_returns_series_where_every_metric_is_exported(tools: Tools, tmp_path: Path) -> None:
    with exporting() as port, serving(tools, config_for(tmp_path, port)) as prometheus:
        asked = dict(expressions()) | {name: name for name in RECORDED}
        assert not results(prometheus, asked)
        assert not prometheus.failing_rules()


@contextmanager
def exporting() -> Iterator[int]:
    """A worker of which everything can be told: each metric of the catalogue, with some values of its labels."""
    started = time.time()

    class Everything:
        def collect(self) -> Iterator[Metric]:
            for spec in CATALOGUE:
                yield family(spec, time.time() - started)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Everything())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE_LATEST)  # Prometheus 3 does not guess it
            self.end_headers()
            self.wfile.write(generate_latest(registry) + process())

        def log_message(self, format: str, *arguments: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def process() -> bytes:
    names = ("process_start_time_seconds", "process_cpu_seconds_total", "process_resident_memory_bytes")
    return "".join(f"{name} 1\n" for name in names).encode()


def family(spec: MetricSpec, seconds: float) -> Metric:
    """Counters count 100 a second, gauges fall a little, timestamps are a moment old."""
    combinations = list(itertools.product(*(VALUES[label] for label in spec.labels)))
    if spec.kind == "histogram":
        histogram = HistogramMetricFamily(spec.name, spec.help, labels=spec.labels)
        for values in combinations:
            histogram.add_metric(
                values, [(bound, 100 * seconds) for bound in ("1.0", "5.0", "+Inf")], sum_value=seconds
            )
        return histogram
    if spec.kind == "counter":
        counter = CounterMetricFamily(spec.name.removesuffix("_total"), spec.help, labels=spec.labels)
        for values in combinations:
            counter.add_metric(values, 100 * seconds)
        return counter
    value = time.time() - 1 if "timestamp" in spec.name else 1.0 if "info" in spec.name or "state" in spec.name else 9.0
    gauge = GaugeMetricFamily(spec.name, spec.help, labels=spec.labels)
    for values in combinations:
        gauge.add_metric(values, value - (seconds / 100 if value == 9.0 else 0))
    return gauge
