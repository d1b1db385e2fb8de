"""The names of an app's topics: those that are declared, and those that its agents bring with them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, final

from streamkit.agent import Agent
from streamkit.checks import valid_topic_name
from streamkit.errors import DeclarationError
from streamkit.retry import Retry, dead_letter_topic, tier_topics
from streamkit.topic import Topic

DeadLetter = bool | str | Topic[Any, Any]

_DECLARED = "a declared topic"
_DEAD_LETTERS = "a dead letter topic"
_LONGEST = 249


class Claim(NamedTuple):
    """One name that is wanted: where that was declared, the name, and what it is to be."""

    label: str
    name: str
    what: str


@final
class TopicNames:
    """No two topics of an app have one name, nor names that Kafka takes for one: they differ only in '.' and '_'."""

    def __init__(self) -> None:
        self._claims: dict[str, Claim] = {}  # by the name as Kafka's metrics show it

    def claim(self, claims: Iterable[Claim]) -> None:
        """Take all of these names. The same name is taken again if it is the same thing.

        Raises DeclarationError, and has taken none, if one is too long or is another topic's.
        """
        wanted: dict[str, Claim] = {}
        for claim in claims:
            if len(claim.name) > _LONGEST:
                raise DeclarationError(_too_long(claim))
            folded = claim.name.replace(".", "_")
            known = self._claims.get(folded) or wanted.get(folded)
            if known and known[1:] != claim[1:]:
                raise DeclarationError(_taken(claim, known))
            wanted[folded] = claim
        self._claims |= wanted


def declared(name: str) -> list[Claim]:
    return [Claim(f"topic {name!r}", name, _DECLARED)]


def brought(agent: Agent[Any, Any], dead_letter: DeadLetter | None) -> Iterator[Claim]:
    """What an agent needs beside its declared topics: its tiers, and its dead letter topics unless one is declared."""
    label = f"agent {agent.name!r}"
    for topic in agent.topics:
        for number, name in enumerate(tier_topics(topic.name, agent.group, agent.retry), 1):
            yield Claim(f"{label}, retry", name, f"retry tier {number} of {label}")
    if not isinstance(dead_letter, Topic):
        for name in agent.dead_letters.values():
            yield Claim(f"{label}, dead_letter", name, _DEAD_LETTERS)


def dead_letters(
    label: str, dead_letter: DeadLetter | None, retry: Retry | None, topics: Sequence[Topic[Any, Any]]
) -> Mapping[str, str]:
    """The dead letter topic of each of an agent's topics, by name; empty if it has none.

    Raises DeclarationError for what is neither a topic nor a name, and for a topic that the agent reads itself.
    """
    if dead_letter is None:
        dead_letter = retry is not None and bool(retry.tier_waits)
    if dead_letter is False:
        return MappingProxyType({})
    if dead_letter is True:
        return MappingProxyType({topic.name: dead_letter_topic(topic.name) for topic in topics})
    name = _one_name(label, dead_letter)
    if any(topic.name == name for topic in topics):
        raise DeclarationError(f"{label}: the agent reads {name!r} itself, and would get its dead letters again")
    return MappingProxyType({topic.name: name for topic in topics})


def _one_name(label: str, dead_letter: object) -> str:
    if isinstance(dead_letter, Topic):
        return dead_letter.name
    if isinstance(dead_letter, str):
        return valid_topic_name(dead_letter, label)
    raise DeclarationError(f"{label}: {dead_letter!r} is none of True, False, a topic or the name of one")


def _too_long(claim: Claim) -> str:
    shorter = "dead_letter= a shorter name" if claim.what == _DEAD_LETTERS else "the agent a shorter name= or group="
    return (
        f"{claim.label}: {claim.what} would be called {claim.name!r}, which has {len(claim.name)} characters, and "
        f"Kafka allows {_LONGEST}; give {shorter}"
    )


def _taken(claim: Claim, known: Claim) -> str:
    if claim.name != known.name:
        return (
            f"{claim.label}: {claim.name!r}, {claim.what}, and {known.name!r}, {known.what}, differ only in '.' and "
            "'_', and Kafka takes them for one; choose another name"
        )
    advice = "choose another name"
    if {claim.what, known.what} == {_DECLARED, _DEAD_LETTERS}:
        advice = "if it is to be both, declare it above the agent and give the agent the topic: dead_letter=TOPIC"
    return f"{claim.label}: {claim.what} cannot be called {claim.name!r}, that is {known.what}; {advice}"
