"""The Python on the pages: parts of the examples as they stand there, and everything else compiles."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
MARKED = re.compile(r"<!-- snippet: ")


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("snippets", ROOT / "docs" / "snippets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


snippets = load()
PAGES: list[Path] = snippets.PAGES


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_part_of_an_example_is_as_it_stands_in_its_file(page: Path) -> None:
    text = page.read_text()
    assert len(snippets.SHOWN.findall(text)) == len(MARKED.findall(text)), "a mark is not followed by a block of Python"
    assert snippets.updated(text) == text, "write it anew with `python docs/snippets.py`"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_of_python_compiles(page: Path) -> None:
    for number, code in enumerate(PYTHON.findall(page.read_text())):
        compile(code, f"{name_of(page)}, block {number}", "exec")


def test_there_are_parts_to_compare() -> None:
    assert sum(len(MARKED.findall(page.read_text())) for page in PAGES) > 10


def test_a_part_is_dedented_and_without_the_marks_inside_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snippets, "ROOT", tmp_path)
    (tmp_path / "code.py").write_text(
        "if True:\n    # snippet: all\n    a = 1\n    # snippet: inner\n    b = 2\n    # end: inner\n\n    # end: all\n"
    )
    assert snippets.part("code.py", "all") == "a = 1\nb = 2\n"
    assert snippets.part("code.py", "inner") == "b = 2\n"
    page = "<!-- snippet: code.py inner -->\n```python\nold\n```\n"
    assert snippets.updated(page) == "<!-- snippet: code.py inner -->\n```python\nb = 2\n```\n"


def test_a_part_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snippets, "ROOT", tmp_path)
    (tmp_path / "code.py").write_text("a = 1\n")
    with pytest.raises(ValueError, match=r"code\.py has 0 parts 'all'"):
        snippets.part("code.py", "all")
