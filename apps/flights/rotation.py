"""Does a late arrival become a late departure?

The data holds departures from New York only: between two flights of an aircraft it flew back, unseen.
"""

from datetime import timedelta

from apps.flights.model import Flight, Turn

LATE = 15  # minutes: what airlines and the United States' statistics count as late
TURN_WITHIN = timedelta(hours=8)  # from departure to departure, as scheduled: there and back, and no night between

Chain = tuple[Flight, ...]
"""Flights of one aircraft, each but the first departing late after the one before it had arrived late."""


def is_late(delay: int | None) -> bool:
    return delay is not None and delay >= LATE


def is_turn(before: Flight, after: Flight) -> bool:
    """Whether `after` is what the aircraft did next, so soon that the lateness of `before` matters."""
    arrived = before.arrival_delay is not None
    return arrived and timedelta(0) < after.scheduled - before.scheduled <= TURN_WITHIN


def extend(chain: Chain, flight: Flight) -> Chain:
    """The chain that ends with `flight`: it goes on if lateness was handed on, else it starts anew."""
    if chain and is_turn(chain[-1], flight) and is_late(chain[-1].arrival_delay) and is_late(flight.departure_delay):
        return (*chain, flight)
    return (flight,)


def turn(before: Chain, after: Chain) -> Turn | None:
    """What is to be told about the last flight of `after`, the extension of `before`."""
    flight = after[-1]
    if not before or not is_turn(before[-1], flight):
        return None
    return Turn(
        flight=flight,
        arrived_late=is_late(before[-1].arrival_delay),
        departed_late=is_late(flight.departure_delay),
        chain=after if len(after) > 1 else (),
    )
