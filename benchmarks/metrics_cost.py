"""What the metrics cost: instructions and throughput of W1 with them and without, and how a scrape disturbs the loop.

`python -m benchmarks.metrics_cost [--quick] [--rounds N] [--brokers HOST:PORT] [instructions] [throughput] [scrape]`

A worker cannot do without its metrics, and asking whether they are wanted would cost as much as some of them. So
"without" is a copy of the package from which what each record pays for them is cut out. Instructions need valgrind.
"""

from __future__ import annotations

import argparse
import asyncio
import compileall
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from benchmarks import instructions, throughput
from benchmarks.brokers import brokers, fill, topic
from benchmarks.compare import Bar, Measured, interleaved, report
from benchmarks.orders import PARTITIONS, orders
from streamkit import App
from streamkit.observe.collector import StreamkitCollector
from streamkit.observe.exposition import text
from streamkit.observe.lag import INTERVAL, LagTable
from streamkit.observe.lag_poller import LagPoller
from streamkit.observe.observer import Observer
from streamkit.observe.slots import WorkerSlots
from streamkit.runtime.worker import Worker
from streamkit.settings import Settings
from streamkit.transport.memory import MemoryBroker, MemoryTransport

ROOT = Path(__file__).parent.parent
COPIED = ("streamkit", "benchmarks", "tests")
SHORT, LONG = 5_000, 25_000  # their difference is 20,000
MOST_MORE = 1.03  # instructions
SCRAPED_PARTITIONS = 500
SCRAPE_LIMIT, GAP_LIMIT = 0.050, 0.005  # seconds


class Cut(NamedTuple):
    """What a record pays for metrics, in one place."""

    file: str
    old: str  # must occur exactly once
    new: str = ""


POOL, INTAKE = "streamkit/runtime/pool.py", "streamkit/runtime/intake.py"
CUTS = [
    Cut(
        POOL,
        """\
                if delivery.ready_since is not came:
                    came = delivery.ready_since
                    arrivals.append((len(turns) - 1, came))
""",
    ),
    Cut(
        POOL,
        """\
                turns.append(ended)
                if delivery.record.headers:
                    self._trace(delivery, ended - started, ended)
""",
        "                done += 1\n",
    ),
    Cut(
        POOL,
        "        turns = self._turns = [started]  # when each record was begun, and the one before it ended\n",
        "        done = 0\n",
    ),
    Cut(POOL, "            done = len(turns) - 1\n"),
    Cut(
        POOL,
        """\
            if done:
                self._processing.observe_gaps(turns)
                arrivals.append((done + (waiting is not None or raised is not None), inf))
                for (first, came), (end, _) in pairwise(arrivals):
                    self._queue_wait.observe_since(came, turns[first:end])
            elif arrivals:  # of one record: handlers that wait are on the hot path too
                self._queue_wait.observe(max(0.0, started - came))
""",
    ),
    Cut(POOL, "                self._stepping = delivery\n"),
    Cut(INTAKE, "        mine.stamps.extend([record.timestamp for record in records])\n"),
    Cut(INTAKE, "mine, part, cost, key, now))", "mine, part, cost, key))"),
    Cut("streamkit/runtime/settlement.py", "                self._observe(mine, changed, now)\n"),
]


class Copies(NamedTuple):
    """Of the package: as it is, and without what a record pays for metrics. Compiled: else the first runs would be."""

    on: Path
    off: Path


@contextmanager
def copies() -> Iterator[Copies]:
    """For the length of the block. Raises ValueError if something that is to be cut out is not where it was."""
    with tempfile.TemporaryDirectory() as name:
        found = Copies(Path(name) / "on", Path(name) / "off")
        for copy in found:
            for each in COPIED:
                shutil.copytree(ROOT / each, copy / each, ignore=shutil.ignore_patterns("__pycache__"))
        for cut in CUTS:
            text = (found.off / cut.file).read_text()
            if text.count(cut.old) != 1:
                raise ValueError(f"{cut.file} has {text.count(cut.old)} times:\n{cut.old}")
            (found.off / cut.file).write_text(text.replace(cut.old, cut.new))
        compileall.compile_dir(name, quiet=2)
        yield found


