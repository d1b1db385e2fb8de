"""`streamkit send`: what arrives, and what is refused."""

import os
import pty
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka import ConsumerRecord

from streamkit.cli.embedded import EmbeddedBroker
from streamkit.core.partitioner import Partitioner
from tests.cli.support import COMMAND, ROOT, Finished, await_records, create_topic, records_of, running, runs, streamkit
from tests.kafka.server import ExistingKafka, GenuineKafka

SHOP = """
from dataclasses import dataclass
from uuid import UUID
from streamkit import App

@dataclass
class Order:
    id: str
    amount: float

class Doubled:
    def encode(self, value): return value.encode() * 2
    def decode(self, data): return data[: len(data) // 2].decode()

class Picky:
    def encode(self, value): return b"?"
    def decode(self, data): raise ValueError("unreadable")

class Opaque: ...

app = App("shop"{settings})
orders = app.topic("{name}", value=Order, partitions=4)
nullable = app.topic("{name}.nullable", value=Order | None)
texts = app.topic("{name}.texts", value=str)
anything = app.topic("{name}.anything", value=dict, key=int)
doubled = app.topic("{name}.doubled", value=str, codec=Doubled())
picky = app.topic("{name}.picky", value=str, codec=Picky())
opaque = app.topic("{name}.opaque", value=Opaque, codec=Picky())

class Topics:
    inner = orders
"""
GOOD = b'{"id": "%d", "amount": %d}\n'


class Shop:
    """A module `shop`, and its topics on a broker."""

    def __init__(self, directory: Path, brokers: str) -> None:
        self.directory = directory
        self.brokers = brokers
        self.name = f"send-{uuid4().hex[:10]}"
        (directory / "shop.py").write_text(SHOP.replace("{name}", self.name).replace("{settings}", ""))

    def topic(self, suffix: str = "", partitions: int = 1) -> str:
        create_topic(self.brokers, self.name + suffix, partitions)
        return self.name + suffix

    def send(self, *arguments: str, given: bytes | None = None) -> Finished:
        return streamkit(self.directory, "send", *arguments, "--brokers", self.brokers, given=given)

    def sent(self, suffix: str = "") -> list[ConsumerRecord[bytes, bytes]]:
        return records_of(self.brokers, self.name + suffix)

    def values(self, suffix: str = "") -> list[bytes | None]:
        return [record.value for record in self.sent(suffix)]

    def lines(self, data: bytes) -> str:
        (self.directory / "orders.jsonl").write_bytes(data)
        return "orders.jsonl"


@pytest.fixture
def shop(tmp_path: Path, embedded: EmbeddedBroker) -> Shop:
    return Shop(tmp_path, embedded.brokers)


@pytest.fixture
def no_broker(tmp_path: Path) -> Shop:
    return Shop(tmp_path, "127.0.0.1:1")


# What arrives


def test_a_value_goes_to_a_plain_topic_as_it_is(shop: Shop) -> None:
    topic = shop.topic()
    ended = shop.send(topic, "käse {not json", "--key", "k", "--header", "a=1", "-H", "b=x=y")
    assert (ended.code, ended.output) == (0, "")
    assert re.fullmatch(rf"sent 1 record to {topic} in \d+\.\d s\n", ended.errors)
    (record,) = shop.sent()
    assert (record.key, record.value) == (b"k", "käse {not json".encode())
    assert record.headers == (("a", b"1"), ("b", b"x=y"))
    assert abs(record.timestamp / 1000 - time.time()) < 60


@pytest.mark.parametrize("path", ["orders", "Topics.inner", "{name}"])
def test_a_declared_topic_is_found_by_variable_or_by_name_and_its_types_write_the_value(shop: Shop, path: str) -> None:
    shop.topic()
    assert shop.send(f"shop:{path.format(name=shop.name)}", '{"amount": 1, "id": "7", "surplus": 0}').code == 0
    assert shop.values() == [b'{"id":"7","amount":1.0}']


