"""Brokers shared by the whole run, how it is divided, a check on threads, and one line on what was skipped."""

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from streamkit.cli.embedded import EmbeddedBroker
from tests.kafka.required import required
from tests.kafka.server import ExistingKafka, GenuineKafka, genuine_kafka

THREAD_ENDS_SECONDS = 5.0
ON_KAFKA = (
    "tests/faults/",
    "tests/kafka/",
    "tests/transport/",
    "tests/cli/test_send.py::test_lines_arrive_on_kafka",
    "tests/cli/test_dlq_genuine.py",
    "tests/cli/test_lag.py::test_it_agrees_with_kafka",
    "tests/cli/test_lag_of_workers.py",
    "tests/cli/test_dlq_purge.py::test_it_removes_on_a_genuine_kafka",
    "tests/deploy/test_scrape.py",
)


@pytest.fixture(scope="session")
def genuine() -> Iterator[GenuineKafka | ExistingKafka]:
    """A genuine Kafka, for the whole run. Topics and groups of a test have names of their own."""
    with required(genuine_kafka()) as kafka:
        yield kafka


@pytest.fixture
def own_genuine(genuine: GenuineKafka | ExistingKafka) -> Iterator[GenuineKafka]:
    """The genuine Kafka for a test that pauses, kills or stops it; afterwards it runs and answers again."""
    if isinstance(genuine, ExistingKafka):
        pytest.skip("STREAMKIT_TEST_BROKERS names a cluster that the tests may not stop")
    try:
        yield genuine
    finally:
        genuine.restore()


@pytest.fixture(scope="session")
def embedded() -> Iterator[EmbeddedBroker]:
    """The embedded broker of the extra `dev`, for the whole run."""
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture(autouse=True)
def _no_thread_outlives_its_test() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(THREAD_ENDS_SECONDS)
        assert not thread.is_alive(), f"the test left the thread {thread.name} running"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses the genuine Kafka, for `-m genuine`: by fixture, or by a parameter of that name."""
    for item in items:
        if isinstance(item, pytest.Function):
            parameters = item.callspec.id.split("-") if hasattr(item, "callspec") else []
            if "genuine" in [*item.fixturenames, *parameters]:
                item.add_marker("genuine")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """How `make test` divides the tests among processes."""
    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = _stays_together
    return scheduler


def _stays_together(nodeid: str) -> str:
    """The name of what runs in the same process, one test at a time.

    All on the genuine Kafka do: it is started once, and no two of those that measure time disturb each other. So does
    each other file.
    """
    on_kafka = nodeid.startswith(ON_KAFKA) or "[genuine" in nodeid
    return "on Kafka" if on_kafka else nodeid.partition("::")[0]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line, for example: `skipped: 12 × no genuine Kafka: Maven is missing (Debian: maven)`."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    if reasons:
        terminalreporter.write_line("skipped: " + "; ".join(f"{count} × {why}" for why, count in reasons.most_common()))
