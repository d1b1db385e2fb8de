from datetime import UTC, datetime
from itertools import pairwise

from apps.flights.data import parse, read_flights
from apps.flights.model import Flight
from tests.apps.flights import truth

HEADER = (
    "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,"
    "origin,dest,air_time,distance,hour,minute,time_hour"
)


def test_every_row_of_the_month_becomes_a_flight_and_na_becomes_none() -> None:
    flights = read_flights()
    assert len(flights) == 27_004
    assert sum(flight.tailnum is None for flight in flights) == 155
    assert sum(flight.cancelled for flight in flights) == 521
    assert sum(flight.arrival_delay is None for flight in flights) == 606
    assert all(flight.cancelled for flight in flights if flight.tailnum is None)


def test_each_flight_says_what_its_row_says() -> None:
    by_id = {flight.id: flight for flight in read_flights()}
    rows = truth.rows()
    assert by_id.keys() == {truth.identity(row) for row in rows}
    for row in rows:
        flight = by_id[truth.identity(row)]
        shown = (flight.tailnum, flight.departure_delay, flight.arrival_delay, flight.origin, flight.dest)
        columns = ("tailnum", "dep_delay", "arr_delay", "origin", "dest")
        assert tuple("NA" if value is None else str(value) for value in shown) == tuple(row[name] for name in columns)
        assert flight.left == truth.left(row)


def test_flights_come_in_the_order_in_which_they_left() -> None:
    assert all(before.left <= after.left for before, after in pairwise(read_flights()))


def test_a_departure_is_in_utc_whatever_the_clock_in_new_york_says() -> None:
    # Scheduled for 23:59 on the 1st in New York, it left at 0:10 on the 2nd.
    row = "2013,1,1,10,2359,11,500,437,23,B6,739,N5JB,JFK,PSE,201,1617,23,59,2013-01-02T04:00:00Z"
    (flight,) = parse([HEADER, row])
    assert flight == Flight("B6", 739, "N5JB", "JFK", "PSE", datetime(2013, 1, 2, 4, 59, tzinfo=UTC), 11, 23)
    assert flight.left == datetime(2013, 1, 2, 5, 10, tzinfo=UTC)
