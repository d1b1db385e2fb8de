from apps.flights.figures import WIDTH, done, lag_is_zero, render_excerpt, render_retries
from apps.flights.metrics import Scrape

GROUPS = [f"flights.{agent}" for agent in ("rotation", "delay", "cancelled", "gate", "weather")]
READ = [(group, "nyc.flights.v1") for group in GROUPS]
READ += [("flights.weather", f"nyc.flights.v1.flights.weather.retry-{number}") for number in (1, 2, 3)]


def scraped(lag: int = 0, read_at: float = 200.0) -> Scrape:
    lines = [f'streamkit_lag_sample_timestamp_seconds{{group="{group}"}} {read_at}' for group in GROUPS]
    lines += [
        f'streamkit_consumer_lag_records{{group="{group}",partition="{partition}",topic="{topic}"}} {lag}.0'
        for group, topic in READ
        for partition in range(6)
    ]
    processed = 'agent="gate",group="flights.gate",result="success",topic="nyc.flights.v1"'
    lines.append(f"streamkit_records_processed_total{{{processed}}} 27004.0")
    return Scrape("# HELP streamkit_x ...\npython_info 1\n" + "\n".join(lines))


def test_samples_are_found_by_name_and_labels() -> None:
    seen = scraped(lag=3)
    assert seen.total("streamkit_consumer_lag_records", group="flights.gate") == 18
    assert seen.values("streamkit_consumer_lag_records", group="nobody") == []
    assert seen.total("streamkit_records_processed_total", agent="gate", result="success") == 27_004


def test_lag_counts_as_zero_only_if_it_was_read_late_enough_and_everywhere() -> None:
    assert lag_is_zero(scraped(), since=199.0)
    assert not lag_is_zero(scraped(lag=1), since=199.0)
    assert not lag_is_zero(scraped(), since=201.0)
    assert not lag_is_zero(Scrape(""), since=0.0)


def test_a_long_line_of_the_excerpt_is_broken_between_labels() -> None:
    lines = list(render_excerpt(scraped()))
    assert max(map(len, lines)) <= WIDTH
    assert '  streamkit_records_processed_total{agent="gate",group="flights.gate",' in lines
    assert '    result="success",topic="nyc.flights.v1"} 27004.0' in lines


def processed(agent: str, result: str, count: int) -> str:
    labels = f'agent="{agent}",group="flights.{agent}",result="{result}",topic="nyc.flights.v1"'
    return f"streamkit_records_processed_total{{{labels}}} {count}.0"


def read_by_weather(count: int) -> str:
    return f'streamkit_records_consumed_total{{group="flights.weather",topic="nyc.flights.v1"}} {count}.0'


def test_an_agent_is_done_with_what_it_has_handled_and_what_is_a_dead_letter() -> None:
    seen = Scrape("\n".join([processed("gate", "success", 7), processed("gate", "dead_lettered", 2)]))
    assert done(seen)["gate"] == 9
    assert done(seen)["weather"] == 0


def test_every_record_that_was_read_must_have_an_outcome() -> None:
    outcomes = [processed("weather", "success", 7), processed("weather", "dead_lettered", 2)]
    well = "\n".join(render_retries(Scrape("\n".join([*outcomes, read_by_weather(9)]))))
    assert "9 read = 7 with their weather + 2 dead letters: nothing is lost" in well
    badly = "\n".join(render_retries(Scrape("\n".join([*outcomes, read_by_weather(10)]))))
    assert "+1 ARE MISSING" in badly


def test_the_breaker_is_open_or_is_not() -> None:
    labels = '{agent="weather",group="flights.weather"}'
    opened = f"streamkit_breaker_openings_total{labels} 1.0"
    text = "\n".join(render_retries(Scrape(f"{opened}\nstreamkit_breaker_open{labels} 1.0")))
    assert "the breaker opened once, and is still open" in text
    assert "the breaker opened once, and has closed again" in "\n".join(render_retries(Scrape(opened)))
    assert "The breaker has not opened." in "\n".join(render_retries(Scrape("")))


def test_dead_letters_are_counted_by_reason() -> None:
    labels = 'agent="weather",group="flights.weather"'
    lines = [f'streamkit_dead_letters_total{{{labels},reason="{reason}"}} 2.0' for reason in ("rejected", "exhausted")]
    lines.append(f'streamkit_dead_letters_total{{{labels},reason="timeout"}} 0.0')
    assert "its dead letters by reason: 2 exhausted, 2 rejected" in "\n".join(render_retries(Scrape("\n".join(lines))))
    assert "its dead letters by reason: none" in "\n".join(render_retries(Scrape("")))
