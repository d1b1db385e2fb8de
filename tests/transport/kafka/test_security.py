"""Every way into a genuine Kafka, and what is said when it does not let a client in."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from streamkit.cli.embedded import free_port
from streamkit.errors import ConfigurationError, TransportError
from streamkit.record import TopicPartition
from streamkit.settings import Settings, SettingValue
from streamkit.transport.base import (
    AccessDenied,
    NewTopic,
    TopicInfo,
    Transport,
    Unreachable,
)
from streamkit.transport.kafka import KafkaTransport
from streamkit.transport.kafka.access import Access, NoToken, ScramLogin
from tests.cli.support import Finished, module, running, streamkit
from tests.kafka.required import required
from tests.kafka.secured import (
    KEY_PASSWORD,
    LEAVER,
    LIMITED,
    MECHANISMS,
    PASSWORD,
    USER,
    SecuredKafka,
    secured_kafka,
    unsigned_token,
)

pytestmark = pytest.mark.genuine

Given = dict[str, SettingValue]
SCRAM: Given = {"sasl_mechanism": "SCRAM-SHA-256", "sasl_username": USER, "sasl_password": PASSWORD}
IN_THE_OPEN: Given = {"security_protocol": "SASL_PLAINTEXT", **SCRAM}
PASSES_ON = """
from streamkit import App
app = App({name!r})
source = app.topic({source!r}, value=dict, partitions=1)
sink = app.topic({source!r} + ".sink", value=dict, partitions=1)

@app.agent(source, sink=sink)
async def passes_on(order: dict) -> dict:
    return order
"""


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    with required(secured_kafka(tmp_path_factory.mktemp("certificates"))) as kafka:
        yield kafka


def login(mechanism: str) -> Given:
    if mechanism == "OAUTHBEARER":
        return {"sasl_mechanism": mechanism, "sasl_oauth_token": unsigned_token}
    return {"sasl_mechanism": mechanism, "sasl_username": USER, "sasl_password": PASSWORD}


Way = Callable[[SecuredKafka], Given]


def over_tls(kafka: SecuredKafka) -> Given:
    return {"brokers": kafka.tls.address, "security_protocol": "SSL", "ssl_cafile": kafka.certificates.ca}


def over_mutual_tls(kafka: SecuredKafka) -> Given:
    files = kafka.certificates
    own: Given = {"ssl_certfile": files.client, "ssl_keyfile": files.client_key}
    return {**over_tls(kafka), **own, "brokers": kafka.mutual_tls.address}


def with_a_locked_key(kafka: SecuredKafka) -> Given:
    return {**over_mutual_tls(kafka), "ssl_keyfile": kafka.certificates.locked_key, "ssl_key_password": KEY_PASSWORD}


def in_the_open(mechanism: str) -> Way:
    return lambda kafka: {
        "brokers": kafka.sasl_plaintext.address,
        "security_protocol": "SASL_PLAINTEXT",
        **login(mechanism),
    }


def encrypted(mechanism: str) -> Way:
    return lambda kafka: {
        **over_tls(kafka),
        "brokers": kafka.sasl_tls.address,
        "security_protocol": "SASL_SSL",
        **login(mechanism),
    }


WAYS: Mapping[str, Way] = {
    "SSL": over_tls,
    "SSL with a certificate of the client": over_mutual_tls,
    "SSL with an encrypted key": with_a_locked_key,
    **{f"SASL_PLAINTEXT, {mechanism}": in_the_open(mechanism) for mechanism in MECHANISMS},
    **{f"SASL_SSL, {mechanism}": encrypted(mechanism) for mechanism in MECHANISMS},
}


class Seeks:
    """A listener that reads all partitions from their start."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self.assigned_to: list[TopicPartition] = []

    async def revoked(self, partitions: Any, *, lost: bool) -> None:
        pass

    async def assigned(self, partitions: Any) -> None:
        self.assigned_to = list(partitions)
        for partition in partitions:
            self._consumer.seek(partition, 0)


