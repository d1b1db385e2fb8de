"""A broker that says what a test tells it to, in Kafka's own protocol: for answers that no genuine one gives on demand.

It speaks to the real aiokafka over a socket. One node, one topic "t", one member in every group; nothing is checked.
"""

from __future__ import annotations

import asyncio
import io
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from aiokafka.coordinator.protocol import ConsumerProtocol
from aiokafka.protocol.api import Request
from aiokafka.record.default_records import DefaultRecordBatchBuilder

import streamkit.transport.kafka  # noqa: F401 (its own requests are answered too)
from streamkit.settings import Settings

TOPIC = "t"
NODE = 1
PRODUCE, FETCH, LIST_OFFSETS, METADATA = 0, 1, 2, 3
OFFSET_COMMIT, OFFSET_FETCH, FIND_COORDINATOR = 8, 9, 10
JOIN_GROUP, HEARTBEAT, LEAVE_GROUP, SYNC_GROUP = 11, 12, 13, 14
API_VERSIONS, CREATE_TOPICS, DELETE_RECORDS, INIT_PRODUCER_ID = 18, 19, 21, 22
SASL_HANDSHAKE, SASL_AUTHENTICATE = 17, 36

# The fields of the answer in the order of its schema; with None the connection hangs from there on.
Answer = Callable[[Any], "Sequence[Any] | None"]


def silence(_request: Any) -> None:
    """An answer that never comes, nor does any later one on the same connection."""


