from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from streamkit.errors import ConfigurationError
from streamkit.observe import observer as observer_module
from streamkit.observe.observer import Observer
from streamkit.observe.slots import WorkerSlots
from streamkit.transport.base import LogRange
from tests.observe.support import ORDERS, Brokers, get, observing, running_worker, scrape, series

LAG = series("streamkit_consumer_lag_records", group="billing.charge", topic="orders", partition="0")


def observer_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "streamkit-observer"]


def sockets_open() -> int:
    links = (os.path.join("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd"))
    return sum(os.path.exists(link) and os.readlink(link).startswith("socket:") for link in links)


def test_lag_is_scraped_with_the_time_of_its_sample() -> None:
    slots, agent = running_worker()
    agent.assigned = frozenset(ORDERS[:1])
    brokers = Brokers(committed={ORDERS[0]: 40}, ranges={ORDERS[0]: LogRange(0, 100)})
    before = time.time()
    with observing(slots, brokers) as observer:
        observer.sample_now()
        samples = scrape(observer)
    assert samples[LAG] == 60
    sampled_at = samples[series("streamkit_lag_sample_timestamp_seconds", group="billing.charge")]
    assert before <= sampled_at <= time.time()


def test_everything_goes_on_while_the_workers_loop_is_blocked() -> None:
    slots, agent = running_worker()
    brokers = Brokers(committed={ORDERS[0]: 40}, ranges={ORDERS[0]: LogRange(0, 100)})

    async def worker() -> None:
        with observing(slots, brokers) as observer, ThreadPoolExecutor(1) as client:
            agent.assigned = frozenset(ORDERS[:1])

            def look() -> int:
                while LAG not in scrape(observer):
                    time.sleep(0.01)
                return get(f"http://{observer.address}/livez").status

            # Waits without awaiting: until both are answered, nothing of this loop runs.
            assert client.submit(look).result(timeout=10) == 200

    asyncio.run(worker())


def test_stop_leaves_no_thread_no_socket_and_no_client_behind() -> None:
    slots, agent = running_worker()
    agent.assigned = frozenset(ORDERS[:1])
    brokers = Brokers(ranges={ORDERS[0]: LogRange(0, 100)})
    before = sockets_open()
    for _ in range(3):
        with observing(slots, brokers) as observer:
            address = observer.address
            assert address is not None
            observer.sample_now()
            assert (len(observer_threads()), brokers.open) == (1, 1)
            idle = socket.create_connection(address)
        with idle:
            assert idle.recv(1) == b""
        assert (observer_threads(), brokers.open) == ([], 0)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
    assert sockets_open() == before


def test_stopping_twice_or_without_a_start_is_nothing() -> None:
    observer = Observer(WorkerSlots("1"), Brokers().admin, http="127.0.0.1:0", http_is_default=False)
    observer.stop()
    observer.start()
    observer.stop()
    observer.stop()
    assert observer.address is None


def test_an_observer_that_is_off_does_nothing() -> None:
    slots, agent = running_worker()
    agent.assigned = frozenset(ORDERS)
    brokers = Brokers()
    with Observer(slots, brokers.admin, http="off", http_is_default=False) as observer:
        assert observer.address is None
        assert observer_threads() == []
        with pytest.raises(RuntimeError, match="does not run"):
            observer.sample_now()
    assert brokers.calls == []


def test_a_busy_port_is_raised_to_the_caller_and_starts_nothing() -> None:
    with observing(WorkerSlots("1")) as first:
        second = Observer(WorkerSlots("1"), Brokers().admin, http=str(first.address), http_is_default=False)
        with pytest.raises(ConfigurationError, match="in use"):
            second.start()
        assert len(observer_threads()) == 1
        second.stop()


def test_two_workers_with_the_default_address_are_both_served(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO, "streamkit.observe"),
        observing(WorkerSlots("first")) as first,
        Observer(WorkerSlots("second"), Brokers().admin, http=str(first.address), http_is_default=True) as second,
    ):
        assert series("streamkit_worker_info", version="first") in scrape(first)
        assert series("streamkit_worker_info", version="second") in scrape(second)
        assert f"metrics and health are on http://{second.address}" in caplog.messages


def test_brokers_that_are_down_stop_nothing() -> None:
    slots, agent = running_worker()
    agent.assigned = frozenset(ORDERS[:1])
    brokers = Brokers(down=True, ranges={ORDERS[0]: LogRange(0, 100)})
    with observing(slots, brokers) as observer:
        observer.sample_now()
        samples = scrape(observer)
        assert LAG not in samples
        assert series("streamkit_lag_sample_timestamp_seconds", group="billing.charge") not in samples
        assert get(f"http://{observer.address}/livez").status == 200
        brokers.down = False
        observer.sample_now()
        assert scrape(observer)[LAG] == 100


def test_a_client_that_never_closes_does_not_hold_up_the_stop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(observer_module, "STOP_TIMEOUT", 0.05)
    slots, agent = running_worker()
    agent.assigned = frozenset(ORDERS[:1])
    brokers = Brokers(ranges={ORDERS[0]: LogRange(0, 100)})
    release = threading.Event()
    admin = brokers.admin()

    async def hang() -> None:
        release.wait()

    monkeypatch.setattr(admin, "stop", hang)
    observer = Observer(slots, lambda: admin, http="127.0.0.1:0", http_is_default=False)
    observer.start()
    observer.sample_now()
    (thread,) = observer_threads()
    try:
        observer.stop()
    finally:
        release.set()
        thread.join(5)
    assert any("did not stop within 0.05 s" in message for message in caplog.messages)


def test_importing_the_observer_loads_neither_server_nor_prometheus() -> None:
    program = (
        "import streamkit.observe.observer, sys; "
        "sys.exit(str(sorted({'aiohttp', 'prometheus_client', 'aiokafka'} & sys.modules.keys())))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == "[]\n"
