"""Groups that are watched from outside: each on its own, and what is not known is not told."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

import pytest

from streamkit.core.lag_status import READINGS
from streamkit.errors import TransportError
from streamkit.observe import health
from streamkit.observe.lag_poller import LagPoller
from streamkit.observe.outside import OutsideCollector, OutsideTable, OutsideView, WatchedGroup
from streamkit.observe.slots import WorkerSlots
from streamkit.record import TopicPartition
from streamkit.transport.base import CommittedOffset, GroupInfo, Owner, Refused, Unreachable
from streamkit.transport.memory import MemoryBroker
from streamkit.transport.memory.admin import MemoryAdmin
from tests.observe.support import Sample, series
from tests.runtime.retry_support import wall
from tests.runtime.support import SETTINGS, simulated

IN = [TopicPartition("in", number) for number in range(3)]
BACK = [TopicPartition("back", number) for number in range(2)]
ANN = Owner("ann", "localhost", "ann-1")
TIMEOUT = 2.0  # less than a request may take
AWAY = Unreachable("no broker answers")


class Kafka:
    """A broker, and what its admins are told instead: by group, who has what, or an error."""

    def __init__(self, watched: Sequence[WatchedGroup]) -> None:
        self.broker = MemoryBroker()
        self.broker.create_topic("in", len(IN))
        self.broker.create_topic("back", len(BACK))
        self.told: dict[str, GroupInfo | Exception] = {}
        self.away: Exception | None = None
        self.stop_fails = False
        self.begun = 0
        self.slots = WorkerSlots("test")
        self.table = OutsideTable(clock=lambda: asyncio.get_running_loop().time(), wall=wall)
        self.view = OutsideView(watched, self.slots, self.table, self.admin, TIMEOUT)
        self.poller = LagPoller(self.slots, self.admin, self.table, 10.0)

    def admin(self) -> MemoryAdmin:
        return ToldAdmin(self)

    def assigned(self, agent: str) -> frozenset[TopicPartition]:
        return self.slots.agents[agent].assigned

    def commit(self, group: str, *partitions: TopicPartition) -> None:
        self.broker.group(group).offsets.update(dict.fromkeys(partitions, CommittedOffset(0)))

    def scrape(self) -> dict[Sample, float]:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in OutsideCollector(self.slots, self.table).collect()
            for sample in family.samples
        }


class ToldAdmin(MemoryAdmin):
    def __init__(self, kafka: Kafka) -> None:
        super().__init__(kafka.broker, SETTINGS)
        self._kafka = kafka

    async def start(self) -> None:
        self._kafka.begun += 1
        if self._kafka.away is not None:
            raise self._kafka.away
        await super().start()

    async def stop(self) -> None:
        if self._kafka.stop_fails:
            raise OSError("the socket is gone")

    async def group(self, name: str) -> GroupInfo:
        told = self._kafka.told.get(name)
        if isinstance(told, Exception):
            raise told
        return told or await super().group(name)

    async def committed(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, CommittedOffset]:
        told = self._kafka.told.get(group)
        if isinstance(told, Exception):
            raise told
        return await super().committed(group, partitions)


def two_groups() -> Kafka:
    return Kafka([WatchedGroup("first", "first", ["in"]), WatchedGroup("second", "second", ["back"])])


@pytest.mark.parametrize("owned", [True, False])
@simulated
async def test_where_a_group_stands_still_only_the_missing_owner_is_given_as_the_reason(owned: bool) -> None:
    kafka = Kafka([WatchedGroup("first", "first", ["in"])])
    partition = TopicPartition("in", 0)
    kafka.broker.append("in", b"waits")
    kafka.commit("first", partition)
    kafka.told["first"] = GroupInfo("Stable", 1, {partition: Owner("client", "host", "member")} if owned else {})
    await kafka.view.start()
    for _ in range(READINGS):
        await kafka.poller.sample()
        await asyncio.sleep(10)
    labels = {"group": "first", "topic": "in", "partition": "0"}
    statuses = [dict(found) for name, found in kafka.scrape() if name == "streamkit_partition_status"]
    assert labels | {"status": "stalled", "reason": "" if owned else "no_owner"} in statuses
    assert [found["reason"] for found in statuses if found["partition"] != "0"] == ["", ""]


def test_what_runs_elsewhere_is_not_in_the_health_of_the_one_that_looks() -> None:
    kafka = two_groups()
    assert "agent" not in health.summary(kafka.slots, 0.0)
    assert health.report(kafka.slots, 0.0)["agents"] == []


# Each on its own


@pytest.mark.parametrize("error", [Refused("not authorised"), OSError("a fault")], ids=["refused", "fault"])
def test_a_group_that_cannot_be_looked_at_keeps_no_other_from_being_refreshed(error: Exception) -> None:
    @simulated
    async def case() -> None:
        kafka = two_groups()
        await kafka.view.start()
        kafka.told["first"] = error
        kafka.broker.add_partitions("back", 3)
        await kafka.view.refresh()
        assert kafka.assigned("second") == {TopicPartition("back", number) for number in range(3)}
        assert (set(kafka.view.infos), set(kafka.view.failures)) == ({"second"}, {"first"})
        assert kafka.view.failures["first"].error is error
        assert kafka.view.silence == ""
        await kafka.view.close()

    case()


@simulated
async def test_a_group_that_does_not_answer_takes_no_longer_than_the_limit() -> None:
    kafka = two_groups()
    await kafka.view.start()
    seen = wall()
    kafka.broker.faults.network.close()
    await asyncio.sleep(1)
    await kafka.view.refresh()
    assert wall() - seen == pytest.approx(1 + TIMEOUT)
    assert kafka.view.silence == f"no answer within {TIMEOUT:g} s"
    assert {failure.last_seen for failure in kafka.view.failures.values()} == {seen}
    await kafka.view.close()


@simulated
async def test_what_is_not_known_of_a_group_any_more_is_not_told() -> None:
    kafka = two_groups()
    await kafka.view.start()
    await kafka.poller.sample()
    topics = series("streamkit_topic_partitions", group="first", topic="in")
    records = series("streamkit_consumer_lag_records", group="first", topic="in", partition="0")
    others = series("streamkit_consumer_lag_records", group="second", topic="back", partition="0")
    assert {topics, records, others} <= kafka.scrape().keys()
    kafka.told["first"] = Refused("not authorised")
    await kafka.view.refresh()
    assert topics not in kafka.scrape()
    for _ in range(7):  # longer than a sample is to be believed
        await asyncio.sleep(10)
        await kafka.poller.sample()
    scraped = kafka.scrape()
    assert (records in scraped, others in scraped) == (False, True)
    del kafka.told["first"]
    await kafka.view.refresh()
    await kafka.poller.sample()
    assert {topics, records, others} <= kafka.scrape().keys()
    await kafka.view.close()
    await kafka.poller.close()


def test_what_is_wrong_is_said_once_until_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    @simulated
    async def case() -> None:
        kafka = two_groups()
        await kafka.view.start()
        for error in (Refused("not authorised"), AWAY):
            kafka.told["first"] = error
            for _ in range(3):
                await kafka.view.refresh()
        kafka.told["second"] = AWAY
        await kafka.view.refresh()
        kafka.told.clear()
        for _ in range(2):
            await kafka.view.refresh()
        await kafka.view.close()

    case()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "the brokers tell nothing of first: not authorised; trying again"),
        ("WARNING", "the brokers tell nothing of first: no broker answers; trying again"),
        ("WARNING", "the brokers tell nothing of second: no broker answers; trying again"),
        ("INFO", "the brokers tell of first, second again"),
    ]


def test_a_start_is_refused_if_nothing_can_be_looked_at_and_not_if_something_can(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @simulated
    async def case() -> None:
        kafka = two_groups()
        kafka.told = {"first": Refused("not authorised"), "second": AWAY}
        with pytest.raises(Refused, match="not authorised"):
            await kafka.view.start()
        assert caplog.records == []
        del kafka.told["second"]
        await kafka.view.start()
        assert kafka.view.failures["first"].last_seen is None
        await kafka.view.close()

    case()
    assert "the brokers tell nothing of first" in caplog.text


@simulated
async def test_after_an_outage_it_asks_with_a_new_client_and_for_a_refusal_it_keeps_the_one_it_has() -> None:
    kafka = two_groups()
    kafka.stop_fails = True
    await kafka.view.start()
    kafka.told["first"] = Refused("not authorised")
    for _ in range(2):
        await kafka.view.refresh()
    assert kafka.begun == 1
    kafka.told["first"] = AWAY
    await kafka.view.refresh()
    kafka.away = TransportError("no connection")
    await kafka.view.refresh()
    assert kafka.view.silence == "no connection"
    kafka.away, kafka.told = None, {}
    await kafka.view.refresh()
    assert (kafka.begun, kafka.view.failures) == (3, {})
    await kafka.view.close()


# What an undeclared group has


def stable(*partitions: TopicPartition) -> GroupInfo:
    return GroupInfo("Stable", 1, dict.fromkeys(partitions, ANN))


REBALANCING, COMPLETING = GroupInfo("PreparingRebalance", 2, {}), GroupInfo("CompletingRebalance", 2, {})
EMPTY, DEAD = GroupInfo("Empty", 0, {}), GroupInfo("Dead", 0, {})


@pytest.mark.parametrize(
    ("now", "left"),
    [
        (REBALANCING, {*IN, *BACK}),
        (COMPLETING, {*IN, *BACK}),
        (EMPTY, {*IN, *BACK}),
        (stable(IN[0], *BACK), {*IN, *BACK}),  # two of a topic are nobody's for a moment, or for longer
        (stable(*IN), {*IN, BACK[0]}),  # it has left the topic, and of one partition there is a commit
        (DEAD, {BACK[0]}),
    ],
    ids=["rebalances", "completes", "empty", "partly owned", "left a topic", "dead"],
)
def test_a_partition_without_a_commit_stays_while_the_group_may_go_on_with_it(
    now: GroupInfo, left: set[TopicPartition]
) -> None:
    @simulated
    async def case() -> None:
        kafka = Kafka([WatchedGroup("g", "g")])
        kafka.commit("g", BACK[0])
        kafka.told["g"] = stable(*IN, *BACK)
        await kafka.view.start()
        assert kafka.assigned("g") == {*IN, *BACK}
        kafka.told["g"] = now
        for _ in range(3):
            await kafka.view.refresh()
            assert kafka.assigned("g") == left
        await kafka.view.close()

    case()


@simulated
async def test_partitions_of_a_topic_that_is_gone_go_with_it() -> None:
    kafka = Kafka([WatchedGroup("g", "g")])
    kafka.told["g"] = stable(*IN, *BACK)
    await kafka.view.start()
    kafka.told["g"] = REBALANCING
    kafka.broker.delete_topic("back")
    await kafka.view.refresh()
    assert kafka.assigned("g") == set(IN)
    assert kafka.slots.agents["g"].topic_partitions == {"in": 3}
    await kafka.view.close()


@simulated
async def test_a_group_that_has_only_committed_has_those_partitions() -> None:
    kafka = Kafka([WatchedGroup("g", "g"), WatchedGroup("other", "other")])
    kafka.commit("g", IN[1])
    await kafka.view.start()
    assert kafka.assigned("g") == {IN[1]}
    assert kafka.assigned("other") == frozenset()
    assert kafka.slots.agents["g"].topic_partitions == {"in": 3}
    await kafka.view.close()
