"""Runs the contract of tests/transport/contract.py on every transport."""

import pytest

from tests.transport.backends import Backend
from tests.transport.contract import CASES, Case, run_case


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case: Case, backend: Backend) -> None:
    for need in sorted(case.needs & backend.lacks):
        pytest.skip(f"the {backend.name} broker has no {need}")
    backend.run(run_case(case, backend))
