"""Why brokers that accept connections hang up: they speak TLS and the client does not, or want a login, or the reverse.

Their side of that is no error of the protocol, only the end of the connection, just as if they were about to stop. So
this asks in other ways; only a clear answer counts.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import Any

from aiokafka import errors as kafka
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.admin import SaslHandShakeRequest

from streamkit.security import logs_in
from streamkit.settings import Settings
from streamkit.transport.base import AccessDenied
from streamkit.transport.kafka.access import Access

LOOK_TIMEOUT = 3.0  # seconds for one broker
ALERT_TIMEOUT = 0.5  # seconds within which a broker that does not like the client's certificate says so
CLOSE_TIMEOUT = 0.5  # seconds
PASSING = (OSError, kafka.KafkaError, TimeoutError)


async def diagnose(settings: Settings, access: Access, deadline: float) -> AccessDenied | None:
    """What is certainly wrong with the security settings, or None; until the deadline, in loop time."""
    for broker in settings.brokers:
        if asyncio.get_running_loop().time() >= deadline:  # a broker that has not answered at all
            return None
        host, _, port = broker.rpartition(":")
        with suppress(*PASSING):
            async with asyncio.timeout_at(deadline), asyncio.timeout(LOOK_TIMEOUT):
                if why := await _look(settings, access, host.strip("[]"), int(port)):
                    return AccessDenied(f"the broker at {broker} {why}")
    return None


async def _look(settings: Settings, access: Access, host: str, port: int) -> str | None:
    context = access.context
    plain = await _answers(host, port, None)
    if context is None and not plain:
        return _instead(settings, "speaks TLS", "SSL") if await _speaks_tls(host, port) else None
    if context is not None:
        if plain:
            return _instead(settings, "speaks no TLS", "PLAINTEXT")
        if why := access.why(await _end_of_silence(host, port, context) or OSError()):
            return why
    if not logs_in(settings) and await _wants_login(host, port, context):
        return f"wants a login; set security_protocol=SASL_{settings.security_protocol} and sasl_mechanism"
    return None


def _instead(settings: Settings, what: str, protocol: str) -> str:
    wanted = f"SASL_{protocol}" if logs_in(settings) else protocol
    return f"{what} at this port; set security_protocol={wanted}, or use the port for {settings.security_protocol}"


async def _answers(host: str, port: int, context: ssl.SSLContext | None) -> bool:
    connection = _connection(host, port, context)
    try:
        await connection.connect()  # which asks for the versions of the protocol
    except PASSING:
        return False
    await _close(connection)
    return True


async def _speaks_tls(host: str, port: int) -> bool:
    anyone = ssl.create_default_context()
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE  # nothing is sent to it
    error = await _end_of_silence(host, port, anyone)
    return error is None or (isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""))


async def _end_of_silence(host: str, port: int, context: ssl.SSLContext) -> Exception | None:
    """How a TLS connection ends on which nothing is sent; None if it is left open for a while.

    Under TLS 1.3 a refused certificate is told only when the handshake is over, and what the client has sent by then
    makes the operating system forget what the broker said.
    """
    try:
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
    except PASSING as error:
        return error
    try:
        async with asyncio.timeout(ALERT_TIMEOUT):
            await reader.read(1)
    except TimeoutError:
        return None
    except OSError as error:
        return error
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)  # it is closed in the next step of the loop
    return None


async def _wants_login(host: str, port: int, context: ssl.SSLContext | None) -> bool:
    connection = _connection(host, port, context)
    await connection.connect()
    try:
        answer: Any = await connection.send(SaslHandShakeRequest("none"))
    finally:
        await _close(connection)
    return bool(answer.error_code == kafka.UnsupportedSaslMechanismError.errno)


async def _close(connection: AIOKafkaConnection) -> None:
    closed: Any = connection.close()
    await asyncio.wait([closed], timeout=CLOSE_TIMEOUT)  # under TLS the broker has to agree


def _connection(host: str, port: int, context: ssl.SSLContext | None) -> AIOKafkaConnection:
    return AIOKafkaConnection(
        host,
        port,
        client_id="streamkit",
        request_timeout_ms=round(LOOK_TIMEOUT * 1000),
        ssl_context=context,
        security_protocol="PLAINTEXT" if context is None else "SSL",
    )
