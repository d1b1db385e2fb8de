"""One dead letter with everything that is known of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from streamkit.cli.dlq.contents import Reading, key_of, value_of
from streamkit.cli.dlq.history import History, history_of
from streamkit.cli.dlq.lookup import NoSuchLetter, Source, letter_at, source_of
from streamkit.cli.dlq.reading import connected
from streamkit.cli.dlq.where import Where
from streamkit.cli.transports import asking
from streamkit.core.letters import Letter


@dataclass(frozen=True)
class LetterDetails:
    topic: str
    letter: Letter
    key: Reading
    value: Reading
    history: History
    source: Source


async def letter_details(place: Where, letter_id: str) -> LetterDetails:
    """Raises NoSuchLetter; TransportError if no broker answers, ConfigurationError if they refuse this client."""
    async with connected(place) as clients:
        with asking(place.settings):
            async with asyncio.timeout(place.settings.connect_timeout):
                topics, missing = await place.topics(clients.admin)
        if missing:
            raise NoSuchLetter(f"no dead letters: topic {missing[0]!r} does not exist at {place.brokers}")
        ((topic, info),) = topics.items()
        letter = await letter_at(clients.reader, topic, info, letter_id)
        if place.group is not None and letter.group != place.group:
            group = "no group" if letter.group is None else f"group {letter.group!r}"
            raise NoSuchLetter(f"{letter_id} of {topic} is of {group}, not of {place.group!r} (--agent)")
        history = await history_of(clients, topic, letter)
        source = await source_of(clients, letter)
    declared = place.source(letter.origin_topic)
    key = Reading(None) if "key" in letter.omitted else key_of(letter.key, declared)
    value = Reading(None) if "value" in letter.omitted else value_of(letter.value, declared)
    return LetterDetails(topic, letter, key, value, history, source)
