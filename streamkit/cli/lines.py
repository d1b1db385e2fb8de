"""The lines of a file or of standard input, without holding more than a piece of it, and without blocking the loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from streamkit.cli.destination import BadRecord

CHUNK = 256 * 1024  # bytes


async def lines_of(descriptor: int, longest: int) -> AsyncIterator[list[bytes]]:
    """The lines as they come, some at a time. Raises BadRecord for one of more than `longest` bytes."""
    rest = b""
    while chunk := await _read(descriptor):
        *lines, rest = (rest + chunk).split(b"\n")
        yield lines
        if len(rest) > longest:
            raise BadRecord(f"the line is longer than {longest:,} bytes")
    if rest:
        yield [rest]


async def _read(descriptor: int) -> bytes:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:  # a regular file has no readiness to wait for: reading it never takes long
        return os.read(descriptor, CHUNK)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, CHUNK)
