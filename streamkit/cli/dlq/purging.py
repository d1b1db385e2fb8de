"""Dead letters removed for good: of each partition all that lie before the first that was appended at a time or later.

Kafka removes nothing else than the beginning of a partition (KIP-107).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import click

from streamkit.cli.dlq.changing import AT_ONCE, confirmed
from streamkit.cli.dlq.jobs import Job, Plan, begun, senseless
from streamkit.cli.dlq.reading import DeadLetters, with_dead_letters
from streamkit.cli.dlq.results import dead_letters, show_json
from streamkit.cli.dlq.times import iso, shown
from streamkit.cli.dlq.where import Where
from streamkit.cli.paper import clean, console
from streamkit.cli.sender import Sender
from streamkit.cli.signals import SIGNALLED, Stop
from streamkit.core.cases import STATUSES, Status
from streamkit.errors import ConfigurationError
from streamkit.record import TopicPartition
from streamkit.transport.base import LogRange, Refused

COMMAND = "purge"

Ranges = Mapping[TopicPartition, LogRange]


@dataclass(frozen=True)
class Purge:
    """What the command line says. `before` is ms since 1970."""

    before: int
    reason: str = ""
    yes: bool = False
    dry_run: bool = False
    as_json: bool = False

    def plan(self, counts: Mapping[Status, int]) -> Plan:
        return Plan(COMMAND, {"before": iso(self.before), "counts": dict(counts)}, self.reason)


def purged(place: Where, what: Purge) -> int:
    """Do it on each of the topics. The exit code: 1 if anything was left that was meant."""
    codes: list[int] = []

    async def each(topics: Sequence[DeadLetters]) -> None:
        stop = Stop()
        for letters in topics:
            codes.append(await _purged(what, place, letters, stop))
            if stop.signal is not None:
                return

    with_dead_letters(place, each)
    return max(codes, default=0)


async def _purged(what: Purge, place: Where, letters: DeadLetters, stop: Stop) -> int:
    _check(letters)
    old = await _old(letters, what.before)
    counts = await _counted(letters, old)
    _show_before(letters.topic, what, counts)
    result = "dry run" if what.dry_run else "done"
    if counts["open"]:
        result = _refusal(counts["open"])
        click.echo(_advice(letters.topic, what), err=True)
    elif counts and not what.dry_run:
        if what.yes or confirmed():
            stop.listen()
            sender = Sender(place.settings, letters.clients.transport)
            async with sender.running(), begun(letters, what.plan(counts), sender, old) as job:
                return await remove(job, stop, as_json=what.as_json)
        result = "not confirmed"
        click.echo("nothing was changed", err=True)
    if what.as_json:
        show_json(letters.topic, None, COMMAND, result, _told(counts), {})
    return 0 if result in ("done", "dry run") else 1


async def remove(job: Job, stop: Stop, *, as_json: bool) -> int:
    """The exit code. What an earlier run of the job has removed is passed over. Raises Senseless."""
    letters, within = job.letters, job.within
    try:
        planned = Counter[Status]({status: int(job.plan.arguments["counts"].get(status, 0)) for status in STATUSES})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise senseless(letters, job.id, error) from error
    found = await _counted(letters, within)
    if found["open"]:  # since they were shown
        job.result = _refusal(found["open"])
    elif stop.event.is_set():
        job.result = "stopped by a signal"
    else:
        job.check()
        await _delete(letters, within)
        job.counts.update(_told(found if found.total() == planned.total() else planned))
        await _forget(job, stop)
    _show_after(job, as_json=as_json)
    if stop.signal is not None:
        return SIGNALLED + stop.signal
    return 0 if job.result == "done" else 1


def _check(letters: DeadLetters) -> None:
    config = letters.info.config
    if config.get("message.timestamp.type", "LogAppendTime") != "LogAppendTime":
        raise ConfigurationError(
            f"topic {letters.topic!r} does not say when its records were appended: it needs "
            "message.timestamp.type=LogAppendTime"
        )
    if "delete" not in config.get("cleanup.policy", "delete").split(","):
        raise ConfigurationError(f"topic {letters.topic!r} is only compacted: of such a topic Kafka removes nothing")


async def _old(letters: DeadLetters, before: int) -> dict[TopicPartition, LogRange]:
    """What lies before the first record of then or later, in each partition."""
    ranges = await letters.ranges()  # first: what comes from now on is not old
    later = await letters.clients.reader.offsets_at(letters.partitions, max(before, 0))
    return {each: LogRange(start, min(max(later.get(each, end), start), end)) for each, (start, end) in ranges.items()}


async def _counted(letters: DeadLetters, within: Ranges) -> Counter[Status]:
    counts = Counter[Status]()
    async for batch in letters.letters(within=within):
        counts.update(letters.book.status(letter).status for letter in batch)
    return counts


async def _delete(letters: DeadLetters, within: Ranges) -> None:
    starts = await letters.ranges()
    wanted = {each: end for each, (_, end) in within.items() if each in starts and starts[each].start < end}
    try:
        await letters.clients.admin.delete_records(wanted)
    except Refused as error:
        raise ConfigurationError(f"the brokers remove nothing: {error}") from error


async def _forget(job: Job, stop: Stop) -> None:
    """What the state topic says of letters that are gone: but of those that a later letter is a failure of."""
    letters, book = job.letters, job.state.cases
    left = await letters.ranges()
    gone = {id for id in book.ids() if _lies_before(id, left, letters.topic)}
    if not gone:
        return
    async for batch in letters.letters(within=left):
        if stop.event.is_set():  # the next purge forgets them
            job.result = "stopped by a signal: they are removed, and what is said of them is not"
            return
        gone.difference_update(map(book.case_of, batch))
    keys = book.keys(gone)
    while some := list(islice(keys, AT_ONCE)):
        job.check()
        await job.tell((key, None) for key in some)


def _lies_before(id: str, ranges: Ranges, topic: str) -> bool:
    partition, offset = map(int, id.split(":"))
    limits = ranges.get(TopicPartition(topic, partition))
    return limits is not None and offset < limits.start


def _told(counts: Mapping[Status, int]) -> dict[str, int]:
    by_status = {str(status): counts[status] for status in STATUSES if counts.get(status)}
    return {"removed": sum(by_status.values()), **by_status}


def _refusal(count: int) -> str:
    return f"nothing was removed: {count:,} {'is' if count == 1 else 'are'} open"


def _by_status(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[status]:,} {status}" for status in STATUSES if counts.get(status))


def _show_before(topic: str, what: Purge, counts: Mapping[Status, int]) -> None:
    if what.yes and not what.dry_run and not counts.get("open"):
        return
    told = _told(counts)
    text = (
        f"{dead_letters(told['removed'])} of {topic}, appended before {shown(what.before)}, would be removed for good"
    )
    by_status = _by_status(told)
    console(err=True).print(f"{text}: {by_status}" if by_status else text, soft_wrap=True)


def _advice(topic: str, what: Purge) -> str:
    until = f"--topic {topic} --until {iso(what.before)}"
    return (
        "Not while some of them are open. Look at them, and settle them with one of\n"
        f"  streamkit dlq search --status open {until}\n"
        f"  streamkit dlq archive {until}\n"
        f"  streamkit dlq discard {until}\n"
        f"  streamkit dlq replay --to retry {until}"
    )


def _show_after(job: Job, *, as_json: bool) -> None:
    topic = job.letters.topic
    if as_json:
        show_json(topic, job.id, COMMAND, job.result, job.counts, {})
        return
    paper = console()
    paper.print(f"removed {dead_letters(job.counts['removed'])} of {topic} (job {job.id})", soft_wrap=True)
    if job.result != "done":
        paper.print(clean(job.result))
