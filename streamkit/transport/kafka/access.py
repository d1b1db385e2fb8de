"""How clients get into a cluster, and what is said when they are not let in.

R35: aiokafka logs why a broker did not let it in, and goes on to the next; to its caller all brokers are then just not
to be reached. So every connection is made through `create_conn` here, which looks at the cause.
"""

from __future__ import annotations

import asyncio
import inspect
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiokafka.client
import aiokafka.conn
from aiokafka import errors as kafka
from aiokafka.abc import AbstractTokenProvider

from streamkit.security import encrypts, is_loopback, logs_in
from streamkit.settings import Settings
from streamkit.transport.base import AccessDenied
from streamkit.transport.kafka.failures import translated
from streamkit.transport.kafka.tls import tls_context

FEWEST_ITERATIONS = 4_096  # RFC 7677; with fewer, who overhears a login can guess the password

_aiokafkas_create_conn = aiokafka.client.create_conn


class Denied(kafka.KafkaError):  # type: ignore[misc]
    """What aiokafka is told of an AccessDenied: it may take it for a broker that cannot be reached."""


class NoToken(kafka.KafkaError):  # type: ignore[misc]
    """The app's function has returned no token."""


class Access(AbstractTokenProvider):  # type: ignore[misc]
    """What one client gets in with. After it was denied once, it tries nothing more: accounts get locked by that.

    aiokafka hands the provider of tokens on from each client to each of its connections, whatever the mechanism: that
    is how a connection knows whose it is.
    """

    def __init__(self, settings: Settings, context: ssl.SSLContext | None = None) -> None:
        """`context` is made from the settings unless given. Raises ConfigurationError for files it cannot use."""
        self._settings = settings
        self.context = context or tls_context(settings)
        self._waits: set[asyncio.Timeout] = set()
        self.denial: AccessDenied | None = None
        self.on_denial: Callable[[AccessDenied], None] = lambda denial: None

    def options(self) -> dict[str, Any]:
        """Arguments of every client of aiokafka."""
        settings = self._settings
        password = settings.sasl_password
        return {
            "security_protocol": settings.security_protocol,
            "ssl_context": self.context,
            "sasl_mechanism": settings.sasl_mechanism or "PLAIN",
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": None if password is None else password.reveal(),
            "sasl_oauth_token_provider": self,
        }

    @asynccontextmanager
    async def unless_denied(self) -> AsyncIterator[None]:
        """Raise AccessDenied as soon as access is denied: aiokafka would go on trying for ever."""
        try:
            if self.denial is not None:
                raise self.denial
            async with asyncio.timeout(None) as wait:
                self._waits.add(wait)
                try:
                    yield
                finally:
                    self._waits.discard(wait)
        except Exception as error:
            if self.denial is None or error is self.denial:
                raise
            raise self.denial from self.denial.__cause__

    @asynccontextmanager
    async def calling(self) -> AsyncIterator[None]:
        """Ask something within `request_timeout`. Raises AccessDenied, and else what `transport.base` names."""
        async with self.unless_denied():
            with translated():
                async with asyncio.timeout(self._settings.request_timeout):
                    yield

    def deny(self, denial: AccessDenied) -> None:
        if self.denial is None:
            self.denial = denial
            for wait in self._waits:
                wait.reschedule(0)
            self.on_denial(denial)

    async def token(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """From the app's function, anew for each connection."""
        source = self._settings.sasl_oauth_token
        assert source is not None, "checked by the settings"
        limit = self._settings.request_timeout
        try:
            async with asyncio.timeout(limit):
                given = source()
                if inspect.isawaitable(given):
                    given = await given
        except TimeoutError as error:
            raise NoToken(str(error) or f"it took longer than {limit:g} s (request_timeout)") from error
        except Exception as error:
            raise NoToken(f"{type(error).__qualname__}: {error}") from error
        token = getattr(given, "token", given)
        if not isinstance(token, str) or not token.strip():
            raise NoToken(f"it returned {type(given).__qualname__!r}, and not a token as text")
        return token.strip()

    def refuse(self, host: str) -> str | None:
        """Why no login may be sent there. Brokers may name others than those that the settings name."""
        settings = self._settings
        in_the_open = logs_in(settings) and not encrypts(settings) and not settings.allow_plaintext_password
        if not in_the_open or is_loopback(host):
            return None
        return (
            "would get the login unencrypted; it is one that the brokers named (advertised.listeners). Set "
            "security_protocol=SASL_SSL; if you must, allow_plaintext_password=true"
        )

    def why(self, error: BaseException) -> str | None:
        """In words that go on from "the broker at HOST:PORT"; None if it may pass by itself."""
        for each in _chain(error):
            if isinstance(each, ssl.SSLError) and (text := self._why_no_tls(each)):
                return text
            if isinstance(each, NoToken):
                return f"got no login: the function sasl_oauth_token gave no token: {_text(each)}"
            if isinstance(each, _NO_LOGIN):
                return self._why_no_login(each)
        # aiokafka's logins assert, index and decode what the broker sends.
        if logs_in(self._settings) and isinstance(error, AssertionError | LookupError | ValueError):
            return f"does not prove that it knows the password, or breaks the rules of the login: {error!r}"
        return None

    def _why_no_login(self, error: BaseException) -> str:
        settings = self._settings
        if isinstance(error, kafka.UnsupportedSaslMechanismError):
            return f"does not offer {settings.sasl_mechanism}; check sasl_mechanism"
        if isinstance(error, kafka.IllegalSaslStateError):
            return f"takes no login at this port; check brokers and {settings.shown('security_protocol')}"
        if settings.sasl_oauth_token is not None:
            return f"refuses the token of the function sasl_oauth_token (OAUTHBEARER): {_text(error)}"
        return (
            f"refuses the login of user {settings.sasl_username!r} with {settings.sasl_mechanism}: {_text(error)}. "
            "Check sasl_username, sasl_password and sasl_mechanism"
        )

    def _why_no_tls(self, error: ssl.SSLError) -> str | None:
        settings = self._settings
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"is not to be trusted: {error.verify_message.rstrip('.')}. {self._advice(error)}"
        reason = (error.reason or "").upper()
        if reason in _NO_TLS:
            return f"speaks no TLS at this port; check brokers and {settings.shown('security_protocol')}"
        if "ALERT" not in reason or reason in _MAY_PASS:
            return None
        said = reason.lower().replace("_", " ")
        if not any(word in reason for word in _ABOUT_CERTIFICATES):
            return f"ends the TLS handshake ({said}); check what TLS versions and ciphers it allows"
        if settings.ssl_certfile is None:
            return f"wants a certificate of this client ({said}); set ssl_certfile and ssl_keyfile"
        return f"does not take the certificate of this client ({said}); check {settings.shown('ssl_certfile')}"

    def _advice(self, error: ssl.SSLCertVerificationError) -> str:
        if error.verify_code in _OTHER_HOST:
            return "Use a name in brokers, and in the brokers' advertised.listeners, that its certificate is for"
        if error.verify_code == EXPIRED:
            return "Its certificate needs to be renewed; or the clock of this machine is wrong"
        file = self._settings.ssl_cafile
        where = "this machine's CAs; set ssl_cafile" if file is None else f"ssl_cafile={file}"
        return f"The CA that signed its certificate is not in {where}"


EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_OTHER_HOST = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"})
_MAY_PASS = frozenset({"TLSV1_ALERT_INTERNAL_ERROR", "TLSV1_ALERT_USER_CANCELLED"})
_ABOUT_CERTIFICATES = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "HANDSHAKE_FAILURE")
_NO_LOGIN = (
    kafka.AuthenticationFailedError,
    kafka.SaslAuthenticationFailed,
    kafka.UnsupportedSaslMechanismError,
    kafka.IllegalSaslStateError,
)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _text(error: BaseException) -> str:
    """Without the name and number that aiokafka puts before it."""
    text = str(error.args[0]) if error.args else type(error).__name__
    return text.rstrip(".")


