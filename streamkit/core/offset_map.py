"""The records settled ahead of the committed offset, as the metadata of that commit.

Format `sk1`, all ASCII: `sk1`, one character for the codec, then base64 without padding of
varint(base) + payload + crc16. Base is the committed offset; varints are LEB128; crc16 is the low half of
the CRC-32 of all before it (`sk1` and codec included), big-endian. Seen from base, offsets come in
alternating runs, unsettled first, up to the last settled one. The payload, whichever is shortest:

- `r`: the length of each run, as varints;
- `b`: varint(number of bits), then one bit an offset from base on, lowest first, set where settled;
- `z`: the bytes of `r`, compressed by zlib.

24,000 consecutive offsets need at most 4,023 characters, whatever the pattern, so a window of that size
always fits in the 4,096 that a Kafka broker allows (`offset.metadata.max.bytes`).
"""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, chain
from operator import sub

from streamkit.core.offsets import OffsetWindow
from streamkit.core.runs import pack, split_varint, unpack, varint

PREFIX = "sk1"
Ranges = list[tuple[int, int]]


def encode(window: OffsetWindow, limit: int = 4096) -> str:
    """What is settled beyond `window.committable`, in at most `limit` characters; "" if nothing is.

    If all does not fit, the longest prefix of the ranges that does is kept: what is forgotten runs
    again, nothing is lost.
    """
    bounds = list(chain.from_iterable(window.settled_ranges()))
    if not bounds:
        return ""
    base = window.committable
    runs = list(map(sub, bounds, [base, *bounds]))
    codec, payload = pack(runs)
    room = (limit - len(PREFIX) - 1) * 3 // 4 - len(varint(base)) - 2  # bytes
    if len(payload) > room:
        fits = bisect_right(range(1, len(runs) // 2), room, key=lambda n: len(pack(runs[: 2 * n])[1]))
        if not fits:
            return ""
        codec, payload = pack(runs[: 2 * fits])
    return _seal(codec, varint(base) + payload)


def decode(metadata: str, committed: int, log_end: int) -> Ranges:
    """The settled offset ranges [start, end) that `metadata` states for a commit of `committed`.

    Empty if anything about it is odd: it may be of another program, of a commit that a tool has since
    moved, or damaged, and a range taken for settled that is not would be records lost. An empty answer
    only means that records run again.
    """
    try:
        return _decode(metadata, committed, log_end)
    except (ValueError, zlib.error):
        return []


class SkipList:
    """Tells which records were settled before a restart; fastest for offsets that increase."""

    __slots__ = ("_at", "_bounds")

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        self._bounds = list(chain.from_iterable(ranges))
        self._at = 0  # how many bounds are at or below the last offset asked for: odd within a range

    @property
    def end(self) -> int:
        """No offset from here on is settled."""
        return self._bounds[-1] if self._bounds else 0

    def settled(self, offset: int) -> bool:
        at, bounds = self._at, self._bounds
        if at and offset < bounds[at - 1]:
            at = bisect_right(bounds, offset)
        while at < len(bounds) and bounds[at] <= offset:
            at += 1
        self._at = at
        return at % 2 == 1


def _decode(metadata: str, committed: int, log_end: int) -> Ranges:
    codec, body = _unseal(metadata)
    base, payload = split_varint(body)
    if base != committed:
        raise ValueError("made for another offset")
    bounds = list(accumulate(unpack(codec, payload), initial=base))
    if bounds[-1] > log_end:
        raise ValueError("beyond the end of the log")
    return list(zip(bounds[1::2], bounds[2::2], strict=True))


def _seal(codec: str, body: bytes) -> str:
    return PREFIX + codec + b64encode(body + _crc16(codec, body)).rstrip(b"=").decode()


def _unseal(metadata: str) -> tuple[str, bytes]:
    codec, text = metadata[len(PREFIX) : len(PREFIX) + 1], metadata[len(PREFIX) + 1 :]
    raw = b64decode(text + "=" * (-len(text) % 4), validate=True)
    body, crc = raw[:-2], raw[-2:]
    if not metadata.startswith(PREFIX) or crc != _crc16(codec, body):
        raise ValueError("foreign or damaged")
    return codec, body


def _crc16(codec: str, body: bytes) -> bytes:
    # The codec is covered too: one flipped bit turns an r into a b.
    return (zlib.crc32(body, zlib.crc32((PREFIX + codec).encode())) & 0xFFFF).to_bytes(2, "big")
