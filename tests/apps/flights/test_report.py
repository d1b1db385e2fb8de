from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from apps.flights.model import Delay, Flight, FlightWeather, Turn, Weather
from apps.flights.report import DeadLetter, Findings, render
from streamkit import Record

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


def letter(offset: int = 17, headers: Mapping[str, str] = MappingProxyType({})) -> DeadLetter:
    given = {
        "sk-origin-topic": "nyc.flights.v1",
        "sk-origin-partition": "3",
        "sk-origin-offset": str(offset),
        "sk-group": "flights.weather",
        "sk-stage": "handle",
        "sk-error-class": "apps.flights.weather.NotObserved",
        "sk-error-message": "no weather was measured",
        "sk-attempt": "1",
        **headers,
    }
    return DeadLetter.of(Record(None, b"{}", headers=[(name, value.encode()) for name, value in given.items()]))


def test_a_dead_letter_says_whose_it_is_where_it_came_from_and_what_failed() -> None:
    assert letter() == DeadLetter(
        group="flights.weather",
        origin="nyc.flights.v1[3] offset 17",
        stage="handle",
        error="NotObserved",
        message="no weather was measured",
        attempts="1",
    )


def test_dead_letters_are_counted_by_what_has_failed_and_one_that_was_tried_most_is_shown() -> None:
    found = findings()
    late = {"sk-error-class": "TimeoutError", "sk-error-message": "no answer", "sk-attempt": "4"}
    letters = [letter(1), letter(2), letter(3, late)]
    letters += [
        letter(4, {"sk-stage": "decode-value", "sk-group": group}) for group in ("flights.gate", "flights.delay")
    ]
    found.dead_letters = {(each.group, each.origin): each for each in letters}
    text = render(found)
    assert "    handle        NotObserved             1   weather          2\n" in text
    assert "    handle        TimeoutError            4   weather          1\n" in text
    assert "    decode-value  NotObserved             1   2 agents         2\n" in text
    assert "One of them, from nyc.flights.v1[3] offset 3, tried 4 times: TimeoutError: no" in text


def test_departures_are_counted_by_the_weather_and_by_attempts() -> None:
    found = findings()
    for number in range(8):
        weather = Weather(30.0, 0.1 if number < 2 else 0.0, 10.0)
        found.weather[str(number)] = FlightWeather(str(number), 20 if number < 3 else 0, weather, 1 + (number == 7))
    found.weather["cancelled"] = FlightWeather("cancelled", None, Weather(30.0, 0.0, 10.0), 1)
    assert found.late_in(wet=True) == 1.0
    assert found.late_in(wet=False) == 1 / 6
    text = render(found)
    assert "       8 were answered at attempt 1" in text
    assert "       1 were answered at attempt 2" in text
