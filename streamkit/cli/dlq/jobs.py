"""One job at a time on a dead letter topic: who may change its cases, what was begun, and what came of it.

All of it stands in the state topic, whose one partition puts everything into one order: a lock is a record, and the one
with the lowest offset holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import click
import orjson

from streamkit.cli.destination import BadRecord
from streamkit.cli.dlq.reading import Clients, DeadLetters, State
from streamkit.cli.dlq.results import show_json
from streamkit.cli.dlq.times import iso, parse_time
from streamkit.cli.failures import ImportFailed
from streamkit.cli.outgoing import Outgoing
from streamkit.cli.paper import clean
from streamkit.cli.sender import Sender
from streamkit.core.jobs import Lock, audit_key, job_key, lock_key
from streamkit.errors import ConfigurationError, StreamkitError, TransportError
from streamkit.record import RecordMetadata, TopicPartition
from streamkit.transport.base import LogRange, NewTopic, Reader, TopicInfo

BEAT = 3.0  # seconds between signs of life
LOST = 10.0  # seconds without one that was acknowledged, after which another command may have begun
MOST_REASONS, MOST_TEXT = 20, 1_000  # of an audit record: why letters were left as they are, and characters of each
MOST_HELD = 10_000  # reasons that differ: a script may have one of its own for each of a million letters
OTHERS = "other reasons"
_FIRST_NAMESPACE = "pid:[4026531836]"  # linux/proc_ns.h, PROC_PID_INIT_INO
CREATED_WITHIN = 10.0  # seconds, until every broker knows of a new topic

PAYLOAD = "payload"
"""The argument that only going on with a job needs, and that may be long: the audit goes without it."""

StateRecord = tuple[bytes, Mapping[str, object] | None]


class Busy(StreamkitError):
    """Another command is changing the dead letters."""


class CutOff(StreamkitError):
    """An earlier command has not come to its end."""


class Senseless(StreamkitError):
    """The state topic speaks of a job that this version of streamkit cannot do. It stays as it is."""


@dataclass
class Plan:
    """What is to be done, as it is written down: enough to go on with it after a crash."""

    command: str
    arguments: dict[str, Any]  # JSON; what is under PAYLOAD is not kept when it is done
    reason: str = ""


@dataclass
class Job:
    """A plan while it is carried out, by the only command that may change the cases."""

    id: str
    plan: Plan
    letters: DeadLetters
    sender: Sender
    reader: Reader  # of the state topic
    within: Mapping[TopicPartition, LogRange]  # the letters that there were when it began
    who: str
    began: int  # ms since 1970
    counts: Counter[str] = field(default_factory=Counter[str])  # what came of it
    unfit: Counter[str] = field(default_factory=Counter[str])  # why the others were left as they are
    resumed_by: str | None = None
    result: str = "done"
    heard: float = 0.0  # by `now`: before the latest sign of life that the brokers have

    @property
    def state(self) -> State:
        return self.letters.state

    def check(self) -> None:
        """Raises TransportError when another command may have begun meanwhile."""
        if now() - self.heard > LOST:
            raise TransportError(
                f"{self.state.topic} has taken no sign of life of this command for {LOST:g} s: "
                "another may have begun, so it ends here"
            )

    def record(self) -> StateRecord:
        """What is to be done and how far it has come, from which `resume` goes on."""
        fields = {
            "command": self.plan.command,
            "arguments": self.plan.arguments,
            "reason": self.plan.reason,
            "who": self.who,
            "began": iso(self.began),
            "within": {str(each.partition): list(limits) for each, limits in self.within.items()},
            **({"counts": dict(self.counts)} if self.counts else {}),
        }
        return job_key(self.id), fields

    async def tell(self, records: Iterable[StateRecord]) -> None:
        """Write to the state topic. Raises TransportError if it was refused."""
        await tell(self.sender, self.state.topic, records)


async def tell(sender: Sender, topic: str, records: Iterable[StateRecord]) -> list[RecordMetadata]:
    outgoing = [
        (topic, Outgoing(key, None if value is None else orjson.dumps(value), [], 0, None)) for key, value in records
    ]
    stored: list[RecordMetadata] = []
    for outcome in await sender.store(outgoing):
        if isinstance(outcome, BadRecord | TransportError):
            raise TransportError(f"{topic} does not take what was done: {outcome}") from outcome
        stored.append(outcome)
    return stored


def now() -> float:
    """Seconds that go on while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def me() -> str:
    """Who is at work: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


@asynccontextmanager
async def begun(
    letters: DeadLetters, plan: Plan, sender: Sender, within: Mapping[TopicPartition, LogRange]
) -> AsyncIterator[Job]:
    """A new job, about the letters at these offsets. Raises Busy, and CutOff while an earlier one is not ended."""
    async with _locked(letters, sender) as (reader, lock):
        for id, fields in letters.state.jobs.jobs.items():
            raise CutOff(unfinished(letters.topic, id, fields))
        began = time.time_ns() // 1_000_000
        job = Job(uuid4().hex[:12], plan, letters, sender, reader, within, me(), began)
        await job.tell([job.record()])
        async with _carried_out(job, lock):
            yield job


@asynccontextmanager
async def resumed(
    letters: DeadLetters, sender: Sender, *, give_up: bool, as_json: bool = False
) -> AsyncIterator[Job | None]:
    """The job that was cut off; None if there is none any more, or if it is given up here. Raises Busy."""
    async with _locked(letters, sender) as (reader, lock):
        for id, fields in list(letters.state.jobs.jobs.items()):
            if not give_up and fields.get("command") == "import":
                raise CutOff(unfinished(letters.topic, id, fields))
            if not give_up:
                async with _carried_out(_job(id, fields, letters, sender, reader), lock) as job:
                    yield job
                return
            ended = str(iso(time.time_ns() // 1_000_000))
            counts = fields.get("counts") or {"marked": letters.state.cases.marked_by(id)}
            result = f"given up by {me()}"
            told = {
                **fields,
                "arguments": _audited(fields.get("arguments")),
                "job": id,
                "ended": ended,
                "result": result,
                "counts": counts,
            }
            await tell(sender, letters.state.topic, [(audit_key(ended, id), told), (job_key(id), None)])
            if as_json:
                known = counts if isinstance(counts, dict) else {}
                show_json(letters.topic, id, str(fields.get("command")), result, known, {})
            else:
                click.echo(clean(f"given up: the {fields.get('command')} begun {fields.get('began')} (job {id})"))
        yield None


def unfinished(topic: str, id: str, fields: Mapping[str, Any]) -> str:
    command = str(fields.get("command"))
    begun = f"begun {fields.get('began')} by {fields.get('who')} (job {id})"
    cut_off = f"a{'n' * command.startswith(('a', 'e', 'i'))} {command} of {topic} was cut off, {begun}."
    give_up = f"{_resume(topic)} --give-up"
    if command == "import":
        arguments = fields.get("arguments")
        done = arguments.get("done", 0) if isinstance(arguments, dict) else 0
        return clean(
            f"{cut_off}\nOnly whoever has its file can go on. Give it up:  {give_up}\n"
            f"Then import the rest, by the same command with --skip {done}"
        )
    return clean(f"{cut_off}\nGo on with it:  {_resume(topic)}\nOr give it up:  {give_up}")


def _audited(arguments: Any) -> Any:
    if not isinstance(arguments, dict):
        return arguments
    return {name: value for name, value in arguments.items() if name != PAYLOAD}


def _resume(topic: str) -> str:
    return f"streamkit dlq resume --topic {topic}"


def senseless(letters: DeadLetters, id: str, error: Exception) -> Senseless:
    return Senseless(
        clean(
            f"what {letters.state.topic} says of the job {id} makes no sense to this version of streamkit ({error!r}); "
            f"give it up:\n  {_resume(letters.topic)} --give-up"
        )
    )


def _job(id: str, fields: Mapping[str, Any], letters: DeadLetters, sender: Sender, reader: Reader) -> Job:
    """Raises Senseless."""
    try:
        plan = Plan(str(fields["command"]), dict(fields["arguments"]), str(fields["reason"]))
        within = {
            TopicPartition(letters.topic, int(number)): LogRange(int(start), int(end))
            for number, (start, end) in fields["within"].items()
        }
        who, began = str(fields["who"]), parse_time(fields["began"], 0)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise senseless(letters, id, error) from error
    return Job(id, plan, letters, sender, reader, within, who, began, resumed_by=me())


@asynccontextmanager
async def _carried_out(job: Job, lock: _Lock) -> AsyncIterator[Job]:
    """With signs of life, and with what came of it written down in the end.

    If the brokers cannot be told, or code of the user's that it needs cannot be loaded here, the job stays as one that
    was cut off.
    """
    job.heard = lock.heard
    beating = asyncio.create_task(_beat(job, lock))
    try:
        yield job
    except TransportError as error:
        error.add_note(f"The {job.plan.command} was cut off. When they answer again:  {_resume(job.letters.topic)}")
        raise
    except (ImportFailed, Senseless):
        raise
    except Exception as error:
        job.result = f"failed: {error}"[:MOST_TEXT]
        await _end(job)
        raise
    else:
        job.check()
        await _end(job)
    finally:
        beating.cancel()
        await asyncio.wait([beating])


async def _end(job: Job) -> None:
    moment = iso(time.time_ns() // 1_000_000)
    fields: dict[str, object] = {
        "job": job.id,
        "command": job.plan.command,
        "arguments": _audited(job.plan.arguments),
        "reason": job.plan.reason,
        "who": job.who,
        "began": iso(job.began),
        "ended": moment,
        "result": job.result,
        "counts": dict(job.counts),
    }
    if job.resumed_by is not None:
        fields["resumed_by"] = job.resumed_by
    if job.unfit:
        fields["unfit"] = _most_common(job.unfit)
    await job.tell([(audit_key(str(moment), job.id), fields), (job_key(job.id), None)])


def count_reason(unfit: Counter[str], why: str) -> None:
    """Count one more that is left as it is, in bounded memory."""
    why = why[:MOST_TEXT]
    unfit[why if why in unfit or len(unfit) < MOST_HELD else OTHERS] += 1


def _most_common(unfit: Counter[str]) -> dict[str, int]:
    """So many that the record can always be written."""
    stated = Counter({why: count for why, count in unfit.items() if why != OTHERS})
    kept = {why[:MOST_TEXT]: count for why, count in stated.most_common(MOST_REASONS)}
    others = unfit.total() - sum(kept.values())
    return {**kept, OTHERS: others} if others else kept


async def _beat(job: Job, lock: _Lock) -> None:
    """Until too long a time has passed without: whoever has begun meanwhile is not to be disturbed."""
    while True:
        await asyncio.sleep(BEAT)
        asked = now()
        if asked - job.heard > LOST:
            return
        with contextlib.suppress(TransportError):  # else `check` says so in time
            await tell(job.sender, job.state.topic, [lock.record()])
            job.heard = asked


class _Lock:
    def __init__(self) -> None:
        self.id = uuid4().hex[:12]
        self.host = _host()
        self.pid = os.getpid()
        self.place: int | None = None  # its first record's offset
        self.heard = now()  # before that record

    def record(self) -> StateRecord:
        told: dict[str, object] = {"who": me(), "host": self.host, "pid": self.pid}
        return lock_key(self.id), told if self.place is None else {**told, "place": self.place}


@asynccontextmanager
async def _locked(letters: DeadLetters, sender: Sender) -> AsyncIterator[tuple[Reader, _Lock]]:
    """Alone with the cases, and knowing all that is known of them. Raises Busy."""
    clients, state = letters.clients, letters.state
    sender.add(state.topic, await _state_topic(clients, letters))
    state.exists = True
    reader = clients.transport.reader()
    try:
        await reader.start()
        lock = _Lock()
        (stored,) = await tell(sender, state.topic, [lock.record()])
        lock.place = stored.offset if stored.offset >= 0 else None
        await state.read(reader)
        try:
            await tell(sender, state.topic, [(lock_key(dead.id), None) for dead in _rivals(state, lock, letters.topic)])
            yield reader, lock
        finally:
            await _unlock(sender, state.topic, lock)
    finally:
        await reader.stop()


async def _unlock(sender: Sender, topic: str, lock: _Lock) -> None:
    with contextlib.suppress(TransportError):  # then it dies with this process
        await tell(sender, topic, [(lock_key(lock.id), None)])


def _rivals(state: State, lock: _Lock, topic: str) -> list[Lock]:
    """The locks of the dead. Raises Busy if one that came before lives."""
    locks = state.jobs.locks()
    mine = next((each for each in locks if each.id == lock.id), None)
    if mine is None:
        raise TransportError(f"{state.topic} does not keep what is written to it")
    lock.place = mine.place
    dead = [each for each in locks if each.dead(mine.heard, lock.host, _gone)]
    for each in locks:
        if each.place < mine.place and each not in dead:
            told = f"process {each.pid} of {each.host}, last heard of {(mine.heard - each.heard) / 1000:.0f} s ago"
            who = f"{each.told.get('who')} is changing the dead letters of {topic} ({told})"
            raise Busy(clean(f"{who}: one command at a time"))
    return dead


def _host() -> str:
    """Where a number names one process: containers may have the host's name, and never its processes."""
    name = socket.gethostname()
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return name
    return name if namespace == _FIRST_NAMESPACE else f"{name}/{namespace}"


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OverflowError, PermissionError):
        return False
    return False


