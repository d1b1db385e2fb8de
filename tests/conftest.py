"""Brokers shared by the whole run, a check that no thread outlives its test, and one line on what was skipped."""

import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from streamkit.cli.embedded import EmbeddedBroker
from tests.kafka.required import required
from tests.kafka.server import ExistingKafka, GenuineKafka, genuine_kafka

THREAD_ENDS_SECONDS = 5.0


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line, for example: `skipped: 12 × no genuine Kafka: Maven is missing (Debian: maven)`."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    if reasons:
        terminalreporter.write_line("skipped: " + "; ".join(f"{count} × {why}" for why, count in reasons.most_common()))
