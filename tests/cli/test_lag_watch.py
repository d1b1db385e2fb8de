"""`streamkit lag --watch`: it goes on whatever becomes of the brokers, and shows no old figures."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from streamkit.cli.lag_view import WATCH_STEP, Look
from streamkit.core.lag_status import READINGS
from streamkit.observe.outside import WatchedGroup
from streamkit.record import TopicPartition
from streamkit.settings import Settings
from streamkit.transport.base import AccessDenied, CommittedOffset, GroupInfo, LogRange, Refused, Unreachable
from streamkit.transport.memory import MemoryBroker, named_broker
from streamkit.transport.memory.admin import MemoryAdmin
from tests.cli.support import Program, program, running
from tests.kafka.server import GenuineKafka
from tests.runtime.support import simulated

CHARGE, SHIP = "shop.charge", "shop.ship"
LONG = 1_000.0  # seconds


@pytest.fixture
def broker(brokers: str) -> MemoryBroker:
    """Two groups that have done 2 of 5 records."""
    broker = named_broker(brokers)
    broker.create_topic("orders")
    for _ in range(5):
        broker.append("orders", b"{}")
    for name in (CHARGE, SHIP):
        broker.group(name).offsets[TopicPartition("orders", 0)] = CommittedOffset(2)
    return broker


def look(brokers: str, **other: Any) -> Look:
    settings = Settings.load({"brokers": brokers, "request_timeout": "3s"}, {}, {})
    options: dict[str, Any] = {"span": None, "every": False, "watch": True, "as_json": True} | other
    return Look(settings, [WatchedGroup(name, name) for name in (CHARGE, SHIP)], **options)


class Refusals:
    """By group, what its admins are told instead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.errors: dict[str, Exception] = {}
        describe = MemoryAdmin.group

        async def group(admin: MemoryAdmin, name: str) -> GroupInfo:
            if name in self.errors:
                raise self.errors[name]
            return await describe(admin, name)

        monkeypatch.setattr(MemoryAdmin, "group", group)


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> Refusals:
    return Refusals(monkeypatch)


def looks(capsys: pytest.CaptureFixture[str]) -> Iterator[Mapping[str, Mapping[str, Any]]]:
    """What was shown since the last time, by group."""
    for line in capsys.readouterr().out.splitlines():
        yield {found["group"]: found for found in json.loads(line)["groups"]}


def lags(capsys: pytest.CaptureFixture[str], group: str = CHARGE) -> list[int | None]:
    return [found[group]["lag_records"] for found in looks(capsys)]


