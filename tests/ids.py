"""The names of parameters, by which the processes of a run speak of the same test."""

import re


def without_address(parameter: object) -> str:
    """As `str`, but for where an object lies in memory: `<function refund>`."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(parameter))
