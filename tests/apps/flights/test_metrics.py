from apps.flights.figures import WIDTH, lag_is_zero, render_excerpt
from apps.flights.metrics import Scrape

GROUPS = [f"flights.{agent}" for agent in ("rotation", "delay", "cancelled", "gate")]


def scraped(lag: int = 0, read_at: float = 200.0) -> Scrape:
    lines = [f'streamkit_lag_sample_timestamp_seconds{{group="{group}"}} {read_at}' for group in GROUPS]
    lines += [
        f'streamkit_consumer_lag_records{{group="{group}",partition="{partition}",topic="nyc.flights.v1"}} {lag}.0'
        for group in GROUPS
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