async def create(transport: Transport, *names: str) -> None:
    admin = transport.admin()
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 1) for name in names])
        async with asyncio.timeout(10):
            while len(await admin.topics(names)) < len(names):  # noqa: ASYNC110  (no event tells)
                await asyncio.sleep(0.02)
    finally:
        await admin.stop()


async def produce(transport: Transport, topic: str, value: bytes) -> None:
    producer = transport.producer()
    await producer.start()
    try:
        batch = producer.batch(10_000)
        batch.append(key=None, value=value, timestamp=round(time.time() * 1000), headers=[])
        await (await producer.send(batch, topic, 0))
    finally:
        await producer.stop()


async def consume(transport: Transport, topic: str) -> list[bytes | None]:
    consumer = transport.consumer(f"{topic}.group")
    await consumer.start()
    try:
        listener = Seeks(consumer)
        consumer.subscribe([topic], listener)
        partition = TopicPartition(topic, 0)
        values: list[bytes | None] = []
        async with asyncio.timeout(20):
            while not values:
                polled = await consumer.poll(listener.assigned_to, max_records=10, timeout=0.2)
                values += [record.value for record in polled.get(partition, ())]
        assert await consumer.committed([partition]) == {}
        return values
    finally:
        await consumer.stop()


def name(kind: str) -> str:
    return f"security-{kind}-{uuid4().hex[:8]}"


@pytest.mark.parametrize("way", WAYS)
def test_a_record_is_sent_and_read_by_every_way_in(secured: SecuredKafka, way: str) -> None:
    async def case() -> None:
        transport = KafkaTransport(Settings.load({}, {}, WAYS[way](secured)))
        topic = name("trip")
        await create(transport, topic)
        await produce(transport, topic, b"hello")
        assert await consume(transport, topic) == [b"hello"]

    asyncio.run(case())


def wrong_token(kafka: SecuredKafka) -> Given:
    return {**in_the_open("OAUTHBEARER")(kafka), "sasl_oauth_token": lambda: "not.a.token"}


def wrong_password(mechanism: str) -> Way:
    return lambda kafka: {**encrypted(mechanism)(kafka), "sasl_password": "wrong"}


