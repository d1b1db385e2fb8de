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
COPIED = ("streamkit", "tests", "apps", "docs", "pyproject.toml")
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
CASES, CASES_TESTS = "streamkit/core/cases.py", "tests/core/test_cases.py"
REPLAYS = "streamkit/core/replays.py"
DLQ_JOBS, DLQ_CHANGING = "streamkit/cli/dlq/jobs.py", "streamkit/cli/dlq/changing.py"
LANES, LANES_TESTS = "streamkit/core/lanes.py", "tests/core/test_lanes.py"
FAILURES, FAILURES_TESTS = "streamkit/core/failures.py", "tests/core/test_failures.py"
DUE, DUE_TESTS = "streamkit/core/due.py", "tests/core/test_due.py"
GATE, SETTLEMENT = "streamkit/runtime/gate.py", "streamkit/runtime/settlement.py"
FEW_FAILURES_TESTS = "tests/runtime/test_few_failures.py"
SUCCEEDED_SINCE = f"{FEW_FAILURES_TESTS}::test_in_all_shapes_a_key_that_has_succeeded_since_is_news_when_it_fails"
BREAKER, BREAKER_TESTS = "streamkit/core/breaker.py", "tests/core/test_breaker.py"
COPIES, COPIES_TESTS = "streamkit/core/copies.py", "tests/core/test_copies.py"
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

