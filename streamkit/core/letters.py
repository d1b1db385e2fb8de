"""Dead letters as they lie in their topic: where each came from, what failed, and when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from streamkit.core.copies import parse_case, parse_number, user_headers
from streamkit.record import ConsumedRecord, HeaderList, Headers

LATEST_TIME: Final = 253_402_300_799_999  # ms since 1970: the end of the year 9999, the last that a datetime can show


class Letter(NamedTuple):
    """A dead letter. What its headers say is read when asked for, and is None where it is missing or senseless: anyone
    can write to a dead letter topic. Times are milliseconds since 1970, from 0 to LATEST_TIME."""

    partition: int
    offset: int
    appended: int  # when the broker got it
    key: bytes | None
    value: bytes | None
    headers: Headers  # all of them, as they are
    found: Mapping[str, bytes | None]  # the same by name; of one that is there twice, the last

    @property
    def id(self) -> str:
        return f"{self.partition}:{self.offset}"

    @property
    def origin_topic(self) -> str | None:
        return self._text("sk-origin-topic")

    @property
    def origin_partition(self) -> int | None:
        return self._number("sk-origin-partition")

    @property
    def origin_offset(self) -> int | None:
        return self._number("sk-origin-offset")

    @property
    def origin_timestamp(self) -> int | None:
        return self._time("sk-origin-timestamp")

    @property
    def group(self) -> str | None:
        """The group whose agent gave it up."""
        return self._text("sk-group")

    @property
    def attempts(self) -> int | None:
        """Runs of the handler."""
        return self._number("sk-attempt")

    @property
    def first_failed(self) -> int | None:
        return self._time("sk-first-failed-at")

    @property
    def failed(self) -> int | None:
        """When it failed for the last time."""
        return self._time("sk-failed-at")

    @property
    def when(self) -> int:
        """When it failed for the last time, else when the broker got it."""
        failed = self.failed
        return self.appended if failed is None else failed

    @property
    def stage(self) -> str | None:
        return self._text("sk-stage")

    @property
    def error_class(self) -> str | None:
        return self._text("sk-error-class")

    @property
    def error_message(self) -> str | None:
        return self._text("sk-error-message")

    @property
    def error_stack(self) -> str | None:
        return self._text("sk-error-stack")

    @property
    def case(self) -> str | None:
        """The dead letter that it was replayed from, if what it says is true, as partition:offset."""
        return parse_case(self.found.get("sk-dlq-id"))

    @property
    def omitted(self) -> tuple[str, ...]:
        """What was too large to be kept: "key", "value", "headers"."""
        names = self._text("sk-omitted")
        return tuple(names.split(",")) if names else ()

    @property
    def user_headers(self) -> HeaderList:
        """All that are not the framework's own."""
        return user_headers(self.headers)

    def _text(self, name: str) -> str | None:
        value = self.found.get(name)
        return None if value is None else value.decode(errors="replace")

    def _number(self, name: str) -> int | None:
        return parse_number(self.found.get(name))

    def _time(self, name: str) -> int | None:
        number = parse_number(self.found.get(name))
        return None if number is None or number > LATEST_TIME else number


def letter_of(record: ConsumedRecord) -> Letter:
    """The dead letter that a record is, whatever its headers hold."""
    headers = record.headers
    appended = min(max(0, record.timestamp), LATEST_TIME)
    return Letter(record.partition, record.offset, appended, record.key, record.value, headers, dict(headers))
