"""Which partition of a topic a key goes to: as Kafka's Java clients choose it."""

from __future__ import annotations

MASK = 0xFFFFFFFF
REMEMBERED = 65_536


def murmur2(data: bytes) -> int:
    """MurmurHash2 with 32 bits and Kafka's seed (Kafka's `Utils.murmur2`), as an unsigned number."""
    multiplier = 0x5BD1E995
    length = len(data)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for at in range(0, whole, 4):
        k = (int.from_bytes(data[at : at + 4], "little") * multiplier) & MASK
        k = ((k ^ (k >> 24)) * multiplier) & MASK
        h = ((h * multiplier) & MASK) ^ k
    if length > whole:
        h = ((h ^ int.from_bytes(data[whole:], "little")) * multiplier) & MASK
    h = ((h ^ (h >> 13)) * multiplier) & MASK
    return h ^ (h >> 15)


class Partitioner:
    """The same key always goes to the same partition; null keys go round."""

    __slots__ = ("_count", "_known", "_next")

    def __init__(self, count: int) -> None:
        self._count = count
        self._next = 0
        self._known: dict[bytes, int] = {}

    def choose(self, key: bytes | None, partition: int | None = None) -> int:
        """The partition asked for, or else the key's. Raises ValueError if there is no such partition."""
        if partition is not None:
            if not 0 <= partition < self._count:
                raise ValueError(f"there is no partition {partition}: the topic has {self._count}")
            return partition
        if key is None:
            self._next = (self._next + 1) % self._count
            return self._next
        known = self._known.get(key)
        return self._remember(key) if known is None else known

    def _remember(self, key: bytes) -> int:
        # A hash costs some µs; keys repeat. The memory is bounded by forgetting all at once.
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        chosen = self._known[key] = (murmur2(key) & 0x7FFFFFFF) % self._count
        return chosen
