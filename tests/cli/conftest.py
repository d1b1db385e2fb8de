"""What commands change in the process that they run in, put back after each test."""

import logging
from collections.abc import Iterator
from uuid import uuid4

import pytest
import structlog

from streamkit.cli.logs import QUIET


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in [each for each in root.handlers if each not in handlers]:
        root.removeHandler(handler)
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def brokers() -> str:
    """The address of a broker in this process, of the test's own."""
    return f"memory://{uuid4().hex[:8]}"
