"""What the observer wants to know of one assigned partition."""

from __future__ import annotations

from typing import NamedTuple

from streamkit.core.lag_status import Closed


class PartitionState(NamedTuple):
    """One reading, made by the engine for the observer's thread: a moment later some of it is old.

    The *head* is the record at `unsettled`, the lowest offset that is not settled. Times are seconds since 1970.
    """

    unsettled: int
    position: int  # the next offset to fetch
    head_timestamp: float | None  # of the record; None if it is not in memory, so it was not fetched yet
    head_started: float | None  # when its handler started; None if it does not run
    head_due: float | None  # of a tier: when it is due; None if that is not known
    head_blocked: bool  # it failed, and neither a tier nor the dead letter topic takes it
    buffered: int  # records that were fetched, and neither run nor are settled
    settled_ahead: int  # records that are settled behind one that is not
    closed: Closed  # why it is not read at present; "": it is
    progressed_at: float  # when `unsettled` last moved; at first, when it was assigned
    event_timestamp: float | None = None  # the latest of a record that was settled since it was assigned
    buffered_bytes: int = 0  # of memory, of all records that were fetched and are not settled
