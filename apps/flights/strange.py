"""Records that are no flights. Nothing of the month's data is like these: the feed mixes them in on purpose.

They stand for what a topic gets from a program that is broken, or that was never meant to write to it.
"""

from apps.flights.agents import flights
from streamkit import App

STRANGE = (
    b"UA1545 EWR 2013-01-01",
    b"\xff\xfe\x00\x01",
    b"[]",
    b'{"carrier": "UA", "number": 1545}',
    b'{"carrier": "UA", "number": "fifteen forty-five", "origin": "EWR", "dest": "IAH"}',
)
KEY = "strange"
HEADERS = [("note", b"mixed in by apps/flights on purpose")]

# An app of its own: in that of the flights the topic takes nothing but flights.
app = App("flights-strange")
anything = app.topic(flights.name, value=bytes, partitions=flights.partitions)
