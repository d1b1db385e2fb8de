"""How a worker ends when it is told to."""

import signal
from pathlib import Path

import pytest

from streamkit.cli.embedded import EmbeddedBroker
from tests.cli.support import module, program

HANDLER = """
@app.agent(source)
async def slow(order: dict) -> None:
    print("begun")
    {body}
    print("done")
"""
IGNORES_CANCELLATION = """
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
"""
IN_A_THREAD = "await asyncio.to_thread(time.sleep, 60)"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_runs_is_drained_and_committed(tmp_path: Path, embedded: EmbeddedBroker, number: signal.Signals) -> None:
    code = HANDLER.format(body="await asyncio.sleep(0.5)")
    made = program(tmp_path, embedded.brokers, code, [b'{"n": 1}', b'{"n": 2}'])
    with made.start() as worker:
        worker.await_text("begun")
        worker.signal(number)
        ended = worker.finish()
    assert (ended.code, ended.output) == (0, "begun\ndone\n")
    assert f"{number.name}: stopping" in ended.errors
    assert made.committed("slow") == 1


@pytest.mark.parametrize(
    ("number", "body", "code"),
    [(signal.SIGINT, "await asyncio.sleep(60)", 130), (signal.SIGTERM, "time.sleep(60)", 143)],
    ids=["a handler that waits", "a handler that blocks the loop"],
)
def test_the_second_signal_ends_the_process_at_once(
    tmp_path: Path, embedded: EmbeddedBroker, number: signal.Signals, body: str, code: int
) -> None:
    made = program(tmp_path, embedded.brokers, HANDLER.format(body=body), [b'{"n": 1}'])
    with made.start() as worker:
        worker.await_text("begun")
        worker.insist(number)
        assert worker.finish().code == code
    assert made.committed("slow") == 0


@pytest.mark.parametrize("body", [IGNORES_CANCELLATION, IN_A_THREAD], ids=["a task", "a thread"])
def test_what_never_ends_does_not_keep_the_process(tmp_path: Path, embedded: EmbeddedBroker, body: str) -> None:
    made = program(tmp_path, embedded.brokers, HANDLER.format(body=body), [b'{"n": 1}'])
    with made.start(STREAMKIT_DRAIN_TIMEOUT="100ms") as worker:
        worker.await_text("begun")
        worker.signal(signal.SIGTERM)
        ended = worker.finish()
    assert (ended.code, "stopped after" in ended.errors) == (0, True)
    assert made.committed("slow") == 0


def test_a_signal_while_the_target_is_imported_ends_the_process_without_a_traceback(tmp_path: Path) -> None:
    made = module(tmp_path, "127.0.0.1:1", "print('importing'); time.sleep(60)")
    with made.start() as worker:
        worker.await_text("importing")
        worker.signal(signal.SIGINT)
        ended = worker.finish()
    assert (ended.code, ended.errors) == (130, "")


AT_THE_VERY_END = """
import os, signal

class Late:
    def __del__(self, os=os, number=signal.SIGINT):
        os.write(1, b"late")
        os.kill(os.getpid(), number)

late = Late()

@app.agent(source)
async def charge(order: dict) -> None: ...
"""


def test_a_signal_that_comes_while_the_interpreter_ends_changes_nothing(
    tmp_path: Path, embedded: EmbeddedBroker
) -> None:
    made = program(tmp_path, embedded.brokers, AT_THE_VERY_END)
    ended = made.run("--stop-when-idle", "100ms")
    assert (ended.code, ended.output) == (0, "late")
