from __future__ import annotations

import logging
import socket
from collections.abc import Iterator

import pytest

from streamkit.errors import ConfigurationError
from streamkit.observe.address import Address, bind, bound


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield f"127.0.0.1:{other.getsockname()[1]}"


def test_a_busy_default_gives_way_to_a_free_port_and_says_so(taken: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "streamkit.observe"), bind(taken, is_default=True) as listening:
        address = bound(listening)
    assert address.host == "127.0.0.1"
    assert str(address) != taken
    assert caplog.messages == [f"{taken} is in use: metrics and health are on {address.url} instead"]


def test_a_busy_address_that_was_chosen_is_an_error(taken: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        bind(taken, is_default=False)
    assert str(caught.value).startswith(f"cannot serve metrics and health on {taken}: Address already in use. ")
    assert caught.value.exit_code == 78


@pytest.mark.parametrize("is_default", [True, False])
def test_an_address_of_another_machine_is_an_error(is_default: bool) -> None:
    with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1:9464.*--http"):
        bind("192.0.2.1:9464", is_default=is_default)


def test_every_interface_is_served_when_that_was_chosen() -> None:
    with bind("0.0.0.0:0", is_default=False) as listening:
        assert bound(listening).host == "0.0.0.0"


def test_an_ipv6_address_is_written_in_brackets() -> None:
    assert Address("::1", 9464).url == "http://[::1]:9464"
    if socket.has_dualstack_ipv6():
        with bind("[::1]:0", is_default=False) as listening:
            assert bound(listening).host == "::1"
