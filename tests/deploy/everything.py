"""An app that keeps itself busy in every way that is measured: successes, retries, dead letters, an open breaker.

A worker of it is scraped. `streamkit worker tests.deploy.everything:app` fills its topics itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count

from streamkit import App, Batch, Output, Reject, Retry, Skip, Stream

app = App("scraped", breaker_failures=20, breaker_keys=5)

orders = app.topic("scraped.orders.v1", value=dict[str, str], partitions=2)
returns = app.topic("scraped.returns.v1", value=dict[str, str], partitions=2)
invoices = app.topic("scraped.invoices.v1", value=str, partitions=1)
mails = app.topic("scraped.mails.v1", value=str, partitions=1)

KINDS = ("good", "good", "good", "fails", "skipped", "rejected")
numbers = count()


@app.timer("100ms")
async def fill() -> None:
    number = next(numbers)
    for kind in KINDS:
        await orders.send({"kind": kind}, key=f"{kind} {number % 5}")
    await returns.send({}, key=str(number % 20))
    if number == 10:
        await orders.send({"kind": "hangs"}, key="hangs")


@app.agent(orders, sink=invoices, concurrency=16, retry=Retry.delays("1s", "2s", in_place=1, jitter=0))
async def charge(order: dict[str, str]) -> str:
    """One handler hangs, so that others settle ahead of it."""
    match order["kind"]:
        case "fails":
            raise TimeoutError("the bank does not answer")
        case "skipped":
            raise Skip
        case "rejected":
            raise Reject("not ours")
        case "hangs":
            await asyncio.sleep(3600)
    return "paid"


@app.agent(returns, retry=Retry.delays("1s"), dead_letter=True)
async def refund(order: dict[str, str]) -> None:
    """Fails always: its breaker opens."""
    raise ConnectionError("the bank is down")


@app.agent(invoices, batch=Batch(10, within="100ms"), sink=mails)
async def mail(batch: Sequence[str]) -> list[Output[str]]:
    return [Output(text, key="all") for text in batch]


@app.agent(mails)
async def read(stream: Stream[str]) -> None:
    async for _ in stream:
        await asyncio.sleep(0.01)