async def _state_topic(clients: Clients, letters: DeadLetters) -> TopicInfo:
    """Created if it is missing. Raises ConfigurationError if it cannot hold what it is for."""
    name, info = letters.state.topic, letters.info
    found = await clients.admin.topics([name])
    if name not in found:
        config = {"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime"}
        if in_sync := info.config.get("min.insync.replicas"):
            config["min.insync.replicas"] = in_sync
        await clients.admin.create_topics([NewTopic(name, 1, info.replication, config)])
        deadline = time.monotonic() + CREATED_WITHIN
        while name not in (found := await clients.admin.topics([name])):
            if time.monotonic() > deadline:
                raise TransportError(f"topic {name!r} was created, and is not there after {CREATED_WITHIN:g} s")
            await asyncio.sleep(0.1)
    _check(name, found[name])
    return found[name]


def _check(name: str, info: TopicInfo) -> None:
    """One partition and the brokers' clock: they decide who may change the cases. Compacted: nothing is forgotten."""
    policy = info.config.get("cleanup.policy", "compact")
    stamps = info.config.get("message.timestamp.type", "LogAppendTime")
    if info.partitions != 1 or policy != "compact" or stamps != "LogAppendTime":
        found = f"{info.partitions} partitions, cleanup.policy={policy} and message.timestamp.type={stamps}"
        raise ConfigurationError(
            f"topic {name!r} has {found}; what became of dead letters needs 1, compact and LogAppendTime. If it is of "
            "something else, delete it and run this again"
        )