def record_batch(values: Sequence[bytes], base_offset: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for index, value in enumerate(values):
        builder.append(index, timestamp=0, key=None, value=value, headers=[])
    # The base offset is not under the checksum.
    return struct.pack(">q", base_offset) + bytes(builder.build())[8:]


class ScriptedBroker:
    """`answers` may be replaced at any time, by API key; `requests` holds everything that was asked."""

    def __init__(self, partitions: int = 1) -> None:
        self.partitions = partitions
        self.requests: list[Any] = []
        self.log: dict[int, list[bytes]] = {number: [] for number in range(partitions)}  # record batches
        self.committed: dict[int, tuple[int, str]] = {}
        self.generation = 1
        self.answers: dict[int, Answer] = {
            API_VERSIONS: self._api_versions,
            METADATA: self._metadata,
            FIND_COORDINATOR: lambda _: (0, 0, None, NODE, self.host, self.port),
            JOIN_GROUP: self._join,
            SYNC_GROUP: lambda request: (0, 0, request.group_assignment[0][1]),
            HEARTBEAT: lambda _: (0, 0),
            LEAVE_GROUP: lambda _: (0, 0),
            OFFSET_FETCH: self._offset_fetch,
            OFFSET_COMMIT: lambda request: (0, [(t, [(p[0], 0) for p in ps]) for t, ps in request.topics]),
            LIST_OFFSETS: lambda request: (0, [(t, [(p, 0, -1, 0) for p, _ in ps]) for t, ps in request.topics]),
            FETCH: self._fetch,
            INIT_PRODUCER_ID: lambda _: (0, 0, 7, 0),
            PRODUCE: lambda request: ([(t, [(p, 0, 0, -1, 0) for p, _ in ps]) for t, ps in request.topics], 0),
            CREATE_TOPICS: lambda request: (0, [(row[0], 0, None) for row in request.create_topic_requests]),
            DELETE_RECORDS: lambda request: self.deleted(request, {}),
            SASL_HANDSHAKE: lambda _: (0, ["PLAIN"]),
            SASL_AUTHENTICATE: lambda _: (0, None, b"", 0),
        }
        self.versions: dict[int, tuple[int, int]] = {}
        self._changed = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.host, self.port = self._server.sockets[0].getsockname()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections and accept no more."""
        self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    def settings(self, **settings: Any) -> Settings:
        """Settings of a client of it: quick, but for the timeouts."""
        given: dict[str, Any] = {"heartbeat_interval": 0.05, "request_timeout": 5.0, "session_timeout": 10.0} | settings
        return Settings(brokers=(f"{self.host}:{self.port}",), **given)

    def go_silent(self) -> None:
        """Keep the connections open and answer nothing any more, as a host that has hung."""
        self.answers = dict.fromkeys(self.answers, silence)

    def asked(self, key: int) -> list[Any]:
        return [request for request in self.requests if key == request.API_KEY]

    async def until_asked(self, key: int, times: int = 1) -> Any:
        """The request of that number, from 1, when it has come."""
        async with asyncio.timeout(10):
            while len(self.asked(key)) < times:
                self._changed.clear()
                await self._changed.wait()
        return self.asked(key)[times - 1]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """No coroutine: one that is cancelled before its first step would never close the connection."""
        serving = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(serving)

        def closed(_: asyncio.Task[None]) -> None:
            self._connections.discard(serving)
            writer.close()

        serving.add_done_callback(closed)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            hangs = False
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                answer = await self._answer(await reader.readexactly(size))
                hangs = hangs or answer is None
                if answer is not None and not hangs:
                    writer.write(struct.pack(">i", len(answer)) + answer)

    async def _answer(self, frame: bytes) -> bytes | None:
        key, version, correlation, length = struct.unpack(">hhih", frame[:10])
        kind = _request_class(key, version)
        flexible = kind.FLEXIBLE_VERSION
        body = frame[10 + max(length, 0) + (1 if flexible else 0) :]
        request = kind.decode(io.BytesIO(body))
        self.requests.append(request)
        self._changed.set()
        fields = self.answers[key](request)
        if fields is None:
            return None
        if key == FETCH and not any(row[-1] for _, rows in fields[-1] for row in rows):
            await asyncio.sleep(0.02)  # instead of max_wait_time: nothing to fetch
        header = struct.pack(">i", correlation) + (b"\0" if flexible and key != API_VERSIONS else b"")
        encoded: bytes = kind.RESPONSE_TYPE(*fields).encode()
        return header + encoded

    def deleted(self, request: Any, codes: Mapping[int, int]) -> Sequence[Any]:
        """The answer to DeleteRecords, with the error codes of partitions."""
        return 0, [(t, [(p, 0, codes.get(p, 0), {}) for p, *_ in ps], {}) for t, ps, _ in request.topics], {}

    def _api_versions(self, _request: Any) -> Sequence[Any]:
        known = {key: (versions[0], versions[-1]) for key, versions in _versions().items()} | self.versions
        return 0, [(key, first, last) for key, (first, last) in known.items()]

    def _metadata(self, _request: Any) -> Sequence[Any]:
        partitions: list[Any] = [(0, number, NODE, [NODE], [NODE], []) for number in range(self.partitions)]
        brokers = [(NODE, self.host, self.port, None)]
        return 0, brokers, "scripted", NODE, [(0, TOPIC, False, partitions)]

    def _join(self, request: Any) -> Sequence[Any]:
        name, metadata = request.group_protocols[0]
        return 0, 0, self.generation, name, "member", "member", [("member", None, metadata)]

    def _offset_fetch(self, request: Any) -> Sequence[Any]:
        none = (-1, "")
        if request.API_VERSION < 7:
            rows: list[Any] = [(t, [(p, *self.committed.get(p, none), 0) for p in ps]) for t, ps in request.topics]
            return 0, rows, 0
        stable: list[Any] = [
            (t, [(p, offset, -1, text, 0, {}) for p in ps for offset, text in [self.committed.get(p, none)]], {})
            for t, ps, _ in request.topics
        ]
        return 0, stable, 0, {}

    def _fetch(self, request: Any) -> Sequence[Any]:
        rows: list[Any] = []
        for topic, partitions in request.topics:
            found = [(p, 0, 1000, 1000, 0, None, -1, self._batches(p, offset)) for p, _, offset, _, _ in partitions]
            rows.append((topic, found))
        return 0, 0, 0, rows

    def _batches(self, partition: int, offset: int) -> bytes:
        """Those from that offset on. Each counts its own records: base offset, then the delta of the last."""
        return b"".join(
            batch for batch in self.log[partition] if _base(batch) + struct.unpack(">i", batch[23:27])[0] >= offset
        )


def assignment(*partitions: int) -> bytes:
    """As the leader of a group writes it."""
    encoded: bytes = ConsumerProtocol.ASSIGNMENT(0, [(TOPIC, list(partitions))], b"").encode()
    return encoded


def _base(batch: bytes) -> int:
    (offset,) = struct.unpack(">q", batch[:8])
    return int(offset)


def _versions() -> dict[int, list[int]]:
    versions: dict[int, set[int]] = {}
    for kind in Request.__subclasses__():
        versions.setdefault(kind.API_KEY, set()).update(each.API_VERSION for each in kind._CLASSES)
    return {key: sorted(found) for key, found in versions.items()}


def _request_class(key: int, version: int) -> Any:
    for kind in Request.__subclasses__():
        for each in kind._CLASSES:
            if (key, version) == (each.API_KEY, each.API_VERSION):
                return each
    raise AssertionError(f"aiokafka asked for API {key} version {version}, which it does not have")
