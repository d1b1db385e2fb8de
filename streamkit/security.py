"""Which settings of security go together, and where a password may travel in the open."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

from streamkit.errors import ConfigurationError

if TYPE_CHECKING:
    from streamkit.settings import Settings

# What it returns is a token, or has one as its attribute `token`.
TokenSource = Callable[[], Any | Awaitable[Any]]

OAUTHBEARER = "OAUTHBEARER"
LOGIN = ("sasl_mechanism", "sasl_username", "sasl_password", "sasl_oauth_token")
TLS = ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_key_password")


def logs_in(settings: Settings) -> bool:
    return settings.security_protocol.startswith("SASL_")


def encrypts(settings: Settings) -> bool:
    return settings.security_protocol.endswith("SSL")


def is_loopback(host: str) -> bool:
    """Whether what is sent there stays on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_security(settings: Settings) -> None:
    """Raise ConfigurationError if the settings of security contradict each other, or would show a password."""
    for problem in _problems(settings):
        raise ConfigurationError(problem)


def _problems(settings: Settings) -> Iterator[str]:
    yield from _of_login(settings)
    yield from _of_tls(settings)
    if logs_in(settings) and not encrypts(settings) and not settings.allow_plaintext_password:
        for broker in settings.brokers:
            if "://" not in broker and not is_loopback(broker.rpartition(":")[0]):
                yield (
                    f"{settings.shown('security_protocol')} would send the login to {broker} unencrypted, for "
                    "everyone on the way to read. Set security_protocol=SASL_SSL; if you must, "
                    "allow_plaintext_password=true"
                )


def _of_login(settings: Settings) -> Iterator[str]:
    if not logs_in(settings):
        yield from _idle(settings, LOGIN, "SASL_SSL")
    elif settings.sasl_mechanism is None:
        yield f"{settings.shown('security_protocol')} needs sasl_mechanism"
    elif settings.sasl_mechanism == OAUTHBEARER:
        if settings.sasl_oauth_token is None:
            yield f"{settings.shown('sasl_mechanism')} needs a function that returns a token: App(sasl_oauth_token=...)"
        yield from _unused(settings, "sasl_username", "sasl_password")
    else:
        yield from _missing(settings, "sasl_mechanism", "sasl_username", "sasl_password")
        yield from _unused(settings, "sasl_oauth_token")


def _of_tls(settings: Settings) -> Iterator[str]:
    if not encrypts(settings):
        yield from _idle(settings, TLS, "SASL_SSL" if logs_in(settings) else "SSL")
        return
    if settings.ssl_certfile is not None:
        yield from _missing(settings, "ssl_certfile", "ssl_keyfile")
    if settings.ssl_keyfile is not None:
        yield from _missing(settings, "ssl_keyfile", "ssl_certfile")
    if settings.ssl_key_password is not None:
        yield from _missing(settings, "ssl_key_password", "ssl_keyfile")


def _idle(settings: Settings, names: tuple[str, ...], protocol: str) -> Iterator[str]:
    for name in _given(settings, *names):
        yield (
            f"{settings.shown(name)} has no effect with {settings.shown('security_protocol')}: "
            f"set security_protocol={protocol}, or leave it out"
        )


def _unused(settings: Settings, *names: str) -> Iterator[str]:
    for name in _given(settings, *names):
        yield f"{settings.shown(name)} has no effect with {settings.shown('sasl_mechanism')}; leave it out"


def _missing(settings: Settings, given: str, *names: str) -> Iterator[str]:
    for name in names:
        if getattr(settings, name) is None:
            yield f"{settings.shown(given)} needs {name}"


def _given(settings: Settings, *names: str) -> Iterator[str]:
    return (name for name in names if getattr(settings, name) is not None)
