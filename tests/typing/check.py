"""Runs mypy --strict and basedpyright over good.py, which must be clean, and bad.py, which must be refused on exactly
the lines marked `# E`. `-v` shows what each line is refused with."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

Errors = dict[int, str]  # by line


def main(verbose: bool) -> int:
    checks = [report(name, check, verbose) for name, check in (("mypy", mypy), ("basedpyright", basedpyright))]
    return 0 if all(checks) else 1


def mypy(program: str) -> Errors:
    command = [sys.executable, "-m", "mypy", "--strict", "--python-version", "3.11", "--no-error-summary"]
    done = subprocess.run([*command, str(HERE / program)], capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout + done.stderr)
    return {int(line): text for line, text in re.findall(rf"{program}:(\d+): error: (.*)", done.stdout)}


def basedpyright(program: str) -> Errors:
    # Its own configuration: the project's leaves these files out, and is less strict.
    settings = {
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "include": [str(HERE)],
        "extraPaths": [str(ROOT)],
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as project:
        json.dump(settings, project)
        project.flush()
        command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable]
        done = subprocess.run([*command, "--project", project.name], capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    if not found["summary"]["filesAnalyzed"]:
        raise RuntimeError(done.stdout + done.stderr)
    return {
        item["range"]["start"]["line"] + 1: item["message"].splitlines()[0]
        for item in found["generalDiagnostics"]
        if item["severity"] == "error" and item["file"].endswith(f"/{program}")
    }


def report(name: str, check: Callable[[str], Errors], verbose: bool) -> bool:
    unwanted = check("good.py")
    print(f"{name}: good.py {unwanted or 'is clean'}")
    refused, wanted = check("bad.py"), marked("bad.py")
    missed = sorted(wanted - refused.keys())
    surplus = {line: text for line, text in refused.items() if line not in wanted}
    print(
        f"{name}: bad.py has {len(wanted)} mistakes; not refused: {missed or 'none'}; else refused: {surplus or 'none'}"
    )
    for line in sorted(refused) if verbose else ():
        print(f"    {line}: {refused[line]}")
    return not (unwanted or missed or surplus)


def marked(program: str) -> set[int]:
    lines = (HERE / program).read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if "# E " in line}


if __name__ == "__main__":
    sys.exit(main("-v" in sys.argv))