DENIALS: Mapping[str, tuple[Way, str]] = {
    **{
        f"a wrong password, {mechanism}": (
            wrong_password(mechanism),
            rf"refuses the login of user 'ann' with {mechanism}: Authentication failed.*Check sasl_username, sasl_pass",
        )
        for mechanism in MECHANISMS[:3]
    },
    "a token that is none": (wrong_token, r"refuses the token of the function sasl_oauth_token \(OAUTHBEARER\): .*inv"),
    "a mechanism that is not offered": (
        lambda kafka: {**in_the_open("PLAIN")(kafka), "brokers": kafka.scram_only.address},
        "does not offer PLAIN; check sasl_mechanism",
    ),
    "a login where none is taken": (
        lambda kafka: {**in_the_open("PLAIN")(kafka), "brokers": kafka.kafka.brokers},
        r"takes no login at this port; check brokers and security_protocol=SASL_PLAINTEXT \(App",
    ),
    "no login where one is wanted": (
        lambda kafka: {"brokers": kafka.sasl_plaintext.address},
        "wants a login; set security_protocol=SASL_PLAINTEXT and sasl_mechanism",
    ),
    "no login over TLS": (
        lambda kafka: {**over_tls(kafka), "brokers": kafka.sasl_tls.address},
        "wants a login; set security_protocol=SASL_SSL and sasl_mechanism",
    ),
    "another CA": (
        lambda kafka: {**over_tls(kafka), "ssl_cafile": kafka.certificates.other_ca},
        r"is not to be trusted: .*The CA that signed its certificate is not in ssl_cafile=.*other-ca\.pem",
    ),
    "the CAs of the system": (
        lambda kafka: {"brokers": kafka.tls.address, "security_protocol": "SSL"},
        "The CA that signed its certificate is not in this machine's CAs; set ssl_cafile",
    ),
    "another host name": (
        lambda kafka: {**over_tls(kafka), "brokers": f"127.0.0.1:{kafka.tls.port}"},
        r"is not valid for '127\.0\.0\.1'\. Use a name in brokers",
    ),
    "no certificate of the client": (
        lambda kafka: {**over_tls(kafka), "brokers": kafka.mutual_tls.address},
        "wants a certificate of this client .*set ssl_certfile and ssl_keyfile",
    ),
    "a certificate of an unknown CA": (
        lambda kafka: {
            **over_mutual_tls(kafka),
            "ssl_certfile": kafka.certificates.stranger,
            "ssl_keyfile": kafka.certificates.stranger_key,
        },
        r"does not take the certificate of this client .*check ssl_certfile=.*stranger\.pem",
    ),
    "no TLS where it is spoken": (
        lambda kafka: {"brokers": kafka.tls.address},
        "speaks TLS at this port; set security_protocol=SSL, or",
    ),
    "a login without TLS where it is spoken": (
        lambda kafka: {**in_the_open("PLAIN")(kafka), "brokers": kafka.sasl_tls.address},
        "speaks TLS at this port; set security_protocol=SASL_SSL, or",
    ),
    "TLS where it is not spoken": (
        lambda kafka: {**over_tls(kafka), "brokers": kafka.kafka.brokers},
        "speaks no TLS at this port; set security_protocol=PLAINTEXT, or",
    ),
    "brokers that name another machine": (
        lambda kafka: {**IN_THE_OPEN, "brokers": kafka.elsewhere.address},
        r"at 203\.0\.113\.7:\d+ would get the login unencrypted",
    ),
}


async def look_up(settings: Settings) -> None:
    admin = KafkaTransport(settings).admin()
    try:
        await admin.start()
        await admin.topics(["any"])
    finally:
        await admin.stop()


@pytest.mark.parametrize("why", DENIALS)
def test_access_that_is_denied_is_told_with_its_reason_and_the_broker(secured: SecuredKafka, why: str) -> None:
    way, message = DENIALS[why]
    settings = Settings.load({}, {}, way(secured))
    with pytest.raises(AccessDenied, match=r"^the broker at [\w.]+:\d+ ") as caught:
        asyncio.run(look_up(settings))
    assert re.search(message, str(caught.value)), str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_a_host_name_is_not_checked_if_that_is_switched_off_and_a_warning_says_so(
    secured: SecuredKafka, caplog: pytest.LogCaptureFixture
) -> None:
    given: Given = {**over_tls(secured), "brokers": f"127.0.0.1:{secured.tls.port}", "ssl_check_hostname": False}
    asyncio.run(look_up(Settings.load({}, {}, given)))
    assert "ssl_check_hostname=false (App(...)): whoever has any certificate" in caplog.text