def consume_in(root: str, address: str, source: str, records: int) -> Measured:
    """W1 with the package that lies there."""
    command = [sys.executable, "-m", "benchmarks.metrics_cost", "--run", address, source, str(records)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return Measured(*json.loads(done.stdout))


async def compare_instructions(address: str, packages: Copies, rounds: int) -> None:
    ratios: list[float] = []
    async with topic(address, "short", PARTITIONS) as short, topic(address, "long", PARTITIONS) as long:
        await fill(address, short, PARTITIONS, orders(SHORT))
        await fill(address, long, PARTITIONS, orders(LONG))
        for _ in range(rounds):
            per_record: list[float] = []
            for root in packages:
                few, many = [
                    await asyncio.to_thread(
                        instructions.instructions, "W1-streamkit", address, source, records, root=root
                    )
                    for source, records in ((short, SHORT), (long, LONG))
                ]
                per_record.append((many - few) / (LONG - SHORT))
            ratios.append(per_record[0] / per_record[1])
            print(f"with {per_record[0]:,.0f}, without {per_record[1]:,.0f} a record: {ratios[-1]:.3f}", flush=True)
    median = statistics.median(ratios)
    verdict = "PASS" if median <= MOST_MORE else "below bar"
    print(f"instructions with metrics / without: {median:.3f} of {rounds} rounds, bar <= {MOST_MORE}: {verdict}")


async def compare_throughput(address: str, packages: Copies, records: int, rounds: int, *, warm_up: bool) -> None:
    async with topic(address, "orders", PARTITIONS) as source:
        await fill(address, source, PARTITIONS, orders(records))
        sides = {
            "without": partial(consume_in, str(packages.off), address, source, records),
            "with metrics": partial(consume_in, str(packages.on), address, source, records),
            "without, once more": partial(consume_in, str(packages.off), address, source, records),
        }
        results = await asyncio.to_thread(interleaved, sides, rounds, warm_up=warm_up)
        report(f"W1 {records:,} orders", results, "without", [Bar("with metrics", "without", 0.97)])


# Scrapes


async def scrape(partitions: int, scrapes: int) -> None:
    """Of a worker that is busy: its loop turns without a pause, and every other turn hands it a record."""
    broker = MemoryBroker()
    broker.create_topic("in", partitions)
    app = App("bench")

    @app.agent(app.topic("in", value=bytes))
    async def work(value: bytes) -> None:
        pass

    settings = Settings()
    slots = WorkerSlots("benchmark", detail="full")
    worker = Worker(app, settings, MemoryTransport(broker, settings), slots)
    with Observer(
        slots, MemoryTransport(broker, settings).admin, http="127.0.0.1:0", http_is_default=False
    ) as observer:
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.run())
            while not worker.ready:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            for number in range(partitions * 2):
                broker.append("in", b"value", key=b"%d" % number, partition=number % partitions)
            await asyncio.to_thread(observer.sample_now)
            table = LagTable()
            await LagPoller(slots, MemoryTransport(broker, settings).admin, table, INTERVAL).sample()
            cpu, stretch = await asyncio.to_thread(_stretches, slots, table, scrapes)
            assert observer.address is not None
            url = f"{observer.address.url}/metrics"
            _report_scrapes(
                partitions, await _gaps_beside(partial(idle, scrapes)), await _gaps_beside(partial(get, url, scrapes))
            )
            _print_times("processor time", cpu, cpu, None)
            _print_times("longest stretch of it", stretch, stretch, GAP_LIMIT)
            worker.stop()


def _stretches(slots: WorkerSlots, lag: LagTable, scrapes: int) -> tuple[float, float]:
    """Seconds of processor time that collecting and writing takes, and the most of it between two moments in which the
    loop gets the GIL: the gap that it has where nothing else wants the processors. Medians."""
    collector = StreamkitCollector(slots, lag)
    totals, longest = list[float](), list[float]()
    for _ in range(scrapes):
        marks = [time.thread_time()]

        def pause(seconds: float, marks: list[float] = marks) -> None:
            marks.append(time.thread_time())
            time.sleep(seconds)

        collector.pause = pause
        "".join(text(collector.collect(), openmetrics=False)).encode()
        marks.append(time.thread_time())
        totals.append(marks[-1] - marks[0])
        longest.append(max(later - earlier for earlier, later in pairwise(marks)))
    return statistics.median(totals), statistics.median(longest)


