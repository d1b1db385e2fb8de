"""The app: one topic of flights, keyed by aircraft, and four agents that read it."""

from apps.flights.gates import ask_for_gate
from apps.flights.model import Delay, Flight, Gate, Turn
from apps.flights.rotation import Chain, extend, turn
from streamkit import App, Output

app = App("flights")

flights = app.topic("nyc.flights.v1", value=Flight, partitions=6)
turns = app.topic("nyc.turns.v1", value=Turn, partitions=3)
delays = app.topic("nyc.delays.v1", value=Delay, partitions=3)
cancellations = app.topic("nyc.cancellations.v1", value=Flight, partitions=3)
gates = app.topic("nyc.gates.v1", value=Gate, partitions=3)

# The last flights of each aircraft. In memory: a restart, or a partition that moves to another worker, breaks a chain.
chains: dict[str, Chain] = {}


@app.agent(flights, sink=turns)
async def rotation(flight: Flight) -> Turn | None:
    """Follows each aircraft from flight to flight, which come in order because it is the key."""
    if flight.tailnum is None or flight.cancelled:
        return None
    before = chains.get(flight.tailnum, ())
    chain = chains[flight.tailnum] = extend(before, flight)
    return turn(before, chain)


@app.agent(flights, sink=delays)
async def delay(flight: Flight) -> Output[Delay] | None:
    """Brings the delays of a carrier at an airport together: they get a key of their own."""
    if flight.departure_delay is None:
        return None
    value = Delay(flight.id, flight.carrier, flight.origin, flight.departure_delay)
    return Output(value, key=f"{flight.carrier} {flight.origin}")


@app.agent(flights, sink=cancellations)
async def cancelled(flight: Flight) -> Flight | None:
    return flight if flight.cancelled else None


@app.agent(flights, sink=gates, concurrency=256)
async def gate(flight: Flight) -> Gate:
    """Waits for a slow service: for up to 256 flights at a time, and never for two of one aircraft."""
    return Gate(flight.id, await ask_for_gate(flight.id))
