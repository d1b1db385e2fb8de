import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamkit.cli.group import group
from tests.cli.support import Finished, streamkit

GOOD = """
from streamkit import App
app = App("shop")
orders = app.topic("orders", value=str)

@app.agent(orders)
async def audit(order: str) -> None: ...
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        del sys.modules[name]


def run(target: str, *options: str, environment: dict[str, str] | None = None) -> Finished:
    """In this process, which is faster: nothing of a worker is started before these errors."""
    result = CliRunner().invoke(group, ["worker", target, *options], env=environment)
    return Finished(result.exit_code, result.stdout, result.stderr)


def write(directory: Path, name: str, code: str) -> None:
    path = directory / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(code)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("ordres", "there is no module 'ordres' in {here}; did you mean 'orders'?"),
        ("zzz:app", "there is no module 'zzz' in {here}; there is 'orders'"),
        ("shop.lat", "there is no module 'shop.lat'; did you mean 'shop.late'?"),
        ("orders:ap", "module 'orders' has no 'ap'; did you mean 'app'?"),
        ("orders:orders", "orders:orders is no App (Topic); there is 'app'"),
        ("orders.py", "'orders.py' is a file; TARGET is a module: orders"),
        ("./shop/late.py:app", "'./shop/late.py:app' is a file; TARGET is a module: shop.late:app"),
        ("orders:", "'orders:' is not a target; write module:app"),
        ("", "'' is not a target"),
    ],
)
def test_an_unknown_target_exits_2_and_says_what_there_is(tmp_path: Path, target: str, message: str) -> None:
    write(tmp_path, "orders", GOOD)
    write(tmp_path, "shop/late", GOOD)
    ended = run(target)
    assert ended.code == 2
    assert ended.errors.startswith(f"error: {message.format(here=tmp_path)}")


def test_a_module_without_an_app_exits_2(tmp_path: Path) -> None:
    write(tmp_path, "empty", "")
    ended = run("empty")
    assert (ended.code, ended.errors) == (
        2,
        "error: module 'empty' holds no App; write one, as in app = App('empty')\n",
    )


def test_a_module_with_several_apps_exits_2_and_names_them(tmp_path: Path) -> None:
    write(tmp_path, "two", "from streamkit import App\nleft = App('left')\nright = App('right')\n")
    ended = run("two")
    assert (ended.code, ended.errors) == (
        2,
        "error: module 'two' holds 2 Apps; say which: two:left or two:right\n",
    )


def test_an_app_without_agents_exits_2(tmp_path: Path) -> None:
    write(tmp_path, "idle", "from streamkit import App\napp = also = App('idle')\n")
    ended = run("idle")
    assert (ended.code, "app 'idle' declares no agents" in ended.errors) == (2, True)


def test_an_unknown_agent_exits_2(tmp_path: Path) -> None:
    write(tmp_path, "orders", GOOD)
    ended = run("orders", "--agent", "audti")
    assert (ended.code, ended.errors) == (2, "error: app 'shop' has no agent 'audti'; did you mean 'audit'?\n")


def test_a_module_that_raises_shows_the_users_traceback_only(tmp_path: Path) -> None:
    write(tmp_path, "broken", "import inner\n")
    write(tmp_path, "inner", "def fail():\n    raise ValueError('no such thing')\nfail()\n")
    ended = run("broken")
    assert ended.code == 2
    assert ended.errors.splitlines() == [
        "Traceback (most recent call last):",
        f'  File "{tmp_path}/broken.py", line 1, in <module>',
        "    import inner",
        f'  File "{tmp_path}/inner.py", line 3, in <module>',
        "    fail()",
        f'  File "{tmp_path}/inner.py", line 2, in fail',
        "    raise ValueError('no such thing')",
        "ValueError: no such thing",
        "error: module 'broken' cannot be imported",
    ]


def test_a_missing_dependency_of_the_module_is_not_taken_for_a_missing_target(tmp_path: Path) -> None:
    write(tmp_path, "broken", "import not_installed\n")
    ended = run("broken")
    assert ended.code == 2
    assert 'broken.py", line 1' in ended.errors
    assert "No module named 'not_installed'" in ended.errors


def test_a_syntax_error_is_shown_without_frames(tmp_path: Path) -> None:
    write(tmp_path, "broken", "def f(:\n")
    ended = run("broken")
    assert ended.code == 2
    assert "SyntaxError" in ended.errors
    assert "Traceback" not in ended.errors


def test_a_module_that_exits_has_not_succeeded(tmp_path: Path) -> None:
    write(tmp_path, "quits", "raise SystemExit(0)\n")
    assert run("quits").code == 2


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (GOOD + "\n@app.agent(orders, name='audit')\nasync def other(order: str) -> None: ...\n", "declared twice"),
        (GOOD + "\n@app.agent(orders, timeout='5 lightyears')\nasync def other(order: str) -> None: ...\n", "timeout"),
        ("from streamkit import App\napp = App('shop', drain_timeut='3s')\n", "did you mean drain_timeout?"),
    ],
)
def test_a_bad_declaration_exits_78_with_the_users_line(tmp_path: Path, code: str, message: str) -> None:
    write(tmp_path, "orders", code)
    ended = run("orders")
    assert ended.code == 78
    assert message in ended.errors
    assert f'File "{tmp_path}/orders.py", line ' in ended.errors
    assert "Traceback" not in ended.errors
    assert "streamkit/" not in ended.errors


@pytest.mark.parametrize(
    ("options", "environment", "message"),
    [
        (["--stop-when-idle", "3x"], {}, "--stop-when-idle='3x' (command line)"),
        (["--log-format", "xml"], {}, "--log-format='xml' (command line)"),
        ([], {"STREAMKIT_DRAIN_TIMEOUT": "soon"}, "STREAMKIT_DRAIN_TIMEOUT='soon' (environment)"),
        ([], {"STREAMKIT_DRAIN_TIMEUT": "3s"}, "did you mean STREAMKIT_DRAIN_TIMEOUT?"),
    ],
)
def test_a_bad_setting_exits_78_and_names_its_place(
    tmp_path: Path, options: list[str], environment: dict[str, str], message: str
) -> None:
    write(tmp_path, "orders", GOOD)
    ended = run("orders", *options, environment=environment)
    assert ended.code == 78
    assert message in ended.errors
    assert "Traceback" not in ended.errors


def test_python_without_assertions_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "orders", GOOD)
    ended = streamkit(tmp_path, "worker", "orders", environment={"PYTHONOPTIMIZE": "1"})
    assert (ended.code, "does not run under python -O" in ended.errors) == (78, True)
