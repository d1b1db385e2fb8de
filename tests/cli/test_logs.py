import asyncio
import hashlib
import json
import logging
from collections.abc import Callable

import pytest
import structlog

from streamkit import App
from streamkit.cli.failures import logged_report
from streamkit.cli.logs import MANY, REPEATED_AFTER, ClientMessages, configure_logs
from streamkit.errors import RecordFailed


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def said(messages: ClientMessages, text: str, logger: str = "aiokafka") -> bool:
    return messages.filter(logging.LogRecord(logger, logging.ERROR, "", 0, text, None, None))


def test_what_the_client_says_again_and_again_is_shown_now_and_then() -> None:
    messages = ClientMessages(clock := Clock())
    assert said(messages, "Unable to update metadata from [1]")
    clock.now = REPEATED_AFTER - 0.1
    assert not said(messages, "Unable to update metadata from [1]")
    assert said(messages, "Unable to update metadata from [2]")
    clock.now = REPEATED_AFTER
    assert said(messages, "Unable to update metadata from [1]")


def test_what_others_say_is_always_shown() -> None:
    messages = ClientMessages(Clock())
    assert said(messages, "again", "shop") and said(messages, "again", "shop")


def test_what_streamkit_says_better_is_not_shown() -> None:
    assert not said(ClientMessages(Clock()), 'Unable connect to "localhost:9092": refused')


def test_no_more_messages_are_remembered_than_a_bound() -> None:
    messages = ClientMessages(Clock())
    for number in range(MANY):
        assert said(messages, f"request {number} failed")
    assert not said(messages, "request 0 failed")
    assert said(messages, "one more failed")
    assert said(messages, "request 0 failed")


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HASH = hashlib.sha256(b"ada").hexdigest()[:8]


def logged_by_a_handler(format: str, log: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> str:
    """What appears when a handler does that, and when it is done outside of handlers afterwards: the two lines."""
    configure_logs(format, "warning")
    app = App("shop")
    orders = app.topic("orders", value=str)

    @app.agent(orders)
    async def charge(order: str) -> None:
        log()

    async def case() -> None:
        async with app.test() as test:
            await test.send(
                orders, "secret", key="ada", headers=[("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01".encode())]
            )
            await test.drain()

    asyncio.run(case())
    log()
    return capsys.readouterr().err


def by_logging() -> None:
    logging.getLogger("mine").warning("paid", extra={"cents": 5})


def by_structlog() -> None:
    structlog.get_logger("mine").warning("paid", cents=5)


@pytest.mark.parametrize("log", [by_logging, by_structlog])
def test_what_a_handler_logs_says_which_record_it_handles(
    log: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    inside, outside = map(json.loads, logged_by_a_handler("json", log, capsys).splitlines())
    del inside["timestamp"], outside["timestamp"]
    plain = {"event": "paid", "logger": "mine", "level": "warning", "cents": 5}
    assert outside == plain
    assert inside == plain | {
        "agent": "charge",
        "group": "shop.charge",
        "topic": "orders",
        "partition": 0,
        "offset": 0,
        "key_hash": HASH,
        "attempt": 1,
        "trace_id": TRACE,
    }


@pytest.mark.parametrize("log", [by_logging, by_structlog])
def test_for_people_the_record_is_one_word(log: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> None:
    inside, outside = logged_by_a_handler("text", log, capsys).splitlines()
    fields = f"[mine] agent=charge cents=5 key_hash={HASH} record=orders[0]@0 trace_id={TRACE}"
    assert inside.partition("paid ")[2] == fields
    assert outside.partition("paid ")[2] == "[mine] cents=5"


def test_the_apps_own_fields_win(capsys: pytest.CaptureFixture[str]) -> None:
    def log() -> None:
        structlog.get_logger("mine").warning("paid", topic="money", offset=7, group="rich")

    inside = json.loads(logged_by_a_handler("json", log, capsys).splitlines()[0])
    assert (inside["topic"], inside["offset"], inside["group"], inside["partition"]) == ("money", 7, "rich", 0)


def test_for_people_too_the_apps_own_fields_win(capsys: pytest.CaptureFixture[str]) -> None:
    def log() -> None:
        structlog.get_logger("mine").warning("paid", topic="money", group="rich")

    inside = logged_by_a_handler("text", log, capsys).splitlines()[0]
    assert "group=rich" in inside and "topic=money" in inside and "record=orders[0]@0" in inside


@pytest.mark.parametrize("library", ["aiokafka.client", "asyncio", "streamkit.runtime"])
def test_what_libraries_log_in_a_handlers_context_is_not_said_to_be_about_its_record(
    library: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = logged_by_a_handler("json", lambda: logging.getLogger(library).warning("away"), capsys).splitlines()
    assert all("offset" not in json.loads(line) for line in lines)


def test_a_logger_whose_name_begins_like_a_librarys_is_the_apps(capsys: pytest.CaptureFixture[str]) -> None:
    lines = logged_by_a_handler("json", lambda: logging.getLogger("streamkit_shop").warning("x"), capsys).splitlines()
    assert json.loads(lines[0])["offset"] == 0


def test_for_people_streamkits_own_texts_do_not_say_it_twice(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("text", "warning")
    fields = {"event_name": "record_dead_lettered", "agent": "charge", "group": "shop.charge"}
    where = {"topic": "orders", "partition": 0, "offset": 3, "key_hash": HASH}
    logging.getLogger("streamkit.runtime").warning("goes", extra={**fields, **where, "attempt": 1})
    logging.getLogger("streamkit.runtime").warning("goes", extra={**fields, **where, "attempt": 2})
    first, second = capsys.readouterr().err.splitlines()
    assert first.partition("goes ")[2] == f"[streamkit.runtime] key_hash={HASH}"
    assert second.partition("goes ")[2] == f"[streamkit.runtime] attempt=2 key_hash={HASH}"


def test_a_record_that_stops_the_worker_is_logged_with_its_fields_and_without_its_payload(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logs("json", "warning")
    failure = RecordFailed("charge", "decode-value", "orders", 0, 3, b"ada", ValueError("no"), group="g", raw=b"secret")
    failure.log_fields = {"topic": "orders", "partition": 0, "offset": 3, "key_hash": HASH, "attempt": 1}
    logged_report(failure)
    logged_report(failure, payloads=True)
    without, with_payload = map(json.loads, capsys.readouterr().err.splitlines())
    for name, value in failure.log_fields.items():
        assert without[name] == value
    assert (without["event_name"], without["agent"], without["group"], without["stage"]) == (
        "record_failed",
        "charge",
        "g",
        "decode-value",
    )
    assert "secret" not in str(without) and "ada" not in str(without)
    assert "secret" in with_payload["event"] and "ada" in with_payload["event"]
