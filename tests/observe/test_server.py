from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import prometheus_client
import pytest
from prometheus_client.core import GaugeMetricFamily

from streamkit.observe.observer import Observer
from streamkit.observe.slots import WorkerSlots
from tests.observe.support import Answer, get, observing, running_worker, scrape, series


def ask(observer: Observer, path: str, method: str = "GET") -> Answer:
    assert observer.address is not None
    return get(observer.address.url + path, method=method)


def test_metrics_are_prometheus_text_by_default() -> None:
    with observing(WorkerSlots("1")) as observer:
        answer = ask(observer, "/metrics")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")


def test_readiness_follows_the_worker() -> None:
    slots = WorkerSlots("1")
    with observing(slots) as observer:

        def ready() -> tuple[int, str]:
            answer = ask(observer, "/readyz")
            assert answer.headers["Content-Type"].startswith("text/plain")
            return answer.status, answer.text

        assert ready() == (503, "starting: not started\n")
        slots.state, slots.unready = "running", ""
        assert ready() == (200, "ok\n")
        slots.unready = "no broker answers"
        assert ready() == (503, "no broker answers\n")
        slots.state, slots.unready = "draining", ""
        assert ready() == (503, "draining\n")


def test_liveness_follows_the_heartbeat_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    slots, _ = running_worker()
    with observing(slots) as observer:
        slots.state, slots.unready = "starting", "no broker answers"
        assert ask(observer, "/livez").text == "ok\n"
        monkeypatch.setattr("streamkit.observe.health.HEARTBEAT_LIMIT", -1.0)
        answer = ask(observer, "/livez")
        assert (answer.status, answer.text) == (503, "the event loop has not run for 0 s: something in it blocks\n")
        monkeypatch.undo()
        assert ask(observer, "/livez").status == 200


def test_the_summary_has_the_code_of_liveness_whatever_readiness_says(monkeypatch: pytest.MonkeyPatch) -> None:
    slots, agent = running_worker()
    agent.declare(breaker=True)
    agent.breaker_open, agent.breaker_since, agent.held = True, 1_795_590_000.0, lambda: 12
    slots.unready = "no broker answers"
    with observing(slots) as observer:
        answer = ask(observer, "/healthz")
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
        assert "ready: no: no broker answers\n" in answer.text
        assert "  breaker: open since 2026-11-25T07:00:00Z, 12 records held\n" in answer.text
        monkeypatch.setattr("streamkit.observe.health.HEARTBEAT_LIMIT", -1.0)
        slots.heartbeat = time.monotonic()
        answer = ask(observer, "/healthz")
        assert answer.status == ask(observer, "/livez").status == 503
        assert "live: no: the event loop has not run for 0 s" in answer.text


def test_startup_is_told_once_for_good() -> None:
    slots = WorkerSlots("1")
    with observing(slots) as observer:
        answer = ask(observer, "/startupz")
        assert (answer.status, answer.text) == (503, "starting: not started\n")
        slots.vitals.joined = True
        assert ask(observer, "/startupz").status == 200


