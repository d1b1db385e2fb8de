"""What a scrape says about a run, for people, 80 columns wide."""

import re
from collections.abc import Iterator

from apps.flights import app, gates
from apps.flights.agents import flights
from apps.flights.metrics import Scrape

WIDTH = 80
EXCERPT = (
    ("streamkit_records_consumed_total", {"group": "flights.gate"}),
    ("streamkit_records_processed_total", {"agent": "gate", "result": "success"}),
    ("streamkit_records_produced_total", {"topic": "nyc.gates.v1", "result": "success"}),
    ("streamkit_in_flight_records", {"agent": "gate"}),
    ("streamkit_commits_total", {"group": "flights.gate", "result": "success"}),
    ("streamkit_consumer_lag_records", {"group": "flights.gate", "partition": "0"}),
)
SINKS = [agent.sink.name for agent in app.agents.values() if agent.sink is not None]


def handled(seen: Scrape) -> dict[str, int]:
    """Records by agent."""
    return {name: seen.total("streamkit_records_processed_total", agent=name, result="success") for name in app.agents}


def lag_is_zero(seen: Scrape, since: float) -> bool:
    """Whether lag, read after `since` (seconds since 1970), is 0 in every partition of every agent."""
    read_at = seen.values("streamkit_lag_sample_timestamp_seconds")
    lags = seen.values("streamkit_consumer_lag_records")
    fresh = len(read_at) == len(app.agents) and min(read_at) >= since
    return fresh and len(lags) == len(app.agents) * (flights.partitions or 0) and not any(lags)


def render_run(count: int, seconds: float, seen: Scrape) -> Iterator[str]:
    """`seconds` are from the first flight sent to the last one handled by the last agent."""
    total = sum(handled(seen).values())
    written = sum(seen.total("streamkit_records_produced_total", topic=sink, result="success") for sink in SINKS)
    yield f"{count:,} flights came in and went through {len(app.agents)} agents in {seconds:.1f} s"
    yield f"  {total:,} records handled, {total / seconds:,.0f} a second; {written:,} written to {len(SINKS)} topics"
    minutes = count * gates.MEAN_SECONDS / 60
    yield f"  agent gate: {count:,} answers of a slow service, {minutes:.0f} minutes of waiting,"
    yield f"    {app.agents['gate'].concurrency} at a time and never two for one aircraft"
    partitions = len(seen.values("streamkit_consumer_lag_records"))
    commits = seen.total("streamkit_commits_total", result="success")
    yield f"  lag 0 in each of {partitions} partitions, after {commits:,} commits"


def render_excerpt(seen: Scrape) -> Iterator[str]:
    yield "From /metrics"
    for name, labels in EXCERPT:
        for line in seen.lines(name, **labels):
            yield from _folded(line)


def _folded(line: str) -> Iterator[str]:
    """Broken between labels where it is too long."""
    text = "  "
    for part in re.split(r'(?<=[{,])(?=\w+=")', line):
        if len(text) + len(part) > WIDTH:
            yield text
            text = "    "
        text += part
    yield text
