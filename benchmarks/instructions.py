"""Instructions a record, of each side of the throughput benchmark and of each shape.

`python -m benchmarks.instructions [--brokers HOST:PORT] [SIDE ...]`; needs valgrind. What other work on the machine
does not change. The difference of a long and a short run, so that starting up does not count; nor do the kernel, the
broker and waiting for it. About a minute a side.

valgrind makes a program some 40 times slower, so the loop's clock is made as much slower: else what is bounded by time,
such as a slice of the loop, would hold a handful of records where it holds hundreds.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import selectors
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import by_hand, shapes, throughput
from benchmarks.brokers import brokers, fill, topic
from benchmarks.compare import Measured
from benchmarks.orders import PARTITIONS, orders

SHORT, LONG = 10_000, 60_000
SIDES: dict[str, Callable[[str, str, int], Measured]] = {
    "W1-hand": by_hand.consume,
    "W1-streamkit": throughput.consume,
    "W2-hand": by_hand.send_each,
    "W2-batches": by_hand.send_batches,
    "W2-streamkit": throughput.consume_and_produce,
    **{shape.replace(" ", "-"): partial(shapes.side, shape) for shape in shapes.SHAPES},
}
VALGRIND = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
SLOWDOWN = 40  # by valgrind
REFERENCES = re.compile(r"I +refs: +([\d,]+)")


async def measure(address: str, sides: list[str]) -> None:
    async with topic(address, "short", PARTITIONS) as short, topic(address, "long", PARTITIONS) as long:
        await fill(address, short, PARTITIONS, orders(SHORT))
        await fill(address, long, PARTITIONS, orders(LONG))
        for side in sides:
            few = await asyncio.to_thread(instructions, side, address, short, SHORT)
            many = await asyncio.to_thread(instructions, side, address, long, LONG)
            print(f"{side:<20}{(many - few) / (LONG - SHORT):>9,.0f} instructions a record", flush=True)


def instructions(side: str, address: str, source: str, records: int, *, root: Path | None = None) -> int:
    """Of one run, with the package that lies in `root`, or with this one."""
    command = [*VALGRIND, sys.executable, "-m", "benchmarks.instructions", "--run", side, address, source, str(records)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    found = REFERENCES.search(done.stderr)
    if done.returncode or found is None:
        raise RuntimeError(f"{side} failed:\n{done.stderr[-2000:]}")
    return int(found[1].replace(",", ""))


class SlowLoop(asyncio.SelectorEventLoop):
    """Its clock runs slower by `SLOWDOWN`."""

    def __init__(self) -> None:
        super().__init__(_SlowSelector())

    def time(self) -> float:
        return super().time() / SLOWDOWN


class _SlowSelector(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(timeout and timeout * SLOWDOWN)
        return ready


class _SlowLoops(asyncio.DefaultEventLoopPolicy):
    _loop_factory = SlowLoop


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--run"]:
        side, address, source, records = arguments[1:]
        asyncio.set_event_loop_policy(_SlowLoops())
        SIDES[side](address, source, int(records))
        return 0
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--brokers", help="of an existing Kafka; otherwise one is started")
    parser.add_argument("sides", nargs="*", choices=[[], *SIDES], default=[], metavar="SIDE", help=", ".join(SIDES))
    options = parser.parse_args(arguments)
    if shutil.which("valgrind") is None:
        parser.error("valgrind is missing (Debian: valgrind)")
    with brokers(options.brokers) as address:
        asyncio.run(measure(address, options.sides or list(SIDES)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
