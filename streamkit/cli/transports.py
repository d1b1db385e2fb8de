"""Which adapter the brokers' address asks for."""

from __future__ import annotations

from streamkit.errors import ConfigurationError
from streamkit.settings import Settings
from streamkit.transport.base import Transport


def transport_for(settings: Settings) -> Transport:
    """Kafka for `HOST:PORT`, the in-process broker for `memory://NAME`. Raises ConfigurationError for others."""
    first, *others = settings.brokers
    if first.startswith("memory://") and not others:
        from streamkit.transport.memory import MemoryTransport, named_broker

        return MemoryTransport(named_broker(first), settings)
    for broker in settings.brokers:
        if "://" in broker:
            raise ConfigurationError(
                f"brokers={','.join(settings.brokers)}: write HOST:PORT, several with commas between them"
            )
    from streamkit.transport.kafka import KafkaTransport

    return KafkaTransport(settings)
