"""Values that are shown to nobody: passwords, and the files that they may stand in."""

from __future__ import annotations

import os
from typing import Any, NoReturn, final

MASK = "***"
LARGEST_FILE = 65_536  # bytes; what is larger is no password
READABLE_BY_ALL = 0o004


@final
class Secret:
    """A text that shows as `***` wherever it is printed, formatted or logged, and that cannot be pickled."""

    __slots__ = ("_text",)
    _text: str

    def __init__(self, text: str) -> None:
        object.__setattr__(self, "_text", text)

    def reveal(self) -> str:
        """The text itself, to be handed to what needs it and to nothing else."""
        return self._text

    def __repr__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a secret cannot be changed")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is not pickled: its text would lie open in the pickle")


def read_secret(path: str) -> Secret:
    """The file's text without the end of its last line.

    Raises ValueError if it cannot be read, is empty, or can be read by every user of the machine.
    """
    try:
        with open(path, "rb") as file:
            refuse_readable_by_all(file.fileno())
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ValueError(f"the file cannot be read: {error.strerror}") from None
    if len(data) > LARGEST_FILE:
        raise ValueError(f"the file holds more than {LARGEST_FILE:,} bytes, so it is no secret")
    try:
        text = data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError("the file is not UTF-8 text") from None
    if not text:
        raise ValueError("the file is empty")
    return Secret(text)


def refuse_readable_by_all(file: int | str) -> None:
    """Raise ValueError if every user of the machine may read the file (a descriptor or a path)."""
    mode = os.stat(file).st_mode & 0o777
    if mode & READABLE_BY_ALL:
        raise ValueError(
            f"every user of this machine may read the file (its mode is {mode:04o}); take that away, as with chmod o-r"
        )
