"""What dead letters that died of the same thing have in common."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamkit.core.copies import MAX_MESSAGE, MAX_STACK
from streamkit.core.fingerprints import Fingerprint, fingerprint, masked, own_frame
from tests.core.letter_support import letter

LIBRARY = "/srv/venv/lib/python3.11/site-packages"


def frame(path: str, function: str = "run") -> str:
    return f'  File "{path}", line 12, in {function}\n    await call()\n    ^^^^^^^^^^^^\n'


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("no answer", "no answer"),
        ("", ""),
        ("order 17 is unknown", "order <n> is unknown"),
        ("order17 costs -1,234.50 EUR", "order<n> costs <n> EUR"),
        ("took 1.5e-07s", "took <n>s"),
        ("GET /orders/17/items/3 failed", "GET /orders/<n>/items/<n> failed"),
        ("no customer 'Ann' in \"shop 3\"", "no customer <…> in <…>"),
        ("can't say what's 'this'", "can't say what's <…>"),
        ("mail to ann.b+c@example.co.uk bounced", "mail to <email> bounced"),
        ("id 550e8400-e29b-41d4-a716-446655440000.", "id <id>."),
        ("charge ch_3MmlLr2eZvKYlo2C: declined", "charge <id>: declined"),
        ("<Order object at 0x7f3a2b>", "<Order object at <id>>"),
        ("sha 9b74c9897bac770ffc029102a200c5de", "sha <id>"),
        ("since 2024-01-02T03:04:05.678+00:00", "since <time>"),
        ("on 2024-01-02 03:04:05Z", "on <time> <n>:<n>:<n>Z"),
        ("10.0.0.1:9092 refused", "<ip>:<n> refused"),
        ("[2001:db8::1]:9092 and ::1 refused", "[<ip>]:<n> and <ip> refused"),
        ("fe80:0:0:0:1:2:3:4 refused", "<ip> refused"),
        ("at 12:34:56", "at <n>:<n>:<n>"),
        ("std::bad_alloc in utf8", "std::bad_alloc in utf<n>"),
        ("ORD-2024-17\nnext 5", "ORD-<n>-<n>\nnext <n>"),
    ],
)
def test_what_tells_records_apart_is_masked(message: str, wanted: str) -> None:
    assert masked(message) == wanted


@given(st.integers(), st.integers())
def test_messages_that_differ_in_a_number_only_look_alike(one: int, other: int) -> None:
    assert masked(f"offset {one} of a[{one}]") == masked(f"offset {other} of a[{other}]")


@given(st.uuids(), st.uuids())
def test_messages_that_differ_in_a_uuid_only_look_alike(one: object, other: object) -> None:
    assert masked(f"order {one}: gone") == masked(f"order {other}: gone")


@given(st.text(alphabet="a1 .:-'\"@/\n_é", max_size=80) | st.text())
def test_any_message_is_masked_and_keeps_no_digit(message: str) -> None:
    assert not any("0" <= character <= "9" for character in masked(message))


def test_only_the_start_of_a_message_counts() -> None:
    assert masked("x" * (MAX_MESSAGE + 5)) == "x" * MAX_MESSAGE


def test_the_frame_is_the_innermost_of_the_users_own_code() -> None:
    stack = (
        "Traceback (most recent call last):\n"
        + frame(f"{LIBRARY}/streamkit/runtime/invoke.py")
        + frame("/srv/app/agents.py", "charge")
        + frame("/srv/app/services.py", "Gateway.send")
        + frame(f"{LIBRARY}/httpx/_client.py", "send")
        + "TimeoutError: no answer\n"
    )
    assert own_frame(stack) == "services.py:Gateway.send"


@pytest.mark.parametrize(
    "path",
    [
        f"{LIBRARY}/httpx/_client.py",
        "/usr/lib/python3/dist-packages/yaml/__init__.py",
        "/usr/lib/python3.11/asyncio/tasks.py",
        "/usr/lib64/python3.13/json/decoder.py",
        "C:\\Python312\\Lib\\json\\decoder.py",
        "/usr/lib/python311.zip/json/decoder.py",
        "<frozen importlib._bootstrap>",
        "<string>",
        "/home/ann/streamkit/streamkit/runtime/invoke.py",
        "/home/ann/streamkit/streamkit/topic.py",
    ],
)
def test_code_of_others_is_not_the_users_own(path: str) -> None:
    assert own_frame(frame(path)) is None
    assert own_frame(frame("/srv/app/agents.py", "charge") + frame(path)) == "agents.py:charge"


def test_code_in_folders_of_similar_names_is_the_users_own() -> None:
    assert own_frame(frame("/home/ann/streamkit/apps/agents.py")) == "agents.py:run"
    assert own_frame(frame("C:\\work\\lib\\agents.py", "<lambda>")) == "agents.py:<lambda>"
    assert own_frame("  | " + frame("agents.py")) == "agents.py:run"


def test_without_frames_there_is_none() -> None:
    assert own_frame("") is None
    assert own_frame('  File "x.py", line 3\n    a b\nSyntaxError: invalid syntax\n') is None


def test_only_the_end_of_a_stack_counts() -> None:
    assert own_frame(frame("a.py") + "x" * MAX_STACK) is None


def test_letters_that_differ_in_their_record_only_have_one_fingerprint() -> None:
    stack = frame("/srv/app/agents.py", "charge").encode()
    one, other = (
        letter(f"0:{number}", error_class=b"E", error_message=b"order %d" % number, error_stack=stack)
        for number in (7, 8)
    )
    assert fingerprint(one) == fingerprint(other) == Fingerprint("E", "order <n>", "agents.py:charge")
    assert len({fingerprint(one), fingerprint(other)}) == 1


def test_a_letter_that_does_not_say_what_it_died_of_has_a_fingerprint_too() -> None:
    assert fingerprint(letter()) == Fingerprint(None, None, None)
