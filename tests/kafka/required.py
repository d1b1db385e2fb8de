"""What needs a genuine Kafka is skipped where there is none; under CI=true that is a failure."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import pytest

from tests.kafka.server import KafkaUnavailable

T = TypeVar("T")


@contextmanager
def required(cluster: AbstractContextManager[T]) -> Iterator[T]:
    """The cluster, for the length of a `with` block."""
    try:
        kafka = cluster.__enter__()
    except KafkaUnavailable as unavailable:
        if os.environ.get("CI") == "true":
            raise pytest.fail.Exception(f"{unavailable}; CI=true requires it", pytrace=False) from None
        raise pytest.skip.Exception(str(unavailable)) from None
    try:
        yield kafka
    finally:
        cluster.__exit__(None, None, None)
