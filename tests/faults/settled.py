"""Whether a group of the retry tests has nothing left to do."""

from __future__ import annotations

import subprocess
from pathlib import Path

from streamkit.record import TopicPartition
from streamkit.transport.kafka.admin import KafkaAdmin
from tests.faults.retry_program import group_of, tier_names
from tests.faults.support import admin_of, eventually, tail


async def settled(
    brokers: str,
    source: str,
    tiers: int,
    seconds: float,
    directory: Path,
    workers: list[subprocess.Popen[bytes]],
    partitions: int,
    of_copies: int | None = None,
) -> None:
    """Return when the group has committed all topics to their ends. Copies have as many partitions unless given."""
    counts = {source: partitions} | dict.fromkeys(tier_names(source, tiers), of_copies or partitions)
    wanted = [TopicPartition(name, number) for name, count in counts.items() for number in range(count)]
    async with admin_of(brokers) as admin:

        async def everything() -> bool:
            assert all(worker.poll() is None for worker in workers), tail(directory)
            return await committed_to_the_end(admin, source, wanted)

        try:
            await eventually(everything, seconds, "not everything was committed")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{tail(directory)}") from None


async def committed_to_the_end(admin: KafkaAdmin, source: str, wanted: list[TopicPartition]) -> bool:
    # The commits first: what a record moves to is there before the record is committed.
    committed = await admin.committed(group_of(source), wanted)
    ends = await admin.log_ranges(wanted)
    return all(tp in committed and committed[tp].offset >= ends[tp].end for tp in wanted)
