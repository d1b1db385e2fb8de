import copy
import pickle
import traceback
from pathlib import Path

import pytest

from streamkit.secrets import Secret, read_secret

TEXT = "sesame-4711"


def test_a_secret_shows_as_stars_however_it_is_printed() -> None:
    secret = Secret(TEXT)
    assert [str(secret), repr(secret), f"{secret}", f"{secret:>5}", f"{secret!r}", "%s" % secret] == ["***"] * 6  # noqa: UP031
    assert repr({"password": secret}) == "{'password': ***}"


def test_a_secret_reveals_itself_only_when_asked_to() -> None:
    assert Secret(TEXT).reveal() == TEXT


def test_secrets_are_equal_by_their_text() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a")}) == 1
    assert Secret("a") != "a"


def test_a_secret_cannot_be_changed() -> None:
    secret = Secret(TEXT)
    with pytest.raises(AttributeError):
        secret._text = "other"
    assert copy.deepcopy(secret) is copy.copy(secret) is secret


def test_a_secret_is_not_pickled() -> None:
    with pytest.raises(TypeError) as caught:
        pickle.dumps(Secret(TEXT))
    assert TEXT not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_secret_is_read_without_the_end_of_its_line(tmp_path: Path, end: str) -> None:
    assert read_secret(private(tmp_path, f" {TEXT} {end}".encode())) == Secret(f" {TEXT} ")


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (b"\n", "empty"), (b"\xff", "not UTF-8"), (b"x" * 70_000, "holds more than 65,536 bytes")],
)
def test_a_file_that_holds_no_secret_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_secret(private(tmp_path, data))


def test_a_file_that_the_group_may_read_is_taken(tmp_path: Path) -> None:
    path = private(tmp_path, TEXT.encode())
    Path(path).chmod(0o440)
    assert read_secret(path)


def private(directory: Path, data: bytes) -> str:
    path = directory / "secret"
    path.write_bytes(data)
    path.chmod(0o600)
    return str(path)
