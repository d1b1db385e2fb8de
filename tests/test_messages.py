"""What a user is told of each mistake, in full: what is wrong, where it comes from, and what to do.

Each row is a program and its arguments, given to `streamkit worker` as a user would. Here are the mistakes that are
found before anything runs: in declarations, in settings, and in the target.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamkit.cli.group import group

HEADER = """\
from __future__ import annotations
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from streamkit import App, Output, Record, Retry

if TYPE_CHECKING:
    from decimal import Decimal

@dataclass
class Order:
    id: str

@dataclass
class Invoice:
    id: str

app = App("shop")
orders = app.topic("orders", value=Order, partitions=1)
invoices = app.topic("invoices", value=Invoice, partitions=1)
"""
AUDIT = """
async def audit(order: Order) -> None: ...
"""
GOOD = f"@app.agent(orders){AUDIT}"
A_NAME = "write 1 to 249 letters (a to z, A to Z), digits, '.', '_' or '-'"
A_DURATION = 'not a duration: write "250ms", "5s", "10m", "2h" or "7d", or give a timedelta'

APPS_AND_TOPICS = [
    ('App("my shop")', f"app: 'my shop' is not a name; {A_NAME}"),
    ('App("shop", drain_timeout="soon")', f"drain_timeout='soon' (App(...)): {A_DURATION}"),
    ('App("shop", drain_timout="5s")', "drain_timout (App(...)): no such setting; did you mean drain_timeout?"),
    ('app.topic("orders/eu", value=Order)', f"topic: 'orders/eu' is not a name; {A_NAME}"),
    (
        'app.topic("__orders", value=Order)',
        "topic: '__orders' is reserved: '.', '..' and names that begin with '__' are Kafka's own; choose another",
    ),
    (
        'app.topic("new", value=Order, partitions=0)',
        "topic 'new', partitions: 0 is not a whole number of at least 1",
    ),
    (
        'app.topic("new", value=Order, partitions="6")',
        "topic 'new', partitions: '6' is not a whole number of at least 1; write it without quotes: 6",
    ),
    ('app.topic("new", value=Order, retention="1 week")', f"topic 'new', retention: '1 week': {A_DURATION}"),
    ('app.topic("new", value=Order, retention="0s")', "topic 'new', retention: '0s': must be more than 0"),
    (
        'app.topic("new", value=Order, key=float)',
        "topic 'new', key: keys may be str, bytes, int or UUID, and each may be null anyway; not float",
    ),
    ('app.topic("new", value=None)', "topic 'new', value: a topic of nothing but tombstones has no type of values"),
    (
        'app.topic("new", value=Order, codec=1)',
        "topic 'new', codec: 1 has no method encode; give an object with encode and decode",
    ),
    (
        'app.topic("new", value=Order, codec=object)',
        "topic 'new', codec: <class 'object'> is a class; give an object with encode and decode",
    ),
    (
        'app.topic("orders", value=Order, partitions=6)',
        "topic 'orders' is declared twice, with partitions=1 and with partitions=6; declare it once and import it",
    ),
]

AGENTS = [
    (
        f'@app.agent("orders"){AUDIT}',
        "App.agent, topic: 'orders' is not a topic. Declare one, `orders = app.topic(NAME, value=TYPE)`, "
        "and write `@app.agent(orders)`",
    ),
    (
        f'@app.agent(App("other").topic("orders", value=Order)){AUDIT}',
        "agent 'audit', topic: Topic('orders', value=Order, key=str) was declared by another app; "
        "declare it with this one's .topic()",
    ),
    (f'@app.agent(orders, name="audit orders"){AUDIT}', f"agent: 'audit orders' is not a name; {A_NAME}"),
    (f'@app.agent(orders, group="a/b"){AUDIT}', f"agent 'audit', group: 'a/b' is not a name; {A_NAME}"),
    (f"@app.agent(orders, concurrency=0){AUDIT}", "agent 'audit', concurrency: 0 is not a whole number of at least 1"),
    (
        f'@app.agent(orders, order_by="value"){AUDIT}',
        "agent 'audit', order_by: 'value' is none of 'key', 'partition', 'none' or a function",
    ),
    (
        f"async def by(record): ...\n@app.agent(orders, order_by=by){AUDIT}",
        "agent 'audit', order_by: the function must not be async; it is called before the handler",
    ),
    (f"@app.agent(orders, timeout=5){AUDIT}", f"agent 'audit', timeout: 5: {A_DURATION}"),
    (
        f'@app.agent(orders, start_from="now"){AUDIT}',
        "agent 'audit', start_from: 'now' is none of 'earliest', 'latest'",
    ),
    (
        f'@app.agent(orders, on_gap="skip"){AUDIT}',
        "agent 'audit', on_gap: 'skip' is none of 'stop', 'earliest', 'latest'",
    ),
    (
        f'{GOOD}@app.agent(orders, name="audit"){AUDIT}',
        "agent 'audit' is declared twice in app 'shop'; give one another name=",
    ),
    (
        f'{GOOD}@app.agent(orders, name="other", group="shop.audit"){AUDIT}',
        "agent 'other', group: 'shop.audit' is the group of agent 'audit' already; "
        "each agent needs its own: leave group= out, or give another name",
    ),
]

RETRIES = [
    (
        f'@app.agent(orders, retry="5s"){AUDIT}',
        "agent 'audit', retry: '5s' is not a Retry; write retry=Retry.exponential(\"5s\")",
    ),
    (f"@app.agent(orders, retry=Retry.exponential(5)){AUDIT}", f"Retry.exponential, first: 5: {A_DURATION}"),
    (
        f'@app.agent(orders, retry=Retry.exponential("5s", tiers=0)){AUDIT}',
        "Retry.exponential, tiers: 0 is not a whole number of at least 1",
    ),
    (
        f'@app.agent(orders, retry=Retry.exponential("5s", never=KeyError)){AUDIT}',
        "Retry.exponential, never: KeyError is a class alone; write (KeyError,)",
    ),
    (
        f"@app.agent(orders, retry=Retry.delays()){AUDIT}",
        'Retry.delays: it has no tier; write Retry.delays("5s", "1m", "10m"), or Retry.in_place(3)',
    ),
    (
        f"@app.agent(orders, dead_letter=3){AUDIT}",
        "agent 'audit', dead_letter: 3 is none of True, False, a topic or the name of one",
    ),
    (f'@app.agent(orders, dead_letter="a/b"){AUDIT}', f"agent 'audit', dead_letter: 'a/b' is not a name; {A_NAME}"),
    (
        f'@app.agent(orders, dead_letter="__failed"){AUDIT}',
        "agent 'audit', dead_letter: '__failed' is reserved: '.', '..' and names that begin with '__' are Kafka's own; "
        "choose another",
    ),
    (
        f"@app.agent(orders, dead_letter=orders){AUDIT}",
        "agent 'audit', dead_letter: the agent reads 'orders' itself, and would get its dead letters again",
    ),
    (
        f'@app.agent(orders, dead_letter=App("other").topic("failed", value=bytes)){AUDIT}',
        "agent 'audit', dead_letter: Topic('failed', value=bytes, key=str) was declared by another app; "
        "declare it with this one's .topic()",
    ),
    (
        f'@app.agent(orders, dead_letter="invoices"){AUDIT}',
        "agent 'audit', dead_letter: a dead letter topic cannot be called 'invoices', that is a declared topic; "
        "if it is to be both, declare it above the agent and give the agent the topic: dead_letter=TOPIC",
    ),
    (
        f'@app.agent(orders, dead_letter=True){AUDIT}app.topic("orders.dlq", value=bytes)',
        "topic 'orders.dlq': a declared topic cannot be called 'orders.dlq', that is a dead letter topic; "
        "if it is to be both, declare it above the agent and give the agent the topic: dead_letter=TOPIC",
    ),
    (
        f'@app.agent(orders, retry=Retry.delays("1s")){AUDIT}app.topic("orders.shop.audit.retry-1", value=bytes)',
        "topic 'orders.shop.audit.retry-1': a declared topic cannot be called 'orders.shop.audit.retry-1', "
        "that is retry tier 1 of agent 'audit'; choose another name",
    ),
    (
        f'app.topic("orders_dlq", value=bytes)\n@app.agent(orders, dead_letter=True){AUDIT}',
        "agent 'audit', dead_letter: 'orders.dlq', a dead letter topic, and 'orders_dlq', a declared topic, differ "
        "only in '.' and '_', and Kafka takes them for one; choose another name",
    ),
    (
        f'@app.agent(orders, group="g" * 240, retry=Retry.delays("1s")){AUDIT}',
        f"agent 'audit', retry: retry tier 1 of agent 'audit' would be called 'orders.{'g' * 240}.retry-1', which has "
        "255 characters, and Kafka allows 249; give the agent a shorter name= or group=",
    ),
    (
        f'@app.agent(app.topic("t" * 246, value=Order), dead_letter=True){AUDIT}',
        f"agent 'audit', dead_letter: a dead letter topic would be called '{'t' * 246}.dlq', which has 250 characters, "
        "and Kafka allows 249; give dead_letter= a shorter name",
    ),
]

HANDLERS = [
    (
        "@app.agent(orders)\ndef audit(order: Order) -> None: ...",
        "agent 'audit': its handler is not async. Declare it with `async def`, and run what blocks with "
        "`await asyncio.to_thread(...)`",
    ),
    (
        "@app.agent(orders)\ndef audit(order: Order):\n    yield",
        "agent 'audit': its handler is a plain generator. Declare it with `async def`, and run what blocks with "
        "`await asyncio.to_thread(...)`",
    ),
    (
        "@app.agent(orders)\nasync def audit() -> None: ...",
        "agent 'audit': its handler has no parameter to take the value or the record: async def name(order: Order)",
    ),
    (
        "@app.agent(orders)\nasync def audit(key: str, order: Order) -> None: ...",
        "agent 'audit': its handler is called with one argument, and parameter 'order' would be missing. "
        "Take `Record[K, V]` to see key, headers and the rest",
    ),
    (
        "@app.agent(orders)\nasync def audit(order: Invoice) -> None: ...",
        "agent 'audit', parameter 'order': it asks for Invoice, but topic 'orders' holds Order",
    ),
    (
        "@app.agent(orders)\nasync def audit(record: Record[bytes, Order]) -> None: ...",
        "agent 'audit', parameter 'record': it asks for Record[bytes, Order], but topic 'orders' has keys of type str",
    ),
    (
        "@app.agent(orders)\nasync def audit(order: Decimal) -> None: ...",
        "agent 'audit', parameter 'order': its type 'Decimal' cannot be evaluated (NameError: name 'Decimal' is not "
        "defined). Import it outside `if TYPE_CHECKING:`, above the agent",
    ),
    (
        f'@app.agent(app.topic("new", value=Order | None)){AUDIT}',
        "agent 'audit', parameter 'order': it asks for Order, but topic 'new' holds Order | None. "
        "The value may be None (a tombstone), so the handler must take None as well",
    ),
    (
        "@app.agent(orders)\nasync def bill(order: Order) -> Invoice: ...",
        "agent 'bill', result: it returns Invoice, but the agent has no sink=; give it one, or return None",
    ),
    (
        "@app.agent(orders)\nasync def bill(order: Order) -> AsyncIterator[Invoice]:\n    yield Invoice('1')",
        "agent 'bill', result: it yields values, but the agent has no sink=; give it one",
    ),
    (
        "@app.agent(orders, sink=invoices)\nasync def bill(order: Order) -> Order: ...",
        "agent 'bill', result: it returns Order, but the sink 'invoices' takes Invoice",
    ),
    (
        "@app.agent(orders, sink=invoices)\nasync def bill(order: Order) -> Output[Order]: ...",
        "agent 'bill', result: it returns Output[Order], but the sink 'invoices' takes Invoice",
    ),
    (
        '@app.agent(orders, sink=app.topic("new", value=Invoice, key=int))\n'
        "async def bill(order: Order) -> Invoice: ...",
        "agent 'bill', result: the keys of 'orders' are str and those of the sink 'new' are int, so the record's key "
        "cannot be passed on: return Output(value, key=...)",
    ),
]

SETTINGS = [
    (["--brokers", "host:port"], {}, "--brokers='host:port' (command line): write HOST:PORT"),
    (["--http", "9464"], {}, "--http='9464' (command line): write HOST:PORT or \"off\""),
    (["--stop-when-idle", "3"], {}, f"--stop-when-idle='3' (command line): {A_DURATION}"),
    (["--log-format", "xml"], {}, "--log-format='xml' (command line): must be one of text, json"),
    ([], {"DRAIN_TIMEOUT": "30"}, f"STREAMKIT_DRAIN_TIMEOUT='30' (environment): {A_DURATION}"),
    ([], {"SESSION_TIMEOUT": "0s"}, "STREAMKIT_SESSION_TIMEOUT='0s' (environment): must be more than 0"),
    (
        [],
        {"MAX_BYTES": "1GB"},
        'STREAMKIT_MAX_BYTES=\'1GB\' (environment): not a size: write "65536", "64KiB", "256MiB" or "1GiB"',
    ),
    ([], {"MAX_RECORDS": "0"}, "STREAMKIT_MAX_RECORDS='0' (environment): must be at least 1"),
    ([], {"MAX_RECORDS": "many"}, "STREAMKIT_MAX_RECORDS='many' (environment): not a whole number"),
    (
        [],
        {"COMPRESSION": "brotli"},
        "STREAMKIT_COMPRESSION='brotli' (environment): must be one of none, gzip, snappy, lz4, zstd",
    ),
    ([], {"BROKER": "a:1"}, "STREAMKIT_BROKER (environment): no such setting; did you mean STREAMKIT_BROKERS?"),
    ([], {"XYZZY": "1"}, "STREAMKIT_XYZZY (environment): no such setting; docs/settings.md lists them"),
    (
        [],
        {"REQUEST_TIMEOUT": "1m"},
        "request_timeout=1m (environment) must be less than session_timeout=45s (default)",
    ),
    (
        [],
        {"SESSION_TIMEOUT": "6s", "REQUEST_TIMEOUT": "5s"},
        "heartbeat_interval=3s (default) must be at most a third of session_timeout=6s (environment)",
    ),
    ([], {"WINDOW": "100"}, "max_partition_unsettled=10_000 (default) must be at most window=100 (environment)"),
]

TARGETS = [
    (GOOD, ["shpo"], "there is no module 'shpo' in {here}; did you mean 'shop'?"),
    (GOOD, ["shop.py:app"], "'shop.py:app' is a file; TARGET is a module: shop:app"),
    (GOOD, ["shop:"], "'shop:' is not a target; write module:app, or module when it holds one App"),
    (GOOD, ["shop:ap"], "module 'shop' has no 'ap'; did you mean 'app'?"),
    (GOOD, ["shop:orders"], "shop:orders is no App (Topic); there is 'app'"),
    (GOOD + "del app", ["shop"], "module 'shop' holds no App; write one, as in app = App('shop')"),
    (GOOD + "other = App('b')", ["shop"], "module 'shop' holds 2 Apps; say which: shop:app or shop:other"),
    ("", ["shop"], "app 'shop' declares no agents and no timers; write @app.agent(TOPIC) above an async function"),
    (GOOD, ["shop", "--agent", "audits"], "app 'shop' has no agent 'audits'; did you mean 'audit'?"),
]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("shop", None)


def worker(code: str, *arguments: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """The exit code, and what is written to standard error."""
    Path("shop.py").write_text(f"{HEADER}{code}\n")
    result = CliRunner().invoke(group, ["worker", *arguments], env=environment)
    return result.exit_code, result.stderr


@pytest.mark.parametrize(("code", "message"), APPS_AND_TOPICS + AGENTS + RETRIES + HANDLERS)
def test_a_wrong_declaration_is_told_with_its_line(code: str, message: str, tmp_path: Path) -> None:
    exit_code, errors = worker(code, "shop")
    said, _, where = errors.partition("\n")
    assert (exit_code, said) == (78, f"error: {message}")
    file, line = where.split("\n")[:2]
    assert file.startswith(f'  File "{tmp_path}/shop.py", line ')
    assert line.strip() in code.splitlines()


@pytest.mark.parametrize(("options", "variables", "message"), SETTINGS)
def test_a_wrong_setting_is_told_with_its_value_and_where_it_came_from(
    options: list[str], variables: dict[str, str], message: str
) -> None:
    environment = {f"STREAMKIT_{name}": value for name, value in variables.items()}
    assert worker(GOOD, "shop", *options, environment=environment) == (78, f"error: {message}\n")


@pytest.mark.parametrize(("code", "arguments", "message"), TARGETS)
def test_a_wrong_target_is_told_with_what_there_is_instead(code: str, arguments: list[str], message: str) -> None:
    assert worker(code, *arguments) == (2, f"error: {message.format(here=Path.cwd())}\n")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("import nothere", "ModuleNotFoundError: No module named 'nothere'"),
        ("raise ValueError('no')", "ValueError: no"),
        ("raise SystemExit(0)", "SystemExit: 0"),
    ],
)
def test_a_module_that_cannot_be_imported_shows_its_own_lines_only(line: str, error: str, tmp_path: Path) -> None:
    number = HEADER.count("\n") + 1
    assert worker(line, "shop") == (
        2,
        "Traceback (most recent call last):\n"
        f'  File "{tmp_path}/shop.py", line {number}, in <module>\n'
        f"    {line}\n"
        f"{error}\n"
        "error: module 'shop' cannot be imported\n",
    )
