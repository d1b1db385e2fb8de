"""What the agents found out, read from their topics: `python -m apps.flights.report --brokers HOST:PORT`."""

import argparse
import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from statistics import mean
from textwrap import fill
from typing import NamedTuple
from uuid import uuid4

from apps.flights import agents
from apps.flights.model import Delay, Flight, FlightWeather, Turn
from apps.flights.rotation import Chain, is_late
from apps.flights.running import worker_of
from streamkit import App, Record

ENOUGH = 100  # flights: fewer say little about a carrier
WORST = 5
WIDTH = 80


class DeadLetter(NamedTuple):
    """What its headers tell."""

    group: str  # of the agent that gave the record up
    origin: str  # topic[partition] offset
    stage: str
    error: str  # its class, without the module
    message: str
    attempts: str

    @classmethod
    def of(cls, record: Record[bytes, bytes]) -> "DeadLetter":
        headers = {name: (value or b"").decode() for name, value in record.headers}
        return cls(
            group=headers["sk-group"],
            origin="{sk-origin-topic}[{sk-origin-partition}] offset {sk-origin-offset}".format_map(headers),
            stage=headers["sk-stage"],
            error=headers["sk-error-class"].rpartition(".")[2],
            message=headers["sk-error-message"],
            attempts=headers["sk-attempt"],
        )


class Findings:
    """Everything by flight: a record may come twice, because after a crash what was not settled runs again."""

    def __init__(self) -> None:
        self.turns: dict[str, Turn] = {}
        self.delays: dict[str, Delay] = {}
        self.cancelled: dict[str, Flight] = {}
        self.weather: dict[str, FlightWeather] = {}
        self.dead_letters: dict[tuple[str, str], DeadLetter] = {}  # by group and origin

    @property
    def worst_chain(self) -> Chain:
        """The longest; of the longest ones the one that was latest, in minutes."""
        return max((turn.chain for turn in self.turns.values()), key=_badness, default=())

    def departed_late(self, *, arrived_late: bool) -> float:
        """The share of departures that were late, after an arrival that was late or was not."""
        return _share([turn.departed_late for turn in self.turns.values() if turn.arrived_late == arrived_late])

    def late_in(self, *, wet: bool) -> float:
        """The share of departures that were late, in rain or snow or without."""
        seen = [each for each in self.weather.values() if (each.weather.precipitation > 0) == wet]
        return _share([is_late(each.departure_delay) for each in seen if each.departure_delay is not None])

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

    @app.agent(app.topic(agents.weathers.name, value=FlightWeather))
    async def weather(found_out: FlightWeather) -> None:
        found.weather[found_out.flight] = found_out

    @app.agent(app.topic(agents.weather.dead_letters[agents.flights.name], key=bytes, value=bytes))
    async def dead_letters(record: Record[bytes, bytes]) -> None:
        letter = DeadLetter.of(record)
        found.dead_letters[letter.group, letter.origin] = letter

    await worker_of(app, brokers, agents=app.agents, stop_when_idle="500ms").run()
    return found


def render(found: Findings) -> str:
    """A page for people, 80 columns wide."""
    parts = (_rotation, _delays, _cancelled, _weather, _dead_letters)
    return "\n\n".join("\n".join(part(found)) for part in parts)


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


def _weather(found: Findings) -> Iterator[str]:
    attempts = sorted(Counter(each.attempts for each in found.weather.values()).items())
    yield f"The weather is known of {len(found.weather):,} departures"
    yield f"  {found.late_in(wet=True):4.0%} were late in rain or snow,"
    yield f"  {found.late_in(wet=False):4.0%} without."
    for number, count in attempts:
        yield f"  {count:6,} were answered at attempt {number}"


def _dead_letters(found: Findings) -> Iterator[str]:
    letters = found.dead_letters.values()
    yield f"Dead letters in {agents.weather.dead_letters[agents.flights.name]}: {len(letters):,}"
    yield "    stage         error            attempts   of agent   records"
    for (stage, error, attempts), groups in sorted(_kinds(letters).items()):
        agent = next(iter(groups)).rpartition(".")[2] if len(groups) == 1 else f"{len(groups)} agents"
        yield f"    {stage:13} {error:16} {attempts:>8}   {agent:10} {groups.total():7,}"
    yield from _sample([letter for letter in letters if letter.stage == "handle"] or list(letters))


def _kinds(letters: Iterable[DeadLetter]) -> dict[tuple[str, str, str], Counter[str]]:
    """How many each group has of the stage, the error and the number of attempts."""
    kinds = defaultdict[tuple[str, str, str], Counter[str]](Counter)
    for letter in letters:
        kinds[letter.stage, letter.error, letter.attempts][letter.group] += 1
    return kinds


def _sample(letters: Collection[DeadLetter]) -> Iterator[str]:
    """The one that was tried most often."""
    if not letters:
        return
    letter = max(letters, key=lambda each: (int(each.attempts), each.origin))
    times = "once" if letter.attempts == "1" else f"{letter.attempts} times"
    text = f"One of them, from {letter.origin}, tried {times}: {letter.error}: {letter.message}"
    yield fill(text, WIDTH, initial_indent="  ", subsequent_indent="    ")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m apps.flights.report", description=__doc__)
    parser.add_argument("--brokers", required=True, metavar="HOST:PORT,...")
    print(render(asyncio.run(read_findings(parser.parse_args().brokers))))


if __name__ == "__main__":
    main()
