"""Reads the one record that tells how old a backlog is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from streamkit.core.copies import parse_number
from streamkit.core.lag import Found
from streamkit.observe.lag import Unread
from streamkit.record import ConsumedRecord
from streamkit.transport.base import Reader

POLL_TIMEOUT = 0.5  # seconds


async def read_first(
    make_reader: Callable[[], Reader], wanted: Sequence[Unread], timeout: float
) -> tuple[dict[Unread, Found | None], Exception | None]:
    """The first record at or behind each of these offsets, for as many as there is time for; and what went wrong.

    A None is one that was tried in vain. Takes `timeout` seconds at most, and does not raise. Compaction and markers
    leave offsets without a record, so the next one counts, and there may be none up to the end.
    """
    found: dict[Unread, Found | None] = {}
    try:
        reader = make_reader()
        try:
            async with asyncio.timeout(timeout):
                await reader.start()
                for each in wanted:
                    found[each] = None
                    found[each] = await _read(reader, each)
        finally:
            await reader.stop()
    except Exception as error:
        return found, error
    return found, None


async def _read(reader: Reader, wanted: Unread) -> Found:
    partition = wanted.partition
    reader.assign({partition: wanted.offset})
    while True:
        batches = await reader.poll(max_records=1, timeout=POLL_TIMEOUT)
        for record in batches.get(partition, ()):
            return _found(record)
        reached = reader.position(partition)
        if reached >= wanted.end:
            return Found(reached, None)


def _found(record: ConsumedRecord) -> Found:
    due = parse_number(dict(record.headers).get("sk-due"))
    return Found(record.offset, record.timestamp / 1000, None if due is None else due / 1000)
