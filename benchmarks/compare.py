"""Sides measured in turns: each in a fresh process, round after round, so that what else the machine does hits all."""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

T = TypeVar("T")


class Measured(NamedTuple):
    """What one side did in one round."""

    records: int
    seconds: float
    cpu: float  # seconds of processor time of the measured process

    @property
    def rate(self) -> float:
        return self.records / self.seconds


Side = Callable[[], Measured]  # runs in a process of its own, so it must pickle


@dataclass(frozen=True)
class Bar:
    """The median ratio that a side must reach against another: of rates `at least`, of times `at most`."""

    side: str
    reference: str
    limit: float
    of: Literal["rate", "time"] = "rate"

    def ratios(self, rounds: Sequence[Mapping[str, Measured]]) -> list[float]:
        rates = [each[self.side].rate / each[self.reference].rate for each in rounds]
        return rates if self.of == "rate" else [1 / rate for rate in rates]

    def verdict(self, median: float) -> str:
        met = median >= self.limit if self.of == "rate" else median <= self.limit
        return f"bar {'>=' if self.of == 'rate' else '<='} {self.limit:.2f}: {'PASS' if met else 'below bar'}"


def interleaved(sides: Mapping[str, Side], rounds: int, *, warm_up: bool) -> list[dict[str, Measured]]:
    """Measure every side once a round, each round beginning with another one. A round to warm up is not counted."""
    names = list(sides)
    results: list[dict[str, Measured]] = []
    for number in range(-1 if warm_up else 0, rounds):
        first = number % len(names)
        measured = {name: in_fresh_process(sides[name]) for name in names[first:] + names[:first]}
        if number >= 0:
            results.append(measured)
    return results


def in_fresh_process(work: Callable[[], T]) -> T:
    """So that no run inherits another's heap, caches or sockets."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work).result()


def report(title: str, rounds: Sequence[Mapping[str, Measured]], reference: str, bars: Sequence[Bar]) -> None:
    """Print medians, least and most of each side, the ratios to the reference, and whether they reach the bars."""
    print(f"\n{title}: median (least to most) of {len(rounds)} rounds", flush=True)
    for name in rounds[0]:
        _print_side(name, [each[name] for each in rounds])
    unit = bars[0].of if bars else "rate"
    print(f"  ratio of {unit}s to {reference!r}, round by round:")
    for name in rounds[0]:
        if name != reference:
            _print_ratio(name, rounds, Bar(name, reference, 0, unit), [bar for bar in bars if bar.side == name])


def _print_side(name: str, runs: Sequence[Measured]) -> None:
    rates = [run.rate for run in runs]
    seconds = statistics.median(run.seconds for run in runs)
    cpu = statistics.median(run.cpu / run.records for run in runs) * 1e6
    print(
        f"  {name:<28}{statistics.median(rates):>9,.0f} records/s ({min(rates):,.0f} to {max(rates):,.0f})"
        f", {seconds:.3f} s, CPU {cpu:.1f} µs a record"
    )


def _print_ratio(name: str, rounds: Sequence[Mapping[str, Measured]], pair: Bar, bars: Sequence[Bar]) -> None:
    ratios = pair.ratios(rounds)
    median = statistics.median(ratios)
    cpu = statistics.median(each[name].cpu / each[pair.reference].cpu for each in rounds)
    verdicts = "".join(f"   {bar.verdict(median)}" for bar in bars)
    spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"  {name:<28}{median:>9.2f} {spread}, CPU {cpu:.2f} times{verdicts}", flush=True)
