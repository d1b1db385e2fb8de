"""Everything that can be set for a worker: one frozen, validated object. docs/settings.md lists it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from streamkit.durations import parse_duration, show_duration
from streamkit.errors import ConfigurationError

PREFIX = "STREAMKIT_"
# Read by the tests, not by workers.
TEST_PREFIX = "STREAMKIT_TEST_"

SettingValue = str | int | timedelta | Sequence[str] | None
Parse = Callable[[Any], Any]
Show = Callable[[Any], str]

KIB = 1024
MIB = 1024 * KIB


def _duration(*, zero: bool = False) -> tuple[Parse, Show]:
    def parse(raw: Any) -> float:
        seconds = parse_duration(raw)
        if not seconds and not zero:
            raise ValueError("must be more than 0")
        return seconds

    return parse, show_duration


def _optional_duration(raw: Any) -> float | None:
    return None if raw is None else parse_duration(raw)


def _count(minimum: int = 1) -> tuple[Parse, Show]:
    def parse(raw: Any) -> int:
        number = raw if type(raw) is int else int(raw) if isinstance(raw, str) and _WHOLE.fullmatch(raw) else None
        if number is None:
            raise ValueError("not a whole number")
        return _at_least(minimum, number)

    return parse, lambda number: f"{number:,}".replace(",", "_")


_WHOLE = re.compile(r"-?[0-9][0-9_]*", re.ASCII)
_SIZE = re.compile(r"([0-9][0-9_]*)\s*(KiB|MiB|GiB|)", re.ASCII)
_SIZE_UNITS = {"": 1, "KiB": KIB, "MiB": MIB, "GiB": 1024 * MIB}


def _size() -> tuple[Parse, Show]:
    return _parse_size, _show_size


def _parse_size(raw: Any) -> int:
    match = _SIZE.fullmatch(str(raw)) if isinstance(raw, str) or type(raw) is int else None
    if match is None:
        raise ValueError('not a size: write "65536", "64KiB", "256MiB" or "1GiB"')
    return _at_least(1, int(match[1]) * _SIZE_UNITS[match[2]])


def _show_size(size: int) -> str:
    unit = next(unit for unit, scale in reversed(_SIZE_UNITS.items()) if size % scale == 0)
    return f"{size // _SIZE_UNITS[unit]}{unit}"


def _at_least(minimum: int, number: int) -> int:
    if number < minimum:
        raise ValueError(f"must be at least {minimum:,}")
    return number


def _choice(*choices: str) -> tuple[Parse, Show]:
    def parse(raw: Any) -> str:
        if raw not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return str(raw)

    return parse, str


def _parse_brokers(raw: Any) -> tuple[str, ...]:
    if isinstance(raw, str):
        raw = raw.split(",")
    if not isinstance(raw, Sequence) or not all(isinstance(broker, str) for broker in raw):
        raise ValueError("write HOST:PORT, several with commas between them")
    brokers = tuple(broker if "://" in broker else _address(broker, 9092) for broker in map(str.strip, raw))
    if not brokers:
        raise ValueError("at least one broker is needed")
    return brokers


def _parse_http(raw: Any) -> str:
    return "off" if raw == "off" else _address(raw, None)


_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII)


def _address(raw: Any, default_port: int | None) -> str:
    match = _ADDRESS.fullmatch(raw) if isinstance(raw, str) else None
    port = int(match["port"]) if match and match["port"] else default_port
    if match is None or port is None or port > 65_535:
        raise ValueError("write HOST:PORT" + (' or "off"' if default_port is None else ""))
    return f"{match['host']}:{port}"


def _setting(default: Any, how: tuple[Parse, Show], doc: str) -> Any:
    parse, show = how
    return field(default=default, metadata={"parse": parse, "show": show, "doc": doc})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of one worker; durations in seconds, sizes in bytes. Raises ConfigurationError if they contradict
    each other. Made by `Settings.load`, which also checks each one."""

    brokers: tuple[str, ...] = _setting(
        ("localhost:9092",),
        (_parse_brokers, ",".join),
        "Kafka brokers to start from, as HOST:PORT with commas between.",
    )
    http: str = _setting(
        "127.0.0.1:9464",
        (_parse_http, str),
        "Where metrics and health are served, or `off`. If the default is taken, a free port is used and logged.",
    )
    drain_timeout: float = _setting(
        30.0,
        _duration(zero=True),
        "How long handlers that have started may go on when the worker stops or loses a partition; then they are "
        "cancelled.",
    )
    commit_interval: float = _setting(1.0, _duration(), "At most this long after a record is settled it is committed.")
    commit_records: int = _setting(10_000, _count(), "A commit is due earlier when this many records are settled.")
    session_timeout: float = _setting(
        45.0, _duration(), "A worker that the group has not heard from for this long loses its partitions."
    )
    heartbeat_interval: float = _setting(
        3.0, _duration(), "How often the group hears from a worker; at most a third of `session_timeout`."
    )
    max_partition_unsettled: int = _setting(
        10_000, _count(), "Records of one partition that are read and not settled; at this many no more are fetched."
    )
    window: int = _setting(
        24_000,
        _count(),
        "Records of one partition from the oldest unsettled one on, the settled ones behind it included; at this many "
        "no more are fetched.",
    )
    max_records: int = _setting(100_000, _count(), "Records of one agent that are read and not settled, in total.")
    max_bytes: int = _setting(
        256 * MIB, _size(), "Bytes of one agent's records that are read and not settled, in total."
    )
    request_timeout: float = _setting(
        20.0, _duration(), "How long one request to a broker may take; less than `session_timeout`."
    )
    metadata_max_age: float = _setting(
        30.0, _duration(), "How often topics are looked at anew; new partitions are seen after this long."
    )
    connect_timeout: float = _setting(
        8.0, _duration(), "How long one attempt to reach the brokers may take; it is logged and repeated."
    )
    start_timeout: float = _setting(
        60.0, _duration(), "How long brokers that can be reached may take to answer what a worker asks at its start."
    )
    send_timeout: float = _setting(
        120.0,
        _duration(),
        "How long the brokers may take to acknowledge an output; then the producer is rebuilt and the output is sent "
        "again.",
    )
    linger: float = _setting(
        0.005, _duration(zero=True), "How long an output may wait for others to share its request."
    )
    batch_size: int = _setting(256 * KIB, _size(), "The largest batch of outputs for one partition.")
    max_request_size: int = _setting(MIB, _size(), "The largest output; a larger one fails at stage `sink`.")
    compression: str = _setting(
        "none", _choice("none", "gzip", "snappy", "lz4", "zstd"), "How batches of outputs are compressed."
    )
    log_format: str = _setting("text", _choice("text", "json"), "Logs for people or for machines.")
    log_level: str = _setting(
        "info", _choice("debug", "info", "warning", "error"), "The least severe messages that are logged."
    )
    stop_when_idle: float | None = _setting(
        None,
        (_optional_duration, lambda seconds: "" if seconds is None else show_duration(seconds)),
        "Exit 0 when everything that is assigned has been settled to its end for this long. Unset: run for ever.",
    )
    sources: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False, metadata={}
    )

    def __post_init__(self) -> None:
        _require(self.request_timeout < self.session_timeout, self, "request_timeout", "less than", "session_timeout")
        _require(
            self.heartbeat_interval * 3 <= self.session_timeout,
            self,
            "heartbeat_interval",
            "at most a third of",
            "session_timeout",
        )
        _require(self.max_partition_unsettled <= self.window, self, "max_partition_unsettled", "at most", "window")

    def is_default(self, name: str) -> bool:
        """Whether nobody has set it."""
        return name not in self.sources

    @classmethod
    def load(
        cls,
        command_line: Mapping[str, SettingValue],
        environ: Mapping[str, str],
        app: Mapping[str, SettingValue],
    ) -> Settings:
        """The command line wins over `STREAMKIT_*`, that over what was given to `App(...)`, that over the defaults.

        None on the command line or in `app` means not given, and so does an empty variable. Raises ConfigurationError
        that names the setting, the value and where it came from.
        """
        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for layer in (_from_app(app), _from_environment(environ), _from_command_line(command_line)):
            for name, value, source in layer:
                values[name] = value
                sources[name] = source
        return cls(**values, sources=MappingProxyType(sources))


