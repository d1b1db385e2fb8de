"""Which adapter the brokers' address asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from streamkit.errors import ConfigurationError, TransportError
from streamkit.settings import Settings
from streamkit.transport.base import Refused, Transport


@contextmanager
def asking(settings: Settings) -> Iterator[None]:
    """Around the first calls to the brokers: what goes wrong names them.

    Raises ConfigurationError if they refuse this client, TransportError if they cannot be reached or time is up.
    """
    brokers = ",".join(settings.brokers)
    try:
        yield
    except Refused as error:
        raise ConfigurationError(f"the brokers at {brokers} refuse this client: {error}") from error
    except (TransportError, TimeoutError) as error:
        reason = str(error) or f"no answer within {settings.connect_timeout:g} s (connect_timeout)"
        raise TransportError(f"cannot reach the brokers at {brokers}: {reason}") from error


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
