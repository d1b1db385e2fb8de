"""A member of a group whose client is interrupted, dies silently, or meets what it cannot fetch."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.fetch import FetchRequest

from streamkit.errors import TransportError
from streamkit.transport.base import FetchFailed
from streamkit.transport.kafka import consumer
from tests.transport.kafka import scripted
from tests.transport.kafka.scripted import TOPIC, ScriptedBroker, record_batch, silence
from tests.transport.kafka.test_workarounds import FIRST, SECOND, membership, with_broker, within

REBALANCING = 27


def test_a_member_that_stops_while_it_waits_to_join_leaves_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "STOP_TIMEOUT", 0.2)

    async def case(broker: ScriptedBroker) -> None:
        before = asyncio.all_tasks()
        async with membership(broker) as (member, listener):
            broker.answers[scripted.JOIN_GROUP] = silence  # until all others have drained
            broker.answers[scripted.HEARTBEAT] = lambda _: (0, REBALANCING)
            await listener.until("revoked")
            await broker.until_asked(scripted.JOIN_GROUP, 2)
            await within(2.0, member.stop())
        assert [request.member_id for request in broker.asked(scripted.LEAVE_GROUP)] == ["member"]
        await asyncio.sleep(0.1)
        broker_tasks = broker._connections
        assert asyncio.all_tasks() - before - broker_tasks == set()

    with_broker(case)


def test_a_member_stops_although_a_fetch_waits_to_be_tried_again() -> None:
    async def case(broker: ScriptedBroker) -> None:
        async with membership(broker) as (member, _):
            inner: Any = member._consumer
            send, failed = inner._client.send, asyncio.Event()

            async def break_fetches(node: int, request: Any, **options: Any) -> Any:
                if isinstance(request, FetchRequest):
                    failed.set()
                    raise KafkaConnectionError
                return await send(node, request, **options)

            inner._fetcher._retry_backoff = 60.0
            inner._client.send = break_fetches
            member.seek(FIRST, 0)
            await within(5.0, failed.wait())
            await within(5.0, member.stop())
        assert broker.asked(scripted.LEAVE_GROUP)

    with_broker(case)


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
def test_a_fetcher_that_has_died_fails_the_polls_instead_of_finding_nothing_for_ever(how: str) -> None:
    async def case(broker: ScriptedBroker) -> None:
        async with membership(broker) as (member, _):
            fetcher = member._consumer._fetcher
            if how == "fails":

                def dies(_assignment: Any) -> None:
                    raise KeyError("a connection that is gone")

                fetcher._get_actions_per_node = dies
            else:
                fetcher._fetch_task.cancel()
            with pytest.raises(TransportError, match="task of the client has ended"):
                async with asyncio.timeout(5):
                    while True:
                        await member.poll([FIRST], max_records=10, timeout=0.05)

    with_broker(case)


def test_a_record_that_is_too_large_to_be_fetched_is_not_counted_as_read() -> None:
    """The engine settles what lies below the position of every poll."""

    def fetched(request: Any) -> Any:
        rows = {p: offset for _, ps in request.topics for p, _, offset, _, _ in ps}
        good = record_batch([b"x"]) if rows.get(1) == 0 else b""
        cut_short = record_batch([b"x" * 1000])[:100]
        data = {1: good, 0: cut_short}  # in this order: the error waits behind what was read
        found = [(p, 0, 1000, 1000, 0, None, -1, data[p]) for p in data if p in rows]
        return 0, 0, 0, [(TOPIC, found)]

    async def case(broker: ScriptedBroker) -> None:
        broker.answers[scripted.FETCH] = fetched
        async with membership(broker) as (member, _):
            async with asyncio.timeout(5):
                while not (read := await member.poll([FIRST, SECOND], max_records=10, timeout=0.1)):
                    pass
            assert set(read) == {SECOND}
            assert member.position(FIRST) == 0
            with pytest.raises(FetchFailed):
                async with asyncio.timeout(5):
                    while True:
                        await member.poll([FIRST, SECOND], max_records=10, timeout=0.1)

    with_broker(case, partitions=2)
