"""Streams the flights in: `python -m apps.flights.feed --brokers HOST:PORT`."""

import argparse
import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from apps.flights import strange
from apps.flights.agents import app, flights
from apps.flights.data import read_flights
from apps.flights.model import Flight
from apps.flights.running import sending
from apps.flights.strange import STRANGE

AT_ONCE = 100


async def feed(brokers: str, rows: Sequence[Flight], sent: Callable[[int], None] = lambda total: None) -> None:
    """Send the rows in their order, keyed by aircraft, and return when the brokers have them all.

    Flights of which no aircraft is known get a null key. Evenly among them come the records of strange.py. `sent` is
    told how many flights are on their way.
    """
    async with sending(app, brokers), sending(strange.app, brokers):
        every, left = max(1, len(rows) // len(STRANGE)), iter(STRANGE)
        for start in range(0, len(rows), AT_ONCE):
            for place, flight in enumerate(rows[start : start + AT_ONCE], start):
                if place % every == 0:
                    await _send_strange(islice(left, 1))
                # Under the current time: Kafka would delete records of 2013 at once, as older than its retention.
                await flights.send(flight, key=flight.tailnum)
            sent(min(start + AT_ONCE, len(rows)))
            await asyncio.sleep(0)  # a send waits only while the queue is full, and others want to run as well
        await _send_strange(left)


async def _send_strange(values: Iterable[bytes]) -> None:
    for value in values:
        await strange.anything.send(value, key=strange.KEY, headers=strange.HEADERS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m apps.flights.feed", description=__doc__)
    parser.add_argument("--brokers", required=True, metavar="HOST:PORT,...")
    parser.add_argument("--first", type=int, metavar="N", help="only the first N flights of the month")
    options = parser.parse_args()
    rows = read_flights()[: options.first]
    asyncio.run(feed(options.brokers, rows))
    print(f"{len(rows):,} flights are in {flights.name}, and {len(STRANGE)} records that are none")


if __name__ == "__main__":
    main()
