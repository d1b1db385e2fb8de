"""Every error that streamkit raises, each saying what is wrong, where, and what to do about it."""

from collections.abc import Mapping
from typing import ClassVar, Literal

Stage = Literal["decode-key", "decode-value", "handle", "sink"]


class StreamkitError(Exception):
    """The base of all. `exit_code` is what `streamkit worker` exits with when one of them ends it."""

    exit_code: ClassVar[int] = 1


class ConfigurationError(StreamkitError):
    """Something is declared or set wrongly; nothing has run."""

    exit_code = 78


class DeclarationError(ConfigurationError):
    """A topic or an agent that cannot work. Raised where it is declared, at import."""


class UsageError(StreamkitError):
    """A command line that cannot be followed."""

    exit_code = 2


class EncodeError(StreamkitError, TypeError):
    """A value or key that is not of the topic's type."""

    def __init__(self, expected: str, value: object) -> None:
        self.expected = expected
        self.actual = type(value)
        super().__init__(f"expected {expected}, got {self.actual.__qualname__}: {_excerpt(repr(value), 100)}")


class DecodeError(StreamkitError, ValueError):
    """Bytes that are not of the topic's type."""


class TransportError(StreamkitError):
    """The brokers refused, or could not be reached for longer than the work can wait."""


class MissingTopic(ConfigurationError):
    """Topics that do not exist. Nothing creates them in passing: a misspelt name would be created as well."""

    def __init__(
        self,
        topics: Mapping[str, tuple[int | None, int | None]],
        brokers: str,
        *,
        configs: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """`topics` maps each missing name to the partitions and replication declared for it (None: not declared);
        `configs` maps some of them to the settings that they must be created with."""
        self.topics = dict(topics)
        super().__init__(_missing_topics(self.topics, brokers, configs or {}))


class LostRange(StreamkitError):
    """Records that the group had not read yet are no longer in the log."""

    def __init__(
        self, group: str, topic: str, partition: int, *, committed: int, start: int | None, end: int | None
    ) -> None:
        """`committed` is the group's offset; `start` and `end` are the log's bounds, None if the topic is gone."""
        self.group = group
        self.topic = topic
        self.partition = partition
        self.committed = committed
        self.start = start
        self.end = end
        super().__init__(
            f"group {group!r} is to go on with {topic}[{partition}] at offset {committed}, but "
            + _lost(committed, start, end)
            + '\nTo go on nevertheless, declare on_gap="earliest" (what is left is read) or on_gap="latest" '
            "(only what arrives from now on) for the agent."
        )


class RecordFailed(StreamkitError):
    """A record could not be handled, so its agent has stopped. Its offset is not committed."""

    def __init__(
        self,
        agent: str,
        stage: Stage,
        topic: str,
        partition: int,
        offset: int,
        key: bytes | None,
        cause: BaseException,
        *,
        group: str | None = None,
        brokers: str | None = None,
        raw: bytes | None = None,
        batch: int = 0,
    ) -> None:
        """`group` and `brokers` (with commas between) are for the advice; `raw` holds the bytes that could not be
        decoded, for the stages that decode.

        With `batch` it is not the record alone that failed, but so many consecutive ones, of which it is the first.
        """
        self.agent = agent
        self.stage: Stage = stage
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.key = key
        self.cause = cause
        self.group = group
        self.brokers = brokers
        self.raw = raw
        self.batch = batch
        self.log_fields: Mapping[str, object] = {}  # what a log line about the record carries
        super().__init__(_record_failed(self))

    def without_payload(self) -> str:
        """What it says, without the key and the bytes of the record."""
        return _record_failed(self, payload=False)


class UserCodeFailed(StreamkitError):
    """Code of the app raised where no record is to blame: a timer, the lifespan, a loop outside of its records."""

    def __init__(self, what: str, cause: BaseException) -> None:
        """`what` is the code, for example: the timer 'beat'."""
        self.cause = cause
        super().__init__(f"{what} raised {named(cause)}")


def hex_excerpt(data: bytes, limit: int = 32) -> str:
    """The first `limit` bytes in hex and as text, and how many there are: `7b 22 69 ... |{"i...| (143 bytes)`."""
    head = data[:limit]
    more = "..." if len(data) > limit else ""
    text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in head)
    return f"{head.hex(' ')}{' ' + more if more else ''} |{text}{more}| ({len(data)} bytes)"