def test_a_codec_of_ones_own_writes_what_was_given_as_text(shop: Shop) -> None:
    shop.topic(".doubled")
    assert shop.send("shop:doubled", "ab").code == 0
    assert shop.values(".doubled") == [b"abab"]


def test_a_key_goes_where_every_other_client_sends_it(shop: Shop) -> None:
    shop.topic(partitions=4)
    keys = [f"customer-{number}" for number in range(20)]
    lines = b"".join(b'{"id": "%s", "amount": 1}\n' % key.encode() for key in keys)
    assert shop.send("shop:orders", "--key-field", "id", given=lines).code == 0
    expected = {key.encode(): Partitioner(4).choose(key.encode()) for key in keys}
    assert {record.key: record.partition for record in shop.sent()} == expected


def test_a_partition_may_be_chosen(shop: Shop) -> None:
    shop.topic(partitions=4)
    assert shop.send("shop:orders", '{"id": "7", "amount": 1}', "--partition", "3").code == 0
    assert [record.partition for record in shop.sent()] == [3]


def test_a_tombstone_is_sent_where_the_type_allows_it(shop: Shop) -> None:
    shop.topic(".nullable")
    assert shop.send("shop:nullable", "--null", "--key", "7").code == 0
    assert shop.send("shop:nullable", "null", "--key", "8").code == 0
    assert [(record.key, record.value) for record in shop.sent(".nullable")] == [(b"7", None), (b"8", None)]
    refused = shop.send("shop:orders", "--null", "--key", "7")
    assert (refused.code, "the value is null (a tombstone)" in refused.errors) == (2, True)


@pytest.mark.parametrize("how", ["a file", "standard input", "a dash"])
def test_lines_are_sent_in_order_and_blank_ones_passed_over(shop: Shop, how: str) -> None:
    topic, data = shop.topic(), b'first\r\n\n  second \n{"third": 3}'
    ended = {
        "a file": lambda: shop.send(topic, "--file", shop.lines(data)),
        "standard input": lambda: shop.send(topic, given=data),
        "a dash": lambda: shop.send(topic, "--file", "-", given=data),
    }[how]()
    assert (ended.code, f"sent 3 records to {topic}" in ended.errors) == (0, True)
    assert shop.values() == [b"first", b"  second ", b'{"third": 3}']


def test_an_envelope_holds_the_whole_record(shop: Shop) -> None:
    shop.topic(".anything", partitions=2)
    now = time.time_ns() // 1_000_000 - 5_000
    lines = (
        b"""\
{"key": "007", "value": {"n": 12345678901234567}, "headers": {"a": "1", "none": null}, "partition": 1, "timestamp": %d}
{"value": {}, "partition": 0}
"""
        % now
    )
    assert shop.send("shop:anything", "--envelope", "--header", "all=yes", given=lines).code == 0
    second, first = shop.sent(".anything")
    assert (first.key, first.value, first.partition, first.timestamp) == (b"7", b'{"n":12345678901234567}', 1, now)
    assert first.headers == (("a", b"1"), ("none", None), ("all", b"yes"))
    assert (second.key, second.value, second.headers) == (None, b"{}", (("all", b"yes"),))


def test_a_string_in_an_envelope_is_the_text_where_the_topic_holds_text(shop: Shop) -> None:
    lines = b'{"value": "a\\nb"}\n{"value": "c"}\n'
    for suffix, topic in ((".texts", "shop:texts"), (".plain", f"{shop.name}.plain")):
        shop.topic(suffix)
        assert shop.send(topic, "--envelope", given=lines).code == 0
        assert shop.values(suffix) == [b"a\nb", b"c"]
    refused = shop.send("shop:texts", "--envelope", given=b'{"value": 1}\n')
    assert (refused.code, "write the value as a JSON string" in refused.errors) == (1, True)


