from datetime import UTC, datetime

import pytest

from streamkit import App, Output, Record
from streamkit.record import UNSET


def test_the_timestamp_is_in_utc_and_keeps_its_milliseconds() -> None:
    record = Record("k", "v", timestamp_ms=1_357_034_400_123)
    assert record.timestamp == datetime(2013, 1, 1, 10, 0, 0, 123_000, tzinfo=UTC)


def test_a_record_shows_where_it_comes_from_and_not_what_it_holds() -> None:
    assert repr(Record("k", "secret", "orders", 3, 42)) == "Record(orders[3] offset 42, key 'k')"


def test_a_record_has_no_room_for_other_attributes() -> None:
    with pytest.raises(AttributeError):
        Record("k", "v").extra = 1  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def test_an_output_knows_no_key_from_the_null_key() -> None:
    assert Output("v").key is UNSET
    assert Output("v", key=None).key is None


def test_an_output_shows_its_topic() -> None:
    topic = App("shop").topic("alerts", value=str)
    assert repr(Output("fire", topic=topic, key="k")) == "Output('fire', key='k', topic='alerts')"
