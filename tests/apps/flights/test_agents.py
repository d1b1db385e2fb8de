import asyncio
from datetime import UTC, datetime

import pytest

from apps.flights import agents
from apps.flights.gates import ask_for_gate
from apps.flights.model import Flight, FlightWeather, Weather
from apps.flights.weather import NotObserved, WeatherService, faults
from streamkit import App, Output, Record

FLIGHT = Flight("UA", 1545, "N14228", "EWR", "IAH", datetime(2013, 1, 1, 10, 15, tzinfo=UTC), 2, 11)
CANCELLED = Flight("AA", 791, None, "LGA", "DFW", datetime(2013, 1, 2, 0, 35, tzinfo=UTC), None, None)


def test_the_app_is_what_the_package_holds() -> None:
    import apps.flights

    assert isinstance(apps.flights.app, App)
    assert sorted(apps.flights.app.agents) == ["cancelled", "delay", "gate", "rotation", "weather"]
    assert all(topic.partitions for topic in apps.flights.app.topics.values())


def test_every_agent_has_somewhere_to_put_what_is_no_flight() -> None:
    for agent in agents.app.agents.values():
        assert agent.dead_letters == {"nyc.flights.v1": "nyc.flights.v1.dlq"}


def test_a_cancelled_flight_goes_to_its_own_topic_and_nowhere_else() -> None:
    assert asyncio.run(agents.cancelled(CANCELLED)) == CANCELLED
    assert asyncio.run(agents.cancelled(FLIGHT)) is None
    assert asyncio.run(agents.delay(CANCELLED)) is None
    assert asyncio.run(agents.rotation(CANCELLED)) is None


def test_a_delay_is_keyed_by_carrier_and_airport() -> None:
    output = asyncio.run(agents.delay(FLIGHT))
    assert isinstance(output, Output)
    assert output.key == "UA EWR"
    assert (output.value.flight, output.value.minutes) == (FLIGHT.id, 2)


def test_an_aircraft_is_followed_from_flight_to_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "chains", {})
    assert asyncio.run(agents.rotation(FLIGHT)) is None
    assert agents.chains == {"N14228": (FLIGHT,)}


def test_the_slow_service_gives_a_flight_the_same_gate_every_time() -> None:
    async def ask_twice() -> list[str]:
        return [await ask_for_gate(FLIGHT.id), await ask_for_gate(FLIGHT.id)]

    first, second = asyncio.run(ask_twice())
    assert first == second


def test_the_weather_of_a_flight_is_that_of_the_hour_in_which_it_left(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not faults(FLIGHT.id)
    hour = datetime(2013, 1, 1, 10, tzinfo=UTC)
    monkeypatch.setattr(agents, "service", WeatherService({("EWR", hour): Weather(39.0, 0.0, 10.0)}))
    found = asyncio.run(agents.weather(Record("N14228", FLIGHT, attempt=2)))
    assert found == FlightWeather(FLIGHT.id, 2, Weather(39.0, 0.0, 10.0), attempts=2)


def test_what_was_never_observed_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "service", WeatherService({}))
    with pytest.raises(NotObserved, match="no weather was measured at EWR on 01 Jan at 10:00 UTC"):
        asyncio.run(agents.weather(Record("N14228", FLIGHT)))
    retry = agents.weather.retry
    assert retry is not None
    assert retry.never == (NotObserved,)