def test_the_brokers_are_those_of_the_app(tmp_path: Path, embedded: EmbeddedBroker) -> None:
    shop = Shop(tmp_path, embedded.brokers)
    code = SHOP.replace("{name}", shop.name).replace("{settings}", f", brokers={embedded.brokers!r}")
    (tmp_path / "declared.py").write_text(code)
    (tmp_path / "user.py").write_text("from declared import orders")
    shop.topic()
    for module in ("declared", "user"):
        assert streamkit(tmp_path, "send", f"{module}:orders", '{"id": "7", "amount": 1}').code == 0
    assert len(shop.sent()) == 2


def test_a_rate_is_kept_to(shop: Shop) -> None:
    topic, started = shop.topic(), time.monotonic()
    assert shop.send(topic, "--rate", "10", given=b"x\n" * 11).code == 0
    assert time.monotonic() - started >= 1.0
    stamps = [record.timestamp for record in shop.sent()]
    assert 900 <= stamps[-1] - stamps[0] <= 10_000


def test_a_large_file_is_sent_whole_with_little_memory(shop: Shop) -> None:
    topic = shop.topic(".anything", partitions=2)
    path = shop.lines(b"".join(b'{"id": "%d", "amount": 1, "note": "%s"}\n' % (n, b"x" * 400) for n in range(200_000)))
    arguments = ("shop:anything", "--key-field", "id", "--file", path, "--brokers", shop.brokers)
    with running(shop.directory, "send", *arguments) as sending:
        peak = 0
        while runs(sending.pid):
            peak = max(peak, peak_memory(sending.pid))
            time.sleep(0.01)
        ended = sending.finish()
    assert (ended.code, f"sent 200,000 records to {topic}" in ended.errors) == (0, True)
    assert peak < 160 * 1024  # KiB; the file has 87 MB, and an interpreter with everything imported 60


def peak_memory(pid: int) -> int:
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(match[1]) if match else 0


# What is refused


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("shop:orders", "{"), "Input data was truncated"),
        (("shop:orders", '{"id": "7"}'), "missing required field `amount`"),
        (("shop:orders", '{"id": 7, "amount": 1}'), "Expected `str`, got `int` - at `$.id`"),
        (("shop:anything", "{}", "--key", "x"), "the key is not int: the key is not a decimal number"),
        (("shop:picky", "x"), "unreadable"),
        (("shop:opaque", "x"), "cannot be written as text"),
        (("shop:orders", "null"), "Expected `object`, got `null`"),
        (("shop:oders", "{}"), "module 'shop' has no topic 'oders'; did you mean 'orders'?"),
        (("shop:app", "{}"), "shop:app is no Topic (App)"),
        (("shop.py:orders", "{}"), "is a file"),
        (("shop:", "{}"), "'shop:' is no topic; write NAME, or module:topic"),
        (("nowhere:orders", "{}"), "there is no module 'nowhere'"),
        (("no/topic", "x"), "'no/topic' is not a name"),
        (("t", "--null"), "give --key, too"),
        (("t", "x", "--file", "f"), "only one of"),
        (("t", "x", "--key", "k", "--key-field", "f"), "not both"),
        (("t", "--envelope", "--key", "k", "--file", "f"), "stand in the lines"),
        (("t", "x", "--header", "nothing"), "write NAME=VALUE"),
        (("t", "--file", "nowhere.jsonl"), "--file nowhere.jsonl: No such file"),
        (("t", "--file", "."), "--file .: it is a directory"),
        (("t", "x", "--rate", "0"), "--rate"),
    ],
)
def test_what_cannot_be_sent_exits_2_before_any_broker_is_asked(
    no_broker: Shop, arguments: tuple[str, ...], reason: str
) -> None:
    ended = no_broker.send(*arguments)
    assert (ended.code, ended.output) == (2, "")
    assert reason in ended.errors
    assert "Traceback" not in ended.errors


