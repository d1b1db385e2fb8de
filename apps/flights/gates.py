"""A stand-in for the slow service that a real program would ask: it answers after 5 to 95 ms, the same every time."""

import asyncio
from random import Random

MEAN_SECONDS = 0.050


async def ask_for_gate(flight: str) -> str:
    chance = Random(flight)
    await asyncio.sleep(chance.uniform(0.005, 0.095))
    return f"{chance.choice('ABCD')}{chance.randint(1, 40)}"
