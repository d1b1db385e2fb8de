from datetime import UTC, datetime, timedelta

from apps.flights.model import Flight
from apps.flights.rotation import extend, is_late, is_turn, turn

MORNING = datetime(2013, 1, 25, 12, tzinfo=UTC)


def flight(hour: float, *, left: int | None = 0, landed: int | None = 0) -> Flight:
    return Flight("B6", 1, "N190JB", "JFK", "BUF", MORNING + timedelta(hours=hour), left, landed)


def test_late_is_a_quarter_of_an_hour_and_more() -> None:
    assert [is_late(delay) for delay in (None, -3, 14, 15, 300)] == [False, False, False, True, True]


def test_the_first_flight_of_an_aircraft_begins_a_chain_and_says_nothing() -> None:
    first = flight(0, left=40, landed=50)
    assert extend((), first) == (first,)
    assert turn((), (first,)) is None


def test_a_late_departure_after_a_late_arrival_goes_on_with_the_chain() -> None:
    first, second, third = flight(0, left=40, landed=50), flight(4, left=45, landed=30), flight(8, left=20)
    chain = extend(extend((first,), second), third)
    assert chain == (first, second, third)
    told = turn((first, second), chain)
    assert told is not None
    assert (told.flight, told.arrived_late, told.departed_late, told.chain) == (third, True, True, chain)


def test_an_aircraft_that_catches_up_ends_the_chain() -> None:
    late, in_time = flight(0, left=40, landed=50), flight(4, left=5)
    assert extend((late,), in_time) == (in_time,)
    told = turn((late,), (in_time,))
    assert told is not None
    assert (told.arrived_late, told.departed_late, told.chain) == (True, False, ())


def test_lateness_that_comes_from_elsewhere_is_no_chain() -> None:
    in_time, late = flight(0), flight(4, left=60)
    assert extend((in_time,), late) == (late,)
    told = turn((in_time,), (late,))
    assert told is not None
    assert (told.arrived_late, told.departed_late, told.chain) == (False, True, ())


def test_a_night_between_two_flights_parts_them() -> None:
    evening, next_morning = flight(10, left=90, landed=90), flight(24, left=30)
    assert not is_turn(evening, next_morning)
    assert extend((evening,), next_morning) == (next_morning,)
    assert turn((evening,), (next_morning,)) is None


def test_a_flight_that_was_diverted_hands_nothing_on() -> None:
    assert not is_turn(flight(0, left=40, landed=None), flight(4, left=40))


def test_a_flight_that_is_delivered_again_does_not_follow_its_successor() -> None:
    first, second = flight(0, left=40, landed=40), flight(4, left=40, landed=40)
    assert extend((first, second), first) == (first,)
    assert extend((first,), second) == (first, second)
