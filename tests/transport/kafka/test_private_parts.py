"""The parts of aiokafka 0.14.0 that streamkit touches although nobody promised them. docs/aiokafka.md says why.

What is not here was promised by aiokafka's documentation. After an upgrade, this fails first.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections.abc import Iterator
from importlib.metadata import requires
from operator import attrgetter
from pathlib import Path
from typing import Any

import aiokafka
import aiokafka.admin.client
import aiokafka.client
import aiokafka.conn
import pytest
from aiokafka import errors as kafka
from aiokafka.consumer.fetcher import FetchError
from aiokafka.producer.message_accumulator import BatchBuilder, MessageBatch
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest

import streamkit.transport.kafka
from streamkit.transport.kafka import access
from streamkit.transport.kafka.access import Access
from streamkit.transport.kafka.admin import KafkaAdmin
from streamkit.transport.kafka.client import client_options
from tests.transport.kafka.scripted import ScriptedBroker
from tests.transport.kafka.test_workarounds import KAFKA_FIRST, membership, started, with_broker

# By the object that they are parts of; "call(a, b)" also says which arguments it is given, in their order.
CONSUMER = """
    _client _client.cluster.partitions_for_topic(topic)
    _coordinator _coordinator.generation _coordinator.member_id _coordinator.group_id _coordinator.coordinator_id
    _coordinator.ensure_coordinator_known() _coordinator.coordinator_dead() _coordinator._send_req(request)
    _coordinator._do_heartbeat() _coordinator._do_commit_offsets(assignment, offsets)
    _coordinator._coordination_task _coordinator._heartbeat_task _coordinator._commit_refresh_task
    _fetcher _fetcher.end_offsets(partitions, timeout_ms) _fetcher._isolation_level
    _fetcher._records _fetcher._fetch_task _fetcher.error_future _fetcher._pending_tasks
    _subscription.subscription.assignment.state_value(tp)
"""
CLIENT = "_conns _topics add_topic(topic) coordinator_lookup(coordinator_type, coordinator_key) send(node_id, request)"
PRODUCER = """
    client _sender _sender.sender_task
    _message_accumulator _message_accumulator._batches _message_accumulator._pending_batches
    _message_accumulator.reenqueue(batch) _message_accumulator.fail_all(exception)
    _message_accumulator._append_batch(builder, tp) _message_accumulator._exception
    _message_accumulator._closed _message_accumulator._batch_ttl _message_accumulator.add_batch(builder, tp, timeout)
    _message_accumulator.drain_by_nodes(ignore_nodes, muted_partitions)
