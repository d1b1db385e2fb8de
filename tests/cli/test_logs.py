import logging

from streamkit.cli.logs import MANY, REPEATED_AFTER, ClientMessages


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
