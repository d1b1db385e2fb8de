"""What a scrape says about a run, for people, 80 columns wide."""

import re
from collections.abc import Iterator
from typing import get_args

from apps.flights import app, gates
from apps.flights.agents import flights
from apps.flights.metrics import Scrape
from apps.flights.strange import STRANGE
from apps.flights.weather import OUTAGE_SECONDS
from streamkit.core.failures import Reason
from streamkit.durations import show_duration

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
    return {name: _processed(seen, name, "success") for name in app.agents}


def done(seen: Scrape) -> dict[str, int]:
    """By agent, the records that were handled or have become dead letters."""
    return {name: count + _processed(seen, name, "dead_lettered") for name, count in handled(seen).items()}


def _processed(seen: Scrape, agent: str, result: str) -> int:
    return seen.total("streamkit_records_processed_total", agent=agent, result=result)


def lag_is_zero(seen: Scrape, since: float) -> bool:
    """Whether lag, read after `since` (seconds since 1970), is 0 in every partition of every agent, tiers included."""
    read_at = seen.values("streamkit_lag_sample_timestamp_seconds")
    lags = seen.values("streamkit_consumer_lag_records")
    fresh = len(read_at) == len(app.agents) and min(read_at) >= since
    topics = sum(1 + len(_waits(name)) for name in app.agents)
    return fresh and len(lags) == topics * (flights.partitions or 0) and not any(lags)


def _waits(agent: str) -> tuple[float, ...]:
    retry = app.agents[agent].retry
    return () if retry is None else retry.tier_waits


def render_run(count: int, seconds: float, seen: Scrape) -> Iterator[str]:
    """`seconds` are from the first flight sent to the last one handled by the last agent."""
    total = sum(handled(seen).values())
    written = sum(seen.total("streamkit_records_produced_total", topic=sink, result="success") for sink in SINKS)
    came = f"{count:,} flights and {len(STRANGE)} records that are none"
    yield f"{came}, through {len(app.agents)} agents in {seconds:.1f} s"
    yield f"  {total:,} records handled, {total / seconds:,.0f} a second; {written:,} written to {len(SINKS)} topics"
    minutes = count * gates.MEAN_SECONDS / 60
    yield f"  agent gate: {count:,} answers of a slow service, {minutes:.0f} minutes of waiting,"
    yield f"    {app.agents['gate'].concurrency} at a time and never two for one aircraft"
    partitions = len(seen.values("streamkit_consumer_lag_records"))
    commits = seen.total("streamkit_commits_total", result="success")
    yield f"  lag 0 in each of {partitions} partitions, after {commits:,} commits"


def render_retries(seen: Scrape) -> Iterator[str]:
    """What became of the lookups that failed."""
    yield "A weather service that fails: what has failed waits in a tier until it is due"
    yield "    tier     waits   records"
    for number, wait in enumerate(_waits("weather"), 1):
        moved = seen.total("streamkit_retries_total", agent="weather", tier=str(number))
        yield f"    {number:4} {show_duration(wait):>9} {moved:9,}"
    yield from _breaker(seen)
    yield from _balance(seen)
    yield from _reasons(seen)


def _balance(seen: Scrape) -> Iterator[str]:
    """Every record of the topic of flights has one outcome."""
    read = seen.total("streamkit_records_consumed_total", group="flights.weather", topic=flights.name)
    well, dead = _processed(seen, "weather", "success"), _processed(seen, "weather", "dead_lettered")
    verdict = "nothing is lost" if read == well + dead else f"{read - well - dead:+,} ARE MISSING"
    yield f"  {read:,} read = {well:,} with their weather + {dead:,} dead letters: {verdict}"


def _reasons(seen: Scrape) -> Iterator[str]:
    counts = {
        reason: seen.total("streamkit_dead_letters_total", agent="weather", reason=reason)
        for reason in get_args(Reason)
    }
    listed = ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count)
    yield f"  its dead letters by reason: {listed or 'none'}"


def _breaker(seen: Scrape) -> Iterator[str]:
    openings = seen.total("streamkit_breaker_openings_total", agent="weather")
    if not openings:
        yield "  The breaker has not opened."
        return
    now = "is still open" if seen.total("streamkit_breaker_open", agent="weather") else "has closed again"
    times = "once" if openings == 1 else f"{openings} times"
    yield f"  In an outage of {OUTAGE_SECONDS:.0f} s the breaker opened {times}, and {now}:"
    yield "  only the first that failed went to a tier. The others waited where they were,"
    yield "  and one was tried now and then until some succeeded."


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
