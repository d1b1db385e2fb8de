"""The shipped flights; PROVENANCE.md says where they come from."""

import csv
import gzip
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from apps.flights.model import Flight

FILE = Path(__file__).with_name("january_2013.csv.gz")


def read_flights(file: Path = FILE) -> list[Flight]:
    """All flights in the order in which they left; those that were cancelled stand where they were to leave.

    So the flights of each aircraft are in order too.
    """
    with gzip.open(file, "rt", newline="") as lines:
        return sorted(parse(lines), key=lambda flight: (flight.left, flight.id))


def parse(lines: Iterable[str]) -> Iterable[Flight]:
    return (_flight(row) for row in csv.DictReader(lines))


def _flight(row: dict[str, str]) -> Flight:
    # The clock times in the data are local and lack the day on which a late flight left, so they are not used.
    hour = datetime.fromisoformat(row["time_hour"])
    return Flight(
        carrier=row["carrier"],
        number=int(row["flight"]),
        tailnum=_known(row["tailnum"]),
        origin=row["origin"],
        dest=row["dest"],
        scheduled=hour + timedelta(minutes=int(row["minute"])),
        departure_delay=_minutes(row["dep_delay"]),
        arrival_delay=_minutes(row["arr_delay"]),
    )


def _known(text: str) -> str | None:
    """`NA` is what the data writes for what is missing."""
    return None if text == "NA" else text


def _minutes(text: str) -> int | None:
    return None if text == "NA" else int(text)
