"""A genuine Kafka with a listener for every way to log in, and the certificates of both sides, made anew each time."""

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tests.kafka.server import GenuineKafka, Listener

USER = "ann"
LEAVER = "leaver"  # whose password is changed
LIMITED = "limited"  # who may do nothing that is not permitted
PASSWORD = "sesame-4711-open"  # so odd that it can be looked for in everything that is printed
KEY_PASSWORD = "drawbridge-0815"
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
OTHER_MACHINE = "203.0.113.7"  # RFC 5737: nobody's
SESSION_MS = 1_500  # after which the listeners ROTATED and EXPIRING end a connection


class Certificates:
    """PEM files in a directory: a CA that brokers and clients trust, what it has signed, and a CA that nobody knows."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        known, unknown = trustme.CA(), trustme.CA()
        self.ca = self._put("ca.pem", known.cert_pem.bytes())
        self.other_ca = self._put("other-ca.pem", unknown.cert_pem.bytes())
        self.broker = self._put("broker.pem", _pkcs8(known.issue_cert("localhost")))
        self.client, self.client_key = self._issue("client", known)
        self.stranger, self.stranger_key = self._issue("stranger", unknown)
        self.locked_key = self._put("locked-key.pem", _encrypted(Path(self.client_key).read_bytes()))

    def _issue(self, name: str, ca: trustme.CA) -> tuple[str, str]:
        leaf = ca.issue_cert(f"{name}.example", common_name=name)
        chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        return self._put(f"{name}.pem", chain), self._put(f"{name}-key.pem", leaf.private_key_pem.bytes())

    def _put(self, name: str, data: bytes) -> str:
        path = self._directory / name
        path.write_bytes(data)
        path.chmod(0o600)
        return str(path)


def _pkcs8(leaf: trustme.LeafCert) -> bytes:
    """Key and certificates in one file, as Kafka reads them."""
    key = load_pem_private_key(leaf.private_key_pem.bytes(), None)
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return text + b"".join(blob.bytes() for blob in leaf.cert_chain_pems)


def _encrypted(key: bytes) -> bytes:
    loaded = load_pem_private_key(key, None)
    return loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(KEY_PASSWORD.encode()))


@dataclass
class SecuredKafka:
    """The broker, its certificates, and its listeners."""

    certificates: Certificates
    tls: Listener = field(init=False)
    mutual_tls: Listener = field(init=False)
    sasl_plaintext: Listener = field(init=False)
    sasl_tls: Listener = field(init=False)
    scram_only: Listener = field(init=False)
    rotated: Listener = field(init=False)
    expiring: Listener = field(init=False)
    elsewhere: Listener = field(init=False)
    kafka: GenuineKafka = field(init=False)

    def __post_init__(self) -> None:
        files = {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self.certificates.broker,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.certificates.ca,
        }
        scram = _login("SCRAM-SHA-256")
        self.tls = Listener("TLS", "SSL", files)
        self.mutual_tls = Listener("MUTUAL", "SSL", files | {"ssl.client.auth": "required"})
        self.sasl_plaintext = Listener("OPEN", "SASL_PLAINTEXT", _login(*MECHANISMS))
        self.sasl_tls = Listener("CLOSED", "SASL_SSL", files | _login(*MECHANISMS))
        self.scram_only = Listener("SCRAM", "SASL_PLAINTEXT", scram)
        self.rotated = Listener("ROTATED", "SASL_PLAINTEXT", scram | {"connections.max.reauth.ms": str(SESSION_MS)})
        expires = _login("OAUTHBEARER") | {"connections.max.reauth.ms": str(SESSION_MS)}
        self.expiring = Listener("EXPIRING", "SASL_PLAINTEXT", expires)
        self.elsewhere = Listener("ELSEWHERE", "SASL_PLAINTEXT", scram, advertised=OTHER_MACHINE)
        listeners = [
            self.tls,
            self.mutual_tls,
            self.sasl_plaintext,
            self.sasl_tls,
            self.scram_only,
            self.rotated,
            self.expiring,
            self.elsewhere,
        ]
        users = [
            f"{mechanism}=[name={user},password={PASSWORD}]"
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
            for user in (USER, LEAVER, LIMITED)
        ]
        authorizer = {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:ANONYMOUS;User:{USER};User:{LEAVER};User:client",
            "ssl.principal.mapping.rules": "RULE:^.*CN=([^,]+).*$/$1/,DEFAULT",
            "allow.everyone.if.no.acl.found": "false",
        }
        self.kafka = GenuineKafka(authorizer, listeners=listeners, scram=users)


def _login(*mechanisms: str) -> dict[str, str]:
    modules = {
        "PLAIN": f'plain.PlainLoginModule required user_{USER}="{PASSWORD}";',
        "SCRAM-SHA-256": "scram.ScramLoginModule required;",
        "SCRAM-SHA-512": "scram.ScramLoginModule required;",
        # Without a validator of its own, Kafka believes unsigned tokens.
        "OAUTHBEARER": 'oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";',
    }
    options = {
        f"{mechanism.lower()}.sasl.jaas.config": f"org.apache.kafka.common.security.{modules[mechanism]}"
        for mechanism in mechanisms
    }
    return options | {"sasl.enabled.mechanisms": ",".join(mechanisms)}


@contextmanager
def secured_kafka(directory: Path) -> Iterator[SecuredKafka]:
    """Raises KafkaUnavailable."""
    made = SecuredKafka(Certificates(directory))
    with made.kafka:
        yield made


def unsigned_token(subject: str = USER) -> str:
    """A JSON Web Signature without a signature, as Kafka believes it unless told otherwise."""
    now = round(time.time())
    parts = {"alg": "none"}, {"sub": subject, "iat": now - 60, "exp": now + 3_600}
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts) + "."
