"""What is true of the flights, from the csv alone: nothing of the app is used here."""

import csv
import gzip
from collections import defaultdict
from collections.abc import Collection
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

FILE = Path(__file__).parents[3] / "apps" / "flights" / "january_2013.csv.gz"

WEATHER_FILE = FILE.with_name("weather_january_2013.csv.gz")

Row = dict[str, str]


def rows(file: Path = FILE) -> list[Row]:
    with gzip.open(file, "rt", newline="") as lines:
        return list(csv.DictReader(lines))


def weather_rows() -> list[Row]:
    return rows(WEATHER_FILE)


def scheduled(row: Row) -> datetime:
    return datetime.fromisoformat(row["time_hour"]) + timedelta(minutes=int(row["minute"]))


def left(row: Row) -> datetime:
    return scheduled(row) + timedelta(minutes=0 if cancelled(row) else int(row["dep_delay"]))


def cancelled(row: Row) -> bool:
    return row["dep_time"] == "NA"


def late(text: str) -> bool:
    return text != "NA" and int(text) >= 15


def identity(row: Row) -> str:
    return f"{row['carrier']}{row['flight']} {row['origin']} {scheduled(row).isoformat()}"


def without_weather(wanted: Collection[str]) -> set[str]:
    """Those of the flights that left in an hour in which nothing was measured at their airport."""
    measured = {(row["origin"], row["time_hour"]) for row in weather_rows()}
    chosen = [row for row in rows() if identity(row) in wanted]
    return {identity(row) for row in chosen if (row["origin"], f"{left(row):%Y-%m-%dT%H:00:00Z}") not in measured}


class Truth:
    """Of those rows whose identity is wanted."""

    def __init__(self, wanted: Collection[str]) -> None:
        chosen = [row for row in rows() if identity(row) in wanted]
        assert len(chosen) == len(wanted)
        chosen.sort(key=left)
        self.cancelled = sorted(identity(row) for row in chosen if cancelled(row))
        self.delays: dict[str, list[int]] = defaultdict(list)
        self.by_aircraft: dict[str, list[str]] = defaultdict(list)
        flown: dict[str, list[Row]] = defaultdict(list)
        for row in chosen:
            if not cancelled(row):
                self.delays[f"{row['carrier']} {row['origin']}"].append(int(row["dep_delay"]))
                flown[row["tailnum"]].append(row)
            if row["tailnum"] != "NA":
                self.by_aircraft[row["tailnum"]].append(identity(row))
        self.turns = dict(turn for flights in flown.values() for turn in turns(flights))


def turns(flights: list[Row]) -> list[tuple[str, tuple[bool, bool, int]]]:
    """Of one aircraft: each flight's arrival before, its own departure, and the length of the chain (0: none)."""
    found = []
    length = 1
    for before, after in pairwise(flights):
        gap = (scheduled(after) - scheduled(before)).total_seconds() / 3600
        follows = before["arr_delay"] != "NA" and 0 < gap <= 8
        handed_on = follows and late(before["arr_delay"]) and late(after["dep_delay"])
        length = length + 1 if handed_on else 1
        if follows:
            outcome = late(before["arr_delay"]), late(after["dep_delay"]), length if handed_on else 0
            found.append((identity(after), outcome))
    return found