def test_a_login_in_the_open_to_another_machine_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    KafkaTransport(Settings.load({}, {}, {**IN_THE_OPEN, "brokers": "kafka:9092", "allow_plaintext_password": True}))
    assert "the login can be read by everyone on the way to the brokers" in caplog.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ssl_cafile": "/nowhere"}, r"^ssl_cafile=/nowhere \(App\(...\)\) cannot be used: No such file"),
        ({"ssl_cafile": __file__}, r"test_security.py \(App\(...\)\) cannot be used: OpenSSL says .*must be PEM"),
        ({"ssl_certfile": "/nowhere", "ssl_keyfile": "CLIENT_KEY"}, "^ssl_certfile=/nowhere .*No such file"),
        ({"ssl_certfile": "CLIENT", "ssl_keyfile": "/nowhere"}, "^ssl_keyfile=/nowhere .*No such file"),
        ({"ssl_certfile": "CLIENT", "ssl_keyfile": "STRANGER_KEY"}, "'key values mismatch'; both must be PEM"),
        ({"ssl_certfile": "CLIENT", "ssl_keyfile": "LOCKED_KEY"}, "is encrypted: set ssl_key_password_file"),
        (
            {"ssl_certfile": "CLIENT", "ssl_keyfile": "LOCKED_KEY", "ssl_key_password": "wrong"},
            "ssl_key_password that of the key",
        ),
    ],
)
def test_files_that_cannot_be_used_are_named_before_anything_connects(
    secured: SecuredKafka, given: dict[str, str], message: str
) -> None:
    files = secured.certificates
    paths = {each: getattr(files, each.lower()) for each in ("CLIENT", "CLIENT_KEY", "STRANGER_KEY", "LOCKED_KEY")}
    filled = {setting: paths.get(value, value) for setting, value in given.items()}
    with pytest.raises(ConfigurationError, match=message):
        KafkaTransport(Settings.load({}, {}, {**over_tls(secured), **filled}))


def test_a_key_that_everyone_may_read_is_refused(secured: SecuredKafka, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(Path(secured.certificates.client_key).read_bytes())
    key.chmod(0o644)
    with pytest.raises(ConfigurationError, match="every user of this machine may read the file"):
        KafkaTransport(Settings.load({}, {}, {**over_mutual_tls(secured), "ssl_keyfile": key}))


@pytest.mark.parametrize("protocol", ["SSL", "SASL_SSL", "SASL_PLAINTEXT", "PLAINTEXT"])
def test_a_broker_that_is_down_is_only_not_to_be_reached(protocol: str) -> None:
    given: Given = {"security_protocol": protocol, **(SCRAM if protocol.startswith("SASL") else {})}
    with pytest.raises(Unreachable):
        asyncio.run(look_up(Settings.load({}, {}, {**given, "brokers": f"127.0.0.1:{free_port()}"})))


@pytest.mark.parametrize("protocol", ["SSL", "PLAINTEXT"])
def test_a_broker_that_hangs_up_without_a_word_is_only_not_to_be_reached(protocol: str) -> None:
    async def case() -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.close()

        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(Unreachable):
                await look_up(Settings.load({}, {}, {"security_protocol": protocol, "brokers": f"127.0.0.1:{port}"}))

    asyncio.run(case())


# The worker


class Worker:
    """A program that passes on what it reads, with a topic that holds one record."""

    def __init__(self, directory: Path, kafka: SecuredKafka) -> None:
        self._directory = directory
        made = module(directory, kafka.kafka.brokers, "")
        self.name, self.source = made.name, made.source
        (directory / "program.py").write_text(PASSES_ON.format(name=made.name, source=made.source))
        transport = KafkaTransport(Settings(brokers=(kafka.kafka.brokers,)))
        asyncio.run(create(transport, made.source, f"{made.source}.sink"))
        asyncio.run(produce(transport, made.source, b"{}"))

    def run(self, given: Given, *options: str) -> Finished:
        return streamkit(self._directory, *self._arguments(options), environment=variables(given))

    def start(self, given: Given, *options: str) -> Any:
        return running(self._directory, *self._arguments(options), environment=variables(given))

    def _arguments(self, options: tuple[str, ...]) -> list[str]:
        return ["worker", "program", *(() if "--http" in options else ("--http", "off")), *options]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, secured: SecuredKafka) -> Worker:
    return Worker(tmp_path_factory.mktemp("worker"), secured)


def variables(given: Given) -> dict[str, str]:
    return {f"STREAMKIT_{setting.upper()}": str(value) for setting, value in given.items()}


