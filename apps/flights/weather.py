"""A stand-in for a weather service on the other side of the network, which now and then does not answer.

What it answers is real: what was measured at that airport in that hour (PROVENANCE.md). Its faults are made up, and
follow from the flight, so that they are the same in every run.
"""

import asyncio
import csv
import gzip
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from zlib import crc32

from apps.flights.model import Weather

FILE = Path(__file__).with_name("weather_january_2013.csv.gz")

TOO_OFTEN = 4  # as many runs as the agent gives a flight; whoever asks later gets an answer
FAILS_AFTER = 0.003  # seconds; what it knows it answers at once
OUTAGE_AFTER = 10_000  # lookups
OUTAGE_SECONDS = 2.0
OUTAGE_LOOKUPS = 100  # that fail at least, however slow those are who ask

Observations = Mapping[tuple[str, datetime], Weather]
"""By airport and the beginning of the hour."""


class NotObserved(LookupError):
    """Nothing was measured there in that hour. Asking again does not help."""


def faults(flight: str) -> int:
    """How often the service does not answer before it answers: 1 in 20 flights once or twice, 1 in 5,000 too often."""
    lot = crc32(flight.encode()) % 5_000
    if lot == 0:
        return TOO_OFTEN
    return 1 + lot % 2 if lot < 250 else 0


class WeatherService:
    """Besides the faults of single flights it has one outage, in which nobody gets an answer."""

    def __init__(
        self,
        observations: Observations,
        *,
        outage_after: int = OUTAGE_AFTER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._observations = observations
        self._outage_after = outage_after
        self._clock = clock
        self._lookups = 0
        self._refused = 0  # in the outage
        self._outage_ends: float | None = None
        self._failed = Counter[str]()  # by flight, since it was answered

    async def look_up(self, flight: str, airport: str, moment: datetime) -> Weather:
        """Raises NotObserved, which is final; ConnectionError in the outage, and TimeoutError, which are not."""
        if self._is_down():
            await asyncio.sleep(FAILS_AFTER)
            self._refused += 1
            raise ConnectionError("the weather service is down")
        if self._failed[flight] < faults(flight):
            self._failed[flight] += 1
            await asyncio.sleep(FAILS_AFTER)
            raise TimeoutError("the weather service has not answered in time")
        del self._failed[flight]
        hour = moment.replace(minute=0, second=0, microsecond=0)
        if (airport, hour) not in self._observations:
            raise NotObserved(f"no weather was measured at {airport} on {hour:%d %b at %H:%M} UTC")
        return self._observations[airport, hour]

    def _is_down(self) -> bool:
        self._lookups += 1
        if self._lookups <= self._outage_after:
            return False
        if self._outage_ends is None:
            self._outage_ends = self._clock() + OUTAGE_SECONDS
        return self._clock() < self._outage_ends or self._refused < OUTAGE_LOOKUPS


def read_observations(file: Path = FILE) -> Observations:
    with gzip.open(file, "rt", newline="") as lines:
        return {
            (row["origin"], datetime.fromisoformat(row["time_hour"])): _weather(row) for row in csv.DictReader(lines)
        }


def _weather(row: dict[str, str]) -> Weather:
    return Weather(float(row["temp"]), float(row["precip"]), float(row["visib"]))
