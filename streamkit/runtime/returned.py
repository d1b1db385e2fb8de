"""Records that their handler gets again: as they were in their source topic."""

from __future__ import annotations

from typing import final

import msgspec

from streamkit.core.copies import Origin, read_case, read_origin, user_headers
from streamkit.record import ConsumedRecord, Headers
from streamkit.runtime.retry_topics import Tier


@final
class Returned(msgspec.Struct, frozen=True, eq=False):
    """A ConsumedRecord under the coordinates, the timestamp and the headers of its origin."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    origin: Origin

    @property
    def topic(self) -> str:
        return self.origin.topic

    @property
    def partition(self) -> int:
        return self.origin.partition

    @property
    def offset(self) -> int:
        return self.origin.offset

    @property
    def timestamp(self) -> int:
        return self.origin.timestamp

    @property
    def attempt(self) -> int:
        """1 the first time."""
        return self.origin.attempts + 1


def from_tier(record: ConsumedRecord, tier: Tier) -> Returned:
    """A tier's record. What its headers do not say, or say wrongly, is taken from where it lies."""
    origin = read_origin(tier.source, tier.number, record.partition, record.offset, record.timestamp, record.headers)
    return Returned(record.key, record.value, user_headers(record.headers), origin)


def origin_of(record: ConsumedRecord) -> Origin:
    """Where it comes from, with the runs of its handler that came before this one."""
    if type(record) is Returned:
        return record.origin
    return Origin(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp=record.timestamp,
        attempts=0,
        first_failed=None,
        failed=None,
        due=None,
        case=read_case(record.headers),
    )


def again(record: ConsumedRecord, failed: int) -> Returned:
    """The record for its next run in place, after one that failed at `failed` (ms since 1970)."""
    origin = origin_of(record)
    first = failed if origin.first_failed is None else origin.first_failed
    origin = origin._replace(attempts=origin.attempts + 1, first_failed=first)
    return Returned(record.key, record.value, record.headers, origin)


def case_of(record: ConsumedRecord) -> str | None:
    """The dead letter that it was replayed from, as partition:offset."""
    if type(record) is Returned:
        return record.origin.case
    return read_case(record.headers) if record.headers else None


def attempt_of(record: ConsumedRecord) -> int:
    return record.attempt if type(record) is Returned else 1