@pytest.mark.parametrize(
    "why",
    [
        "a wrong password, SCRAM-SHA-512",
        "a wrong password, PLAIN",
        "another CA",
        "another host name",
        "no certificate of the client",
        "no TLS where it is spoken",
    ],
)
def test_a_worker_that_is_not_let_in_ends_as_misconfigured(secured: SecuredKafka, worker: Worker, why: str) -> None:
    way, message = DENIALS[why]
    ended = worker.run(way(secured))
    assert ended.code == 78, ended.errors
    assert re.search(rf"error: the broker at [\w.]+:\d+ .*{message}", ended.errors), ended.errors
    assert len(re.findall(message, ended.errors)) == 1, ended.errors
    assert "cannot reach" not in ended.errors
    assert "Traceback" not in ended.errors


def test_a_worker_waits_for_a_secured_broker_that_is_down(worker: Worker, secured: SecuredKafka) -> None:
    given: Given = {**encrypted("PLAIN")(secured), "brokers": f"localhost:{free_port()}"}
    with worker.start(given) as process:
        process.await_text(
            r"cannot reach the brokers at localhost:\d+: none of them accepts a connection; trying again"
        )
        process.signal(signal.SIGTERM)
        assert process.finish().code == 0


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_a_password_is_in_nothing_that_a_worker_prints_or_serves(
    secured: SecuredKafka, tmp_path: Path, mechanism: str
) -> None:
    port = free_port()
    given = in_the_open(mechanism)(secured)
    with Worker(tmp_path, secured).start(given, "--log-level", "debug", "--http", f"127.0.0.1:{port}") as process:
        served = ""
        deadline = time.monotonic() + 20
        while not re.search(r"streamkit_records_processed_total\{.*success.*\} 1\.0", served):
            assert time.monotonic() < deadline, served
            time.sleep(0.1)
            try:
                served = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
            except OSError:
                continue
        process.signal(signal.SIGTERM)
        ended = process.finish()
    assert ended.code == 0, ended.errors
    assert "debug" in ended.errors
    assert PASSWORD not in ended.output + ended.errors + served


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_a_wrong_password_is_not_printed_either(secured: SecuredKafka, worker: Worker, protocol: str) -> None:
    way = encrypted if protocol == "SASL_SSL" else in_the_open
    ended = worker.run({**way("PLAIN")(secured), "sasl_password": "moonraker-0815"}, "--log-level", "debug")
    assert ended.code == 78, ended.errors
    assert "moonraker-0815" not in ended.output + ended.errors


