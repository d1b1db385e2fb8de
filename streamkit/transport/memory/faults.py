"""What a test can make go wrong."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from streamkit.transport.base import Refused
from streamkit.transport.memory.signals import Gate


class Failure(NamedTuple):
    error: Exception
    stored: bool  # the broker did what was asked, and only its answer was lost


class Faults:
    """Hooks of one broker.

    `network` closed: no request or answer gets through; clients raise Unreachable after their `request_timeout`, and
    polls find nothing. `acknowledgements` closed: batches are stored and stay unacknowledged. `commits` closed: commits
    are on their way, and looked at when it opens.
    """

    def __init__(self) -> None:
        self.network = Gate()
        self.acknowledgements = Gate()
        self.commits = Gate()
        self._frozen: dict[str, Gate] = {}
        self._commits: deque[Failure] = deque()
        self._produces: deque[Failure] = deque()
        self._refusals: dict[str, Exception] = {}

    def fail_commits(self, times: int, error: Exception, *, stored: bool = False) -> None:
        """Answer the next commits with `error`; `stored` says whether the offsets are stored nevertheless."""
        self._commits.extend([Failure(error, stored)] * times)

    def fail_produces(self, times: int, error: Exception, *, stored: bool = False) -> None:
        """Answer the next batches with `error`; `stored` says whether they are in the log nevertheless."""
        self._produces.extend([Failure(error, stored)] * times)

    def refuse(self, topic: str, error: Exception | None = None) -> None:
        """Answer every batch for a topic with `error`, a Refused unless given, until `accept`."""
        self._refusals[topic] = error or Refused(f"topic {topic!r} takes nothing")

    def accept(self, topic: str) -> None:
        self._refusals.pop(topic, None)

    def freeze(self, member: str) -> None:
        """Swallow the heartbeats of a member, so that its session ends."""
        self._frozen.setdefault(member, Gate()).close()

    def thaw(self, member: str) -> None:
        self.heartbeats(member).open()

    def heartbeats(self, member: str) -> Gate:
        return self._frozen.get(member) or Gate()

    def next_commit(self) -> Failure | None:
        return self._commits.popleft() if self._commits else None

    def next_produce(self) -> Failure | None:
        return self._produces.popleft() if self._produces else None

    def refusal(self, topic: str) -> Exception | None:
        return self._refusals.get(topic)
