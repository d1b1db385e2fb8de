from __future__ import annotations

import asyncio

import pytest

from tests.transport.virtual_time import Deadlock, run


def test_time_jumps_to_whatever_is_due_next() -> None:
    async def main() -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        woken: list[tuple[str, float]] = []

        async def sleeper(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            woken.append((name, loop.time()))

        await asyncio.gather(sleeper("a year", 31_536_000), sleeper("a second", 1))
        return woken

    (first, second), (first_at, second_at) = zip(*run(main()), strict=True)
    assert (first, second) == ("a second", "a year")
    assert (first_at, second_at) == pytest.approx((1, 31_536_000))


def test_everybody_waiting_for_nothing_is_a_deadlock() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock):
        run(main())
