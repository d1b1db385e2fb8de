"""How long `streamkit dlq` takes to read a large dead letter topic, and the most memory that it has in use.

`python -m benchmarks.dead_letters [--quick] [--letters N] [--partitions N] [--rounds N] [--brokers HOST:PORT]`
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from benchmarks.brokers import brokers, fill_whole, topic
from benchmarks.compare import in_fresh_process
from benchmarks.orders import PARTITIONS, orders
from streamkit.cli.transports import transport_for
from streamkit.record import HeaderList, TopicPartition
from streamkit.settings import Settings

SECONDS_BAR, MEMORY_BAR = 60.0, 300.0  # MiB; of a million letters
DAY, HOUR = 86_400_000, 3_600_000  # ms
AGENTS = ("shop.charge", "shop.ship", "shop.invoice")
AT_ONCE = 500  # records of a poll, as the commands
FRAMES = 9  # of other people's code, in each stack

# Class, message, file and function: what tells one error from another.
ERRORS = [
    (error, message, f"shop/{module}.py", function)
    for module, function in (("payments", "charge"), ("stock", "reserve"), ("mail", "send"), ("ledger", "book"))
    for error, message in (
        ("builtins.KeyError", "'sku-{0}'"),
        ("aiohttp.client_exceptions.ClientResponseError", "502, message='Bad Gateway', url='https://api.test/v1/{0}'"),
        ("builtins.TimeoutError", "no answer from 10.0.3.{1}:8443 within 2.5 s, request 7d1f{0:08x}"),
        ("shop.errors.NoSuchAccount", "account {0} of customer{1}@example.org is closed since 2026-01-{1:02}"),
        ("sqlalchemy.exc.IntegrityError", "duplicate key value violates constraint: Key (id)=({0}) already exists."),
    )
]


class Ran(NamedTuple):
    """One run of a command."""

    seconds: float
    cpu: float  # seconds of processor time
    peak: float  # MiB, the most that was in use
    output: bytes


def letters(number: int, first: int) -> Iterator[tuple[bytes, bytes, int, HeaderList]]:
    """Dead letters as agents write them, appended over a day from `first` on (ms since 1970)."""
    for index, (key, value) in enumerate(orders(number)):
        error, message, file, function = ERRORS[index * 7 % len(ERRORS)]
        text = message.format(index, index % 28 + 1)
        failed = failed_at(index, number, first)
        headers: HeaderList = [
            ("event-type", b"order.placed"),
            ("traceparent", b"00-%032x-%016x-01" % (index, index)),
            ("sk-origin-topic", b"shop.orders.v1"),
            ("sk-origin-partition", b"%d" % (index % PARTITIONS)),
            ("sk-origin-offset", b"%d" % index),
            ("sk-origin-timestamp", b"%d" % (failed - HOUR)),
            ("sk-group", AGENTS[index % len(AGENTS)].encode()),
            ("sk-attempt", b"4"),
            ("sk-first-failed-at", b"%d" % (failed - HOUR)),
            ("sk-failed-at", b"%d" % failed),
            ("sk-stage", b"handle"),
            ("sk-error-class", error.removeprefix("builtins.").encode()),
            ("sk-error-message", text.encode()),
            ("sk-error-stack", _stack(error, text, file, function).encode()),
        ]
        yield key, value, failed, headers


def failed_at(index: int, number: int, first: int) -> int:
    return first + index * DAY // number


def _stack(error: str, message: str, file: str, function: str) -> str:
    """About 1.5 KiB."""
    packages = "/usr/local/lib/python3.11/site-packages"
    return "".join(
        [
            "Traceback (most recent call last):\n",
            f'  File "{packages}/streamkit/runtime/invoke.py", line 88, in run\n    await handler(value)\n',
            f'  File "/srv/app/{file}", line 41, in {function}\n    return await client.request(order.order_id)\n',
            *(
                f'  File "{packages}/client/layer{depth}.py", line {100 + depth}, in request\n'
                f"    response = await self._layers[{depth}].request(url, timeout)\n"
                for depth in range(FRAMES)
            ),
            f"{error}: {message}\n",
        ]
    )


def put(address: str, name: str, partitions: int, number: int, first: int) -> None:
    asyncio.run(fill_whole(address, name, partitions, letters(number, first)))


def dlq(address: str, *arguments: str) -> Ran:
    """Run `streamkit dlq` to its end. Raises CalledProcessError if it fails."""
    command = [sys.executable, "-m", "streamkit.cli", "dlq", *arguments, "--brokers", address]
    with tempfile.TemporaryFile() as output:
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=output)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        output.seek(0)
        return Ran(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, output.read())


def read(address: str, name: str, partitions: int) -> Ran:
    """The reference: a loop that counts what the reader gives, in this process."""
    began = time.monotonic()
    number = asyncio.run(_read(address, [TopicPartition(name, number) for number in range(partitions)]))
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Ran(time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, b"%d" % number)


async def _read(address: str, partitions: Sequence[TopicPartition]) -> int:
    reader = transport_for(Settings.load({"brokers": address}, {}, {})).reader()
    await reader.start()
    try:
        ranges = await reader.log_ranges(partitions)
        reader.assign({partition: limits.start for partition, limits in ranges.items()})
        number = 0
        while any(reader.position(partition) < limits.end for partition, limits in ranges.items()):
            polled = await reader.poll(max_records=AT_ONCE, timeout=0.5)
            number += sum(len(records) for records in polled.values())
        return number
    finally:
        await reader.stop()


def check(name: str, output: bytes, number: int, recent: int) -> None:
    """Raises RuntimeError if a command did not count all."""
    match name:
        case "groups":
            groups = json.loads(output)["topics"][0]["groups"]
            found = [len(groups), sum(group["count"] for group in groups)]
            wanted = [len(ERRORS), number]
        case "ls":
            agents = json.loads(output)["topics"][0]["agents"]
            found = [len(agents), sum(agent["open"] for agent in agents)]
            wanted = [len(AGENTS), number]
        case "search":
            found, wanted = [output.count(b"\n")], [recent]
        case _:
            found, wanted = [int(output)], [number]
    if found != wanted:
        raise RuntimeError(f"{name} counted {found}, not {wanted}")


def measure(address: str, name: str, partitions: int, number: int, first: int, rounds: int) -> dict[str, list[Ran]]:
    """Every command once a round, each round beginning with another one; each in a fresh process, because what a
    process has had in use at most counts for those that it starts."""
    place = ("--topic", name)
    since = first + DAY - HOUR
    sides: dict[str, Callable[[], Ran]] = {
        "read": partial(read, address, name, partitions),
        "groups": partial(dlq, address, "groups", *place, "--json"),
        "ls": partial(dlq, address, "ls", *place, "--json"),
        "search": partial(dlq, address, "search", *place, "--from", iso(since)),
    }
    recent = sum(failed_at(index, number, first) >= since for index in range(number))
    results: dict[str, list[Ran]] = {side: [] for side in sides}
    for turn in range(rounds):
        order = list(sides)
        for side in order[turn % len(order) :] + order[: turn % len(order)]:
            ran = in_fresh_process(sides[side])
            check(side, ran.output, number, recent)
            results[side].append(ran)
    return results


def iso(moment: int) -> str:
    return datetime.fromtimestamp(moment / 1000, UTC).isoformat()


def report(results: dict[str, list[Ran]], number: int) -> None:
    titles = {"read": "a loop that only reads", "search": "search --from, of the last hour"}
    print(f"\n{number:,} dead letters: median (least to most) of {len(results['read'])} rounds")
    for side, runs in results.items():
        seconds, cpu = [run.seconds for run in runs], statistics.median(run.cpu for run in runs)
        middle, peak = statistics.median(seconds), max(run.peak for run in runs)
        print(
            f"  {titles.get(side, side):<32}{middle:>6.1f} s ({min(seconds):.1f} to {max(seconds):.1f})"
            f", CPU {cpu:.1f} s, at most {peak:.0f} MiB"
        )
        if side == "groups":
            verdict = "PASS" if middle <= SECONDS_BAR and peak <= MEMORY_BAR else "below bar"
            print(f"    bar of a million <= {SECONDS_BAR:g} s and <= {MEMORY_BAR:g} MiB: {verdict}", flush=True)


async def compare(address: str, number: int, partitions: int, rounds: int) -> None:
    first = round(time.time() * 1000) - DAY
    async with topic(address, "orders", partitions, suffix=".dlq") as name:
        began = time.monotonic()
        await asyncio.to_thread(in_fresh_process, partial(put, address, name, partitions, number, first))
        print(f"filled in {time.monotonic() - began:.1f} s", flush=True)
        results = await asyncio.to_thread(measure, address, name, partitions, number, first, rounds)
    report(results, number)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dead_letters", description=__doc__)
    parser.add_argument("--brokers", help="of an existing Kafka; otherwise one is started")
    parser.add_argument("--letters", type=int, default=1_000_000)
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a few letters once, to see that it runs")
    options = parser.parse_args(arguments)
    number, rounds = (2_000, 1) if options.quick else (options.letters, options.rounds)
    with brokers(options.brokers) as address:
        asyncio.run(compare(address, number, options.partitions, rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
