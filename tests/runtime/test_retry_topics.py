"""The topics of retries and dead letters: what is created, what is checked, and what an earlier app has left behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest

from streamkit import App
from streamkit.agent import Agent
from streamkit.errors import ConfigurationError, MissingTopic, TransportError
from streamkit.record import TopicPartition
from streamkit.retry import Retry
from streamkit.runtime.copy_checks import misfits
from streamkit.runtime.retry_topics import Tier, collisions, wanted_topics
from streamkit.runtime.start_topics import Started, StartTopics
from streamkit.settings import Settings
from streamkit.topic import Topic
from streamkit.transport.base import CommittedOffset, NewTopic, Refused, TopicInfo, Unreachable
from streamkit.transport.memory import MemoryBroker, MemoryTransport
from streamkit.transport.memory.admin import MemoryAdmin
from tests.runtime.support import GROUP, Working, World, recording, simulated

TIER, OTHER_TIER = "orders.shop.charge.retry-1", "orders.shop.charge.retry-2"
APPEND = {"message_timestamp_type": "LogAppendTime"}
FIT = {**APPEND, "retention_ms": "2592000000", "max_message_bytes": "1114124"}


class Shop:
    """An app with one topic and one agent, and the broker that it starts on."""

    def __init__(
        self, retry: Retry | None = None, *, partitions: int | None = 3, dead_letter: str | None = None
    ) -> None:
        self.broker = MemoryBroker()
        self.app = App("shop")
        self.orders = self.app.topic("orders", value=bytes, partitions=partitions)
        self.agents = [self._agent("charge", self.orders, retry, dead_letter)]

    def _agent(
        self, name: str, topic: Topic[Any, Any], retry: Retry | None, dead_letter: str | None
    ) -> Agent[Any, Any]:
        @self.app.agent(topic, name=name)
        async def handler(value: bytes) -> None: ...

        dead_letters = {topic.name: dead_letter} if dead_letter else {}
        return replace(handler, retry=retry, dead_letters=dead_letters)

    def add(
        self, name: str, topic: Topic[Any, Any], retry: Retry | None = None, dead_letter: str | None = None
    ) -> None:
        self.agents.append(self._agent(name, topic, retry, dead_letter))

    def topic(self, name: str, **declared: Any) -> Topic[Any, Any]:
        return self.app.topic(name, value=bytes, **declared)

    async def start(self, *, create: bool = False, admin: Any = None) -> Started:
        topics = StartTopics("shop", self.agents, self.agents, self.app.topics, brokers="kafka:9092", create=create)
        return await topics.look_up(admin or MemoryTransport(self.broker, Settings()).admin())

    async def refusal(self, *, create: bool = False) -> str:
        with pytest.raises(ConfigurationError) as caught:
            await self.start(create=create)
        return str(caught.value)


@simulated
async def test_tiers_and_dead_letters_are_created_in_the_image_of_their_source() -> None:
    shop = Shop(Retry.delays("5s", "20d", jitter=0.1), dead_letter="orders.dlq")
    config = {"max.message.bytes": "2000000", "min.insync.replicas": "2", "cleanup.policy": "compact"}
    await shop.broker.create_topics([NewTopic("orders", 6, 3, config)], 1)
    started = await shop.start(create=True)
    shared = {
        "cleanup.policy": "delete",
        "max.message.bytes": "2065536",
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": "2",
    }
    retention = {TIER: "2592000000", OTHER_TIER: "3801600000", "orders.dlq": "2592000000"}
    for name, kept in retention.items():
        created = shop.broker.topics[name]
        assert (len(created.partitions), created.replication) == (6, 3)
        assert created.config == {**shared, "retention.ms": kept}
    assert set(started.found) == {"orders", *retention}
    topics = started.of(shop.agents[0])
    assert topics.tiers == {
        TIER: Tier(TIER, "orders", 1, 5.0, True, 0.1),
        OTHER_TIER: Tier(OTHER_TIER, "orders", 2, 20 * 86_400.0, True, 0.1),
    }
    assert topics.routes == {name: started.found[name] for name in retention}
    assert await shop.start() == started


@simulated
async def test_sources_that_are_created_in_the_same_start_come_first() -> None:
    shop = Shop(Retry.delays("5s"), dead_letter="orders.dlq")
    started = await shop.start(create=True)
    assert {name: info.partitions for name, info in started.found.items()} == {"orders": 3, TIER: 3, "orders.dlq": 3}
    assert {info.config["max.message.bytes"] for info in started.of(shop.agents[0]).routes.values()} == {"1114124"}
    assert list(shop.broker.topics) == ["orders", TIER, "orders.dlq"]


@pytest.mark.parametrize("create", [True, False])
def test_an_agent_that_reads_the_dead_letters_of_another_has_copies_of_its_own(create: bool) -> None:
    @simulated
    async def case() -> None:
        shop = Shop(dead_letter="failed")
        shop.add("look", shop.topic("failed", partitions=2), Retry.delays("5s"), "failed.dlq")
        if create:
            started = await shop.start(create=True)
            assert set(started.found) == {"orders", "failed", "failed.shop.look.retry-1", "failed.dlq"}
            assert {name: info.partitions for name, info in started.of(shop.agents[1]).routes.items()} == {
                "failed.shop.look.retry-1": 2,
                "failed.dlq": 2,
            }
        else:
            message = await shop.refusal()
            assert message.startswith("missing: failed, failed.dlq, failed.shop.look.retry-1, orders. Create with\n")

    case()


@simulated
async def test_an_agent_without_tiers_and_dead_letters_wants_no_topics() -> None:
    shop = Shop()
    started = await shop.start(create=True)
    assert set(shop.broker.topics) == {"orders"}
    assert (started.of(shop.agents[0]).tiers, started.of(shop.agents[0]).routes) == ({}, {})


@simulated
async def test_tiers_of_two_agents_on_one_topic_are_apart_and_their_dead_letters_together() -> None:
    shop = Shop(Retry.delays("5s"), dead_letter="orders.dlq")
    shop.add("audit", shop.orders, Retry.delays("1m"), "orders.dlq")
    started = await shop.start(create=True)
    assert set(started.found) == {"orders", TIER, "orders.shop.audit.retry-1", "orders.dlq"}
    assert set(started.of(shop.agents[1]).tiers) == {"orders.shop.audit.retry-1"}
    assert set(started.of(shop.agents[1]).routes) == {"orders.shop.audit.retry-1", "orders.dlq"}


@simulated
async def test_what_is_missing_is_named_with_the_commands_that_create_it() -> None:
    shop = Shop(Retry.delays("5s"), dead_letter="orders.dlq")
    config = {"min.insync.replicas": "2"}
    await shop.broker.create_topics([NewTopic("orders", 6, 3, config)], 1)
    settings = (
        "--config cleanup.policy=delete --config max.message.bytes=1114124 "
        "--config message.timestamp.type=LogAppendTime --config min.insync.replicas=2 --config retention.ms=2592000000"
    )
    create = "kafka-topics.sh --bootstrap-server kafka:9092 --create --topic"
    assert await shop.refusal() == (
        f"missing: orders.dlq, {TIER}. Create with\n"
        f"  {create} orders.dlq --partitions 6 --replication-factor 3 {settings}\n"
        f"  {create} {TIER} --partitions 6 --replication-factor 3 {settings}\n"
        "or start with --create-topics."
    )
    assert set(shop.broker.topics) == {"orders"}


@simulated
async def test_missing_sources_are_named_with_what_they_need_for_retries() -> None:
    shop = Shop(Retry.delays("5s"))
    create = "kafka-topics.sh --bootstrap-server kafka:9092 --create --topic"
    assert await shop.refusal() == (
        f"missing: orders, {TIER}. Create with\n"
        f"  {create} orders --partitions 3 --replication-factor 1\n"
        f"  {create} {TIER} --partitions 3 --replication-factor 1 --config cleanup.policy=delete "
        "--config message.timestamp.type=LogAppendTime --config retention.ms=2592000000\n"
        "or start with --create-topics."
    )


@simulated
async def test_without_the_number_of_partitions_of_a_source_nothing_is_created() -> None:
    shop = Shop(Retry.delays("5s"), partitions=None)
    message = await shop.refusal(create=True)
    assert message.startswith("missing: orders. Create with\n")
    assert message.endswith("or declare partitions= and start with --create-topics.")
    assert not shop.broker.topics


@simulated
async def test_a_declared_dead_letter_topic_is_created_as_declared_but_for_its_timestamps() -> None:
    shop = Shop(dead_letter="failed")
    given = {"message.timestamp.type": "CreateTime", "max.message.bytes": "3000000"}
    shop.topic("failed", partitions=1, replication=1, retention="7d", config=given)
    await shop.broker.create_topics([NewTopic("orders", 6, 3, {"min.insync.replicas": "2"})], 1)
    await shop.start(create=True)
    created = shop.broker.topics["failed"]
    assert (len(created.partitions), created.replication) == (1, 1)
    assert created.config == {
        "cleanup.policy": "delete",
        "max.message.bytes": "3000000",
        "message.timestamp.type": "LogAppendTime",
        "retention.ms": "604800000",
    }


@simulated
async def test_a_declared_dead_letter_topic_takes_from_its_source_what_it_does_not_say(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shop = Shop(dead_letter="failed")
    shop.topic("failed")
    shop.broker.create_topic("orders", 4)
    await shop.start(create=True)
    assert len(shop.broker.topics["failed"].partitions) == 4
    assert shop.broker.topics["failed"].config["retention.ms"] == "2592000000"
    assert not _warnings(caplog)


@simulated
async def test_dead_letters_of_several_topics_in_one_fit_the_largest_of_them() -> None:
    shop = Shop(dead_letter="failed")
    shop.add("refund", shop.topic("refunds", partitions=1), None, "failed")
    config = {"max.message.bytes": "5000000", "min.insync.replicas": "2"}
    await shop.broker.create_topics([NewTopic("orders", 6, 1), NewTopic("refunds", 2, 3, config)], 1)
    await shop.start(create=True)
    created = shop.broker.topics["failed"]
    assert (len(created.partitions), created.replication) == (6, 3)
    assert (created.config["max.message.bytes"], created.config["min.insync.replicas"]) == ("5065536", "2")


def test_what_the_brokers_do_not_say_of_the_source_is_left_to_their_defaults() -> None:
    shop = Shop(Retry.delays("5s"))
    (wanted,) = wanted_topics(shop.agents, {}, {"orders": TopicInfo(3, None)})
    config = {"cleanup.policy": "delete", "message.timestamp.type": "LogAppendTime", "retention.ms": "2592000000"}
    assert wanted.new == NewTopic(TIER, 3, None, config)


def test_of_several_sources_all_sizes_must_be_known() -> None:
    shop = Shop(dead_letter="failed")
    shop.add("refund", shop.topic("refunds"), None, "failed")
    (wanted,) = wanted_topics(shop.agents, {}, {"orders": TopicInfo(3, 1000), "refunds": TopicInfo(3, None)})
    assert "max.message.bytes" not in wanted.new.config


def test_the_largest_record_that_kafka_knows_of_leaves_no_room_for_headers() -> None:
    (wanted,) = wanted_topics(Shop(Retry.delays("5s")).agents, {}, {"orders": TopicInfo(3, 2**31 - 1)})
    assert wanted.new.config["max.message.bytes"] == str(2**31 - 1)


# Checks of what exists


@simulated
async def test_all_that_is_wrong_with_all_topics_is_said_at_once_with_the_commands_that_mend_it() -> None:
    shop = Shop(Retry.delays("5s", "20d", jitter=0.1), dead_letter="orders.dlq")
    shop.broker.create_topic("orders", 3)
    shop.broker.create_topic(TIER, 3)
    shop.broker.create_topic(OTHER_TIER, 3, **FIT)
    shop.broker.create_topic("orders.dlq", 3, cleanup_policy="compact,delete", **APPEND, max_message_bytes="1114124")
    alter = "kafka-configs.sh --bootstrap-server kafka:9092 --alter --entity-type topics --entity-name"
    assert await shop.refusal(create=True) == (
        "these topics cannot hold retries or dead letters as they are:\n"
        f"  {TIER}: message.timestamp.type is CreateTime, not LogAppendTime: copies of old records would fall to "
        "retention at once, and of records dated ahead be refused\n"
        f"  {TIER}: retention.ms is 604800000 (7d), less than 2592000000 (30d): copies could be deleted before they "
        "run\n"
        f"  {TIER}: max.message.bytes is 1048588, less than 1114124 (what its source takes + 64 KiB): copies carry "
        "more headers than records\n"
        f"  {OTHER_TIER}: retention.ms is 2592000000 (30d), less than 3801600000 (44d): copies could be deleted before "
        "they run\n"
        "  orders.dlq: cleanup.policy is compact,delete, not delete: only the last copy of a key would stay, and "
        "copies without a key be refused\n"
        "Mend with\n"
        f"  {alter} {TIER} --add-config message.timestamp.type=LogAppendTime,retention.ms=2592000000,"
        "max.message.bytes=1114124\n"
        f"  {alter} {OTHER_TIER} --add-config retention.ms=3801600000\n"
        f"  {alter} orders.dlq --add-config cleanup.policy=delete"
    )


@simulated
async def test_topics_that_fit_are_fine_with_endless_retention_more_partitions_and_larger_records(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shop = Shop(Retry.delays("20d"), dead_letter="orders.dlq")
    shop.broker.create_topic("orders", 3)
    shop.broker.create_topic(TIER, 5, **APPEND, retention_ms="-1", max_message_bytes="9000000")
    shop.broker.create_topic("orders.dlq", 3, **APPEND, retention_ms="1000", max_message_bytes="1114124")
    started = await shop.start()
    assert started.of(shop.agents[0]).routes[TIER].partitions == 5
    assert not _warnings(caplog)


def test_a_topic_that_the_brokers_say_nothing_of_is_not_checked() -> None:
    (wanted,) = wanted_topics(Shop(Retry.delays("5s")).agents, {}, {"orders": TopicInfo(3, 1000)})
    assert misfits(wanted, TopicInfo(3, None)) == []


@simulated
async def test_fewer_partitions_than_the_source_has_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop(Retry.delays("5s"), dead_letter="orders.dlq")
    shop.broker.create_topic("orders", 6)
    shop.broker.create_topic(TIER, 1, **FIT)
    shop.broker.create_topic("orders.dlq", 6, **FIT)
    await shop.start()
    assert _warnings(caplog) == [
        f"{TIER} has 1 partition, and orders has 6: copies of partition p go to partition p % 1. For one each, run: "
        f"kafka-topics.sh --bootstrap-server kafka:9092 --alter --topic {TIER} --partitions 6"
    ]


@simulated
async def test_a_dead_letter_topic_that_states_its_partitions_is_not_compared_with_its_source(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shop = Shop(dead_letter="failed")
    shop.topic("failed", partitions=2)
    shop.broker.create_topic("orders", 6)
    shop.broker.create_topic("failed", 1, **FIT)
    await shop.start()
    assert not _warnings(caplog)


# Collisions


@simulated
async def test_a_topic_that_kafka_would_not_create_beside_another_is_an_error_that_names_both() -> None:
    shop = Shop(Retry.delays("5s"))
    shop.broker.create_topic("orders", 3)
    shop.broker.create_topic("orders_shop.charge.retry-1")
    for create in (True, False):
        assert await shop.refusal(create=create) == (
            f"topic {TIER!r} cannot be created: 'orders_shop.charge.retry-1' exists, and Kafka, which writes '.' as "
            "'_' in the names of its metrics, allows only one of the two.\n"
            "Rename the topic, or give its agent another group= (retries) or dead_letter=."
        )
    assert set(shop.broker.topics) == {"orders", "orders_shop.charge.retry-1"}


@pytest.mark.parametrize(
    ("new", "existing", "clashes"),
    [
        (["a.b"], ["a_b"], [("a.b", "a_b")]),
        (["a_b.c"], ["x", "a.b_c"], [("a_b.c", "a.b_c")]),
        (["a.b"], ["a-b", "a.bc", "a.B"], []),
        (["a.b"], ["a.b"], []),
    ],
)
def test_dots_and_underscores_are_the_same_in_a_collision(
    new: list[str], existing: list[str], clashes: list[tuple[str, str]]
) -> None:
    assert collisions(new, existing) == clashes


# What is left behind


def left_behind(shop: Shop, name: str, records: int, *, partitions: int = 1) -> None:
    shop.broker.create_topic(name, partitions)
    for number in range(records):
        shop.broker.append(name, b"x", partition=number % partitions)


def commit(shop: Shop, group: str, topic: str, offset: int, partition: int = 0) -> None:
    shop.broker.group(group).offsets[TopicPartition(topic, partition)] = CommittedOffset(offset)


@simulated
async def test_undeclared_tiers_that_hold_records_are_read_with_the_last_declared_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shop = Shop(Retry.delays("5s", "1m", jitter=0.2))
    left_behind(shop, "orders.shop.charge.retry-3", 5, partitions=3)
    commit(shop, "shop.charge", "orders.shop.charge.retry-3", 1, partition=1)
    left_behind(shop, "orders.shop.charge.retry-4", 2)
    commit(shop, "shop.charge", "orders.shop.charge.retry-4", 2)
    left_behind(shop, "orders.shop.charge.retry-5", 0)
    started = await shop.start(create=True)
    tiers = started.of(shop.agents[0]).tiers
    assert list(tiers) == [TIER, OTHER_TIER, "orders.shop.charge.retry-3"]
    third = Tier("orders.shop.charge.retry-3", "orders", 3, 60.0, False, 0.2)
    assert tiers["orders.shop.charge.retry-3"] == third
    assert started.found["orders.shop.charge.retry-3"].partitions == 3
    assert "orders.shop.charge.retry-3" not in started.of(shop.agents[0]).routes
    assert _warnings(caplog) == [
        "orders.shop.charge.retry-3 still holds 4 records, and agent 'charge' does not declare it any more: it is read "
        "all the same. Once it is empty and its workers were started anew, it can be deleted."
    ]


@simulated
async def test_declared_tiers_that_hold_records_are_nothing_to_warn_of(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop(Retry.delays("5s"))
    await shop.start(create=True)
    shop.broker.append(TIER, b"x")
    assert (await shop.start()).of(shop.agents[0]).tiers == {TIER: Tier(TIER, "orders", 1, 5.0, True, 0.1)}
    assert not _warnings(caplog)


@simulated
async def test_tiers_of_an_agent_that_retries_no_more_are_read_without_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shop = Shop()
    left_behind(shop, TIER, 1)
    started = await shop.start(create=True)
    assert started.of(shop.agents[0]).tiers == {TIER: Tier(TIER, "orders", 1, 0.0, False, 0.0)}
    assert _warnings(caplog) == [
        f"{TIER} still holds 1 record, and agent 'charge' does not declare it any more: it is read all the same. Once "
        "it is empty and its workers were started anew, it can be deleted."
    ]


@simulated
async def test_records_that_fell_to_retention_are_not_left_behind() -> None:
    shop = Shop()
    left_behind(shop, TIER, 5)
    shop.broker.delete_records(TIER, 5)
    left_behind(shop, OTHER_TIER, 5)
    commit(shop, "shop.charge", OTHER_TIER, 1)
    shop.broker.delete_records(OTHER_TIER, 5)
    assert not (await shop.start(create=True)).of(shop.agents[0]).tiers


@simulated
async def test_tiers_of_a_renamed_agent_are_reported_and_not_read(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop(Retry.delays("5s"))
    left_behind(shop, "orders.shop.bill.retry-1", 1_200)
    commit(shop, "shop.bill", "orders.shop.bill.retry-1", 100)
    left_behind(shop, "orders.shop.bill.retry-2", 0)
    left_behind(shop, "orders.other.bill.retry-1", 3)
    started = await shop.start(create=True)
    assert set(started.of(shop.agents[0]).tiers) == {TIER}
    assert _warnings(caplog) == [
        "orders.shop.bill.retry-1 still holds 1,100 records, and nothing runs them: no agent reads 'orders' with "
        "group='shop.bill'. To run them, give that group to the agent that was renamed, or declare one for them; if "
        "they are not needed any more, delete the topic."
    ]


class Forbidding:
    """An admin that may not do everything, on a memory broker."""

    def __init__(self, shop: Shop, forbidden: dict[str, Exception]) -> None:
        self._admin = MemoryTransport(shop.broker, Settings()).admin()
        self._forbidden = forbidden

    def __getattr__(self, name: str) -> Any:
        if error := self._forbidden.get(name):

            async def refuse(*_: Collection[str]) -> None:
                raise error

            return refuse
        return getattr(self._admin, name)


class Reserved:
    """An admin whose brokers do not tell settings of topics until they have been asked so often."""

    def __init__(self, shop: Shop, times: float) -> None:
        self._admin = MemoryTransport(shop.broker, Settings()).admin()
        self._times = times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._admin, name)

    async def topics(self, names: Collection[str]) -> dict[str, TopicInfo]:
        self._times -= 1
        found = await self._admin.topics(names)
        return found if self._times < 0 else {name: TopicInfo(info.partitions, None) for name, info in found.items()}


@simulated
async def test_a_new_source_is_asked_again_until_its_settings_are_known() -> None:
    shop = Shop(Retry.delays("5s"))
    await shop.start(create=True, admin=Reserved(shop, 4))
    assert shop.broker.topics[TIER].config["max.message.bytes"] == "1114124"


@simulated
async def test_brokers_that_never_tell_settings_are_not_asked_for_long() -> None:
    shop = Shop(Retry.delays("5s"))
    await shop.start(create=True, admin=Reserved(shop, float("inf")))
    assert asyncio.get_running_loop().time() < 5
    assert "max.message.bytes" not in shop.broker.topics[TIER].config
    began = asyncio.get_running_loop().time()
    await shop.start(create=True, admin=Reserved(shop, float("inf")))
    assert asyncio.get_running_loop().time() == began


@pytest.mark.parametrize(
    ("call", "warnings"),
    [
        (
            "all_topics",
            ["the brokers do not list their topics, so tiers that are left behind are not found: no"],
        ),
        (
            "committed",
            [
                "cannot see which tiers hold records that are declared no more: no",
                "cannot see which tiers hold records that nobody reads: no",
            ],
        ),
    ],
)
def test_a_cluster_that_does_not_let_itself_be_looked_at_is_worked_with_all_the_same(
    call: str, warnings: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    @simulated
    async def case() -> None:
        shop = Shop(Retry.delays("5s"))
        left_behind(shop, OTHER_TIER, 1)
        left_behind(shop, "orders.shop.bill.retry-1", 1)
        started = await shop.start(create=True, admin=Forbidding(shop, {call: Refused("no")}))
        assert set(started.of(shop.agents[0]).tiers) == {TIER}
        assert _warnings(caplog) == warnings

    case()


@simulated
async def test_tiers_that_nobody_reads_do_not_keep_a_worker_from_starting(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop()
    left_behind(shop, "orders.shop.bill.retry-1", 1)
    await shop.start(create=True, admin=Forbidding(shop, {"log_ranges": Unreachable("no leader")}))
    assert _warnings(caplog) == ["cannot see which tiers hold records that nobody reads: no leader"]


@simulated
async def test_a_look_at_the_tiers_of_an_agent_that_gets_no_answer_fails_the_start_for_it_to_be_tried_again() -> None:
    shop = Shop()
    left_behind(shop, TIER, 1)
    with pytest.raises(TransportError, match="later"):
        await shop.start(create=True, admin=Forbidding(shop, {"log_ranges": TransportError("later")}))


# In a worker


def retrying(world: World) -> list[Agent[Any, Any]]:
    (agent,) = recording(world).agents.values()
    return [replace(agent, retry=Retry.delays("5s"), dead_letters={"in": "in.dlq"})]


@simulated
async def test_a_worker_creates_the_topics_of_its_agents_retries_and_dead_letters() -> None:
    world = World(partitions=2)
    working = Working(world, recording(world), world.settings, agents=retrying(world), create_topics=True)
    await working.joined()
    await working.stopped()
    created = {name: len(topic.partitions) for name, topic in world.broker.topics.items()}
    assert created == {"in": 2, f"in.{GROUP}.retry-1": 2, "in.dlq": 2}


@simulated
async def test_a_worker_without_them_ends_with_what_is_missing() -> None:
    world = World()
    working = Working(world, recording(world), world.settings, agents=retrying(world))
    await asyncio.wait([working.task])
    error = working.task.exception()
    assert isinstance(error, MissingTopic)
    assert (error.exit_code, set(error.topics)) == (78, {f"in.{GROUP}.retry-1", "in.dlq"})


@simulated
async def test_a_worker_tries_again_when_the_brokers_do_not_answer_about_what_is_left_behind(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    world.broker.create_topic(f"in.{GROUP}.retry-1")
    world.broker.append(f"in.{GROUP}.retry-1", b"x")
    answers = iter([Unreachable("nobody there")])
    log_ranges = MemoryAdmin.log_ranges

    async def unsure(admin: MemoryAdmin, partitions: Collection[TopicPartition]) -> Any:
        for error in answers:
            raise error
        return await log_ranges(admin, partitions)

    monkeypatch.setattr(MemoryAdmin, "log_ranges", unsure)
    working = Working(world, recording(world), world.settings)
    await working.joined()
    await working.stopped()
    assert _warnings(caplog)[0] == "looking up the topics: nobody there; trying again"
    assert [text[:42] for text in _warnings(caplog)[1:]] == ["in.test.work.retry-1 still holds 1 record,"]


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
