"""The TLS side of the settings, as Python's ssl module takes it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from streamkit.errors import ConfigurationError
from streamkit.secrets import refuse_readable_by_all
from streamkit.security import encrypts
from streamkit.settings import Settings


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """None without TLS. Raises ConfigurationError, naming the file, if one cannot be used.

    TLS 1.2 or later, certificates verified, host names checked unless the settings say otherwise. Without `ssl_cafile`
    the system's CAs count.
    """
    if not encrypts(settings):
        return None
    with _using(settings, "ssl_cafile"):
        context = ssl.create_default_context(cafile=settings.ssl_cafile)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = settings.ssl_check_hostname
    _add_own_certificate(context, settings)
    return context


def _add_own_certificate(context: ssl.SSLContext, settings: Settings) -> None:
    certificate, key = settings.ssl_certfile, settings.ssl_keyfile
    if certificate is None or key is None:
        return
    with _using(settings, "ssl_certfile"):
        open(certificate, "rb").close()  # ssl does not say which of the two it cannot read
    with _using(settings, "ssl_keyfile"):
        refuse_readable_by_all(key)
        open(key, "rb").close()

    def password() -> str:
        # Without this OpenSSL would ask for it at the terminal.
        if settings.ssl_key_password is None:
            raise ConfigurationError(f"{settings.shown('ssl_keyfile')} is encrypted: set ssl_key_password_file")
        return settings.ssl_key_password.reveal()

    fit = "both must be PEM, the key that of the certificate, and ssl_key_password that of the key, if it has one"
    with _using(settings, "ssl_certfile", "ssl_keyfile", hint=fit):
        context.load_cert_chain(certificate, key, password)


@contextmanager
def _using(settings: Settings, *names: str, hint: str = "it must be PEM") -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        shown = " and ".join(map(settings.shown, names))
        raise ConfigurationError(f"{shown} cannot be used: {_reason(error, hint)}") from error


def _reason(error: Exception, hint: str) -> str:
    if isinstance(error, ssl.SSLError):
        what = f"OpenSSL says {error.reason.replace('_', ' ').lower()!r}" if error.reason else "OpenSSL cannot read it"
        return f"{what}; {hint}"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
