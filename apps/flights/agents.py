"""The app: one topic of flights, keyed by aircraft, and five agents that read it."""

from apps.flights.gates import ask_for_gate
from apps.flights.model import Delay, Flight, FlightWeather, Gate, Turn
from apps.flights.rotation import Chain, extend, turn
from apps.flights.weather import NotObserved, WeatherService, read_observations
from streamkit import App, Output, Record, Retry

app = App("flights")

flights = app.topic("nyc.flights.v1", value=Flight, partitions=6)
turns = app.topic("nyc.turns.v1", value=Turn, partitions=3)
delays = app.topic("nyc.delays.v1", value=Delay, partitions=3)
cancellations = app.topic("nyc.cancellations.v1", value=Flight, partitions=3)
gates = app.topic("nyc.gates.v1", value=Gate, partitions=3)
weathers = app.topic("nyc.weather.v1", value=FlightWeather, partitions=3)

# The last flights of each aircraft. In memory: a restart, or a partition that moves to another worker, breaks a chain.
chains: dict[str, Chain] = {}

service = WeatherService(read_observations())

# Not everything in the topic of flights is a flight. What cannot be decoded becomes a dead letter of each agent that
# reads it, all of them in nyc.flights.v1.dlq; without dead_letter=True it would stop the agent.


@app.agent(flights, sink=turns, dead_letter=True)
async def rotation(flight: Flight) -> Turn | None:
    """Follows each aircraft from flight to flight, which come in order because it is the key."""
    if flight.tailnum is None or flight.cancelled:
        return None
    before = chains.get(flight.tailnum, ())
    chain = chains[flight.tailnum] = extend(before, flight)
    return turn(before, chain)


@app.agent(flights, sink=delays, dead_letter=True)
async def delay(flight: Flight) -> Output[Delay] | None:
    """Brings the delays of a carrier at an airport together: they get a key of their own."""
    if flight.departure_delay is None:
        return None
    value = Delay(flight.id, flight.carrier, flight.origin, flight.departure_delay)
    return Output(value, key=f"{flight.carrier} {flight.origin}")


@app.agent(flights, sink=cancellations, dead_letter=True)
async def cancelled(flight: Flight) -> Flight | None:
    return flight if flight.cancelled else None


@app.agent(flights, sink=gates, concurrency=256, dead_letter=True)
async def gate(flight: Flight) -> Gate:
    """Waits for a slow service: for up to 256 flights at a time, and never for two of one aircraft."""
    return Gate(flight.id, await ask_for_gate(flight.id))


# snippet: weather
# Tiers of a second and less are for a demo: see docs/retries.md.
patience = Retry.delays("250ms", "1s", "2s", never=(NotObserved,))


@app.agent(flights, sink=weathers, concurrency=64, timeout="2s", retry=patience)
async def weather(record: Record[str, Flight]) -> FlightWeather:
    """Asks a service that does not always answer: the flight waits in a tier then, and those behind it go on."""
    flight = record.value
    found = await service.look_up(flight.id, flight.origin, flight.left)
    return FlightWeather(flight.id, flight.departure_delay, found, record.attempt)


# end: weather
