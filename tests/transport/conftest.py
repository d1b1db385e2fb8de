"""One transport after another for the contract."""

import pytest

from tests.transport.backends import Backend, KafkaBackend, MemoryBackend

EMBEDDED_LACKS = frozenset({"commit_in_rebalance", "metadata_limit", "rebalance_timeout", "session_expiry"})


@pytest.fixture(params=["memory", "embedded", "genuine"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "memory":
        return MemoryBackend()
    brokers = request.getfixturevalue(request.param).brokers
    return KafkaBackend(request.param, brokers, EMBEDDED_LACKS if request.param == "embedded" else frozenset())
