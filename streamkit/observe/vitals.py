"""What the worker tells of its own condition, for /livez, /readyz and /startupz."""

from __future__ import annotations

import time

STARTUP_LIMIT = 300.0  # seconds; the setting's default


class Vitals:
    """Written by the worker's thread but for `resumed`, which is the watchdog's; read by the observer's.

    Times are `time.monotonic()`, 0.0 where there is none yet.
    """

    __slots__ = ("answered", "begun", "ended", "joined", "resumed", "starting_since", "startup_limit", "stopping")

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.startup_limit = STARTUP_LIMIT  # seconds
        # From when the start counts: brokers that are away hold it up and are not its fault.
        self.starting_since = 0.0
        self.joined = False  # every agent has once had an assignment, an empty one included
        self.answered = 0.0  # when a broker last answered any of the agents
        self.ended = ""  # the work that must not end, and has
        self.stopping = False  # set where the signal arrives, even while the loop is blocked
        self.resumed = 0.0  # when the process last went on after it had been stopped as a whole
