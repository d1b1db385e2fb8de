"""The tests of shapes once more, as if their files began with `from __future__ import annotations`."""

import __future__

import sys
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent


def _with_strings(name: str) -> ModuleType:
    module = ModuleType(f"{name}_with_strings")
    module.__file__ = str(HERE / f"{name}.py")
    sys.modules[module.__name__] = module  # where dataclasses look for the names in their annotations
    flags = __future__.annotations.compiler_flag
    exec(compile((HERE / f"{name}.py").read_text(), module.__file__, "exec", flags, dont_inherit=True), vars(module))
    return module


def _tests(name: str) -> list[tuple[str, object]]:
    return [item for item in vars(_with_strings(name)).items() if item[0].startswith("test_")]


for _file in ("test_agent", "test_batch_and_loop"):
    for _name, _test in _tests(_file):
        globals()[f"{_name}__{_file}"] = _test


def test_annotations_are_strings_there() -> None:
    module = _with_strings("test_agent")
    assert module.Order.__annotations__ == {"id": "str"}


def test_both_files_are_run() -> None:
    assert sum(name.startswith("test_") for name in globals()) > 40
