"""Where the HTTP server listens."""

from __future__ import annotations

import errno
import logging
import socket
from typing import NamedTuple

from streamkit.errors import ConfigurationError

logger = logging.getLogger("streamkit.observe")


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self}"


ADVICE = "Choose another with --http HOST:PORT or STREAMKIT_HTTP; --http off serves none"


def bind(http: str, *, is_default: bool, advice: str = ADVICE) -> socket.socket:
    """A listening socket for `http`, a valid `HOST:PORT` (an IPv6 host in brackets; port 0: any free one).

    Several workers on one machine all have the default address, so when it is taken any free port will do. An address
    that somebody chose is one that somebody scrapes: a busy one is a ConfigurationError, as is one that cannot be had
    at all.
    """
    address = _split(http)
    try:
        return _listen(address)
    except OSError as error:
        if not (is_default and error.errno == errno.EADDRINUSE):
            reason = str(error.strerror).partition(" (while")[0]  # socket.create_server adds the address
            raise ConfigurationError(f"cannot serve metrics and health on {address}: {reason}. {advice}.") from error
    listening = _listen(Address(address.host, 0))
    logger.warning("%s is in use: metrics and health are on %s instead", address, bound(listening).url)
    return listening


def bound(listening: socket.socket) -> Address:
    """What the socket is bound to."""
    host, port = listening.getsockname()[:2]
    return Address(host, port)


def _split(http: str) -> Address:
    host, _, port = http.rpartition(":")
    return Address(host.strip("[]"), int(port))


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server(address, family=family)
