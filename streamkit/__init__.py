"""streamkit: agents over typed Kafka topics. Nothing is lost, nothing overtakes, nothing is hidden."""

from streamkit.agent import Agent
from streamkit.app import App
from streamkit.codec import Codec
from streamkit.errors import (
    ConfigurationError,
    DeclarationError,
    DecodeError,
    EncodeError,
    LostRange,
    MissingTopic,
    RecordFailed,
    StreamkitError,
    TransportError,
    UsageError,
)
from streamkit.record import Headers, Output, Record, TopicPartition
from streamkit.settings import Settings
from streamkit.topic import Topic

__all__ = [
    "Agent",
    "App",
    "Codec",
    "ConfigurationError",
    "DeclarationError",
    "DecodeError",
    "EncodeError",
    "Headers",
    "LostRange",
    "MissingTopic",
    "Output",
    "Record",
    "RecordFailed",
    "Settings",
    "StreamkitError",
    "Topic",
    "TopicPartition",
    "TransportError",
    "UsageError",
]
