"""Every log record of the process through one pipe: text for people, or JSON lines for machines."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import structlog
from structlog.stdlib import ProcessorFormatter

from streamkit.runtime.log_fields import about_current
from streamkit.settings import PREFIX, Settings

LOG_SETTINGS = ("log_format", "log_level")
# What aiokafka says of a cluster that is starting or away, again and again; streamkit says it once, with what to do.
SAID_BETTER = ("Group Coordinator Request failed: [Error 15]", "Unable connect to ", "Unable to connect to ")
REPEATED_AFTER = 30.0  # seconds
MANY = 100  # different messages
NOT_THE_APP = ("streamkit", "aiokafka", "aiohttp", "asyncio")
RECORD = "_handled"  # where its fields wait for how they are shown
IN_ONE_WORD = ("topic", "partition", "offset", "group")
# In streamkit's own texts, or of use to programs only.
SAID = (*IN_ONE_WORD, "agent", "event_name", "suppressed", "blocked_s", "seconds", "stage", "function", "file", "line")
QUIET = ("aiokafka", "aiohttp.access", "watchfiles")  # below a warning they tell of themselves, not of the work


def configure_logs(format: str, level: str) -> None:
    """Log to standard error, whoever logs: the standard library's loggers and structlog's.

    Handlers that the app has put on the root logger stay, except those to the terminal: every line would come twice.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        if type(handler) is logging.StreamHandler and handler.stream in (sys.stderr, sys.stdout):
            root.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        ProcessorFormatter(processors=_render(format), foreign_pre_chain=[*_describe(), _drop_formatted])
    )
    if level != "debug":
        handler.addFilter(ClientMessages())
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.NOTSET if level == "debug" else logging.WARNING)
    logging.captureWarnings(True)
    if not structlog.is_configured():
        structlog.configure(
            processors=[*_describe(), ProcessorFormatter.wrap_for_formatter],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
            cache_logger_on_first_use=True,
        )


def configure_logs_of_command(settings: Settings) -> None:
    """From warnings on, unless a level was asked for: a command says on its own what it does, and ends."""
    configure_logs(settings.log_format, "warning" if settings.is_default("log_level") else settings.log_level)


class ClientMessages(logging.Filter):
    """Lets through what aiokafka says, but the same message only once in `REPEATED_AFTER` seconds.

    While brokers are away it says the same many times a second, and nobody sees what streamkit says of it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[str, float] = {}  # when last

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("aiokafka"):
            return True
        message, now = record.getMessage(), self._clock()
        if message.startswith(SAID_BETTER) or now < self._said.get(message, -REPEATED_AFTER) + REPEATED_AFTER:
            return False
        if len(self._said) >= MANY:
            self._said.clear()
        self._said[message] = now
        return True


def configure_logs_of_supervisor(options: Mapping[str, str | None], environ: Mapping[str, str]) -> None:
    """For a process that has not loaded the app. Raises ConfigurationError.

    Other settings are the business of its children: only together with those of the app can they be judged.
    """
    given = {name: options[name] for name in LOG_SETTINGS if name in options}
    variables = {f"{PREFIX}{name.upper()}" for name in LOG_SETTINGS}
    settings = Settings.load(given, {name: environ[name] for name in variables & environ.keys()}, {})
    configure_logs(settings.log_format, settings.log_level)


def _drop_formatted(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What a handler of the app has left in the standard library's record, and nobody can have passed as `extra`."""
    event.pop("message", None)
    event.pop("asctime", None)
    return event


def _note_record(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What the app logs while it handles a record says which one. What the libraries underneath log in its context may
    be about anything."""
    if _library(event) not in NOT_THE_APP and (fields := about_current()):
        event[RECORD] = fields
    return event


def _add_record(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.pop(RECORD, {}).items():
        event.setdefault(name, value)
    return event


def _add_record_shortly(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """For people: where it comes from in one word, and nothing that streamkit's own texts say already."""
    if _library(event) == "streamkit":
        for name in SAID:
            event.pop(name, None)
        if event.get("attempt") == 1:
            del event["attempt"]
        return event
    fields = event.pop(RECORD, {})
    if "topic" in fields:
        offset = f"@{fields['offset']}" if "offset" in fields else ""
        event.setdefault("record", f"{fields['topic']}[{fields['partition']}]{offset}")
    for name, value in fields.items():
        if name not in IN_ONE_WORD and not (name == "attempt" and value == 1):
            event.setdefault(name, value)
    return event


def _library(event: Mapping[str, Any]) -> str:
    return str(event.get("logger")).partition(".")[0]


def _describe() -> list[Any]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        _note_record,
    ]


def _render(format: str) -> list[Any]:
    if format == "json":
        return [
            ProcessorFormatter.remove_processors_meta,
            _add_record,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    colors = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    plain = structlog.dev.plain_traceback
    return [
        ProcessorFormatter.remove_processors_meta,
        _add_record_shortly,
        structlog.processors.TimeStamper(fmt="%Y-%m-%dT%H:%M:%SZ", utc=True),
        structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain, pad_event_to=0),
    ]
