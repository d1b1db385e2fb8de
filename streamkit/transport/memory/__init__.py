"""An in-process broker, for tests and for `brokers="memory://NAME"`.

It behaves as Kafka 4 and aiokafka 0.14 do where that is dangerous to an engine. It is not for production: what it holds
is gone with the process.
"""

from __future__ import annotations

from weakref import WeakValueDictionary

from streamkit.settings import Settings
from streamkit.transport.base import Admin, Consumer, Producer, Reader
from streamkit.transport.memory.admin import MemoryAdmin
from streamkit.transport.memory.broker import MemoryBroker
from streamkit.transport.memory.consumer import MemoryConsumer
from streamkit.transport.memory.log import MemoryRecord
from streamkit.transport.memory.producer import MemoryProducer
from streamkit.transport.memory.reader import MemoryReader

__all__ = [
    "MemoryBroker",
    "MemoryConsumer",
    "MemoryProducer",
    "MemoryRecord",
    "MemoryTransport",
    "named_broker",
]

SCHEME = "memory://"
_named: WeakValueDictionary[str, MemoryBroker] = WeakValueDictionary()


def named_broker(address: str) -> MemoryBroker:
    """The broker at `memory://NAME` (or `memory://`), one for the whole process.

    It lives as long as somebody holds it; a transport holds its own.
    """
    if not address.startswith(SCHEME):
        raise ValueError(f"{address!r} does not start with {SCHEME}")
    broker = _named.get(address)
    if broker is None:
        broker = _named[address] = MemoryBroker()
    return broker


class MemoryTransport:
    """Makes clients of the broker, with the timeouts of the settings."""

    def __init__(self, broker: MemoryBroker, settings: Settings) -> None:
        self.broker = broker
        self._settings = settings

    def consumer(self, group: str) -> Consumer:
        return MemoryConsumer(self.broker, self._settings, group)

    def producer(self) -> Producer:
        return MemoryProducer(self.broker, self._settings)

    def admin(self) -> Admin:
        return MemoryAdmin(self.broker, self._settings)

    def reader(self) -> Reader:
        return MemoryReader(self.broker, self._settings)
