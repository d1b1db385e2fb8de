import os
from collections.abc import Iterator

import pytest

from streamkit.cli.embedded import EmbeddedBroker
from tests.deploy.prometheus import PrometheusUnavailable, Tools, fetch_tools


@pytest.fixture(scope="session")
def tools() -> Tools:
    """Prometheus and promtool."""
    try:
        return fetch_tools()
    except PrometheusUnavailable as unavailable:
        if os.environ.get("CI") == "true":
            raise pytest.fail.Exception(f"{unavailable}; CI=true requires it", pytrace=False) from None
        raise pytest.skip.Exception(str(unavailable)) from None


@pytest.fixture(scope="package")
def broker() -> Iterator[EmbeddedBroker]:
    """An embedded broker of this folder's own: the topics of apps/flights on the shared one are others' to count."""
    with EmbeddedBroker() as broker:
        yield broker
