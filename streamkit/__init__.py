"""streamkit: agents over typed Kafka topics. Nothing is lost, nothing overtakes, nothing is hidden."""

from streamkit.agent import Agent
from streamkit.app import App
from streamkit.batch import Batch, BatchError
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
    UserCodeFailed,
)
from streamkit.record import Headers, Output, Record, RecordMetadata, TopicPartition
from streamkit.retry import Reject, Retry, RetryLater, Skip
from streamkit.settings import Settings
from streamkit.stream import Stream
from streamkit.topic import Topic

__all__ = [
    "Agent",
    "App",
    "Batch",
    "BatchError",
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
    "RecordMetadata",
    "Reject",
    "Retry",
    "RetryLater",
    "Settings",
    "Skip",
    "Stream",
    "StreamkitError",
    "Topic",
    "TopicPartition",
    "TransportError",
    "UsageError",
    "UserCodeFailed",
]
