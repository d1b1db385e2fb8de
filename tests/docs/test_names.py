"""The pages name only what there is: tests, files of the package, and decisions that the index lists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.glob("**/*.md")]
CODE = [*ROOT.glob("streamkit/**/*.py")]
DEFINED = re.compile(r"def (\w+)\(")
A_TEST = re.compile(r"`(test_\w+)`")
A_FILE = re.compile(r"`((?:streamkit|core|runtime|transport|observe|cli|tests)/[\w/]+\.py)`")


@pytest.fixture(scope="module")
def tests() -> set[str]:
    return {name for file in ROOT.glob("tests/**/*.py") for name in DEFINED.findall(file.read_text())}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_that_a_page_names_exists(page: Path, tests: set[str]) -> None:
    assert not set(A_TEST.findall(page.read_text())) - tests


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    named = A_FILE.findall(page.read_text())
    assert not [name for name in named if not (ROOT / name).exists() and not (ROOT / "streamkit" / name).exists()]


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text()
    pages = [page.relative_to(DOCS).as_posix() for page in DOCS.glob("**/*.md") if page != DOCS / "README.md"]
    assert not [page for page in pages if f"({page})" not in index]


def test_every_number_in_the_kafka_transport_is_explained() -> None:
    rows = set(re.findall(r"^\| (R\d+) \|", (DOCS / "aiokafka.md").read_text(), re.MULTILINE))
    named = {number for file in CODE for number in re.findall(r"\bR\d+\b", file.read_text())}
    assert named <= rows
