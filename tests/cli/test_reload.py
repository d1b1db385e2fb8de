"""`--reload`: files are edited while it runs, and nothing is lost."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streamkit.cli.embedded import EmbeddedBroker
from tests.cli.support import ROOT, Program, Running, await_gone, module, program, running, streamkit

HANDLER = """
@app.agent(source)
async def audit(order: dict) -> None:
    print("{version}:", order["n"])
    {then}
"""


def edit(made: Program, version: str, then: str = "", before: str = "") -> None:
    """Write the module anew, in one step: half a file would be imported, too."""
    path = made.directory / "program.py"
    head = path.read_text().partition("# ---")[0]
    written = made.directory / "program.new"
    written.write_text(f"{head}# ---\n{before}{HANDLER.format(version=version, then=then)}")
    written.replace(path)


def send(made: Program, *numbers: int) -> None:
    lines = b"".join(b'{"n": %d}\n' % number for number in numbers)
    ended = streamkit(made.directory, "send", made.source, "--brokers", made.brokers, given=lines)
    assert ended.code == 0, ended.errors


@contextmanager
def reloading(made: Program, **environment: str) -> Iterator[Running]:
    with made.start("--reload", **environment) as worker:
        yield worker


@pytest.fixture
def made(tmp_path: Path, embedded: EmbeddedBroker) -> Program:
    made = program(tmp_path, embedded.brokers, "", [b'{"n": 1}'])
    edit(made, "first")
    return made


def test_the_new_code_goes_on_where_the_old_one_stopped(made: Program) -> None:
    with reloading(made) as worker:
        worker.await_text("first: 1")
        edit(made, "second")
        worker.await_text("reloading: program.py changed")
        send(made, 2)
        worker.await_text("second: 2")
        worker.signal(signal.SIGINT)
        ended = worker.finish()
    assert (ended.code, ended.output) == (0, "first: 1\nsecond: 2\n")
    assert made.committed("audit") == 2


def test_what_is_sent_while_it_reloads_is_handled_once_and_in_order(made: Program) -> None:
    with reloading(made) as worker:
        worker.await_text("first: 1")
        for version in range(3):
            edit(made, f"version {version}")
            send(made, *range(100 * version, 100 * version + 100))
        worker.await_text(": 299")
        worker.signal(signal.SIGTERM)
        ended = worker.finish()
    assert ended.code == 0
    assert [int(line.rpartition(" ")[2]) for line in ended.output.splitlines()] == [1, *range(300)]
    assert made.committed("audit") == 301


def test_what_runs_is_drained_before_the_new_code_starts(made: Program) -> None:
    edit(made, "first", then="await asyncio.sleep(1); print('done')")
    with reloading(made) as worker:
        worker.await_text("first: 1")
        edit(made, "second")
        send(made, 2)
        worker.await_text("second: 2")
        assert worker.output == "first: 1\ndone\nsecond: 2\n"


def test_a_change_while_the_new_code_starts_is_not_lost(made: Program) -> None:
    with reloading(made) as worker:
        worker.await_text("first: 1")
        edit(made, "second", before="print('second begins', flush=True); time.sleep(2)\n")
        worker.await_text("second begins")
        edit(made, "third")
        send(made, 2)
        worker.await_text("third: 2")


def test_an_edit_within_the_same_second_and_of_the_same_length_is_seen(made: Program) -> None:
    path = made.directory / "program.py"
    with reloading(made, PYTHONDONTWRITEBYTECODE="") as worker:
        worker.await_text("first: 1")
        stamp = path.stat().st_mtime_ns
        path.write_text(path.read_text().replace("first", "other"))
        os.utime(path, ns=(stamp, stamp))
        send(made, 2)
        worker.await_text("other: 2")


def test_code_that_does_not_load_is_shown_and_waited_for(made: Program) -> None:
    with reloading(made) as worker:
        worker.await_text("first: 1")
        edit(made, "second", before="raise ValueError('not yet')\n")
        worker.await_text("waiting for a change")
        assert "ValueError: not yet" in worker.errors
        edit(made, "third")
        send(made, 2)
        worker.await_text("third: 2")


def test_a_handler_that_fails_is_shown_and_its_record_runs_again_in_the_new_code(made: Program) -> None:
    edit(made, "first", then="raise KeyError('mend me')")
    with reloading(made) as worker:
        worker.await_text("waiting for a change")
        assert "KeyError: 'mend me'" in worker.errors
        edit(made, "second")
        worker.await_text("second: 1")
        worker.signal(signal.SIGTERM)
        assert worker.finish().code == 0
    assert made.committed("audit") == 1


def test_a_signal_while_it_waits_for_a_change_ends_it_with_the_exit_code_of_the_failure(made: Program) -> None:
    edit(made, "first", then="raise KeyError('mend me')")
    with reloading(made) as worker:
        worker.await_text("waiting for a change")
        worker.signal(signal.SIGINT)
        assert worker.finish().code == 1


def test_a_second_signal_ends_it_at_once(made: Program) -> None:
    edit(made, "first", then="await asyncio.sleep(60)")
    with reloading(made) as worker:
        worker.await_text("first: 1")
        children = worker.children()
        worker.insist(signal.SIGTERM)
        assert worker.finish().code == 143
    await_gone(children)


def test_a_worker_that_is_killed_is_not_started_again(made: Program) -> None:
    with reloading(made) as worker:
        worker.await_text("first: 1")
        os.kill(worker.children()[0], signal.SIGKILL)
        ended = worker.finish()
    assert (ended.code, "was killed by SIGKILL" in ended.errors) == (1, True)


def test_an_idle_worker_ends_it(made: Program) -> None:
    ended = made.run("--reload", "--stop-when-idle", "300ms")
    assert (ended.code, ended.output) == (0, "first: 1\n")


def test_files_beside_the_module_count_and_others_do_not(made: Program) -> None:
    ignored = made.directory / "node_modules" / "lib.py"
    ignored.parent.mkdir()
    package = made.directory / "pricing" / "rules" / "vat.py"
    package.parent.mkdir(parents=True)
    (made.directory / "pricing" / "__init__.py").touch()
    with reloading(made) as worker:
        worker.await_text("first: 1")
        ignored.touch()
        (made.directory / "notes.txt").touch()
        package.touch()
        worker.await_text("reloading: pricing/rules/vat.py changed")


def test_a_missing_package_exits_78_and_says_how_to_get_it(tmp_path: Path) -> None:
    made = module(tmp_path, "127.0.0.1:1", "")
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['watchfiles'] = None")
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    ended = made.run("--reload", PYTHONPATH=paths)
    assert (ended.code, "pip install 'streamkit-kafka[dev]'" in ended.errors) == (78, True)


def test_a_module_that_is_not_there_exits_2(tmp_path: Path) -> None:
    with running(tmp_path, "worker", "nowhere:app", "--reload") as worker:
        ended = worker.finish()
    assert (ended.code, "there is no module 'nowhere'" in ended.errors) == (2, True)
