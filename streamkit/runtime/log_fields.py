"""What log lines about a record carry besides their text. docs/logs.md lists it."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from streamkit.core.traces import trace_of
from streamkit.record import ConsumedRecord
from streamkit.runtime.delivery import Delivery, Owner, current
from streamkit.runtime.returned import attempt_of

MOST_BYTES = 200  # of a key or a value


def about(owner: Owner, event_name: str | None = None) -> dict[str, Any]:
    """The fields of a record, or of a batch those of its first one and how many it holds: `extra=` of a log call."""
    emitter = owner.partition.emitter
    fields: dict[str, Any] = {"event_name": event_name} if event_name else {}
    fields |= {"agent": emitter.agent, "group": emitter.group}
    if type(owner) is Delivery:
        return fields | of_record(owner.record, payloads=emitter.log_payloads)
    if not owner.deliveries:  # of a loop, outside of its records
        return fields | owner.partition.partition._asdict()
    first = owner.deliveries[0].record
    where = {"topic": first.topic, "partition": first.partition, "offset": first.offset}
    return fields | where | {"records": len(owner.deliveries)}


def about_current() -> dict[str, Any]:
    """Those of what is being handled here; nothing outside of handlers and of the tasks that they have started."""
    owner = current.get()
    return {} if owner is None else about(owner)


def of_record(record: ConsumedRecord, *, payloads: bool) -> dict[str, Any]:
    """Where it comes from, a tier's record included, and the beginning of what is in it if `payloads` says so."""
    fields: dict[str, Any] = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
    if record.key is not None:
        fields["key_hash"] = key_hash(record.key)
    fields["attempt"] = attempt_of(record)
    if trace := trace_of(record.headers):
        fields["trace_id"] = trace.id
    if payloads:
        fields |= {"key": _excerpt(record.key), "value": _excerpt(record.value)}
    return fields


def key_hash(key: bytes) -> str:
    """The first 8 hex digits of its SHA-256: `printf %s KEY | sha256sum` finds the lines of a key that is known.

    It tells keys apart; it is no protection for keys that can be guessed one after the other.
    """
    return sha256(key).hexdigest()[:8]


def _excerpt(data: bytes | None) -> str | None:
    if data is None:
        return None
    more = f"... ({len(data)} bytes)" if len(data) > MOST_BYTES else ""
    return data[:MOST_BYTES].decode(errors="replace") + more
