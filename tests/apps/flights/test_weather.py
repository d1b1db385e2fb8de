import asyncio
from collections import Counter
from datetime import UTC, datetime

import pytest

from apps.flights.data import read_flights
from apps.flights.model import Weather
from apps.flights.weather import TOO_OFTEN, NotObserved, WeatherService, faults, read_observations
from tests.apps.flights import truth

HOUR = datetime(2013, 1, 1, 10, tzinfo=UTC)
DRY = Weather(39.02, 0.0, 10.0)
SOUND = "UA1545 EWR 2013-01-01T10:15:00+00:00"


def service(outage_after: int = 1_000) -> tuple[WeatherService, list[float]]:
    """And the time of its clock."""
    now = [0.0]
    return WeatherService({("EWR", HOUR): DRY}, outage_after=outage_after, clock=lambda: now[0]), now


async def outcome(asked: WeatherService, flight: str = SOUND) -> type[Exception] | Weather:
    try:
        return await asked.look_up(flight, "EWR", HOUR.replace(minute=17))
    except Exception as error:
        return type(error)


def with_faults(number: int) -> str:
    return next(flight.id for flight in read_flights() if faults(flight.id) == number)


def test_the_shipped_observations_are_those_of_the_csv() -> None:
    observations = read_observations()
    rows = truth.weather_rows()
    assert len(observations) == len(rows) == 2_298
    for row in rows:
        seen = observations[row["origin"], datetime.fromisoformat(row["time_hour"])]
        shown = (seen.temperature, seen.precipitation, seen.visibility)
        assert shown == tuple(float(row[name]) for name in ("temp", "precip", "visib"))


def test_one_flight_in_twenty_gets_no_answer_at_first_and_a_handful_too_often() -> None:
    kinds = Counter(faults(flight.id) for flight in read_flights())
    assert kinds == {0: 25_660, 1: 679, 2: 655, TOO_OFTEN: 10}


@pytest.mark.parametrize("number", [0, 1, 2, TOO_OFTEN])
def test_a_flight_fails_as_often_as_is_its_lot_and_again_when_it_comes_again(number: int) -> None:
    asked, _ = service()
    flight = with_faults(number)

    async def ask_often() -> list[type[Exception] | Weather]:
        return [await outcome(asked, flight) for _ in range(2 * (number + 1))]

    assert asyncio.run(ask_often()) == 2 * [*number * [TimeoutError], DRY]


def test_an_hour_without_an_observation_is_told_from_a_fault() -> None:
    asked, _ = service()
    with pytest.raises(NotObserved, match="no weather was measured at JFK on 01 Jan at 10:00 UTC"):
        asyncio.run(asked.look_up(SOUND, "JFK", HOUR))


def test_nobody_gets_an_answer_in_the_outage_and_at_least_a_hundred_notice_it() -> None:
    async def ask() -> None:
        asked, now = service(outage_after=3)
        assert [await outcome(asked) for _ in range(3)] == 3 * [DRY]
        assert [await outcome(asked) for _ in range(40)] == 40 * [ConnectionError]
        now[0] = 60.0
        assert [await outcome(asked) for _ in range(60)] == 60 * [ConnectionError]
        assert await outcome(asked) == DRY

    asyncio.run(ask())


def test_the_outage_lasts_two_seconds_however_many_ask() -> None:
    async def ask() -> None:
        asked, now = service(outage_after=0)
        assert set(await asyncio.gather(*(outcome(asked) for _ in range(500)))) == {ConnectionError}
        now[0] = 1.9
        assert await outcome(asked) is ConnectionError
        now[0] = 2.0
        assert await outcome(asked) == DRY

    asyncio.run(ask())
