"""The Dockerfile: how it is written, and that its steps work with what it copies."""

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.deploy.files import (
    DOCKERFILE,
    LAST_STAGE,
    ROOT,
    copied,
    exec_form,
    image_environment,
    instruction,
    instructions,
)

SOURCES = [source for stage in range(LAST_STAGE + 1) for sources, _ in copied(stage) for source in sources]


def test_every_stage_is_from_the_same_python_with_its_full_version() -> None:
    images = {each.arguments.split()[0] for each in DOCKERFILE if each.name == "FROM"}
    (image,) = images
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", image)


def test_it_runs_as_a_user_that_is_not_root() -> None:
    user, group = map(int, instruction("USER").arguments.split(":"))
    assert user > 0 < group
    assert f"useradd --uid {user} " in instruction("RUN").arguments


@pytest.mark.parametrize("name", ["ENTRYPOINT", "CMD", "HEALTHCHECK"])
def test_no_shell_stands_between_docker_and_the_process(name: str) -> None:
    assert exec_form(name)[0] not in ("sh", "bash", "/bin/sh", "/bin/bash")


def test_the_stop_signal_is_one_that_a_worker_drains_on() -> None:
    assert instruction("STOPSIGNAL").arguments == "SIGTERM"


def test_metrics_can_be_reached_from_outside_at_the_exposed_port() -> None:
    assert image_environment()["STREAMKIT_HTTP"] == f"0.0.0.0:{instruction('EXPOSE').arguments}"


def test_python_writes_its_output_at_once_and_keeps_its_assert_statements() -> None:
    assert image_environment()["PYTHONUNBUFFERED"] == "1"
    assert not [each for each in DOCKERFILE if each.name == "ENV" and "PYTHONOPTIMIZE" in each.arguments]


def test_no_cache_of_pip_stays_in_a_layer() -> None:
    runs = [each.arguments for each in DOCKERFILE if each.name == "RUN" and "pip" in each.arguments]
    assert runs
    assert all("--no-cache-dir" in run for run in runs)


def test_extras_are_not_installed() -> None:
    assert not [each for each in DOCKERFILE if each.name == "RUN" and re.search(r"\[(dev|test)\]", each.arguments)]


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_copied_is_in_the_checkout_and_not_ignored(source: str) -> None:
    assert (ROOT / source).exists()
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    assert f"!{source}" in lines


def test_nothing_else_reaches_the_builder() -> None:
    let_in = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert sorted(let_in) == sorted(SOURCES)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the command of the Dockerfile, from what it has copied until then."""
    source, wheels = tmp_path_factory.mktemp("src"), tmp_path_factory.mktemp("wheels")
    for sources, target in copied(stage=0):
        for each in sources:
            copy = shutil.copytree if (ROOT / each).is_dir() else shutil.copy
            copy(ROOT / each, source / (each if target == "./" else target))
    command = shlex.split(
        next(each.arguments for each in instructions("RUN", stage=0) if "pip wheel" in each.arguments)
    )
    command[command.index("/wheels")] = str(wheels)
    # With what is installed already: a test needs no network.
    command = [sys.executable, "-m", *command, "--no-build-isolation", "--disable-pip-version-check"]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = wheels.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "streamkit/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"streamkit", f"{wheel.name.split('-py3')[0]}.dist-info"}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "streamkit").rglob("*.py")}
    assert modules <= set(names)


def test_the_installed_wheel_has_the_command(wheel: Path, tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*install, "--target", str(tmp_path), str(wheel)], check=True)
    (name,) = exec_form("ENTRYPOINT")
    asked = subprocess.run(
        [tmp_path / "bin" / name, "--version"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout == f"streamkit {wheel.name.split('-')[1]}\n"
