"""Which files are watched."""

from pathlib import Path

import pytest

from streamkit.cli.watch import Watched, watched
from streamkit.errors import UsageError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    return tmp_path


def package(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "__init__.py").write_text("raise AssertionError('it is not to be imported')")
    return path


def test_of_a_module_its_folder_is_watched(here: Path) -> None:
    (here / "watched_module.py").touch()
    assert watched("watched_module:app") == Watched(frozenset(), frozenset({here}))


def test_of_a_package_the_whole_tree_is_watched(here: Path) -> None:
    tree = package(here / "watched_package")
    package(tree / "inner")
    assert watched("watched_package.inner.deep:app") == Watched(frozenset({tree}), frozenset({here}))


def test_packages_beside_the_target_are_watched_and_environments_are_not(here: Path) -> None:
    (here / "watched_module.py").touch()
    beside = package(here / "beside")
    package(here / "venv")
    package(here / ".hidden")
    (here / "data").mkdir()
    assert watched("watched_module") == Watched(frozenset({beside}), frozenset({here}))


def test_a_package_without_an_init_file_is_watched(here: Path) -> None:
    (here / "watched_namespace").mkdir()
    assert watched("watched_namespace.main").trees == {here / "watched_namespace"}


def test_a_missing_module_is_refused(here: Path) -> None:
    with pytest.raises(UsageError, match="there is no module 'nowhere_at_all'"):
        watched("nowhere_at_all.main:app")