FATES, COPIER = "streamkit/runtime/failures.py", "streamkit/runtime/copier.py"
PARKING = "streamkit/runtime/parking.py"
RETRIES = "tests/runtime/test_retries.py"
RETRIED_BATCHES, RETRIED_LOOPS = "tests/runtime/test_retries_of_batches.py", "tests/runtime/test_retries_of_loops.py"
RETRIED_KEYS, DUE_TIMES = "tests/runtime/test_retries_by_key.py", "tests/runtime/test_due_times.py"
CASE_RUNS, CASE_RUNS_TESTS = "streamkit/runtime/case_runs.py", "tests/runtime/test_case_runs.py"
STUCK_COPIES, TRIPPED = "tests/runtime/test_copies_that_fail.py", "tests/runtime/test_breaker.py"
RETRIED_OUTPUTS, RETRIES_MODEL = "tests/runtime/test_retries_and_outputs.py", "tests/runtime/test_retries_model.py"

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
GATHERED_TESTS = "tests/runtime/test_gathered_copies.py"

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
    Mutant("a partition never opens again", FLOW, "level > reopen_at", "level >= 0", FLOW_TESTS),
    Mutant(
        "an open breaker reads nothing before half of its larger window is free",
        FLOW,
        "CLOSE_AT if windows > 1 else REOPEN_AT",
        "REOPEN_AT",
        f"{FEW_FAILURES_TESTS}::test_a_long_tail_of_one_bad_key_is_moved_in_time_and_keeps_no_good_record_waiting",
    ),
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
    Mutant(
        "lag: the time of the oldest record is looked up again and again",
        LAG,
        "        if self._pinned is None or self._pinned[0] != offset:\n            return self._look_up",
        "        if True:\n            return self._look_up",
        LAG_TESTS,
    ),
    Mutant(
        "lag: a timestamp from the future is believed",
        LAG,
        "min(timestamp, now) if seen is None",
        "timestamp if seen is None",
        LAG_TESTS,
    ),
    Mutant("lag: a full table forgets its beginning", LAG, "del column[1:-1:2]", "del column[:2]", LAG_TESTS),
    Mutant(
        "lag: nothing is read after a restart",
        LAG,
        "return offset if offset < first_end else None",
        "return None",
        LAG_TESTS,
    ),
    Mutant(
        "lag: what was paused, or waits for its time, is stalled afterwards",
        "streamkit/core/lag_status.py",
        "return 0 if self.held else self.behind",
        "return self.behind",
        "tests/core/test_lag_status.py",
    ),
    Mutant(
        "lag: markers at the end of a log are a lag in seconds",
        "streamkit/observe/first_records.py",
        "if reached >= wanted.end:",
        "if reached > wanted.end:",
        "tests/observe/test_first_records.py",
    ),
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
    Mutant(
        "a halted partition: a late release brings back what was dropped",
        LANES,
        "        if track.halted:\n            self._release_halted(track, item, lane)\n            return\n",
        "        if track.closed:\n            self._release_halted(track, item, lane)\n            return\n",
        LANES_TESTS,
    ),
    Mutant(
        "a halted partition: a record that did not run frees another's orphan",
        LANES,
        "if track.tails.get(lane) is not item:",
        "if False:",
        LANES_TESTS,
    ),
    Mutant(
        "a halted partition: what runs again is taken",
        LANES,
        "        if track.halted:\n            return\n        if not track.ready:\n",
        "        if not track.ready:\n",
        LANES_TESTS,
    ),
    Mutant(
        "a halted partition: what comes late is queued",
        LANES,
        "        if track.halted:\n            return\n        tails, ready",
        "        tails, ready",
        LANES_TESTS,
    ),
    Mutant(
        "a record that runs again goes first",
        LANES,
        "        track.ready.append(item)\n\n    def halt",
        "        track.ready.appendleft(item)\n\n    def halt",
        LANES_TESTS,
    ),
    Mutant(
        "a halted partition: a batch runs again",
        BATCHES,
        "if line.halted or not line.running:",
        "if not line.running:",
        BATCHES_TESTS,
    ),
    Mutant(
        "a batch that runs again waits for more",
        BATCHES,
        "if line.again or line.hurried or",
        "if line.hurried or",
        BATCHES_TESTS,
    ),
    Mutant(
        "a batch that runs again is mixed with what follows",
        BATCHES,
        "        line.again = list(items)\n        self.waiting += len(items)\n",
        "        self.put_back(line, items)\n",
        BATCHES_TESTS,
    ),
    Mutant(
        "jitter subtracts",
        FAILURES,
        "1 + retry.jitter * chance",
        "1 + retry.jitter * (chance - 0.5)",
        FAILURES_TESTS,
    ),
    Mutant(
        "a tier is chosen by what the record has been through, and not by where it was read",
        FAILURES,
        "wait = retry.tier_waits[failure.tier]\n        return ToTier(failure.tier + 1,",
        "wait = retry.tier_waits[failure.tier]\n        return ToTier(failure.runs + 1,",
        FAILURES_TESTS,
    ),
    Mutant(
        "a failure in a lane that has gone on runs in place",
        FAILURES,
        "failure.again and failure.in_place",
        "failure.in_place",
        FAILURES_TESTS,
    ),
    Mutant(
        "an open breaker lets dead letters through",
        FAILURES,
        "return HOLD if held else decision",
        "return HOLD if held and not isinstance(decision, ToDeadLetters) else decision",
        FAILURES_TESTS,
    ),
    Mutant(
        "a rejected record waits for the breaker",
        FAILURES,
        'return ToDeadLetters("rejected") if dead_letters else STOP',
        'return HOLD if held else ToDeadLetters("rejected") if dead_letters else STOP',
        FAILURES_TESTS,
    ),
    Mutant(
        "a record without dead letters is dropped",
        FAILURES,
        "isinstance(decision, ToDeadLetters) and not dead_letters:\n        return STOP",
        "isinstance(decision, ToDeadLetters) and not dead_letters:\n        return SKIP",
        FAILURES_TESTS,
    ),
    Mutant(
        "who asks for time is never exhausted",
        FAILURES,
        "if not waits or failure.runs >= (len(waits) + 1) * (retry.times_in_place + 1):",
        "if not waits:",
        FAILURES_TESTS,
    ),
    Mutant("the last class listed decides", FAILURES, "min(verdicts)[2]", "verdicts[-1][2]", FAILURES_TESTS),
    Mutant("the breaker counts Skip", FAILURES, "(error, Skip | Reject |", "(error, Reject |", FAILURES_TESTS),
    Mutant(
        "due by the publisher's clock alone",
        DUE,
        "due = max(due, due_ms)",
        "due = due_ms",
        DUE_TESTS,
    ),
    Mutant(
        "due by whichever clock says so first",
        DUE,
        "due = max(due, due_ms)",
        "due = min(due, due_ms)",
        DUE_TESTS,
    ),
    Mutant("due by the broker's clock alone", DUE, "        due = max(due, due_ms)\n", "        pass\n", DUE_TESTS),
    Mutant("a forged due waits for ever", DUE, "min(max(0, due - now_ms), wanted)", "max(0, due - now_ms)", DUE_TESTS),
    Mutant(
        "what waits leaves by the order of arrival",
        DUE,
        "(due, next(self._arrivals), item)",
        "(due, -next(self._arrivals), item)",
        DUE_TESTS,
    ),
    Mutant(
        "the breaker opens for bad keys that fail in a row",
        BREAKER,
        " and row.news >= limits.keys",
        "",
        BREAKER_TESTS,
    ),
    Mutant(
        "a breaker of few keys does not open when everything fails",
        BREAKER,
        "return failures >= limits.ratio * (failures + successes)",
        "return row.news >= limits.keys and failures >= limits.ratio * (failures + successes)",
        BREAKER_TESTS,
    ),
    Mutant(
        "what is gathered waits though nothing else can run",
        "streamkit/runtime/runner.py",
        "        self._copier.hurry()\n",
        "",
        GATHERED_TESTS,
    ),
    Mutant(
        "what is gathered is forgotten when the agent stops",
        "streamkit/runtime/copier.py",
        "        self.hurry()\n        self._stuck.clear()",
        "        self._gathered.clear()\n        self._stuck.clear()",
        GATHERED_TESTS,
    ),
    Mutant(
        "every copy is gathered",
        "streamkit/runtime/copier.py",
        "if not self._plenty():",
        "if False:",
        GATHERED_TESTS,
    ),
    Mutant("the breaker opens for one key", BREAKER, "row.news += news", "row.news += 1", BREAKER_TESTS),
    Mutant(
        "the breaker opens for what is slower than what succeeds",
        BREAKER,
        "refused or began >= self._returned_at",
        "True",
        BREAKER_TESTS,
    ),
    Mutant(
        "the breaker is closed by late acknowledgements",
        "streamkit/runtime/gate.py",
        " or (self.tripped and not probe)",
        "",
        "tests/runtime/test_breaker.py::test_late_acknowledgements_of_what_ran_before_it_opened_do_not_close_it",
    ),
    Mutant(
        "records that fail again count for the ratio",
        BREAKER,
        "[2] += not again",
        "[2] += 1",
        BREAKER_TESTS,
    ),
    Mutant(
        "keys of before a success count in a row",
        BREAKER,
        "self.news = 0  # keys",
        'self.news = getattr(self, "news", 0)  # keys',
        BREAKER_TESTS,
    ),
    Mutant(
        "records without a key are of one key",
        BREAKER,
        "        if key is None:\n            return True\n",
        "",
        BREAKER_TESTS,
    ),
    Mutant(
        "keys that fail are known for ever",
        BREAKER,
        "return now - before > KNOWN_FOR",
        "return before < 0",
        BREAKER_TESTS,
    ),
    Mutant(
        "keys that fail pile up",
        BREAKER,
        "            del self.failing[next(iter(self.failing))]\n",
        "            pass\n",
        BREAKER_TESTS,
    ),
    Mutant(
        "of very many keys that fail those that fail most are forgotten",
        BREAKER,
        "self.failing.pop(key, -inf)",
        "self.failing.get(key, -inf)",
        BREAKER_TESTS,
    ),
    Mutant(
        "while it is open the breaker learns nothing of the keys that fail",
        BREAKER,
        "news = self._is_news(key, now) and not again",
        "news = not self.open and self._is_news(key, now) and not again",
        BREAKER_TESTS,
    ),
    Mutant("the breaker takes records that fail again for news", BREAKER, " and not again", "", BREAKER_TESTS),
    Mutant(
        "the breaker learns nothing of keys whose records fail again",
        BREAKER,
        "self._is_news(key, now) and not again",
        "not again and self._is_news(key, now)",
        BREAKER_TESTS,
    ),
    Mutant(
        "the breaker does not see which records fail again",
        GATE,
        "attempt_of(delivery.record) > 1",
        "False",
        f"{FEW_FAILURES_TESTS}::test_records_that_come_back_together_and_fail_once_more_do_not_open_the_breaker",
    ),
    Mutant(
        "a key that failed once is known to fail although its next handler ended at once",
        POOL,
        "if failing:\n                        failing.pop(delivery.record.key, None)",
        "if failing:\n                        pass",
        SUCCEEDED_SINCE,
    ),
    Mutant(
        "a key that failed once is known to fail although its next handler has waited",
        POOL,
        "            self._failing.pop(delivery.record.key, None)\n",
        "",
        SUCCEEDED_SINCE,
    ),
    Mutant(
        "a key that failed once is known to fail although its next output is acknowledged",
        SETTLEMENT,
        "self.failing.pop(owner.record.key, None)",
        "pass",
        SUCCEEDED_SINCE,
    ),
    Mutant(
        "a key that failed once is known to fail although its next batch's outputs are acknowledged",
        SETTLEMENT,
        "self.failing.pop(delivery.record.key, None)",
        "pass",
        SUCCEEDED_SINCE,
    ),
    Mutant(
        "a key that failed once is known to fail although its next batch is handled",
        BATCH_POOL,
        "self._events.failing.pop(delivery.record.key, None)",
        "pass",
        SUCCEEDED_SINCE,
    ),
    Mutant(
        "a key that failed once is known to fail although its loop has gone on",
        LOOPS,
        "self._events.failing.pop(delivery.record.key, None)",
        "pass",
        SUCCEEDED_SINCE,
    ),
    Mutant(
        "a key that failed once is known to fail although others of its batch failed",
        GATE,
        "                self.failing.pop(delivery.record.key, None)\n",
        "",
        f"{FEW_FAILURES_TESTS}::test_of_a_batch_in_which_others_fail_the_keys_that_succeed_are_news_when_they_fail_later",
    ),
    Mutant(
        "an open breaker reads no further than a window full of records that fail",
        INTAKE,
        "windows=2 if self._tripped() else 1",
        "windows=1",
        f"{FEW_FAILURES_TESTS}::test_after_a_restart_with_nothing_but_bad_keys_in_the_window_it_closes_by_itself",
    ),
    Mutant(
        "records that have failed are tried before others",
        FATES,
        "while self._held and not self._pool.startable:",
        "if self._held:",
        f"{FEW_FAILURES_TESTS}::test_probes_are_records_that_have_not_failed_as_long_as_there_are_any",
    ),
    Mutant(
        "records that have failed are tried only when it has closed",
        FATES,
        "while self._held and not self._pool.startable:",
        "if False:",
        f"{FEW_FAILURES_TESTS}::test_what_is_held_is_tried_in_turn_when_nothing_else_is_there",
    ),
    Mutant(
        "what is held stays when its partition is gone",
        FATES,
        "        self._held.clear()\n",
        "",
        f"{FEW_FAILURES_TESTS}::test_what_is_held_for_a_partition_that_is_gone_counts_no_more_and_costs_no_probe",
    ),
    Mutant(
        "what is held stays there when the breaker closes",
        FATES,
        "        for deliveries in held:\n            self._run_again(deliveries)\n        self._pool.wake",
        "        self._pool.wake",
        f"{FEW_FAILURES_TESTS}::test_what_is_held_is_tried_in_turn_when_nothing_else_is_there",
    ),
    Mutant(
        "under an open breaker a batch is never tried again",
        BATCH_POOL,
        "self.queue.wait(asyncio.get_running_loop().time()) == 0",
        "True",
        f"{FEW_FAILURES_TESTS}::test_a_held_batch_or_record_is_tried_again_and_runs_before_what_came_after_it",
    ),
    Mutant(
        "under an open breaker a loop is never tried again",
        LOOPS,
        "not (self.ended or self._stuck or self.busy) and self.has_more",
        "True",
        f"{FEW_FAILURES_TESTS}::test_a_held_batch_or_record_is_tried_again_and_runs_before_what_came_after_it",
    ),
    Mutant("the breaker never counts what succeeds", BREAKER, "self._slot(now)[1] += count", "pass", BREAKER_TESTS),
    Mutant("the breaker opens late", BREAKER, "row.failures >= limits", "row.failures > limits", BREAKER_TESTS),
    Mutant("the breaker never forgets", BREAKER, "<= number - SLOTS", "< 0", BREAKER_TESTS),
    Mutant(
        "the breaker waits for a probe that hangs",
        BREAKER,
        "        self._probing = True\n        self._probe_at = now + self._interval\n",
        "        self._probing = True\n        self._probe_at = inf\n",
        BREAKER_TESTS,
    ),
    Mutant(
        "the breaker closes although probes fail between",
        BREAKER,
        "        self._successes = 0\n        # Once",
        "        # Once",
        BREAKER_TESTS,
    ),
    Mutant(
        "the breaker probes less often for every record that ran when it opened",
        BREAKER,
        "        if self._probing:\n",
        "        if True:\n",
        BREAKER_TESTS,
    ),
    Mutant(
        "the breaker begins with the first interval whenever it opens again",
        BREAKER,
        "if now - self._closed_at > self._limits.window:",
        "if True:",
        BREAKER_TESTS,
    ),
    Mutant("headers pile up from hop to hop", COPIES, "if not header[0].startswith(PREFIX)]", "]", COPIES_TESTS),
    Mutant(
        "a forged header names the source topic",
        COPIES,
        "        source,\n",
        "        str(found.get('sk-origin-topic', source)),\n",
        COPIES_TESTS,
    ),
    Mutant(
        "a forged header sets attempts back",
        COPIES,
        'max(number_or("sk-attempt", tier), tier if case is None else 0)',
        'number_or("sk-attempt", tier)',
        COPIES_TESTS,
    ),
    Mutant(
        "the first failure is forgotten",
        COPIES,
        "failed_ms if origin.first_failed is None else origin.first_failed",
        "failed_ms",
        COPIES_TESTS,
    ),
    Mutant(
        "a message is cut within a character",
        COPIES,
        '.decode(errors="ignore").encode()\n\n\ndef _ends',
        "\n\n\ndef _ends",
        COPIES_TESTS,
    ),
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
        "min(started + SLICE, self._events.lease)",
        "started + SLICE",
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
        "line.hurried or len(line.items) >= self._size:",
        "len(line.items) >= self._size:",
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
        FATES,
        "[each for each in deliveries if each not in decisions and each not in followers]",
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
    Mutant(
        "a copy is not awaited before the lane goes on",
        FATES,
        "decision, cause, self._moved)",
        "decision, cause, lambda copy: None)\n            self._resolve(delivery)",
        f"{RETRIES} {STUCK_COPIES}",
    ),
    Mutant(
        "a copy is not awaited before the lane goes on: found by the model",
        FATES,
        "decision, cause, self._moved)",
        "decision, cause, lambda copy: None)\n            self._resolve(delivery)",
        RETRIES_MODEL,
    ),
    Mutant(
        "a record is settled before its copy is stored",
        FATES,
        "            delivery.handled = False  # of one whose lane has gone on\n",
        "",
        RETRIED_OUTPUTS,
    ),
    Mutant(
        "what followed in its batch does not run again",
        FATES,
        "if decision is None and key in keys:",
        "if False:",
        RETRIED_BATCHES,
    ),
    Mutant("what waits is kept when it is given back", PARKING, "self._waiting.clear()", "pass", DUE_TIMES),
    Mutant("a tier's records run at once", INTAKE, "if self._wait_for_retries and", "if False and", DUE_TIMES),
    Mutant(
        "a tier's records run at once: found by the model",
        INTAKE,
        "if self._wait_for_retries and",
        "if False and",
        RETRIES_MODEL,
    ),
    Mutant(
        "nobody asks whether the breaker is open",
        FATES,
        "held = self._gate.tripped\n",
        "held = False\n",
        TRIPPED,
    ),
    Mutant(
        "what is held counts as handled",
        FATES,
        "return decision is HOLD or isinstance(decision, InPlace)",
        "return isinstance(decision, InPlace)",
        TRIPPED,
    ),
    Mutant("attempts start over in each tier", COPIER, "attempts=origin.attempts + 1", "attempts=1", RETRIES),
    Mutant(
        "the next tier follows from a header",
        FATES,
        "    return tier.number\n",
        "    return origin.attempts\n",
        DUE_TIMES,
    ),
    Mutant(
        "a batch that waits for its fate blocks its partition for ever",
        BATCH_POOL,
        "if self._unresolved.pop(line, 0):",
        "if False:",
        RETRIED_BATCHES,
    ),
    Mutant(
        "a loop that has failed blocks its partition for ever",
        LOOPS,
        "        self.queue.release(loop.mine.part)\n",
        "",
        RETRIED_LOOPS,
    ),
    Mutant(
        "what was held last is tried first",
        FATES,
        "self._run_again(self._held.popleft())",
        "self._run_again(self._held.pop())",
        TRIPPED,
    ),
    Mutant(
        "records of tiers are forgotten when their source's log begins anew",
        MEMBERSHIP,
        "if self._tiers or self._agent.retry or self._agent.dead_letters:",
        "if False:",
        RETRIED_KEYS,
    ),
    Mutant(
        "a tier's record does not join the lane of its key",
        INTAKE,
        "partitions.get(source) or self._first_tier(mine)",
        "mine",
        RETRIED_KEYS,
    ),
    Mutant(
        "two tiers' records of a key run at a time",
        INTAKE,
        "partitions.get(source) or self._first_tier(mine)",
        "partitions.get(source, mine)",
        RETRIED_KEYS,
    ),
    Mutant(
        "a copy of what was given back is tried on",
        COPIER,
        "return copy.delivery.partition.halted",
        "return False",
        STUCK_COPIES,
    ),
    Mutant(
        "every copy asks a topic that refuses",
        COPIER,
        "            stuck.copies.append(copy)\n\n",
        "            self._send(copy)\n\n",
        STUCK_COPIES,
    ),
    Mutant(
        "a run has succeeded before what it sent is stored",
        POOL,
        "            self._events.succeeded(1, now, probe=delivery.probe)\n",
        "        self._events.succeeded(1, now, probe=delivery.probe)\n",
        "tests/runtime/test_breaker.py::test_a_probe_that_returns_and_whose_output_is_refused_does_not_close_it",
    ),
    Mutant(
        "a record whose lane cannot be told runs after it was held",
        FATES,
        "if type(delivery.argument) is not Undecodable:",
        "if True:",
        TRIPPED,
    ),
    Mutant(
        "a replay has run as often as there are tiers before it",
        COPIES,
        "tier if case is None else 0",
        "tier",
        f"{COPIES_TESTS} {CASE_RUNS_TESTS}",
    ),
    Mutant("a replay waits like what has failed", INTAKE, " and not origin.fresh", "", CASE_RUNS_TESTS),
    Mutant(
        "what goes to a tier is told to be handled",
        CASE_RUNS,
        "mine.cases.pop(copy.delivery.sequence, None)",
        "mine.cases.get(copy.delivery.sequence)",
        CASE_RUNS_TESTS,
    ),
    Mutant(
        "what is run again elsewhere is told",
        CASE_RUNS,
        "if delivery is None or mine.window.closed:",
        "if delivery is None:",
        CASE_RUNS_TESTS,
    ),
    Mutant(
        "an earlier run of a case is told after a later one",
        CASE_RUNS,
        "if at < self._told.get(run, at):",
        "if False:",
        CASE_RUNS_TESTS,
    ),
    Mutant(
        "an agent ends because its state topic cannot be told",
        CASE_RUNS,
        "except Exception as error:  # whatever it is",
        "except TransportError as error:  # whatever it is",
        CASE_RUNS_TESTS,
    ),
    Mutant(
        "a replay goes round in the first tier for ever",
        FATES,
        "origin.attempts == delivery.in_place",
        "True",
        CASE_RUNS_TESTS,
    ),
    Mutant(
        "a dead letter is believed to be of a case of another group",
        CASES,
        "first.replays >= 1 and first.group == letter.group",
        "first.replays >= 1",
        CASES_TESTS,
    ),
    Mutant(
        "a run is believed of a case that was never replayed",
        CASES,
        "if first.replays >= 1 and first.group is not None else None",
        "if first.group is not None else None",
        CASES_TESTS,
    ),
    Mutant(
        "a replay carries the trace that ended in the dead letters",
        REPLAYS,
        "name.lower() not in _TRACE",
        "True",
        "tests/core/test_replays.py",
    ),
    Mutant(
        "whoever comes second changes dead letters, too",
        DLQ_JOBS,
        "if each.place < mine.place and each not in dead:",
        "if False:",
        "tests/cli/test_dlq_jobs.py",
    ),
    Mutant(
        "what is refused is marked as replayed",
        DLQ_CHANGING,
        'count_reason(self.done.unfit, f"refused: {outcome}")',
        "cases.append(case)",
        "tests/cli/test_dlq_replay.py",
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