def test_a_password_comes_from_a_file(secured: SecuredKafka, worker: Worker, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    file.chmod(0o600)
    given = encrypted("SCRAM-SHA-512")(secured)
    del given["sasl_password"]
    ended = worker.run({**given, "sasl_password_file": str(file)}, "--stop-when-idle", "300ms")
    assert ended.code == 0, ended.errors
    assert PASSWORD not in ended.errors


@pytest.mark.parametrize("option", [("--sasl-password", "x-4711"), ("--ssl-key-password=x-4711",)])
def test_a_password_on_the_command_line_is_refused(tmp_path: Path, option: tuple[str, ...]) -> None:
    module(tmp_path, "localhost:1", "")
    ended = streamkit(tmp_path, "worker", "program", *option)
    assert ended.code == 78
    assert "secrets are not taken from the command line" in ended.errors
    assert "x-4711" not in ended.errors + ended.output


def test_a_password_that_changes_ends_a_running_worker_in_order(secured: SecuredKafka, tmp_path: Path) -> None:
    given: Given = {**IN_THE_OPEN, "sasl_username": LEAVER, "brokers": secured.rotated.address}
    with Worker(tmp_path, secured).start(given, "--log-level", "debug") as process:
        process.await_text(r"(?s)assigned|joined|Joined")
        secured.kafka.change_password(LEAVER, "SCRAM-SHA-256", "quite-another")
        ended = process.finish()
    assert ended.code == 78, ended.errors
    assert "refuses the login of user 'leaver' with SCRAM-SHA-256" in ended.errors
    assert "Traceback" not in ended.errors


def test_a_worker_needs_no_more_permissions_than_the_page_says(secured: SecuredKafka, tmp_path: Path) -> None:
    made = Worker(tmp_path, secured)
    given: Given = {**IN_THE_OPEN, "sasl_username": LIMITED, "brokers": secured.sasl_plaintext.address}
    options = ("--stop-when-idle", "300ms")
    refused = made.run(given, *options)
    assert refused.code != 0
    assert made.source in refused.errors
    secured.kafka.permit(LIMITED, "Read", "--topic", made.source, "--group", f"{made.name}.passes_on")
    secured.kafka.permit(LIMITED, "Write", "--topic", f"{made.source}.sink")
    ended = made.run(given, *options)
    assert ended.code == 0, ended.errors
    assert "records handled: passes_on 1 " in ended.errors


def test_a_cluster_that_keeps_the_settings_of_topics_to_itself_shows_their_partitions(secured: SecuredKafka) -> None:
    given: Given = {**IN_THE_OPEN, "brokers": secured.sasl_plaintext.address}
    topic = name("described")

    async def case() -> None:
        await create(KafkaTransport(Settings.load({}, {}, given)), topic)
        await asyncio.to_thread(secured.kafka.permit, LIMITED, "Describe", "--topic", topic)
        admin = KafkaTransport(Settings.load({}, {}, {**given, "sasl_username": LIMITED})).admin()
        await admin.start()
        try:
            assert await admin.topics([topic]) == {topic: TopicInfo(1, None, 1, {})}
            assert topic in await admin.all_topics()
        finally:
            await admin.stop()

    asyncio.run(case())


def test_the_lag_of_a_group_is_shown_beside_one_that_this_client_may_not_see(
    tmp_path: Path, secured: SecuredKafka
) -> None:
    given: Given = {**IN_THE_OPEN, "brokers": secured.sasl_plaintext.address}
    hidden_group, shown_group = name("hidden"), name("shown")
    secured.kafka.permit(LIMITED, "Describe", "--group", shown_group)

    async def coordinated() -> None:
        """A cluster in which nobody has joined a group has no coordinators before it is asked for one."""
        admin = KafkaTransport(Settings.load({}, {}, given)).admin()
        await admin.start()
        try:
            async with asyncio.timeout(30):
                while True:
                    try:
                        await admin.group(shown_group)
                        return
                    except TransportError:
                        await asyncio.sleep(0.2)
        finally:
            await admin.stop()

    asyncio.run(coordinated())
    groups = ["--group", hidden_group, "--group", shown_group]
    ended = streamkit(
        tmp_path, "lag", *groups, "--for", "0s", "--json", environment=variables({**given, "sasl_username": LIMITED})
    )
    assert ended.code == 1, ended.errors
    hidden, shown = json.loads(ended.output)["groups"]
    assert ended.code == 1
    assert (hidden["state"], hidden["lag_records"], hidden["partitions"]) == (None, None, [])
    assert "GroupAuthorizationFailedError" in hidden["error"]
    assert (shown["state"], shown["lag_records"], shown["error"]) == ("Dead", None, None)


# Clients in the middle of their work


def test_a_member_is_told_that_it_may_not_come_back_while_it_polls(secured: SecuredKafka) -> None:
    tokens = Tokens()

    async def case() -> None:
        transport = KafkaTransport(Settings.load({}, {}, tokens.given(secured)))
        topic = name("expiry")
        await create(transport, topic)
        consumer = transport.consumer(f"{topic}.group")
        await consumer.start()
        try:
            listener = Seeks(consumer)
            consumer.subscribe([topic], listener)
            async with asyncio.timeout(20):
                while not listener.assigned_to:
                    await consumer.poll([], max_records=1, timeout=0.1)
                tokens.good = False
                with pytest.raises(AccessDenied, match="refuses the token"):
                    while True:
                        await consumer.poll(listener.assigned_to, max_records=1, timeout=0.1)
                with pytest.raises(AccessDenied):
                    await consumer.committed([TopicPartition(topic, 0)])
        finally:
            await consumer.stop()

    asyncio.run(case())


def test_a_producer_fails_what_it_can_never_send(secured: SecuredKafka) -> None:
    tokens = Tokens()

    async def case() -> None:
        transport = KafkaTransport(Settings.load({}, {}, tokens.given(secured)))
        topic = name("expiry")
        await create(transport, topic)
        producer = transport.producer()
        await producer.start()

        async def send() -> None:
            batch = producer.batch(1_000)
            batch.append(key=None, value=b"x", timestamp=round(time.time() * 1000), headers=[])
            await (await producer.send(batch, topic, 0))

        try:
            await send()
            tokens.good = False
            async with asyncio.timeout(20):
                with pytest.raises(AccessDenied, match="refuses the token"):
                    while True:
                        await send()
                        await asyncio.sleep(0.2)
                with pytest.raises(AccessDenied):
                    await send()
        finally:
            await producer.stop()

    asyncio.run(case())


class Tokens:
    """Good ones, until they are not, to a listener where connections end after a moment."""

    def __init__(self) -> None:
        self.good = True

    def given(self, kafka: SecuredKafka) -> Given:
        return {**in_the_open("OAUTHBEARER")(kafka), "sasl_oauth_token": self, "brokers": kafka.expiring.address}

    def __call__(self) -> str:
        return unsigned_token() if self.good else "not.a.token"


# Tokens of the app, and logins


def token_of(source: Any, **more: SettingValue) -> str:
    given: Given = {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "OAUTHBEARER",
        "sasl_oauth_token": source,
        **more,
    }
    return asyncio.run(Access(Settings.load({}, {}, given)).token())


class Issued:
    token = "abc"


async def asynchronous() -> str:
    return "abc"


@pytest.mark.parametrize("source", [lambda: "abc", lambda: "abc\n", asynchronous, Issued, lambda: Issued()])
def test_a_token_is_what_the_function_returns(source: Any) -> None:
    assert token_of(source) == "abc"


@pytest.mark.parametrize("returned", [None, 3, b"abc", "", " "])
def test_what_is_no_token_is_refused_without_being_shown(returned: object) -> None:
    with pytest.raises(NoToken, match=f"it returned '{type(returned).__name__}', and not a token as text"):
        token_of(lambda: returned)


async def hangs() -> str:
    await asyncio.get_running_loop().create_future()
    return ""


def test_a_function_that_returns_no_token_in_time_is_given_up() -> None:
    with pytest.raises(NoToken, match="it took longer than"):
        token_of(hangs, request_timeout="150ms", fetch_max_wait="100ms")


def test_a_function_that_raises_denies_access_with_its_error(secured: SecuredKafka) -> None:
    def broken() -> str:
        raise LookupError("no credentials")

    given: Given = {**in_the_open("OAUTHBEARER")(secured), "sasl_oauth_token": broken}
    with pytest.raises(AccessDenied, match="sasl_oauth_token gave no token: LookupError: no credentials"):
        asyncio.run(look_up(Settings.load({}, {}, given)))


def test_a_token_is_asked_for_at_each_connection(secured: SecuredKafka) -> None:
    asked: list[str] = []

    def source() -> str:
        asked.append(unsigned_token())
        return asked[-1]

    asyncio.run(look_up(Settings.load({}, {}, {**in_the_open("OAUTHBEARER")(secured), "sasl_oauth_token": source})))
    assert len(asked) >= 2


def test_a_login_with_too_few_iterations_is_refused() -> None:
    login = ScramLogin(loop=None, sasl_plain_username="a", sasl_plain_password="b", sasl_mechanism="SCRAM-SHA-256")
    with pytest.raises(ValueError, match="asks for 4095 iterations"):
        login.create_salted_password(b"salt", 4_095)
    login.create_salted_password(b"salt", 4_096)
