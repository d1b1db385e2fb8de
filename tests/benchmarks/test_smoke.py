import re
import subprocess
import sys
from pathlib import Path

import pytest

from streamkit.cli.embedded import EmbeddedBroker

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("command", "verdicts"),
    [
        ("throughput", 2),
        ("concurrency", 2),
        ("memory --sink", 1),
        ("shapes", 3),
        ("retries", 2),
        ("dead_letters", 1),
        ("metrics_cost", 4),
    ],
)
def test_a_benchmark_runs_and_tells_whether_it_reaches_its_bars(
    command: str, verdicts: int, embedded: EmbeddedBroker
) -> None:
    name, *options = command.split()
    arguments = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--brokers", embedded.brokers, *options]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"bar .*: (PASS|below bar)", done.stdout)) == verdicts