def test_a_partition_that_is_not_there_exits_2(shop: Shop) -> None:
    shop.topic(partitions=4)
    ended = shop.send("shop:orders", '{"id": "7", "amount": 1}', "--partition", "4")
    assert (ended.code, "there is no partition 4: the topic has 4" in ended.errors) == (2, True)


def test_nothing_of_a_line_after_a_bad_one_is_sent(shop: Shop) -> None:
    topic = shop.topic()
    path = shop.lines(GOOD % (1, 1) + GOOD % (2, 2) + b'{"id": "3"}\n' + GOOD % (4, 4))
    ended = shop.send("shop:orders", "--file", path)
    assert ended.code == 1
    assert re.search(
        r"orders.jsonl:3: a value of topic .* is Order: Object missing required field `amount`", ended.errors
    )
    assert f"sent 2 records to {topic}" in ended.errors
    assert len(shop.sent()) == 2


def test_bad_lines_are_left_out_if_wanted_and_the_exit_code_tells(shop: Shop) -> None:
    topic = shop.topic()
    lines = GOOD % (1, 1) + b"nonsense\n" + GOOD % (3, 3) + b'{"id": "%s", "amount": 4}\n' % (b"x" * 2_000_000)
    ended = shop.send("shop:orders", "--skip-bad", given=lines)
    assert ended.code == 1
    assert re.search(r"standard input:2: a value of topic .* is Order: JSON is malformed", ended.errors)
    assert re.search(r"standard input:4: an output of 2,000,\d+ bytes; .* takes 1,048,576 at the most", ended.errors)
    assert re.search(rf"sent 2 records to {topic} in .* s; 2 bad lines left out", ended.errors)
    assert len(shop.sent()) == 2


@pytest.mark.parametrize(
    ("options", "line", "reason"),
    [
        (("--key-field", "no"), b'{"id": "1", "amount": 1}', "it has no field 'no' for the key"),
        (("--key-field", "amount"), b'{"id": "1", "amount": 1.5}', "the field 'amount' is no key"),
        (("--envelope",), b'{"id": "1", "amount": 1}', "not an envelope"),
        (("--envelope",), b'{"value": null}', "the value is null (a tombstone)"),
        (("--envelope",), b'{"value": {"id": "1"}}', "missing required field `amount`"),
    ],
)
def test_a_line_that_is_wrong_is_named(no_broker: Shop, options: tuple[str, ...], line: bytes, reason: str) -> None:
    ended = no_broker.send("shop:orders", *options, "--dry-run", given=b"\n" + line)
    assert ended.code == 1
    assert re.search(rf"standard input:2: .*{re.escape(reason)}", ended.errors)
    assert "checked 0 records" in ended.errors


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(no_broker: Shop) -> None:
    path = no_broker.lines(b"x\n" + b"y" * (17 * 1024 * 1024))
    ended = no_broker.send("t", "--file", path, "--dry-run")
    assert (ended.code, "orders.jsonl:2: the line is longer than 16,777,216 bytes" in ended.errors) == (1, True)


def test_a_dry_run_asks_no_broker(no_broker: Shop) -> None:
    ended = no_broker.send("shop:orders", "--dry-run", given=GOOD % (1, 1))
    assert (ended.code, f"checked 1 record for {no_broker.name}" in ended.errors) == (0, True)


def test_a_missing_topic_exits_78_with_the_command_that_creates_it_and_is_not_created(shop: Shop) -> None:
    for _ in range(2):
        ended = shop.send("shop:orders", '{"id": "7", "amount": 1}')
        assert ended.code == 78
        assert f"topic {shop.name!r} does not exist at {shop.brokers}" in ended.errors
        assert f"--create --topic {shop.name} --partitions 4 --replication-factor 1" in ended.errors
        assert "or declare it with partitions= in an app, and start that with --create-topics" in ended.errors