def check_app_settings(app: Mapping[str, SettingValue]) -> None:
    """Raise ConfigurationError if one of the settings given to `App(...)` is none, or has a bad value."""
    for _ in _from_app(app):
        pass


def setting_fields() -> Mapping[str, Field[Any]]:
    """The settings by name; each field's metadata holds `doc`, `parse` and `show`."""
    return {item.name: item for item in fields(Settings) if item.metadata}


Layer = Iterator[tuple[str, Any, str]]


def _from_app(given: Mapping[str, SettingValue]) -> Layer:
    for name, raw in given.items():
        if raw is not None:
            yield name, _parsed(name, raw, name, "App(...)"), "App(...)"


def _from_environment(environ: Mapping[str, str]) -> Layer:
    for variable, raw in environ.items():
        if variable.startswith(PREFIX) and not variable.startswith(TEST_PREFIX) and raw:
            rest = variable.removeprefix(PREFIX)
            name = rest.lower() if rest.isupper() else rest
            yield name, _parsed(name, raw, variable, "environment"), "environment"


def _from_command_line(given: Mapping[str, SettingValue]) -> Layer:
    for name, raw in given.items():
        if raw is not None:
            label = "--" + name.replace("_", "-")
            yield name, _parsed(name, raw, label, "command line"), "command line"


def _parsed(name: str, raw: object, label: str, source: str) -> Any:
    known = setting_fields()
    if name not in known:
        raise ConfigurationError(f"{label} ({source}): no such setting{_did_you_mean(name, label, list(known))}")
    try:
        return known[name].metadata["parse"](raw)
    except ValueError as error:
        raise ConfigurationError(f"{label}={raw!r} ({source}): {error}") from None


def _did_you_mean(name: str, label: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if not close:
        return "; docs/settings.md lists them"
    suggestion = PREFIX + close[0].upper() if label.startswith(PREFIX) else close[0]
    return f"; did you mean {suggestion}?"


def _require(holds: bool, settings: Settings, name: str, relation: str, other: str) -> None:
    if holds:
        return
    shown = setting_fields()
    texts = [
        f"{each}={shown[each].metadata['show'](getattr(settings, each))} ({settings.sources.get(each, 'default')})"
        for each in (name, other)
    ]
    raise ConfigurationError(f"{texts[0]} must be {relation} {texts[1]}")