@pytest.mark.parametrize(("query", "accept"), [("?format=json", "*/*"), ("", "application/json")])
def test_the_summary_is_json_if_asked_for(query: str, accept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with observing(running_worker()[0]) as observer:
        assert observer.address is not None
        answer = get(f"{observer.address.url}/healthz{query}", accept=accept)
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
        assert json.loads(answer.text)["live"] is True
        monkeypatch.setattr("streamkit.observe.health.HEARTBEAT_LIMIT", -1.0)
        answer = get(f"{observer.address.url}/healthz{query}", accept=accept)
        assert (answer.status, json.loads(answer.text)["live"]) == (503, False)


def test_an_unknown_page_is_not_found() -> None:
    with observing(WorkerSlots("1")) as observer:
        answer = ask(observer, "/admin")
    assert (answer.status, answer.text) == (404, "not found; there are /metrics /livez /readyz /startupz /healthz\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed_over_http(method: str) -> None:
    with observing(WorkerSlots("1")) as observer:
        answer = ask(observer, "/metrics", method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_head_answers_as_get_without_the_body() -> None:
    with observing(running_worker()[0]) as observer:
        answer = ask(observer, "/readyz", "HEAD")
    assert (answer.status, answer.text, answer.headers["Content-Length"]) == (200, "", "3")


def test_no_answer_names_a_version_of_the_server() -> None:
    with observing(WorkerSlots("1")) as observer:
        for path in ("/metrics", "/livez", "/readyz", "/startupz", "/healthz", "/nothing"):
            assert ask(observer, path).headers["Server"] == "streamkit"


def test_what_is_not_http_is_refused_without_versions_or_traces() -> None:
    with observing(WorkerSlots("1")) as observer:
        assert observer.address is not None
        with socket.create_connection(observer.address, timeout=5) as client:
            client.sendall(b"\x16\x03\x01 hello\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.0 400")
    assert b"Server: streamkit\r\n" in answer
    assert b"aiohttp" not in answer
    assert b"Traceback" not in answer


@pytest.mark.parametrize("version", ["", "; version=abc", "; version=9.9"])
def test_any_version_of_openmetrics_is_answered_with_ours(version: str) -> None:
    with observing(WorkerSlots("1")) as observer:
        assert observer.address is not None
        answer = get(f"{observer.address.url}/metrics", accept=f"application/openmetrics-text{version}")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0;")
    assert answer.text.endswith("# EOF\n")


class Users:
    """A collector that a user has registered."""

    def __init__(self) -> None:
        self.broken = False

    def describe(self) -> list[GaugeMetricFamily]:
        return []

    def collect(self) -> list[GaugeMetricFamily]:
        if self.broken:
            raise KeyError("secret")
        return [GaugeMetricFamily("orders_open", "A metric of the user's.", 3)]


def test_the_users_own_metrics_are_served_and_cannot_break_the_workers(caplog: pytest.LogCaptureFixture) -> None:
    users = Users()
    prometheus_client.REGISTRY.register(users)
    try:
        with observing(WorkerSlots("1")) as observer:
            answer = ask(observer, "/metrics")
            assert "orders_open 3.0\n" in answer.text
            assert "process_resident_memory_bytes" in answer.text
            users.broken = True
            assert scrape(observer)[series("streamkit_worker_info", version="1")] == 1
    finally:
        prometheus_client.REGISTRY.unregister(users)
    assert "the metrics in prometheus_client.REGISTRY cannot be collected" in caplog.messages


@pytest.mark.parametrize("accept", ["*/*", "application/openmetrics-text; version=1.0.0"])
def test_a_users_metric_that_cannot_be_written_does_not_cost_the_workers(
    accept: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Numbered:
        def collect(self) -> Iterator[GaugeMetricFamily]:
            family = GaugeMetricFamily("orders_open", "By partition.", labels=["partition"])
            family.add_metric([0], 3)  # type: ignore[list-item]
            yield family

        def describe(self) -> list[GaugeMetricFamily]:
            return []

    users = Numbered()
    prometheus_client.REGISTRY.register(users)
    try:
        with observing(WorkerSlots("1")) as observer:
            assert observer.address is not None
            answer = get(f"{observer.address.url}/metrics", accept=accept)
    finally:
        prometheus_client.REGISTRY.unregister(users)
    assert answer.status == 200
    assert 'streamkit_worker_info{version="1"} 1.0\n' in answer.text
    assert answer.text.endswith("# EOF\n") == ("openmetrics" in accept)
    assert "the metrics in prometheus_client.REGISTRY cannot be written" in caplog.messages


def test_a_page_that_fails_shows_no_trace() -> None:
    slots, agent = running_worker()
    agent.in_flight = lambda: 1 // 0
    with observing(slots) as observer:
        answer = ask(observer, "/metrics")
        assert ask(observer, "/livez").status == 200
    assert answer.status == 500
    assert "ZeroDivisionError" not in answer.text
