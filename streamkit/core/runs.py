"""Run lengths as bytes, whichever way is shortest: varints, a bitmap, or varints compressed.

The lengths are of alternating runs of offsets, unsettled first and settled last, each at least 1.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from itertools import chain, cycle, pairwise
from operator import mul

MAX_INFLATED = 1 << 20  # bytes; no window has that many runs, a zlib bomb has more
_SETTLED_BITS = re.compile("1+")


def pack(runs: Sequence[int]) -> tuple[str, bytes]:
    """The codec that takes fewest bytes, and those bytes."""
    plain = b"".join(map(varint, runs)) if max(runs) > 127 else bytes(runs)
    payloads = {"r": plain}
    if len(plain) <= MAX_INFLATED:
        payloads["z"] = zlib.compress(plain)
    # Only built where it wins: runs may be a few, and yet span millions of offsets.
    if sum(runs) < 8 * min(map(len, payloads.values())):
        payloads["b"] = varint(sum(runs)) + _bitmap(runs)
    return min(payloads.items(), key=lambda item: len(item[1]))


def unpack(codec: str, payload: bytes) -> list[int]:
    """The runs that `pack` was given; `ValueError` or `zlib.error` if it cannot have made this."""
    match codec:
        case "r":
            runs = _varints(payload)
        case "z":
            runs = _varints(_inflate(payload))
        case "b":
            runs = _runs_of_bitmap(*split_varint(payload))
        case _:
            raise ValueError("an unknown codec")
    if not runs or len(runs) % 2 or min(runs) < 1:
        raise ValueError("not runs that begin unsettled and end settled")
    return runs


def varint(number: int) -> bytes:
    """LEB128: seven bits a byte, lowest first, the top bit set where more follow."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def split_varint(data: bytes) -> tuple[int, bytes]:
    """The number that `data` begins with, and the rest."""
    end = next((n for n, byte in enumerate(data, start=1) if byte < 128), 0)
    (number,) = _varints(data[:end])
    return number, data[end:]


def _varints(data: bytes) -> list[int]:
    numbers: list[int] = []
    number = shift = 0
    for byte in data:
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(number)
            number = shift = 0
        elif shift == 63:
            raise ValueError("longer than an offset")
    if shift:
        raise ValueError("ends within a number")
    return numbers


def _bitmap(runs: Sequence[int]) -> bytes:
    """One bit an offset, lowest first, set where it is settled."""
    bits = "".join(map(mul, cycle("01"), runs))
    return int(bits[::-1], 2).to_bytes((len(bits) + 7) // 8, "little")


def _runs_of_bitmap(size: int, bitmap: bytes) -> list[int]:
    if len(bitmap) != (size + 7) // 8:
        raise ValueError("not as many bits as stated")
    bits = f"{int.from_bytes(bitmap, 'little'):0{size}b}"[::-1]
    bounds = [0, *chain.from_iterable(run.span() for run in _SETTLED_BITS.finditer(bits))]
    if bounds[-1] != size:
        raise ValueError("does not end settled")
    return [end - start for start, end in pairwise(bounds)]


def _inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    inflated = inflater.decompress(data, MAX_INFLATED)
    if not inflater.eof or inflater.unused_data:
        raise ValueError("truncated, too long or followed by something")
    return inflated
