from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest

from streamkit import App
from streamkit.buckets import DEFAULT_BUCKETS, parse_buckets, show_buckets
from streamkit.errors import ConfigurationError
from streamkit.settings import Settings

WAIT, LATE = "streamkit_queue_wait_seconds", "streamkit_retry_delay_error_seconds"


def test_buckets_are_given_as_text_or_as_a_dict() -> None:
    wanted = ((WAIT, (0.01, 0.1, 1.0, 60.0)), (LATE, (0.0, 0.5)))
    assert parse_buckets(f" {WAIT}=10ms, 0.1,1s,1m;{LATE} = 0,500ms") == wanted
    assert parse_buckets({WAIT: ["10ms", 0.1, timedelta(seconds=1), 60], LATE: (0, 0.5)}) == wanted
    assert parse_buckets({}) == ()


def test_what_is_shown_parses_back() -> None:
    buckets = tuple(DEFAULT_BUCKETS.items())
    assert parse_buckets(show_buckets(buckets)) == buckets


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (5, "write METRIC=10ms"),
        ("streamkit_queue_wait", "is no histogram; those are streamkit_processing_duration_seconds, "),
        ({"streamkit_in_flight_records": (1,)}, "is no histogram"),
        ({1: (1,)}, "1 is no histogram"),
        ({WAIT: "1s"}, "must be a sequence"),
        ({WAIT: 1}, "must be a sequence"),
        ({WAIT: ()}, "each must be above"),
        ({WAIT: (1, 1)}, "each must be above"),
        (f"{WAIT}=1s,10ms", "each must be above"),
        ({WAIT: (-1, 1)}, "must not be negative"),
        ({WAIT: (float("nan"),)}, "must be finite"),
        (f"{WAIT}=1,inf", "must be finite"),
        (f"{WAIT}=", "not a duration"),
        ({WAIT: (None,)}, "None is no bound"),
    ],
)
def test_bad_buckets_are_refused_and_the_message_says_why(raw: Any, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        parse_buckets(raw)


def test_a_setting_gives_them() -> None:
    app = App("billing", metrics_buckets={WAIT: (0.5, 1)}, metrics_detail="lag")
    settings = app.settings({}, {})
    assert settings.metrics_buckets == ((WAIT, (0.5, 1.0)),)
    assert settings.metrics_detail == "lag"
    assert settings.shown("metrics_buckets") == f"metrics_buckets={WAIT}=500ms,1s (App(...))"
    environ = {"STREAMKIT_METRICS_BUCKETS": f"{WAIT}=1ms", "STREAMKIT_METRICS_DETAIL": "topic"}
    settings = app.settings({}, environ)
    assert (settings.metrics_buckets, settings.metrics_detail) == (((WAIT, (0.001,)),), "topic")
    assert Settings().metrics_buckets == ()
    with pytest.raises(ConfigurationError, match="metrics_buckets="):
        App("billing", metrics_buckets={WAIT: ()})
