"""Kafka, through aiokafka 0.14: the only place that imports it."""

from __future__ import annotations

import logging

from streamkit.security import encrypts, logs_in
from streamkit.settings import Settings
from streamkit.transport.base import Admin, Consumer, Producer, Reader
from streamkit.transport.kafka.admin import KafkaAdmin
from streamkit.transport.kafka.consumer import KafkaConsumer
from streamkit.transport.kafka.producer import KafkaProducer
from streamkit.transport.kafka.reader import KafkaReader
from streamkit.transport.kafka.tls import tls_context

__all__ = ["KafkaTransport"]

log = logging.getLogger(__name__)


class KafkaTransport:
    """Makes clients of the cluster that the settings name.

    Raises ConfigurationError for certificates and keys that cannot be used; they are read here, and not again. Warns of
    settings that weaken the security.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._context = tls_context(settings)
        _warn(settings)

    def consumer(self, group: str) -> Consumer:
        return KafkaConsumer(self._settings, group, self._context)

    def producer(self) -> Producer:
        return KafkaProducer(self._settings, self._context)

    def admin(self) -> Admin:
        return KafkaAdmin(self._settings, self._context)

    def reader(self) -> Reader:
        return KafkaReader(self._settings, self._context)


def _warn(settings: Settings) -> None:
    if encrypts(settings) and not settings.ssl_check_hostname:
        log.warning(
            "%s: whoever has any certificate of a trusted CA can pose as a broker",
            settings.shown("ssl_check_hostname"),
        )
    if logs_in(settings) and not encrypts(settings) and settings.allow_plaintext_password:
        log.warning(
            "%s with %s: the login can be read by everyone on the way to the brokers",
            settings.shown("security_protocol"),
            settings.shown("allow_plaintext_password"),
        )
