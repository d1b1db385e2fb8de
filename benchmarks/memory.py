"""Whether a worker's memory grows with the records and keys it has seen.

`python -m benchmarks.memory [--quick] [--records N] [--sink] [--brokers HOST:PORT]`
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.brokers import brokers, count, fill, fresh_name, topic
from benchmarks.compare import in_fresh_process
from benchmarks.engine import Run
from streamkit import App

PARTITIONS = 8
KEYS = 1_000_000
STRIDE = 7_919  # coprime to KEYS: every key comes once in a million records, and not in order
SAMPLES_A_MILLION = 10
TOLERANCE = 0.10


class Reading(msgspec.Struct):
    sensor: str
    number: int
    value: float


class Sample(NamedTuple):
    records: int
    rss: float  # MiB


def readings(number: int) -> Iterator[tuple[bytes, bytes]]:
    encode = msgspec.json.Encoder().encode
    for index in range(number):
        sensor = f"sensor-{index * STRIDE % KEYS:07}"
        yield sensor.encode(), encode(Reading(sensor, index, 20.5))


def consume(address: str, source: str, sink: str | None, records: int, every: int) -> list[Sample]:
    """Read them all, sampling the memory of this process."""
    return asyncio.run(_consume(address, source, sink, records, every))


async def _consume(address: str, source: str, sink: str | None, records: int, every: int) -> list[Sample]:
    app = App("bench")
    seen = app.topic(source, value=Reading)
    if sink is None:

        @app.agent(seen, group=fresh_name("memory"), concurrency=16)
        async def look(reading: Reading) -> None:
            if not reading.number % 100:
                await asyncio.sleep(0)

    else:

        @app.agent(seen, sink=app.topic(sink, value=Reading), group=fresh_name("memory"), concurrency=16)
        async def copy(reading: Reading) -> Reading:
            if not reading.number % 100:
                await asyncio.sleep(0)
            return reading

    run = Run(app, address)
    samples: list[Sample] = []

    def settled() -> int:
        if sink is not None:
            return run.slots.output(sink).acknowledged
        return sum(agent.processed_success for agent in run.slots.agents.values())

    def done() -> bool:
        now = settled()
        if now // every > (samples[-1].records // every if samples else 0):
            samples.append(Sample(now, resident()))
        return now >= records

    await run.until(done, settled)
    if settled() != records:
        raise RuntimeError(f"{settled()} records were settled, not {records}")
    return samples


def resident() -> float:
    """MiB of memory that this process has in use."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    if found is None:
        raise RuntimeError("/proc/self/status does not tell the resident memory")
    return int(found[1]) / 1024


async def measure(address: str, records: int, first: int, *, with_sink: bool) -> None:
    """Print the samples, and whether those after the `first` records stay near those just before."""
    every = max(1, first // SAMPLES_A_MILLION)
    async with topic(address, "readings", PARTITIONS) as source, topic(address, "copies", PARTITIONS) as copies:
        await fill(address, source, PARTITIONS, readings(records))
        sink = copies if with_sink else None
        samples = await asyncio.to_thread(in_fresh_process, partial(consume, address, source, sink, records, every))
        written = await count(address, copies, PARTITIONS)
    if with_sink and written != records:
        raise RuntimeError(f"{written} records were written, not {records}")
    report(samples, records, first, with_sink=with_sink)


def report(samples: Sequence[Sample], records: int, first: int, *, with_sink: bool) -> None:
    keys = min(records, KEYS)
    print(f"\nresident memory over {records:,} records of {keys:,} keys{', copied to a sink' if with_sink else ''}")
    for sample in samples:
        print(f"  {sample.records:>9,} {sample.rss:7.1f} MiB")
    before = [sample.rss for sample in samples if sample.records <= first] or [samples[0].rss]
    warm = statistics.median(before[len(before) // 2 :])  # until then the buffers fill
    after = [sample.rss / warm for sample in samples if sample.records > first]
    flat = all(abs(ratio - 1) <= TOLERANCE for ratio in after)
    print(
        f"  after the first {first:,} ({warm:.1f} MiB): {min(after):.2f} to {max(after):.2f} times that, "
        f"{after[-1]:.2f} at the end   bar 1 ± {TOLERANCE:.2f}: {'PASS' if flat else 'below bar'}",
        flush=True,
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--brokers", help="of an existing Kafka; otherwise one is started")
    parser.add_argument("--records", type=int, default=5_000_000)
    parser.add_argument("--sink", action="store_true", help="let the agent copy each record to a sink")
    parser.add_argument("--quick", action="store_true", help="a few records, to see that it runs")
    options = parser.parse_args(arguments)
    records = 20_000 if options.quick else options.records
    with brokers(options.brokers) as address:
        asyncio.run(measure(address, records, min(1_000_000, records // 5), with_sink=options.sink))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