@pytest.mark.parametrize("silent", [False, True], ids=["nothing listens", "nothing answers"])
def test_brokers_that_cannot_be_reached_are_named_within_10_s(tmp_path: Path, silent: bool) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if silent:
            listening.listen()
        brokers, started = f"127.0.0.1:{listening.getsockname()[1]}", time.monotonic()
        ended = streamkit(tmp_path, "send", "t", "x", "--brokers", brokers)
    assert (ended.code, f"cannot reach the brokers at {brokers}" in ended.errors) == (1, True)
    assert time.monotonic() - started < 15


# While it runs


def test_lines_of_a_pipe_are_sent_as_they_come_and_a_signal_says_how_many(shop: Shop) -> None:
    topic = shop.topic()
    reads, writes = os.pipe()
    with running(shop.directory, "send", topic, "--brokers", shop.brokers, stdin=reads) as sending:
        os.write(writes, b"one\ntwo\nunfinis")
        await_records(shop.brokers, topic, 2)
        sending.signal(signal.SIGINT)
        ended = sending.finish()
    os.close(reads)
    os.close(writes)
    assert (ended.code, ended.errors.count("Traceback")) == (130, 0)
    assert f"sent 2 records to {topic}" in ended.errors
    assert shop.values() == [b"one", b"two"]


def test_brokers_that_vanish_end_it_with_what_was_sent(tmp_path: Path) -> None:
    reads, writes = os.pipe()
    with EmbeddedBroker() as broker:
        shop = Shop(tmp_path, broker.brokers)
        arguments = ("send", shop.topic(), "--brokers", broker.brokers)
        variables = {"STREAMKIT_SEND_TIMEOUT": "2s"}
        with running(shop.directory, *arguments, stdin=reads, environment=variables) as sending:
            os.write(writes, b"one\n")
            await_records(broker.brokers, shop.name, 1)
            broker.stop()
            os.write(writes, b"two\n")
            os.close(writes)
            ended = sending.finish()
    os.close(reads)
    assert (ended.code, ended.errors.count("Traceback")) == (1, 0)
    assert re.search(r"sent 1 record to .*; 1 more may or may not have arrived", ended.errors)
    assert "nothing was acknowledged for 2 s (send_timeout)" in ended.errors


def test_lines_arrive_on_kafka(tmp_path: Path, genuine: GenuineKafka | ExistingKafka) -> None:
    shop = Shop(tmp_path, genuine.brokers)
    missing = shop.send("shop:orders", '{"id": "7", "amount": 1}')
    assert (missing.code, f"--create --topic {shop.name} " in missing.errors) == (78, True)
    create_topic(shop.brokers, shop.name, 2)
    lines = b"".join(GOOD % (number, number) for number in range(1000))
    assert shop.send("shop:orders", "--partition", "1", given=lines).code == 0
    assert [record.key for record in shop.sent()] == [None] * 1000
    assert shop.values()[-1] == b'{"id":"999","amount":999.0}'


def test_a_terminal_shows_progress_and_is_asked_for_values_only_on_purpose(shop: Shop) -> None:
    topic = shop.topic()
    path = shop.lines(b"x\n" * 20)
    code, shown = in_a_terminal(shop, "send", topic, "--rate", "20", "--file", path)
    assert (code, f"sent 20 records to {topic}" in shown) == (0, True)
    assert re.search(r"sent [1-9]\d* records, [\d,]+ a second", re.sub(r"\x1b\[[0-9;]*m", "", shown))
    code, shown = in_a_terminal(shop, "send", topic)
    assert (code, "nothing to send: give VALUE" in shown) == (2, True)


def in_a_terminal(shop: Shop, *arguments: str) -> tuple[int, str]:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    command = [*COMMAND, *arguments, "--brokers", shop.brokers]
    with subprocess.Popen(
        command, cwd=shop.directory, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:  # a terminal ends so when nobody has it open any more
            pass
        finally:
            os.close(ours)
    return process.returncode, shown.decode()