def test_an_outage_is_shown_and_outlasted(
    brokers: str, broker: MemoryBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    @simulated
    async def case() -> None:
        watching = asyncio.create_task(look(brokers).run())
        await asyncio.sleep(5 * WATCH_STEP - 0.1)
        assert lags(capsys) == [3] * 5
        broker.faults.network.close()
        await asyncio.sleep(LONG)
        first, *shown = looks(capsys)
        assert first[CHARGE]["lag_records"] is None  # it was known who has what, and no figure any more
        assert len(shown) > 100
        for found in shown:
            one = found[CHARGE]
            assert (one["state"], one["members"], one["lag_records"], one["lag_seconds"]) == (None,) * 4
            assert (one["partitions"], one["error"]) == ([], "the broker did not answer within 3 s")
        assert len({found[CHARGE]["last_seen"] for found in shown}) == 1
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", shown[0][CHARGE]["last_seen"])
        broker.faults.network.open()
        await asyncio.sleep(60)
        assert lags(capsys)[-5:] == [3] * 5
        watching.cancel()
        await asyncio.wait([watching])

    case()


@pytest.mark.usefixtures("broker")
def test_no_status_is_told_before_there_are_samples_enough(brokers: str, capsys: pytest.CaptureFixture[str]) -> None:
    @simulated
    async def case() -> None:
        watching = asyncio.create_task(look(brokers).run())
        await asyncio.sleep((READINGS + 1) * WATCH_STEP - 0.1)
        statuses = [found[CHARGE]["partitions"][0]["status"] for found in looks(capsys)]
        assert [status is None for status in statuses] == [True] * (READINGS - 1) + [False] * 2
        watching.cancel()
        await asyncio.wait([watching])

    case()


def test_people_see_since_when_no_broker_answers(
    brokers: str, broker: MemoryBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    @simulated
    async def case() -> None:
        watching = asyncio.create_task(look(brokers, as_json=False).run())
        await asyncio.sleep(1)
        broker.faults.network.close()
        await asyncio.sleep(60)
        watching.cancel()
        await asyncio.wait([watching])

    case()
    lines = capsys.readouterr().out.splitlines()
    for group, line in zip((CHARGE, SHIP), lines[-3::2], strict=True):
        since = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
        assert re.fullmatch(
            rf"{group}: the brokers tell nothing since {since}: the broker did not answer within 3 s", line
        )


def test_with_a_time_it_ends_then_also_in_an_outage(brokers: str, broker: MemoryBroker) -> None:
    @simulated
    async def case() -> None:
        loop = asyncio.get_running_loop()
        assert await look(brokers, span=10.0).run() == 0
        assert loop.time() == pytest.approx(10, abs=1)
        began = loop.time()
        watching = asyncio.create_task(look(brokers, span=100.0).run())
        await asyncio.sleep(1)
        broker.faults.network.close()
        assert await watching == 1
        assert loop.time() - began == pytest.approx(100, abs=2)

    case()


def test_a_group_that_is_refused_is_told_of_beside_the_others(
    brokers: str, broker: MemoryBroker, refusals: Refusals, capsys: pytest.CaptureFixture[str]
) -> None:
    refusals.errors[CHARGE] = Refused("group 'shop.charge' cannot be described: GroupAuthorizationFailedError")

    @simulated
    async def case() -> None:
        assert await look(brokers, watch=False, span=0.0, as_json=False).run() == 1

    case()
    shown = capsys.readouterr()
    first, _, second, *_ = shown.out.splitlines()
    assert first == f"{CHARGE}: the brokers tell nothing: {refusals.errors[CHARGE]}"
    assert second.startswith(f"{SHIP}: Empty, 0 members, 3 records behind")
    assert shown.err.count("the brokers tell nothing of shop.charge") == 1


def test_a_login_that_is_denied_ends_it_for_trying_again_may_lock_the_account(
    brokers: str, broker: MemoryBroker, refusals: Refusals
) -> None:
    @simulated
    async def case() -> None:
        watching = asyncio.create_task(look(brokers).run())
        await asyncio.sleep(1)
        refusals.errors[CHARGE] = AccessDenied("the password is wrong")
        with pytest.raises(AccessDenied):
            await watching

    case()


@pytest.mark.parametrize("gaps", [1, 2, 100], ids=["of one group", "of all", "to the end"])
def test_a_look_with_gaps_tells_no_status_and_no_old_figures(
    brokers: str, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gaps: int
) -> None:
    ranges, asked = MemoryAdmin.log_ranges, 0

    async def with_gaps(admin: MemoryAdmin, partitions: Any) -> dict[TopicPartition, LogRange]:
        nonlocal asked
        asked += 1
        if 10 < asked <= 10 + gaps:
            raise Unreachable("no leader")
        return await ranges(admin, partitions)

    monkeypatch.setattr(MemoryAdmin, "log_ranges", with_gaps)

    @simulated
    async def case() -> None:
        assert await look(brokers, watch=False, span=5.0, as_json=True).run() == 0

    case()
    (found,) = json.loads(capsys.readouterr().out)["groups"][:1]
    (partition,) = found["partitions"]
    known = gaps < 100
    assert (partition["lag_records"], partition["status"]) == (3 if known else None, None)


WATCHED = """
@app.agent(source)
async def slow(order: dict) -> None:
    await asyncio.sleep(3600)
"""


@pytest.mark.timeout(180)
@pytest.mark.parametrize("how", ["killed", "silent"])
def test_a_watch_outlasts_brokers_that_are(tmp_path: Path, own_genuine: GenuineKafka, how: str) -> None:
    made: Program = program(tmp_path, own_genuine.brokers, WATCHED, [b"{}"] * 3)
    group = f"{made.name}.slow"
    with made.start() as worker:
        worker.await_text("agent slow")
        with running(tmp_path, "lag", "--group", group, "--watch", "--json", "--brokers", own_genuine.brokers) as watch:
            watch.await_text(r'"lag_records":3')
            if how == "killed":
                own_genuine.kill()
            else:
                own_genuine.pause()
            watch.await_text(r'"error":"[^"]+","last_seen":"20')
            told = watch.output.splitlines()[-1]
            (found,) = json.loads(told)["groups"]
            assert (found["state"], found["lag_records"], found["partitions"]) == (None, None, [])
            own_genuine.restore()
            length = len(watch.output)
            watch.await_text(rf'(?s).{{{length}}}.*"error":null.*"lag_records":3')
