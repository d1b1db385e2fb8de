"""Kafka, through aiokafka 0.14: the only place that imports it."""

from __future__ import annotations

from streamkit.settings import Settings
from streamkit.transport.base import Admin, Consumer, Producer
from streamkit.transport.kafka.admin import KafkaAdmin
from streamkit.transport.kafka.consumer import KafkaConsumer
from streamkit.transport.kafka.producer import KafkaProducer

__all__ = ["KafkaTransport"]


class KafkaTransport:
    """Makes clients of the cluster that the settings name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def consumer(self, group: str) -> Consumer:
        return KafkaConsumer(self._settings, group)

    def producer(self) -> Producer:
        return KafkaProducer(self._settings)

    def admin(self) -> Admin:
        return KafkaAdmin(self._settings)
