"""What a worker tells on /metrics."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.request import urlopen

_SAMPLE = re.compile(r"(?P<name>streamkit_\w+)(?:\{(?P<labels>[^}]*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Sample:
    name: str
    labels: Mapping[str, str]
    value: float
    line: str


class Scrape:
    """The worker's samples at one moment."""

    def __init__(self, text: str) -> None:
        self._samples = list(_samples(text.splitlines()))

    def values(self, name: str, **labels: str) -> list[float]:
        return [sample.value for sample in self._matching(name, labels)]

    def total(self, name: str, **labels: str) -> int:
        return round(sum(self.values(name, **labels)))

    def lines(self, name: str, **labels: str) -> list[str]:
        return [sample.line for sample in self._matching(name, labels)]

    def _matching(self, name: str, labels: Mapping[str, str]) -> Iterator[Sample]:
        return (s for s in self._samples if s.name == name and labels.items() <= s.labels.items())


def scrape(url: str) -> Scrape:
    """Raises OSError if nothing answers there."""
    with urlopen(url, timeout=5) as answer:
        return Scrape(answer.read().decode())


def _samples(lines: Iterable[str]) -> Iterator[Sample]:
    for line in lines:
        if found := _SAMPLE.fullmatch(line):
            labels = dict(_LABEL.findall(found["labels"] or ""))
            yield Sample(found["name"], labels, float(found["value"]), line)
