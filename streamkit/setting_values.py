"""What a setting may be: how it is read from text or from Python, and how it is shown. Parsers raise ValueError."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from os import PathLike, fspath
from typing import Any

from streamkit.durations import parse_duration, show_duration
from streamkit.secrets import MASK, Secret
from streamkit.security import TokenSource

Parse = Callable[[Any], Any]
Show = Callable[[Any], str]

KIB = 1024
MIB = 1024 * KIB


def duration(*, zero: bool = False) -> tuple[Parse, Show]:
    def parse(raw: Any) -> float:
        seconds = parse_duration(raw)
        if not seconds and not zero:
            raise ValueError("must be more than 0")
        return seconds

    return parse, show_duration


def optional_duration(raw: Any) -> float | None:
    return None if raw is None else parse_duration(raw)


def count(minimum: int = 1) -> tuple[Parse, Show]:
    def parse(raw: Any) -> int:
        number = raw if type(raw) is int else int(raw) if isinstance(raw, str) and _WHOLE.fullmatch(raw) else None
        if number is None:
            raise ValueError("not a whole number")
        return _at_least(minimum, number)

    return parse, lambda number: f"{number:,}".replace(",", "_")


def ratio() -> tuple[Parse, Show]:
    return _parse_ratio, str


def _parse_ratio(raw: Any) -> float:
    if not (_DECIMAL.fullmatch(raw) if isinstance(raw, str) else type(raw) in (int, float)):
        raise ValueError('not a number: write "0.5"')
    number: float = float(raw) if isinstance(raw, str) else raw
    if not 0 < number <= 1:  # NaN is neither
        raise ValueError("must be more than 0 and at most 1")
    return float(number)


_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)
_WHOLE = re.compile(r"-?[0-9][0-9_]*", re.ASCII)
_SIZE = re.compile(r"([0-9][0-9_]*)\s*(KiB|MiB|GiB|)", re.ASCII)
_SIZE_UNITS = {"": 1, "KiB": KIB, "MiB": MIB, "GiB": 1024 * MIB}


def size() -> tuple[Parse, Show]:
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


def choice(*choices: str) -> tuple[Parse, Show]:
    def parse(raw: Any) -> str:
        if raw not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return str(raw)

    return parse, str


def flag() -> tuple[Parse, Show]:
    def parse(raw: Any) -> bool:
        if type(raw) is bool or raw in ("true", "false"):
            return raw is True or raw == "true"
        raise ValueError("must be true or false")

    return parse, lambda flag: str(flag).lower()


def optional(parse: Parse) -> tuple[Parse, Show]:
    return parse, lambda value: "" if value is None else str(value)


def parse_text(raw: Any) -> str:
    if not isinstance(raw, str) or not raw:
        raise ValueError("not a text")
    return raw


def parse_path(raw: Any) -> str:
    path = fspath(raw) if isinstance(raw, str | PathLike) else None
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError("not the path of a file")
    return path


def parse_secret(raw: Any) -> Secret:
    if isinstance(raw, Secret):
        return raw
    if not isinstance(raw, str) or not raw:
        raise ValueError("not a text")
    return Secret(raw)


def parse_token_source(raw: Any) -> TokenSource:
    if not callable(raw):
        raise ValueError("must be a function that returns a token, and can only be given as App(sasl_oauth_token=...)")
    source: TokenSource = raw
    return source


def parse_brokers(raw: Any) -> tuple[str, ...]:
    if isinstance(raw, str):
        raw = raw.split(",")
    if not isinstance(raw, Sequence) or not all(isinstance(broker, str) for broker in raw):
        raise ValueError("write HOST:PORT, several with commas between them")
    brokers = tuple(broker if "://" in broker else _address(broker, 9092) for broker in map(str.strip, raw))
    if not brokers:
        raise ValueError("at least one broker is needed")
    return brokers


def parse_http(raw: Any) -> str:
    try:
        return "off" if raw == "off" else parse_address(raw)
    except ValueError as error:
        raise ValueError(f'{error} or "off"') from None


def parse_address(raw: Any) -> str:
    return _address(raw, None)


_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII)


def _address(raw: Any, default_port: int | None) -> str:
    match = _ADDRESS.fullmatch(raw) if isinstance(raw, str) else None
    port = int(match["port"]) if match and match["port"] else default_port
    if match is None or port is None or port > 65_535:
        raise ValueError("write HOST:PORT")
    return f"{match['host']}:{port}"


def masked(parse: Parse) -> tuple[Parse, Show]:
    """Of a setting with `secret=True`: its value shows nowhere, and is not taken from the command line."""
    return parse, lambda value: "" if value is None else MASK
