"""Each fault that must never come in is put in, in a copy of the package, and the tests must notice it.

`python -m tests.mutants [WORD ...]` runs those whose name holds one of the words, else all. It fails if a mutant
survives, if its patch no longer applies, or if its tests fail without it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from tests.transport.kafka.mutants import WORKAROUNDS

ROOT = Path(__file__).parent.parent
COPIED = ("streamkit", "tests", "apps", "pyproject.toml")
AT_ONCE = 2
# A mutant may ask for any amount of memory: 8 GiB of addresses (a JVM needs 4), and not the whole machine.
LIMITED_PYTEST = """
import resource, sys
import pytest
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
sys.exit(pytest.main(sys.argv[1:]))
"""
PASSED, FAILED = 0, 1  # exit codes of pytest; the others mean that it could not run the tests


class Mutant(NamedTuple):
    name: str
    file: str
    old: str  # must occur exactly once in the file
    new: str
    tests: str  # as given to pytest, separated by blanks


OFFSETS, OFFSETS_TESTS = "streamkit/core/offsets.py", "tests/core/test_offsets.py"
MAP, MAP_TESTS = "streamkit/core/offset_map.py", "tests/core/test_offset_map.py"
RUNS, RUNS_TESTS = "streamkit/core/runs.py", "tests/core/test_runs.py"
COMMITS, COMMITS_TESTS = "streamkit/core/commits.py", "tests/core/test_commits.py"
FLOW, FLOW_TESTS = "streamkit/core/flow.py", "tests/core/test_flow.py"
LAG, LAG_TESTS = "streamkit/core/lag.py", "tests/core/test_lag.py"
LANES, LANES_TESTS = "streamkit/core/lanes.py", "tests/core/test_lanes.py"
PARTITIONER, PARTITIONER_TESTS = "streamkit/core/partitioner.py", "tests/core/test_partitioner.py"
RUNNER = "streamkit/runtime/runner.py"
INTAKE, POOL = "streamkit/runtime/intake.py", "streamkit/runtime/pool.py"
FLIGHTS, LOOPS = "streamkit/runtime/flights.py", "streamkit/runtime/loops.py"
BATCHES, BATCHES_TESTS = "streamkit/core/batches.py", "tests/core/test_batches.py"
BATCH_POOL, BATCH_POOL_TESTS = "streamkit/runtime/batch_pool.py", "tests/runtime/test_batch_pool.py"
LOOPS_TESTS, APP_TESTS = "tests/runtime/test_loops.py", "tests/runtime/test_app_work.py"
TIMERS, LIFESPAN = "streamkit/runtime/timers.py", "streamkit/runtime/lifespan.py"
MEMBERSHIP, MEMBERSHIP_TESTS = "streamkit/runtime/membership.py", "tests/runtime/test_membership.py"
COMMITTER, COMMITTER_TESTS = "streamkit/runtime/committer.py", "tests/runtime/test_committer.py"
PUBLISHER, PUBLISHER_TESTS = "streamkit/runtime/publisher.py", "tests/runtime/test_publisher.py"
WORKER, WORKER_TESTS = "streamkit/runtime/worker.py", "tests/runtime/test_worker.py"

LAST_COMMIT = """\
            await self._drain(mine)
            await self._committer.commit(self._settings.request_timeout)
        self._close(mine)

    async def assigned"""
SENT_BUT_NOT_AWAITED = """\
            await self._drain(mine)
            asyncio.ensure_future(self._committer.commit(self._settings.request_timeout))
            await asyncio.sleep(0)
        self._close(mine)

    async def assigned"""
FENCE_FIRST = """\
            self._close(mine)
            await self._drain(mine)
            await self._committer.commit(self._settings.request_timeout)
        self._close(mine)

    async def assigned"""
ORPHANS = "self._orphans.update((track.partition, lane) for lane in track.tails)"
COMMITTABLE = "return self._offsets[self._head] if self._head < len(self._offsets) else self._next"

MUTANTS = [
    Mutant("committable from the highest seen", OFFSETS, COMMITTABLE, "return self._next", OFFSETS_TESTS),
    Mutant(
        "a window that needs contiguous offsets", OFFSETS, COMMITTABLE, "return self._next - self.size", OFFSETS_TESTS
    ),
    Mutant("a late result moves a closed window", OFFSETS, "if self.closed or index", "if index", OFFSETS_TESTS),
    Mutant("a late batch moves a closed window", OFFSETS, "if self.closed:", "if False:", OFFSETS_TESTS),
    Mutant("a record settles twice", OFFSETS, "index < self._head or self._done[index]", "False", OFFSETS_TESTS),
    Mutant("a batch settles twice", OFFSETS, "index >= head and not done[index]", "index >= head", OFFSETS_TESTS),
    Mutant("an old sequence settles another record", OFFSETS, "index >= head and not", "not", OFFSETS_TESTS),
    Mutant("sequences shift when memory is freed", OFFSETS, "self._first += head", "pass", OFFSETS_TESTS),
    Mutant("memory is never freed", OFFSETS, "if head >= COMPACT_AT and", "if False and", OFFSETS_TESTS),
    Mutant(
        "a record seen before comes in again", OFFSETS, "if seen else offsets", "if False else offsets", OFFSETS_TESTS
    ),
    Mutant("markers count as lag", OFFSETS, "max(self._next, offset)", "self._next", OFFSETS_TESTS),
    Mutant(
        "the map claims what is not read yet",
        OFFSETS,
        "bounds[-1] + 1 if bounds",
        "self._next if bounds",
        OFFSETS_TESTS,
    ),
    Mutant("the whole map is dropped when it is too long", MAP, "if not fits:", "if True:", MAP_TESTS),
    Mutant("the map is longer than allowed", MAP, " - 2  # bytes", "  # bytes", MAP_TESTS),
    Mutant("a damaged map is believed", MAP, " or crc != _crc16(codec, body)", "", MAP_TESTS),
    Mutant("the codec is not part of the checksum", MAP, "(PREFIX + codec).encode()", "PREFIX.encode()", MAP_TESTS),
    Mutant("the map of another offset is believed", MAP, "if base != committed:", "if False:", MAP_TESTS),
    Mutant("a map beyond the log is believed", MAP, "if bounds[-1] > log_end:", "if False:", MAP_TESTS),
    Mutant(
        "a skip list forgets when offsets go back", MAP, "if at and offset < bounds[at - 1]:", "if False:", MAP_TESTS
    ),
    Mutant("a forged map claims the committed offset", RUNS, " or min(runs) < 1", "", MAP_TESTS),
    Mutant("a zlib bomb is believed as far as it was read", RUNS, "not inflater.eof or ", "", RUNS_TESTS),
    Mutant("a bitmap is longer than stated", RUNS, "if len(bitmap) != (size", "if len(bitmap) < (size", RUNS_TESTS),
    Mutant(
        "what settles during a commit counts as committed",
        COMMITS,
        "max(self._committed, started)",
        "self._changes",
        COMMITS_TESTS,
    ),
    Mutant(
        "a failed commit counts as committed",
        COMMITS,
        "self._started = self._changes",
        "self._started = self._committed = self._changes",
        COMMITS_TESTS,
    ),
    Mutant(
        "a refusing broker is hammered",
        COMMITS,
        "self._changes - self._started >=",
        "self._changes - self._committed >=",
        COMMITS_TESTS,
    ),
    Mutant("a partition opens as soon as it is not full", FLOW, "REOPEN_AT = 0.5", "REOPEN_AT = 0.99", FLOW_TESTS),
    Mutant("a partition never opens again", FLOW, "level > REOPEN_AT", "level >= 0", FLOW_TESTS),
    Mutant("any bound keeps a partition closed", FLOW, "(n in before and", "(before and", FLOW_TESTS),
    Mutant("nothing is guaranteed to a partition", FLOW, "limit // (2 * max(1, len(used)))", "0", FLOW_TESTS),
    Mutant("each partition has the whole pool", FLOW, "self._pool - others", "self._pool", FLOW_TESTS),
    Mutant("a full total closes empty partitions", FLOW, "load.unsettled and full", "full", FLOW_TESTS),
    Mutant(
        "room beside the window",
        FLOW,
        "min(min(bounds) - load.unsettled, window - load.window)",
        "min(bounds)",
        FLOW_TESTS,
    ),
    Mutant("a fetch brings more than the room", FLOW, "if room >= records]", "]", FLOW_TESTS),
    Mutant("what retention removed counts as lag", LAG, "max(committed, log_start)", "committed", LAG_TESTS),
    Mutant("no orphan guard: two runs of a key in the lanes", LANES, ORPHANS, "pass", LANES_TESTS),
    Mutant(
        "no orphan guard: two runs of a key in a worker",
        LANES,
        ORPHANS,
        "pass",
        f"{MEMBERSHIP_TESTS}::test_a_key_that_still_runs_from_before_a_rebalance_waits_until_that_run_has_ended",
    ),
    Mutant("an orphan that has ended goes on blocking", LANES, "self._orphans.discard(", "(", LANES_TESTS),
    Mutant("a hot lane goes first again", LANES, "ready.append(following)", "ready.appendleft(following)", LANES_TESTS),
    Mutant("a partition keeps its turn", LANES, "turns.rotate(-1)", "pass", LANES_TESTS),
    Mutant("partitions are chosen by signed hashes", PARTITIONER, "& 0x7FFFFFFF", "", PARTITIONER_TESTS),
    Mutant(
        "commit after revoke",
        MEMBERSHIP,
        LAST_COMMIT,
        SENT_BUT_NOT_AWAITED,
        f"{MEMBERSHIP_TESTS}::test_a_second_worker_gets_its_share_and_the_first_takes_it_over_again",
    ),
    Mutant(
        "fence before drain",
        MEMBERSHIP,
        LAST_COMMIT,
        FENCE_FIRST,
        f"{MEMBERSHIP_TESTS}::test_while_it_drains_a_worker_starts_nothing_more_and_commits_before_it_gives_back",
    ),
    Mutant(
        "a log that was made anew is read with the old window",
        MEMBERSHIP,
        "start >= mine.window.next_offset",
        "True",
        MEMBERSHIP_TESTS,
    ),
    Mutant("later partitions start at latest too", MEMBERSHIP, "if not committed:", "if True:", MEMBERSHIP_TESTS),
    Mutant(
        "the start is not committed before the first record",
        MEMBERSHIP,
        "await self._consumer.commit(fresh, generation)",
        "pass",
        MEMBERSHIP_TESTS,
    ),
    Mutant(
        "not seeking back after a poll that straddled a rebalance",
        INTAKE,
        "self._consumer.seek(partition, mine.window.next_offset)",
        "pass",
        f"{MEMBERSHIP_TESTS}::test_a_poll_that_straddles_a_rebalance_loses_nothing",
    ),
    Mutant(
        "what a poll that straddled a rebalance returns is taken in",
        INTAKE,
        "if epoch == membership.epoch:",
        "if True:",
        MEMBERSHIP_TESTS,
    ),
    Mutant(
        "what fails while joining is not seen",
        INTAKE,
        "while not gate.is_set():\n            await self._consumer.poll((), max_records=1, timeout=0)",
        "while not gate.is_set():",
        f"{MEMBERSHIP_TESTS}::test_records_lost_before_the_start_stop_the_worker_and_name_the_range",
    ),
    Mutant(
        "a zombie goes on after its lease",
        POOL,
        "min(begun + SLICE, self._events.lease)",
        "begun + SLICE",
        f"{MEMBERSHIP_TESTS}::test_a_zombie_starts_nothing_after_its_lease_and_commits_nothing",
    ),
    Mutant(
        "the framework's cancellation is taken for a failure",
        FLIGHTS,
        ' or flight.cancelled_by == "revoke"',
        "",
        MEMBERSHIP_TESTS,
    ),
    Mutant(
        "not awaiting a produce future: settled at put",
        PUBLISHER,
        "            owner.outputs += 1\n",
        "",
        f"{PUBLISHER_TESTS}::test_a_lane_does_not_wait_for_acknowledgements_and_nothing_is_committed_before_them",
    ),
    Mutant(
        "what a broken producer did not deliver is forgotten",
        PUBLISHER,
        "            await self._send_again(batch.pipe.route, batch.pipe.partition, batch.items)\n",
        "            pass\n",
        PUBLISHER_TESTS,
    ),
    Mutant(
        "committing with the present generation instead of the settled one",
        COMMITTER,
        "commit(offsets, self.generation)",
        "commit(offsets, self._consumer.generation)",
        f"{COMMITTER_TESTS}::"
        "test_a_commit_goes_with_the_generation_that_settled_it_and_not_with_the_consumers_present_one",
    ),
    Mutant("two commits in flight", COMMITTER, ", self._lock:", ":", COMMITTER_TESTS),
    Mutant(
        "a worker between two assignments is idle",
        RUNNER,
        "return self.membership.gate.is_set() and all(",
        "return self.membership.joined and all(",
        f"{WORKER_TESTS}::test_a_worker_is_not_idle_while_the_group_rebalances",
    ),
    Mutant(
        "no orphan guard for batches",
        BATCHES,
        "            self._orphans.add(line.partition)\n",
        "            pass\n",
        BATCHES_TESTS,
    ),
    Mutant(
        "two batches of a partition at a time",
        BATCHES,
        "if not line.items and not line.running and line.partition not in self._orphans:",
        "if not line.items and line.partition not in self._orphans:",
        BATCHES_TESTS,
    ),
    Mutant(
        "a batch waits for more although no more can come",
        BATCHES,
        "if line.hurried or len(line.items) >= self._size:",
        "if len(line.items) >= self._size:",
        BATCH_POOL_TESTS,
    ),
    Mutant(
        "what follows an undecodable record in its batch is forgotten",
        BATCH_POOL,
        "                    self.queue.put_back(line, deliveries[len(items) :])\n",
        "                    pass\n",
        BATCH_POOL_TESTS,
    ),
    Mutant(
        "a batch is settled before what it has sent is acknowledged",
        BATCH_POOL,
        "        if not bundle.outputs:\n            self._settlement.note(bundle)",
        "        if True:\n            self._settlement.note(bundle)",
        BATCH_POOL_TESTS,
    ),
    Mutant(
        "the failed records of a BatchError are settled with the others",
        BATCH_POOL,
        "[each for place, each in enumerate(deliveries) if place not in error.errors]",
        "list(deliveries)",
        BATCH_POOL_TESTS,
    ),
    Mutant(
        "batches start after the lease",
        BATCH_POOL,
        "if now >= self._events.lease:",
        "if False:",
        f"{BATCH_POOL_TESTS}::test_a_complete_batch_waits_for_the_lease_without_keeping_the_loop_busy",
    ),
    Mutant(
        "a loop's record is handled when it is handed out",
        LOOPS,
        "                    self._delivery = delivery\n",
        "                    self._handled(delivery, now)\n",
        LOOPS_TESTS,
    ),
    Mutant(
        "a loop's record is settled before what it has sent is acknowledged",
        LOOPS,
        "        if not delivery.outputs:\n",
        "        if True:\n",
        LOOPS_TESTS,
    ),
    Mutant(
        "a loop that ends early has ended well",
        LOOPS,
        'if how == "handled" and not self._line.halted:',
        "if False:",
        LOOPS_TESTS,
    ),
    Mutant(
        "a loop goes on when its partition is given back",
        LOOPS,
        "while not self._line.halted:",
        "while True:",
        LOOPS_TESTS,
    ),
    Mutant(
        "what a cancelled handler has sent settles its record",
        FLIGHTS,
        "    owner.handled = owner.failed = True\n",
        "    owner.handled = True\n",
        "tests/runtime/test_given_up.py",
    ),
    Mutant(
        "late ticks of a timer are made up for",
        TIMERS,
        "due += timer.every * (1 + late // timer.every)",
        "due += timer.every",
        APP_TESTS,
    ),
    Mutant(
        "a refused value is raised to its sender and fails its record as well",
        PUBLISHER,
        "                    self._acknowledged((item,))\n                    return\n",
        "                    self._acknowledged((item,))\n",
        APP_TESTS,
    ),
    Mutant(
        "agents begin although the lifespan has not",
        LIFESPAN,
        "return bool(await unless(stopping, self._entered.wait()))",
        "return True",
        APP_TESTS,
    ),
    *(Mutant(*parts) for parts in WORKAROUNDS),
]


def main(words: Sequence[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    tests = sorted({test for mutant in chosen for test in mutant.tests.split()})
    with ThreadPoolExecutor(AT_ONCE) as pool:
        unchanged = pool.submit(run_unchanged, tests)
        faults = [fault for fault in pool.map(run_mutant, chosen) if fault]
    faults += filter(None, [unchanged.result()])
    print(f"{len(chosen)} mutants", *faults or ["all killed"], sep="\n")
    return 1 if faults or not chosen else 0


def run_unchanged(tests: Sequence[str]) -> str | None:
    """A killed mutant says something only if its tests pass without it."""
    code, output = run_in_copy(tests)
    return None if code == PASSED else f"The tests fail without any mutant:\n{output}"


def run_mutant(mutant: Mutant) -> str | None:
    """What is wrong with it; None if it was killed."""
    text = (ROOT / mutant.file).read_text()
    if text.count(mutant.old) != 1:
        return (
            f"no longer applies: {mutant.name}: {mutant.old!r} occurs {text.count(mutant.old)} times in {mutant.file}"
        )
    started = monotonic()
    code, output = run_in_copy(mutant.tests.split(), mutant.file, text.replace(mutant.old, mutant.new))
    print(
        f"{'killed' if code == FAILED else 'NOT KILLED':10} {monotonic() - started:4.0f} s  {mutant.name}", flush=True
    )
    if code == PASSED:
        return f"survived: {mutant.name}"
    return None if code == FAILED else f"its tests cannot run: {mutant.name}:\n{output}"


def run_in_copy(tests: Sequence[str], file: str = "", text: str = "") -> tuple[int, str]:
    """Run the tests in a copy of the project in which `file` holds `text`; pytest's exit code and output."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        copy = Path(name)
        for part in COPIED:
            copy_part(ROOT / part, copy / part)
        if file:
            (copy / file).write_text(text)
        # The copy comes before an installed package in the path.
        environment = {**os.environ, "PYTHONPATH": name, "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", LIMITED_PYTEST, "-q", "-x", "-p", "no:cacheprovider", *tests]
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr


def copy_part(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    elif source.exists():
        shutil.copy(source, target)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
