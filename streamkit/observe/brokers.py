"""The observer's way to the brokers: a client that is made when it is needed, and anew after an outage."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from streamkit.errors import StreamkitError
from streamkit.transport.base import Admin

CLOSE_TIMEOUT = 2.0  # seconds


class Brokers:
    """`admin_factory` is called anew after each `close`.

    Close it after an outage: a client that has lost its brokers does not always find back by itself.
    """

    def __init__(self, admin_factory: Callable[[], Admin]) -> None:
        self._admin_factory = admin_factory
        self._admin: Admin | None = None

    async def connected(self) -> Admin:
        """Raises what its start raises."""
        if self._admin is None:
            self._admin = self._admin_factory()
            try:
                await self._admin.start()
            except BaseException:
                await self.close()
                raise
        return self._admin

    async def close(self) -> None:
        """Does not raise."""
        admin, self._admin = self._admin, None
        if admin is None:
            return
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await admin.stop()


def reason_of(error: BaseException, timeout: float) -> str:
    """For people. `timeout` is the limit that was set, in seconds."""
    if isinstance(error, TimeoutError):  # which says nothing itself
        return f"no answer within {timeout:g} s"
    return str(error) if isinstance(error, StreamkitError) else f"{type(error).__qualname__}: {error}"
