"""How far a group is behind."""

from __future__ import annotations


def lag_records(end: int, committed: int | None, log_start: int) -> int:
    """Records between what is committed and the end of the log, as Kafka counts them: by offset.

    `end` is the offset after the last readable record. What retention has removed is not counted: it will
    never be read. A group without a commit (`None`) is behind by the whole log.
    """
    reached = log_start if committed is None else max(committed, log_start)
    return max(0, end - reached)
