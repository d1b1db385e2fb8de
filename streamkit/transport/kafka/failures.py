"""aiokafka's errors as those of `transport.base`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiokafka import errors as kafka

from streamkit.errors import TransportError
from streamkit.transport.base import (
    CommitRejected,
    FetchFailed,
    MetadataTooLarge,
    RecordTooLarge,
    Refused,
    TopicMissing,
    TopicRefused,
    Unreachable,
)


class InvalidRecord(kafka.BrokerResponseError):  # type: ignore[misc]
    """Younger than aiokafka's table, which takes it for an unknown error of the broker that may pass."""

    errno = 87
    message = "INVALID_RECORD"

    def __str__(self) -> str:
        return "the broker takes the record for invalid; a compacted topic takes none without a key"


kafka.kafka_errors[InvalidRecord.errno] = InvalidRecord

_REFUSED = (
    kafka.GroupAuthorizationFailedError,
    kafka.ClusterAuthorizationFailedError,
    kafka.AuthenticationFailedError,
    kafka.SaslAuthenticationFailed,
    kafka.UnsupportedSaslMechanismError,
    kafka.InvalidTopicError,
    kafka.InvalidSessionTimeoutError,
    kafka.InvalidGroupIdError,
    kafka.InconsistentGroupProtocolError,
    kafka.IncompatibleBrokerVersion,
    InvalidRecord,
    kafka.InvalidTimestampError,
    kafka.PolicyViolationError,
    kafka.UnsupportedForMessageFormatError,
)
_UNREACHABLE = (
    kafka.KafkaConnectionError,
    kafka.KafkaTimeoutError,
    kafka.RequestTimedOutError,
    kafka.NodeNotReadyError,
    asyncio.TimeoutError,
    OSError,
)
_TABLE: tuple[tuple[tuple[type[BaseException], ...], type[TransportError]], ...] = (
    ((kafka.TopicAuthorizationFailedError,), TopicRefused),
    (_REFUSED, Refused),
    (_UNREACHABLE, Unreachable),
    (
        (
            kafka.UnknownMemberIdError,
            kafka.IllegalGenerationError,
            kafka.RebalanceInProgressError,
            kafka.CommitFailedError,
        ),
        CommitRejected,
    ),
    ((kafka.OffsetMetadataTooLargeError,), MetadataTooLarge),
    ((kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError), RecordTooLarge),
    ((kafka.RecordTooLargeError, kafka.CorruptRecordException, kafka.UnsupportedCodecError), FetchFailed),
)


def translate(error: BaseException) -> TransportError:
    """The error that the engine understands. AssertionError is how aiokafka reports its fatal states (R21)."""
    if isinstance(error, TransportError):
        return error
    if isinstance(error, kafka.UnknownTopicOrPartitionError) and error.args and isinstance(error.args[0], str):
        return TopicMissing(error.args[0])
    for kinds, translated in _TABLE:
        if isinstance(error, kinds):
            return translated(describe(error))
    return TransportError(describe(error))


def describe(error: BaseException) -> str:
    """The error's text, or its class; what aiokafka says of a bootstrap is its list of socket addresses."""
    text = str(error) or type(error).__name__
    return "none of them accepts a connection" if "Unable to bootstrap" in text else text


@contextmanager
def translated() -> Iterator[None]:
    """Raise what aiokafka raises inside as an error of `transport.base`."""
    try:
        yield
    except (kafka.KafkaError, AssertionError, TimeoutError, OSError) as error:
        raise translate(error) from error