async def create_conn(host: str, port: int, **options: Any) -> Any:
    """In the place of aiokafka's: denies the client access, as a whole, when a broker does."""
    access = options.get("sasl_oauth_token_provider")
    if not isinstance(access, Access):
        return await _aiokafkas_create_conn(host, port, **options)
    if access.denial is not None:
        raise Denied(str(access.denial))
    cause: Exception | None = None
    why = access.refuse(host)
    if why is None:
        try:
            return await _aiokafkas_create_conn(host, port, **options)
        except Exception as error:
            cause, why = error, access.why(error)
            if why is None:
                raise
    denial = AccessDenied(f"the broker at {host}:{port} {why}")
    denial.__cause__ = cause
    access.deny(denial)
    raise Denied(str(denial)) from cause


class ScramLogin(aiokafka.conn.ScramAuthenticator):  # type: ignore[misc]
    """R27: aiokafka takes whatever number of iterations the broker names."""

    def create_salted_password(self, salt: bytes, iterations: int) -> None:
        if iterations < FEWEST_ITERATIONS:
            raise ValueError(f"the broker asks for {iterations} iterations, fewer than {FEWEST_ITERATIONS}")
        super().create_salted_password(salt, iterations)


class OAuthLogin(aiokafka.conn.OAuthAuthenticator):  # type: ignore[misc]
    """R34: aiokafka does not look at what the broker says to a token. Refused, it goes on as if it were logged in, and
    takes the refusal of its next request for the answer to it."""

    async def step(self, payload: bytes | None) -> Any:
        if payload:  # RFC 7628, 3.2.2: an error; nothing, if the token was good
            raise kafka.AuthenticationFailedError(payload.decode(errors="replace"))
        return await super().step(payload)


aiokafka.client.create_conn = create_conn
aiokafka.conn.OAuthAuthenticator = OAuthLogin
aiokafka.conn.ScramAuthenticator = ScramLogin
