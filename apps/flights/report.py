"""What the agents found out, read from their topics: `python -m apps.flights.report --brokers HOST:PORT`."""

import argparse
import asyncio
from collections import defaultdict
from collections.abc import Iterator
from statistics import mean
from uuid import uuid4

from apps.flights import agents
from apps.flights.model import Delay, Flight, Turn
from apps.flights.rotation import Chain, is_late
from apps.flights.running import worker_of
from streamkit import App

ENOUGH = 100  # flights: fewer say little about a carrier
WORST = 5


class Findings:
    """Everything by flight: a record may come twice, because after a crash what was not settled runs again."""

    def __init__(self) -> None:
        self.turns: dict[str, Turn] = {}
        self.delays: dict[str, Delay] = {}
        self.cancelled: dict[str, Flight] = {}

    @property
    def worst_chain(self) -> Chain:
        """The longest; of the longest ones the one that was latest, in minutes."""
        return max((turn.chain for turn in self.turns.values()), key=_badness, default=())

    def departed_late(self, *, arrived_late: bool) -> float:
        """The share of departures that were late, after an arrival that was late or was not."""
        return _share([turn.departed_late for turn in self.turns.values() if turn.arrived_late == arrived_late])

    def worst_delays(self) -> list[tuple[str, str, list[int]]]:
        """Carrier, airport and the minutes of each flight; the highest averages first."""
        minutes = defaultdict[tuple[str, str], list[int]](list)
        for delay in self.delays.values():
            minutes[delay.carrier, delay.airport].append(delay.minutes)
        groups = [(carrier, airport, each) for (carrier, airport), each in minutes.items() if len(each) >= ENOUGH]
        return sorted(groups, key=lambda group: -mean(group[2]))[:WORST]


def _badness(chain: Chain) -> tuple[int, int, str]:
    return len(chain), sum(flight.arrival_delay or 0 for flight in chain), chain[0].id if chain else ""


def _share(results: list[bool]) -> float:
    return sum(results) / len(results) if results else 0.0


async def read_findings(brokers: str) -> Findings:
    """Read the agents' topics to their end."""
    found = Findings()
    # A group of its own for each reading, so that it begins at the start.
    app = App(f"flights-report-{uuid4().hex[:8]}")

    @app.agent(app.topic(agents.turns.name, value=Turn))
    async def turns(turn: Turn) -> None:
        found.turns[turn.flight.id] = turn

    @app.agent(app.topic(agents.delays.name, value=Delay))
    async def delays(delay: Delay) -> None:
        found.delays[delay.flight] = delay

    @app.agent(app.topic(agents.cancellations.name, value=Flight))
    async def cancelled(flight: Flight) -> None:
        found.cancelled[flight.id] = flight

    await worker_of(app, brokers, agents=app.agents, stop_when_idle="500ms").run()
    return found


def render(found: Findings) -> str:
    """A page for people, 80 columns wide."""
    return "\n".join([*_rotation(found), "", *_delays(found), "", *_cancelled(found)])


def _rotation(found: Findings) -> Iterator[str]:
    yield "Does a late arrival become a late departure? (late: 15 minutes or more)"
    yield f"  {len(found.turns):,} times an aircraft left New York again within 8 hours:"
    yield f"  {found.departed_late(arrived_late=True):4.0%} of them late after a late arrival,"
    yield f"  {found.departed_late(arrived_late=False):4.0%} after one in time."
    chain = found.worst_chain
    if not chain:
        return
    yield f"  The longest chain of lateness: {chain[0].tailnum}, {len(chain)} flights"
    yield "    scheduled (UTC)  flight   route      departed   arrived"
    for flight in chain:
        route = f"{flight.origin}-{flight.dest}"
        left, landed = _minutes(flight.departure_delay), _minutes(flight.arrival_delay)
        code = f"{flight.carrier}{flight.number}"
        yield f"    {flight.scheduled:%d %b, %H:%M}    {code:7}  {route:8} {left:>10} {landed:>9}"


def _minutes(delay: int | None) -> str:
    return "?" if delay is None else f"{delay:+d} min"


def _delays(found: Findings) -> Iterator[str]:
    yield f"The worst departures, by carrier and airport ({ENOUGH} flights or more)"
    yield "    carrier  airport  flights   average   late"
    for carrier, airport, minutes in found.worst_delays():
        late = _share([is_late(each) for each in minutes])
        yield f"    {carrier:7}  {airport:7} {len(minutes):8,} {mean(minutes):5.1f} min {late:6.0%}"


def _cancelled(found: Findings) -> Iterator[str]:
    unknown = sum(flight.tailnum is None for flight in found.cancelled.values())
    yield f"Cancelled: {len(found.cancelled):,} flights; of {unknown:,} no aircraft is known (their key is null)"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m apps.flights.report", description=__doc__)
    parser.add_argument("--brokers", required=True, metavar="HOST:PORT,...")
    print(render(asyncio.run(read_findings(parser.parse_args().brokers))))


if __name__ == "__main__":
    main()
