"""What the topics hold. Delays are minutes, negative when early; all times are UTC."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Flight:
    """One flight out of New York, as it was planned and as it went."""

    carrier: str
    number: int
    tailnum: str | None  # the aircraft; None if none is known, which is so only for cancelled flights
    origin: str
    dest: str
    scheduled: datetime
    departure_delay: int | None  # None: it was cancelled
    arrival_delay: int | None  # None: cancelled, diverted or not known

    @property
    def id(self) -> str:
        return f"{self.carrier}{self.number} {self.origin} {self.scheduled.isoformat()}"

    @property
    def cancelled(self) -> bool:
        return self.departure_delay is None

    @property
    def left(self) -> datetime:
        """When it departed, or was to depart if it never did."""
        return self.scheduled + timedelta(minutes=self.departure_delay or 0)


@dataclass(frozen=True, slots=True)
class Turn:
    """An aircraft departs from New York again, within hours of its departure before."""

    flight: Flight
    arrived_late: bool  # the flight before
    departed_late: bool
    chain: tuple[Flight, ...]  # the flights that handed their lateness on, up to this one; empty if it did not get any


@dataclass(frozen=True, slots=True)
class Delay:
    """How late one flight departed. Keyed by carrier and airport."""

    flight: str
    carrier: str
    airport: str
    minutes: int


@dataclass(frozen=True, slots=True)
class Gate:
    """Where a flight's passengers board."""

    flight: str
    gate: str


@dataclass(frozen=True, slots=True)
class Weather:
    """What was measured at an airport in one hour."""

    temperature: float  # degrees Fahrenheit
    precipitation: float  # inches of rain, or of snow when melted
    visibility: float  # miles


@dataclass(frozen=True, slots=True)
class FlightWeather:
    """The weather when a flight left, or was to leave."""

    flight: str
    departure_delay: int | None  # None: it was cancelled
    weather: Weather
    attempts: int  # until the weather service answered
