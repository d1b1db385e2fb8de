"""What the tests of lag share: three that tell how far groups are behind, each in its own words."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Collection, Sequence
from typing import NamedTuple

from click.testing import CliRunner, Result
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from streamkit.cli.group import group

Place = tuple[str, str, int]  # group, topic, partition


class Row(NamedTuple):
    """What is said of one partition. None: there is no commit, nobody has it, or that is not said."""

    committed: int | None
    end: int
    lag: int | None
    owner: str | None = None


def lag(brokers: str, *arguments: str) -> Result:
    return CliRunner().invoke(group, ["lag", *arguments, "--brokers", brokers], prog_name="streamkit")


def shown(brokers: str, names: Sequence[str]) -> dict[Place, Row]:
    """What `streamkit lag` says of groups."""
    arguments = [word for name in names for word in ("--group", name)]
    ended = lag(brokers, *arguments, "--for", "0s", "--json")
    assert (ended.exit_code, ended.stderr) == (0, "")
    return {
        (found["group"], each["topic"], each["partition"]): Row(
            each["committed"], each["end"], each["lag_records"], each["owner"]
        )
        for found in json.loads(ended.stdout)["groups"]
        for each in found["partitions"]
    }


def described(text: str) -> dict[Place, Row]:
    """GROUP TOPIC PARTITION (LEADER-EPOCH) CURRENT-OFFSET LOG-END-OFFSET LAG CONSUMER-ID HOST CLIENT-ID, `-` for none,
    as kafka-consumer-groups.sh prints it."""
    found: dict[Place, Row] = {}
    columns: list[str] = []
    for line in text.splitlines():
        cells = line.split()
        if cells[:1] == ["GROUP"]:
            columns = cells
        elif len(cells) >= 6 and columns:
            row = dict(zip(columns, cells, strict=False))
            host, client = row.get("HOST", "-"), row.get("CLIENT-ID", "-")
            found[row["GROUP"], row["TOPIC"], int(row["PARTITION"])] = Row(
                _number(row["CURRENT-OFFSET"]),
                int(row["LOG-END-OFFSET"]),
                _number(row["LAG"]),
                None if host == "-" else f"{client}@{host.removeprefix('/')}",
            )
    return found


def _number(cell: str) -> int | None:
    return None if cell == "-" else int(cell)


def scraped(url: str) -> list[Metric]:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        return list(text_string_to_metric_families(answer.read().decode()))


def by_place(page: Collection[Metric], name: str) -> dict[Place, int]:
    """A metric of partitions."""
    return {
        (sample.labels["group"], sample.labels["topic"], int(sample.labels["partition"])): int(sample.value)
        for family in page
        for sample in family.samples
        if sample.name == name
    }


def sampled_since(url: str, names: Collection[str], since: float, patience: float) -> list[Metric]:
    """A page whose samples of all these groups were begun after `since` (seconds since 1970)."""
    deadline = time.monotonic() + patience
    while True:
        page = scraped(url)
        at = {
            sample.labels["group"]: sample.value
            for family in page
            for sample in family.samples
            if sample.name == "streamkit_lag_sample_timestamp_seconds"
        }
        if all(at.get(name, 0) > since for name in names):
            return page
        assert time.monotonic() < deadline, at
        time.sleep(0.1)
