"""How close handlers that wait come to bare asyncio tasks that wait as long.

`python -m benchmarks.concurrency [--quick] [--rounds N] [--brokers HOST:PORT]`
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from benchmarks.brokers import brokers, fill, fresh_name, topic
from benchmarks.compare import Bar, Measured, Side, interleaved, report
from benchmarks.engine import Run
from streamkit import App

KEYS = 1_000


@dataclass(frozen=True)
class Load:
    """Records of one partition whose handlers sleep."""

    title: str
    records: int
    concurrency: int
    longest: float  # seconds
    even: bool  # all sleep for the longest, and the keys take turns; otherwise both are drawn evenly
    bar: Bar

    def sleeps(self) -> list[float]:
        chance = random.Random(1)
        return [self.longest if self.even else chance.uniform(0, self.longest) for _ in range(self.records)]

    def keyed(self) -> Iterator[tuple[bytes, bytes]]:
        chance = random.Random(2)
        for index in range(self.records):
            key = index % KEYS if self.even else chance.randrange(KEYS)
            yield b"%d" % key, b"%d" % index


def loads(records: int) -> list[Load]:
    return [
        Load("sleeps of 0 to 5 ms, 16 at a time", records, 16, 0.005, False, Bar("streamkit", "bare", 1.10, "time")),
        Load("sleeps of 100 ms, 1,000 at a time", records, 1_000, 0.1, True, Bar("streamkit", "bare", 0.92)),
    ]


def bare(load: Load) -> Measured:
    """So many tasks that share one list of sleeps: no Kafka, no keys."""
    return asyncio.run(_bare(load))


def streamkit(load: Load, address: str, source: str) -> Measured:
    """The same sleeps in an agent's handlers."""
    return asyncio.run(_streamkit(load, address, source))


async def _bare(load: Load) -> Measured:
    sleeps = iter(load.sleeps())

    async def pool_task() -> None:
        for seconds in sleeps:
            await asyncio.sleep(seconds)

    begun, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(pool_task() for _ in range(load.concurrency)))
    return Measured(load.records, time.perf_counter() - begun, time.process_time() - cpu)


async def _streamkit(load: Load, address: str, source: str) -> Measured:
    app, sleeps, clock = App("bench"), load.sleeps(), Clock()

    @app.agent(app.topic(source, value=int), group=fresh_name("sleep"), concurrency=load.concurrency)
    async def sleep(index: int) -> None:
        clock.start()
        await asyncio.sleep(sleeps[index])
        clock.end()

    run = Run(app, address)
    await run.until(lambda: clock.ended >= load.records, lambda: clock.ended)
    if clock.ended != load.records:
        raise RuntimeError(f"{clock.ended} records were handled, not {load.records}")
    return Measured(load.records, clock.last - clock.first, clock.cpu)


class Clock:
    """From the start of the first handler to the end of the last."""

    def __init__(self) -> None:
        self.ended = 0
        self.first = self.last = 0.0
        self._cpu = 0.0

    @property
    def cpu(self) -> float:
        return time.process_time() - self._cpu

    def start(self) -> None:
        if not self.first:
            self.first, self._cpu = time.perf_counter(), time.process_time()

    def end(self) -> None:
        self.ended += 1
        self.last = time.perf_counter()


async def compare(address: str, load: Load, rounds: int, *, warm_up: bool) -> None:
    async with topic(address, "sleeps", 1) as source:
        await fill(address, source, 1, load.keyed())
        sides: dict[str, Side] = {
            "bare": partial(bare, load),
            "streamkit": partial(streamkit, load, address, source),
            "bare, once more": partial(bare, load),
        }
        results = await asyncio.to_thread(interleaved, sides, rounds, warm_up=warm_up)
    report(f"{load.records:,} {load.title}", results, "bare", [load.bar])


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.concurrency", description=__doc__)
    parser.add_argument("--brokers", help="of an existing Kafka; otherwise one is started")
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="a few records once, to see that it runs")
    options = parser.parse_args(arguments)
    records, rounds = (1_000, 1) if options.quick else (options.records, options.rounds)
    with brokers(options.brokers) as address:
        for load in loads(records):
            asyncio.run(compare(address, load, rounds, warm_up=not options.quick))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