class Disturbance(NamedTuple):
    gaps: list[float]  # seconds between two turns of the loop, the longest of each scrape
    took: list[float]  # seconds a scrape
    size: int  # bytes


async def _gaps_beside(scrapes: Callable[[Callable[[], float]], tuple[list[float], list[float], int]]) -> Disturbance:
    """The longest gap between two turns of this loop, which turns as fast as it can, beside each scrape."""
    longest, last = 0.0, time.perf_counter()

    def take() -> float:
        nonlocal longest
        found, longest = longest, 0.0
        return found

    task = asyncio.ensure_future(asyncio.to_thread(scrapes, take))
    while not task.done():
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return Disturbance(*task.result())


def get(url: str, scrapes: int, longest_gap: Callable[[], float]) -> tuple[list[float], list[float], int]:
    """By a process of its own, as Prometheus is."""
    program = (
        "import sys, time, urllib.request\n"
        "for _ in sys.stdin:\n"
        "    began = time.perf_counter()\n"
        f"    text = urllib.request.urlopen({url!r}).read()\n"
        "    print(time.perf_counter() - began, len(text), flush=True)\n"
    )
    gaps, took, size = list[float](), list[float](), 0
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(scrapes):
            time.sleep(0.2)
            longest_gap()
            process.stdin.write("\n")
            process.stdin.flush()
            seconds, length = process.stdout.readline().split()
            gaps.append(longest_gap())
            took.append(float(seconds))
            size = int(length)
        process.stdin.close()
    return gaps, took, size


def idle(scrapes: int, longest_gap: Callable[[], float]) -> tuple[list[float], list[float], int]:
    """No scrapes: what else the machine does makes gaps too."""
    gaps = list[float]()
    for _ in range(scrapes):
        time.sleep(0.2)
        longest_gap()
        time.sleep(SCRAPE_LIMIT)
        gaps.append(longest_gap())
    return gaps, [], 0


def _report_scrapes(partitions: int, without: Disturbance, beside: Disturbance) -> None:
    took, gap, alone = map(statistics.median, (beside.took, beside.gaps, without.gaps))
    print(f"\nscrape of {partitions} partitions, {beside.size / 1024:,.0f} KiB, of {len(beside.took)}: median (most)")
    _print_times("takes", took, max(beside.took), SCRAPE_LIMIT)
    _print_times("longest gap of the busy loop", gap, max(beside.gaps), GAP_LIMIT)
    _print_times("the same without a scrape", alone, max(without.gaps), None)


def _print_times(what: str, median: float, most: float, limit: float | None) -> None:
    bar = "" if limit is None else f"bar <= {limit * 1000:.0f} ms: {'PASS' if median <= limit else 'below bar'}"
    print(f"{what:<32}{median * 1000:6.1f} ms ({most * 1000:.1f})  {bar}", flush=True)


PARTS = ("instructions", "throughput", "scrape")


async def measure(address: str | None, packages: Copies, parts: list[str], options: argparse.Namespace) -> None:
    quick: bool = options.quick
    if "scrape" in parts:
        await scrape(SCRAPED_PARTITIONS if not quick else 10, 30 if not quick else 2)
    if address is None:
        return
    if "throughput" in parts:
        records, rounds = (2_000, 1) if quick else (options.records, options.rounds)
        await compare_throughput(address, packages, records, rounds, warm_up=not quick)
    if "instructions" in parts:
        await compare_instructions(address, packages, 1 if quick else options.instruction_rounds)


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--run"]:
        address, source, records = arguments[1:]
        print(json.dumps(throughput.consume(address, source, int(records))))
        return 0
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metrics_cost", description=__doc__)
    parser.add_argument("--brokers", help="of an existing Kafka; otherwise one is started")
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--instruction-rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a little once, to see that it runs; without valgrind")
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[], metavar="PART", help=", ".join(PARTS))
    options = parser.parse_args(arguments)
    parts = options.parts or [part for part in PARTS if part != "instructions" or not options.quick]
    if "instructions" in parts and shutil.which("valgrind") is None:
        parser.error("valgrind is missing (Debian: valgrind)")
    with copies() as packages:
        if parts == ["scrape"]:
            asyncio.run(measure(None, packages, parts, options))
        else:
            with brokers(options.brokers) as address:
                asyncio.run(measure(address, packages, parts, options))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