"""
ADMIN = "_client"
BATCH = "_drain_waiter future retry_count failure(exception)"
FETCH_ERROR = "_error"

PARTS = {
    "consumer": CONSUMER,
    "client": CLIENT,
    "producer": PRODUCER,
    "admin": ADMIN,
    "batch": BATCH,
    "fetch error": FETCH_ERROR,
}
OURS = {"_heartbeat", "_failure", "_joined"}  # private to streamkit's own consumer, used by its listener
PACKAGE = Path(streamkit.transport.kafka.__file__).parent


def parts(of: str) -> list[str]:
    """`a.b(c, d)` may hold blanks within its brackets."""
    joined = PARTS[of].replace(", ", ",").split()
    return [part.replace(",", ", ") for part in joined]


def test_aiokafka_is_pinned_to_the_version_whose_faults_are_known() -> None:
    assert aiokafka.__version__ == "0.14.0"
    pinned = [line for line in requires("streamkit-kafka") or [] if line.startswith("aiokafka")]
    assert not pinned or "==0.14.0" in pinned[0]


def test_every_part_is_there_while_the_clients_run() -> None:
    async def case(broker: ScriptedBroker) -> None:
        async with (
            membership(broker) as (member, _),
            # As aiokafka made it: streamkit's own has replaced some of these.
            started(aiokafka.AIOKafkaProducer(bootstrap_servers=f"{broker.host}:{broker.port}")) as producer,
            started(KafkaAdmin(broker.settings())) as admin,
        ):
            message_batch = MessageBatch(KAFKA_FIRST, BatchBuilder(1000, 0), 1, 0)
            message_batch.drain_ready()
            found = {
                "consumer": member._consumer,
                "client": producer.client,
                "producer": producer,
                "admin": admin._admin,
                "batch": message_batch,
                "fetch error": FetchError(error=kafka.RecordTooLargeError(), backoff=0),
            }
            assert set(found) == set(PARTS)
            for name, target in found.items():
                for part in parts(name):
                    check(target, part)
            assignment = member._consumer._subscription.subscription.assignment
            assert assignment.state_value(KAFKA_FIRST).position == 0
            assert isinstance(producer._message_accumulator._pending_batches, set)
            assert admin._admin._client.cluster is not None

    with_broker(case)


def check(target: Any, part: str) -> None:
    path, bracket, arguments = part.partition("(")
    found = attrgetter(path)(target)
    if not bracket:
        return
    wanted = [name for name in arguments.rstrip(")").split(", ") if name]
    given = list(inspect.signature(found).parameters.values())
    assert [parameter.name for parameter in given[: len(wanted)]] == wanted, part
    assert all(parameter.default is not parameter.empty for parameter in given[len(wanted) :]), part


def test_the_attribute_that_tasks_are_waited_by_is_a_task() -> None:
    async def case(broker: ScriptedBroker) -> None:
        async with membership(broker) as (member, _):
            coordinator, fetcher = member._consumer._coordinator, member._consumer._fetcher
            for task in (coordinator._coordination_task, coordinator._heartbeat_task, fetcher._fetch_task):
                assert isinstance(task, asyncio.Task)
            assert fetcher.error_future is fetcher._fetch_task

    with_broker(case)


@pytest.mark.parametrize("module", [aiokafka.client, aiokafka.admin.client], ids=lambda module: module.__name__)
def test_metadata_is_asked_for_by_the_name_that_is_replaced(module: Any) -> None:
    request: Any = module.MetadataRequest(["t"])
    assert isinstance(request, MetadataRequest)
    newest: Any = MetadataRequest._CLASSES[-1]
    built: Any = request.build(newest)
    assert not built.allow_auto_topic_creation


def test_what_makes_connections_and_logs_in_is_found_by_the_names_that_are_replaced() -> None:
    client = inspect.getsource(aiokafka.client.AIOKafkaClient)
    assert (
        client.count("create_conn(") == client.count("sasl_oauth_token_provider=self._sasl_oauth_token_provider") == 2
    )
    connection = inspect.getsource(aiokafka.conn.AIOKafkaConnection)
    assert connection.count("ScramAuthenticator(") == connection.count(" OAuthAuthenticator(") == 1
    assert list(inspect.signature(aiokafka.conn.OAuthAuthenticator.step).parameters) == ["self", "payload"]
    assert list(inspect.signature(aiokafka.conn.ScramAuthenticator.create_salted_password).parameters)[1:] == [
        "salt",
        "iterations",
    ]
    assert aiokafka.client.create_conn is access.create_conn


def test_a_request_of_our_own_is_built_by_the_version_that_the_broker_speaks() -> None:
    from streamkit.transport.kafka.offset_fetch import OffsetFetch, OffsetFetchRequest_v7, OffsetFetchResponse_v7

    assert issubclass(OffsetFetch, Request)
    assert issubclass(OffsetFetchRequest_v7, RequestStruct)
    assert issubclass(OffsetFetchResponse_v7, Response)
    fetch = OffsetFetch("g", [])
    assert fetch.prepare({9: (0, 10)}).API_VERSION == 7
    assert fetch.prepare({9: (0, 6)}).API_VERSION == 3


def test_a_batch_is_built_without_a_producer() -> None:
    assert list(inspect.signature(BatchBuilder).parameters)[:2] == ["batch_size", "compression_type"]


def test_every_client_takes_the_common_options() -> None:
    from streamkit.settings import Settings

    options = set(client_options(Settings(), Access(Settings())))
    for kind in (aiokafka.AIOKafkaConsumer, aiokafka.AIOKafkaProducer, aiokafka.admin.client.AIOKafkaAdminClient):
        assert options <= set(inspect.signature(kind).parameters)


def test_nothing_private_is_touched_that_is_not_named_here() -> None:
    named = {name for of in PARTS for part in parts(of) for name in part.partition("(")[0].split(".")}
    touched = {name for file in PACKAGE.glob("*.py") for name in private_names(ast.parse(file.read_text()))}
    assert touched - OURS <= {name for name in named if name.startswith("_")}, "name it here and in docs/aiokafka.md"
    assert {name for name in named if name.startswith("_")} <= touched, "named, but not touched any more"


def private_names(tree: ast.AST) -> Iterator[str]:
    """Private attributes of anything but `self`, also where `getattr` names them."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self")):
                pass
            case ast.Attribute(attr=name) | ast.Constant(value=str(name)):
                if name != "_" and name.startswith("_") and not name.startswith("__") and name.isidentifier():
                    yield name
            case _:
                pass
