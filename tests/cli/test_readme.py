"""What the first page and the one to get started with show works as it stands there."""

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.cli.guide import Guide
from tests.cli.support import running, streamkit
from tests.deploy.prometheus import PrometheusUnavailable, fetch_tools, serving

PAGES = ["README.md", "docs/getting-started.md"]


@pytest.mark.parametrize("page", PAGES)
def test_the_agent_of_the_page_handles_what_the_page_sends_and_is_scraped(page: str, tmp_path: Path) -> None:
    guide = Guide(page)
    guide.write_files(tmp_path)
    with running(tmp_path, *guide.command("dev"), *guide.http) as dev:
        dev.await_text("assigned")
        sent = streamkit(tmp_path, *guide.command("send"))
        assert sent.code == 0, sent.errors
        dev.await_text(r"handling Order\(id='1', amount=100.0\)")
        with urllib.request.urlopen(f"http://127.0.0.1:{guide.metrics_port}/metrics", timeout=10) as answer:
            assert "streamkit_records_processed_total" in answer.read().decode()
        dev.signal(signal.SIGINT)
        assert dev.finish().code == 0


@pytest.mark.parametrize("page", PAGES)
def test_the_tests_of_the_page_pass(page: str, tmp_path: Path) -> None:
    assert {"hello.py", "test_hello.py"} <= set(Guide(page).write_files(tmp_path))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_hello.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_both_pages_show_the_same_agent(tmp_path: Path) -> None:
    programs = set()
    for page in PAGES:
        Guide(page).write_files(tmp_path)
        programs.add((tmp_path / "hello.py").read_text())
    assert len(programs) == 1


def test_prometheus_scrapes_what_the_page_runs_with_the_config_of_the_page(tmp_path: Path) -> None:
    try:
        tools = fetch_tools()
    except PrometheusUnavailable as unavailable:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(unavailable))
    guide = Guide("docs/getting-started.md")
    guide.write_files(tmp_path)
    config = tmp_path / "prometheus.yml"
    tools.check("config", str(config))
    config.write_text(config.read_text().replace("scrape_interval: 5s", "scrape_interval: 200ms"))
    with running(tmp_path, *guide.command("dev"), *guide.http), serving(tools, config) as prometheus:
        (target,) = prometheus.await_result('up{job="hello"} == 1')
        assert target["metric"]["instance"] == f"127.0.0.1:{guide.metrics_port}"
        prometheus.await_result("sum by (group) (streamkit_consumer_lag_records)")


def test_a_value_of_another_type_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    guide = Guide("docs/getting-started.md")
    guide.write_files(tmp_path)
    topic, value, *options = guide.command("send")[1:]
    assert value == '{"id": "1", "amount": 100}'
    refused = streamkit(tmp_path, "send", topic, '{"id": 1}', *options)
    assert (refused.code, "Expected `str`, got `int`" in refused.errors) == (2, True)
