"""Everything that can be set for a worker: one frozen, validated object. docs/settings.md lists it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from datetime import timedelta
from functools import partial
from os import PathLike
from types import MappingProxyType
from typing import Any

from streamkit.buckets import Buckets, parse_buckets, show_buckets
from streamkit.durations import show_duration
from streamkit.errors import ConfigurationError
from streamkit.secrets import MASK, Secret, read_secret
from streamkit.security import TokenSource, check_security
from streamkit.setting_values import (
    KIB,
    MIB,
    Parse,
    Show,
    choice,
    count,
    duration,
    flag,
    masked,
    optional,
    optional_duration,
    parse_brokers,
    parse_http,
    parse_path,
    parse_secret,
    parse_text,
    parse_token_source,
    ratio,
    size,
)

PREFIX = "STREAMKIT_"
# Read by the tests, not by workers.
TEST_PREFIX = "STREAMKIT_TEST_"

BoundsByMetric = Mapping[str, Sequence[float | str | timedelta]]
SettingValue = (
    str | int | float | timedelta | PathLike[str] | Secret | Sequence[str] | TokenSource | BoundsByMetric | None
)


def _setting(group: str, default: Any, how: tuple[Parse, Show], doc: str, *, secret: bool = False) -> Any:
    parse, show = how
    metadata = {"group": group, "parse": parse, "show": show, "doc": doc, "secret": secret}
    return field(default=default, metadata=metadata)


_connection, _security, _reading, _settling, _sending, _breaker, _running = (
    partial(_setting, group)
    for group in ("connection", "security", "reading", "settling", "sending", "breaker", "running")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of one worker; durations in seconds, sizes in bytes. Raises ConfigurationError if they contradict
    each other. Made by `Settings.load`, which also checks each one and reads the files that secrets are in."""

    brokers: tuple[str, ...] = _connection(
        ("localhost:9092",),
        (parse_brokers, ",".join),
        "Kafka brokers to start from, as HOST:PORT with commas between.",
    )
    request_timeout: float = _connection(
        20.0, duration(), "How long one request to a broker may take; less than `session_timeout`."
    )
    metadata_max_age: float = _connection(
        30.0, duration(), "How often topics are looked at anew; new partitions are seen after this long."
    )
    connect_timeout: float = _connection(
        8.0, duration(), "How long one attempt to reach the brokers may take; it is logged and repeated."
    )
    start_timeout: float = _connection(
        60.0, duration(), "How long brokers that can be reached may take to answer what a worker asks at its start."
    )
    security_protocol: str = _security(
        "PLAINTEXT",
        choice("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
        "`PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`: whether connections are encrypted (`SSL`) and begin with "
        "a login (`SASL`).",
    )
    sasl_mechanism: str | None = _security(
        None,
        optional(choice("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")[0]),
        "How to log in: `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512` or `OAUTHBEARER`.",
    )
    sasl_username: str | None = _security(None, optional(parse_text), "Who logs in.")
    sasl_password: Secret | None = _security(  # noqa: RUF009  (it is a field, and a secret never changes)
        None, masked(parse_secret), "The password. Better kept in a file.", secret=True
    )
    sasl_password_file: str | None = _security(
        None, optional(parse_path), "A file that holds `sasl_password`, not readable by every user."
    )
    sasl_oauth_token: TokenSource | None = _security(  # noqa: RUF009
        None,
        masked(parse_token_source),
        "For `OAUTHBEARER`: a function, async or not, that returns a token. Only as `App(sasl_oauth_token=...)`.",
        secret=True,
    )
    ssl_cafile: str | None = _security(
        None, optional(parse_path), "PEM file of the CAs that broker certificates may be from. Unset: the system's."
    )
    ssl_certfile: str | None = _security(
        None, optional(parse_path), "PEM file of the client's own certificate, and of those between it and its CA."
    )
    ssl_keyfile: str | None = _security(
        None, optional(parse_path), "PEM file of that certificate's key, not readable by every user."
    )
    ssl_key_password: Secret | None = _security(  # noqa: RUF009
        None, masked(parse_secret), "What `ssl_keyfile` is encrypted with.", secret=True
    )
    ssl_key_password_file: str | None = _security(
        None, optional(parse_path), "A file that holds `ssl_key_password`, not readable by every user."
    )
    ssl_check_hostname: bool = _security(
        True, flag(), "Whether a broker's certificate must be for the name it is connected by."
    )
    allow_plaintext_password: bool = _security(
        False, flag(), "Allow logins over `SASL_PLAINTEXT` to brokers on other machines."
    )
    max_records: int = _reading(100_000, count(), "Records of one agent that are read and not settled, in total.")
    max_bytes: int = _reading(
        256 * MIB, size(), "Bytes of one agent's records that are read and not settled, in total."
    )
    max_partition_unsettled: int = _reading(
        10_000, count(), "Records of one partition that are read and not settled; at this many no more are fetched."
    )
    window: int = _reading(
        24_000,
        count(),
        "Records of one partition from the oldest unsettled one on, the settled ones behind it included; at this many "
        "no more are fetched.",
    )
    session_timeout: float = _reading(
        45.0, duration(), "A worker that the group has not heard from for this long loses its partitions."
    )
    heartbeat_interval: float = _reading(
        3.0, duration(), "How often the group hears from a worker; at most a third of `session_timeout`."
    )
    fetch_max_wait: float = _reading(
        0.1, duration(), "How long a broker may wait for `fetch_min_bytes` to come together before it answers."
    )
    fetch_min_bytes: int = _reading(
        1, size(), "A broker answers at once when it has this much; more saves requests and costs time."
    )
    fetch_max_bytes: int = _reading(
        50 * MIB, size(), "The most that one answer of a broker holds, over all of its partitions."
    )
    max_partition_fetch_bytes: int = _reading(
        MIB,
        size(),
        "The most of one partition in an answer. Every assigned partition may have as much waiting, on top of "
        "`max_bytes`. A larger record still comes, alone.",
    )
    commit_interval: float = _settling(1.0, duration(), "At most this long after a record is settled it is committed.")
    commit_records: int = _settling(10_000, count(), "A commit is due earlier when this many records are settled.")
    drain_timeout: float = _settling(
        30.0,
        duration(zero=True),
        "How long handlers that have started may go on when the worker stops or loses a partition; then they are "
        "cancelled.",
    )
    compression: str = _sending(
        "none",
        choice("none", "gzip", "snappy", "lz4", "zstd"),
        "How batches of outputs are compressed: `none`, `gzip`, `snappy`, `lz4` or `zstd`.",
    )
    linger: float = _sending(0.005, duration(zero=True), "How long an output may wait for others to share its request.")
    batch_size: int = _sending(256 * KIB, size(), "The largest batch of outputs for one partition.")
    max_request_size: int = _sending(MIB, size(), "The largest output; a larger one fails at stage `sink`.")
    send_timeout: float = _sending(
        120.0,
        duration(),
        "How long the brokers may take to acknowledge an output; then the producer is rebuilt and the output is sent "
        "again.",
    )
    breaker_failures: int = _breaker(
        100,
        count(0),
        "It opens at this many failures: in a row, or of records that fail for the first time within `breaker_window`. "
        "`0`: there is none.",
    )
    breaker_keys: int = _breaker(
        10,
        count(),
        "A row opens it only if at least this many keys have begun to fail in it: keys that go on failing, and fall "
        "behind the others, make no row.",
    )
    breaker_ratio: float = _breaker(
        0.5,
        ratio(),
        "Failures within `breaker_window` open it, whatever their keys, when they are at least this part of them and "
        "of all successes. A record counts when it fails for the first time only.",
    )
    breaker_window: float = _breaker(30.0, duration(), "How far back failures that are not in a row are counted.")
    http: str = _running(
        "127.0.0.1:9464",
        (parse_http, str),
        "Where metrics and health are served, or `off`. If the default is taken, a free port is used and logged.",
    )
    metrics_detail: str = _running(
        "auto",
        choice("auto", "full", "lag", "topic"),
        "What metrics tell of single partitions: everything (`full`), how far they are behind (`lag`), or nothing but "
        "totals by topic (`topic`). `auto` is `full`, and `topic` above 1,000 assigned partitions.",
    )
    metrics_buckets: Buckets = _running(  # noqa: RUF009
        (),
        (parse_buckets, show_buckets),
        "Other buckets for histograms: their upper bounds, as in `streamkit_queue_wait_seconds=10ms,100ms,1s`, several "
        "with `;` between; in Python a dict.",
    )
    startup_limit: float = _running(
        300.0,
        duration(),
        "How long the app's lifespan and joining the groups may take before `/livez` says no. Time in which no broker "
        "answers does not count.",
    )
    dump_stacks_after: float = _running(
        15.0,
        duration(zero=True),
        "When no Python code has run for this long, because C code holds the GIL, the stacks of all threads go to "
        "standard error. `0`: never, for apps that use `faulthandler.dump_traceback_later` themselves.",
    )
    log_format: str = _running("text", choice("text", "json"), "Logs for people (`text`) or for machines (`json`).")
    log_level: str = _running(
        "info",
        choice("debug", "info", "warning", "error"),
        "The least severe messages that are logged: `debug`, `info`, `warning` or `error`.",
    )
    log_payloads: bool = _running(
        False, flag(), "Log the key and the beginning of the value with what is logged about a record."
    )
    stop_when_idle: float | None = _running(
        None,
        (optional_duration, lambda seconds: "" if seconds is None else show_duration(seconds)),
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
        _require(self.fetch_max_wait < self.request_timeout, self, "fetch_max_wait", "less than", "request_timeout")
        _require(
            self.max_partition_fetch_bytes <= self.fetch_max_bytes,
            self,
            "max_partition_fetch_bytes",
            "at most",
            "fetch_max_bytes",
        )
        check_security(self)

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

        A secret is read from its file here, if the file is what counts.
        """
        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for layer in (_from_app(app), _from_environment(environ), _from_command_line(command_line)):
            for name, value, source in layer:
                values[name] = value
                sources[name] = source
        for name in _secret_names():
            _read_file(name, values, sources)
        return cls(**values, sources=MappingProxyType(sources))

    def shown(self, name: str) -> str:
        """The setting with its value and where it came from, as in `window=100 (App(...))`; secrets are masked."""
        text = setting_fields()[name].metadata["show"](getattr(self, name)) or "unset"
        return f"{name}={text} ({self.sources.get(name, 'default')})"


def hidden(given: Mapping[str, SettingValue]) -> dict[str, SettingValue]:
    """The same settings, with what is secret out of the sight of who prints them."""
    known = setting_fields()

    def hide(name: str, value: SettingValue) -> SettingValue:
        is_secret = name in known and known[name].metadata["secret"]
        return Secret(value) if is_secret and isinstance(value, str) and value else value

    return {name: hide(name, value) for name, value in given.items()}


def check_app_settings(app: Mapping[str, SettingValue]) -> None:
    """Raise ConfigurationError if one of the settings given to `App(...)` is none, or has a bad value."""
    for _ in _from_app(app):
        pass


def setting_fields() -> Mapping[str, Field[Any]]:
    """The settings by name; each field's metadata holds `doc`, `parse` and `show`."""
    return {item.name: item for item in fields(Settings) if item.metadata}


def without_security(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `App(...)`, or variables, without those about security: for a broker that knows of none."""
    names = {name for name, item in setting_fields().items() if item.metadata["group"] == "security"}
    return {name: value for name, value in given.items() if name.removeprefix(PREFIX).lower() not in names}


def _secret_names() -> list[str]:
    """Those that may stand in a file."""
    known = setting_fields()
    return [name for name in known if f"{name}_file" in known]


def _read_file(name: str, values: dict[str, Any], sources: dict[str, str]) -> None:
    """Put the secret in, if its file is what counts: what wins over the other, or is given alone."""
    file = f"{name}_file"
    if file not in values:
        return
    if name in values:
        if sources[name] == sources[file]:
            raise ConfigurationError(f"{name} and {file} are both given ({sources[name]}); give one of them")
        loser = min(name, file, key=lambda each: LAYERS.index(sources[each]))
        del values[loser], sources[loser]
        if loser == file:
            return
    try:
        values[name] = read_secret(values[file])
    except ValueError as error:
        raise ConfigurationError(f"{file}={values[file]!r} ({sources[file]}): {error}") from None
    sources[name] = sources[file]


LAYERS = ("App(...)", "environment", "command line")  # the later one wins
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
            refuse_secret(label)
            yield name, _parsed(name, raw, label, "command line"), "command line"


def refuse_secret(option: str) -> None:
    """Raise ConfigurationError if the option, as in `--sasl-password`, would give a secret on the command line."""
    name = option.removeprefix("--").replace("-", "_")
    item = setting_fields().get(name) if option.startswith("--") else None
    if item is not None and item.metadata["secret"]:
        other = f"{PREFIX}{name.upper()}_FILE" if name in _secret_names() else f"App({name}=...)"
        raise ConfigurationError(
            f"{option}: secrets are not taken from the command line, which every user of the machine can read; "
            f"give {other} instead"
        )


def _parsed(name: str, raw: object, label: str, source: str) -> Any:
    known = setting_fields()
    if name not in known:
        raise ConfigurationError(f"{label} ({source}): no such setting{_did_you_mean(name, label, list(known))}")
    try:
        return known[name].metadata["parse"](raw)
    except ValueError as error:
        shown = MASK if known[name].metadata["secret"] else repr(raw)
        raise ConfigurationError(f"{label}={shown} ({source}): {error}") from None


def _did_you_mean(name: str, label: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if not close:
        return "; docs/settings.md lists them"
    suggestion = PREFIX + close[0].upper() if label.startswith(PREFIX) else close[0]
    return f"; did you mean {suggestion}?"


def _require(holds: bool, settings: Settings, name: str, relation: str, other: str) -> None:
    if not holds:
        raise ConfigurationError(f"{settings.shown(name)} must be {relation} {settings.shown(other)}")
