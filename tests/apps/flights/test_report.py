from datetime import UTC, datetime, timedelta

from apps.flights.model import Delay, Flight, Turn
from apps.flights.report import Findings, render

NOON = datetime(2013, 1, 25, 12, tzinfo=UTC)


def flight(hour: int, landed: int = 20, number: int = 1) -> Flight:
    return Flight("B6", number, "N190JB", "JFK", "BUF", NOON + timedelta(hours=hour), landed, landed)


def findings(*turns: Turn, delays: list[Delay] | None = None) -> Findings:
    found = Findings()
    found.turns = {turn.flight.id: turn for turn in turns}
    found.delays = {delay.flight: delay for delay in delays or []}
    return found


def chained(*flights: Flight) -> Turn:
    return Turn(flights[-1], True, True, flights)


def test_the_worst_chain_is_the_longest_and_then_the_latest() -> None:
    short = chained(flight(0, 900, 2), flight(4, 900, 2))
    long = chained(flight(0), flight(4), flight(8))
    longer_delays = chained(flight(0, 30, 3), flight(4, 30, 3), flight(8, 30, 3))
    assert findings(short, long, longer_delays).worst_chain == longer_delays.chain


def test_the_shares_are_of_the_flights_after_such_an_arrival() -> None:
    turns = [Turn(flight(n), n < 4, n % 2 == 0, ()) for n in range(5)]
    found = findings(*turns)
    assert found.departed_late(arrived_late=True) == 0.5
    assert found.departed_late(arrived_late=False) == 1.0


def test_a_carrier_with_few_flights_is_not_among_the_worst() -> None:
    often = [Delay(f"often {n}", "EV", "EWR", 20) for n in range(100)]
    seldom = [Delay(f"seldom {n}", "HA", "JFK", 500) for n in range(99)]
    assert findings(delays=often + seldom).worst_delays() == [("EV", "EWR", [20] * 100)]


def test_the_report_fits_eighty_columns_and_an_empty_one_can_be_shown() -> None:
    full = render(findings(chained(flight(0, 1000, 9999), flight(4, -100, 9999))))
    assert "N190JB, 2 flights" in full
    for text in (full, render(Findings())):
        assert max(map(len, text.splitlines())) <= 80