def _excerpt(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "..."


def _record_failed(failure: RecordFailed, *, payload: bool = True) -> str:
    where = f"{failure.topic}[{failure.partition}] offset {failure.offset}"
    key = "null" if failure.key is None else _excerpt(repr(failure.key), 80)
    one = f"{where}, key {key}" if payload else where
    what = f"a batch of {failure.batch} records from {where} on" if failure.batch else one
    cause = _excerpt(named(failure.cause), 2_000)
    lines = [f"agent {failure.agent!r} failed at stage {failure.stage} on {what}: {cause}"]
    if failure.raw is not None and payload:
        lines.append(f"The bytes: {hex_excerpt(failure.raw)}")
    lines += getattr(failure.cause, "__notes__", ())
    if failure.batch:
        lines.append(
            "Mend the handler, or raise BatchError({place: error}) to say which records failed. "
            "Nothing of the batch is committed: the next start runs it again."
        )
    else:
        lines.append(f"{_ADVICE[failure.stage]} The record is not committed: the next start runs it again.")
        lines.append(f"To pass over it, stop all workers of the group and run: {_skip_command(failure)}")
    return "\n".join(lines)


def named(error: BaseException) -> str:
    """Its class and what it says."""
    name, message = type(error).__qualname__, message_of(error)
    return f"{name}: {message}" if message else name


def message_of(error: BaseException) -> str:
    """What it says, even if it cannot say it: nothing must fail because of how a user's error is made."""
    try:
        return str(error)
    except Exception as failed:
        return f"<its str() raised {type(failed).__qualname__}>"


_ASIDE = "or declare dead_letter=True to set such records aside."
_ADVICE: dict[Stage, str] = {
    "decode-key": f"Declare the topic with the key type that its producers write, or with key=bytes; {_ASIDE}",
    "decode-value": "Declare the topic with the value type that its producers write, or give it a codec= for them; "
    + _ASIDE,
    "handle": 'Mend the handler, or declare retry=Retry.exponential("5s") to run such records again, '
    "or dead_letter=True to set them aside.",
    "sink": f"Mend what the handler returns, or the topic that it goes to; {_ASIDE}",
}


def _skip_command(failure: RecordFailed) -> str:
    brokers, group = failure.brokers or "BROKERS", failure.group or "GROUP"
    return (
        f"kafka-consumer-groups.sh --bootstrap-server {brokers} --group {group} "
        f"--topic {failure.topic}:{failure.partition} --reset-offsets --to-offset {failure.offset + 1} --execute"
    )


def _lost(committed: int, start: int | None, end: int | None) -> str:
    if start is None or end is None:
        return f"the topic is gone, with everything from offset {committed} on."
    if committed < start:
        lost = start - committed
        return f"the log now starts at {start}: offsets {committed} to {start - 1} ({lost}) fell to retention unread."
    return (
        f"the log ends at {end}: the topic was made anew or cut short, and offsets {end} to {committed - 1} are gone."
    )


def _missing_topics(
    topics: Mapping[str, tuple[int | None, int | None]], brokers: str, configs: Mapping[str, Mapping[str, str]]
) -> str:
    names = ", ".join(sorted(topics))
    commands = [
        f"  kafka-topics.sh --bootstrap-server {brokers} --create --topic {name} "
        f"--partitions {partitions or 1} --replication-factor {replication or 1}"
        + "".join(f" --config {setting}={value}" for setting, value in sorted(configs.get(name, {}).items()))
        for name, (partitions, replication) in sorted(topics.items())
    ]
    declared = all(partitions for partitions, _ in topics.values())
    hint = "or start with --create-topics" if declared else "or declare partitions= and start with --create-topics"
    return "\n".join([f"missing: {names}. Create with", *commands, f"{hint}."])
