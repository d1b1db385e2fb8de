"""What a reader asks the brokers for."""

from __future__ import annotations

import pytest

from streamkit.transport.kafka.reader import KafkaReader
from tests.transport.kafka import scripted
from tests.transport.kafka.scripted import ScriptedBroker
from tests.transport.kafka.test_workarounds import FIRST, started, with_broker

MIB = 1024 * 1024


@pytest.mark.parametrize(("given", "asked"), [(50 * MIB, 8 * MIB), (2 * MIB, 2 * MIB)])
def test_one_answer_of_a_broker_holds_8_mib_at_most_or_what_is_set_if_that_is_less(given: int, asked: int) -> None:
    async def case(broker: ScriptedBroker) -> None:
        async with started(KafkaReader(broker.settings(fetch_max_bytes=given))) as reader:
            reader.assign({FIRST: 0})
            await reader.poll(max_records=1, timeout=0.1)
            request = await broker.until_asked(scripted.FETCH)
        assert request.max_bytes == asked

    with_broker(case)
